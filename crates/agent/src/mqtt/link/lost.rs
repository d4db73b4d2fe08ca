//! Why a connection ended.

use std::io;

use super::super::{
    codec::{CodecError, Refusal},
    frame::FrameError,
    session::Blame,
    transport,
};

/// Why a connection was lost or never came to be.
#[derive(Debug, thiserror::Error)]
pub(in crate::mqtt) enum Lost {
    #[error("cannot reach the broker")]
    Dial(#[source] transport::Error),
    #[error("no answer in time: {0}")]
    Timeout(&'static str),
    #[error("the broker refused the connection: {}", refusal(*.0))]
    Refused(Refusal),
    #[error("the broker closed the connection before CONNACK")]
    ClosedBeforeConnack,
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker ended the connection: {reason}")]
    Disconnected { code: u8, reason: String },
    #[error("another client took over the session")]
    TakenOver,
    #[error("{0}")]
    Tls(String),
    #[error("connection broken")]
    Io(#[source] io::Error),
    #[error("the broker sent something that is no MQTT")]
    Frame(#[source] FrameError),
    #[error("the broker sent something malformed")]
    Codec(#[source] CodecError),
    #[error("cannot build a packet")]
    Encode(#[source] CodecError),
    #[error("the broker sent {0} out of turn")]
    OutOfTurn(&'static str),
}

impl Lost {
    /// What it says of the messages that were in flight.
    pub(in crate::mqtt) fn blame(&self) -> Blame {
        match self {
            Self::Closed => Blame::Perhaps,
            // A broker that closes before it has read all of a message sends an RST, not a FIN.
            Self::Io(error) if is_end(error.kind()) => Blame::Perhaps,
            // MQTT 5 section 3.14.2.1: invalid topic, too large, invalid payload, no retain, no such QoS.
            Self::Disconnected { code: 0x90 | 0x95 | 0x99..=0x9b, .. } => Blame::Message,
            // Unspecified, malformed, protocol error, implementation specific, not authorised.
            Self::Disconnected { code: 0x80..=0x83 | 0x87, .. } => Blame::Perhaps,
            Self::Io(_) | Self::Timeout(_) => Blame::Network,
            _ => Blame::Nothing,
        }
    }
}

fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
}

fn refusal(refusal: Refusal) -> String {
    match refusal {
        Refusal::Version => "it does not speak this MQTT version; see mqtt.version".into(),
        Refusal::BadCredentials => {
            "bad user name or password; see mqtt.username and mqtt.password_file".into()
        }
        Refusal::NotAuthorised => "not authorised".into(),
        Refusal::ClientId => "it does not accept the client id; see mqtt.client_id".into(),
        Refusal::Other(code) => format!("reason 0x{code:02x}"),
    }
}
