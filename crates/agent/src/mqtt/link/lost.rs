//! Why a connection ended.

use std::io;

use super::super::{
    codec::{CodecError, Nack, Refusal},
    frame::FrameError,
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
    #[error("the broker ended the connection: {0}")]
    Disconnected(String),
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
    /// Trying again at once would be a loop: the back-off is the pause.
    #[error("the broker cannot take a message now: {0}")]
    Busy(Nack),
    #[error("the broker sent {0} out of turn")]
    OutOfTurn(&'static str),
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
