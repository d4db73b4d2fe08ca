//! How the broker is to behave, and what else a test can ask of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An answer the broker can withhold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It takes the connection and reads nothing of it as MQTT.
    Accept,
    /// No CONNACK.
    Connack,
    /// No SUBACK or UNSUBACK.
    Suback,
    /// No PUBACK.
    Puback,
    /// No PUBREC.
    Pubrec,
    /// No PUBCOMP.
    Pubcomp,
    /// No PINGRESP.
    Pingresp,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Accept,
        Self::Connack,
        Self::Suback,
        Self::Puback,
        Self::Pubrec,
        Self::Pubcomp,
        Self::Pingresp,
    ];
}

/// Which messages the broker refuses: all that match what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Topic filter; empty: any topic.
    pub filter: String,
    /// Stands somewhere in the payload.
    pub contains: String,
    /// Reason code of the PUBACK or PUBREC. MQTT 3.1.1 has none: the connection is closed.
    pub code: u8,
}

/// How the broker behaves from now on. The default is well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mood {
    /// Whoever connects finds no session.
    pub lose_session: bool,
    /// The code of each CONNACK, after which the connection is closed.
    pub refuse: Option<u8>,
    /// The answer that is withheld. What it would have answered to is journalled.
    pub stall: Option<Stage>,
    /// How long what came lies unread. Killed meanwhile, the broker has never seen it.
    pub lag: Duration,
    /// How late PUBACK, PUBREC and PUBCOMP are.
    pub delay: Duration,
    /// How much later each may be, by chance: they go out in another order.
    pub scatter: Duration,
    /// Messages that are refused.
    pub reject: Vec<Rejection>,
    /// A longer packet ends the connection, without a warning beforehand.
    pub close_over: Option<usize>,
    /// Told in the CONNACK of MQTT 5, and watched over.
    pub receive_maximum: Option<u16>,
    /// Told in the CONNACK of MQTT 5, and watched over.
    pub maximum_packet_size: Option<u32>,
    /// Told in the CONNACK of MQTT 5, and watched over.
    pub maximum_qos: Option<u8>,
    /// Of the chance in `scatter`.
    pub seed: u64,
}

/// What a line to the broker's process says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Mood(Mood),
    Send {
        client: String,
        topic: String,
        payload: String,
        qos: u8,
    },
    /// DISCONNECT with this code to everybody (MQTT 3.1.1: only the end of the connection).
    Disconnect {
        code: u8,
    },
    /// The end of every connection without a word.
    Drop,
}

/// How the process is to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) folder: std::path::PathBuf,
    pub(super) port: u16,
    /// Port, certificate, key.
    pub(super) tls: Option<(u16, std::path::PathBuf, std::path::PathBuf)>,
    pub(super) forgetful: bool,
    pub(super) mood: Mood,
}
