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

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what the broker did by itself is a message's fault, and only by some reasons of MQTT 5.
    #[test]
    fn an_end_is_told_from_a_fault() {
        let reason = |code| Lost::Disconnected { code, reason: String::new() };
        for code in [0x90, 0x95, 0x99, 0x9a, 0x9b] {
            assert_eq!(reason(code).blame(), Blame::Message, "{code:#x}");
        }
        for code in [0x80, 0x81, 0x82, 0x83, 0x87] {
            assert_eq!(reason(code).blame(), Blame::Perhaps, "{code:#x}");
        }
        // Among them: shutting down, keep alive, message rate, quota, use another server.
        for code in [0x00, 0x89, 0x8b, 0x8d, 0x96, 0x97, 0x98, 0x9c, 0x9d] {
            assert_eq!(reason(code).blame(), Blame::Nothing, "{code:#x}");
        }
        assert_eq!(Lost::Closed.blame(), Blame::Perhaps);
        assert_eq!(Lost::Io(io::ErrorKind::ConnectionReset.into()).blame(), Blame::Perhaps);
        assert_eq!(Lost::Io(io::ErrorKind::HostUnreachable.into()).blame(), Blame::Network);
        assert_eq!(Lost::Timeout("PUBACK").blame(), Blame::Network);
        assert_eq!(Lost::TakenOver.blame(), Blame::Nothing);
    }
}
