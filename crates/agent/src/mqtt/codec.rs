//! Packets to bytes and back, MQTT 5 and 3.1.1: the only file that names the client library
//! (`mqtt-protocol-core`), of which it uses the packet codec alone. Session state is ours: see `session.rs`.
//!
//! It must never panic on what a broker sends; whatever is malformed is an error and ends the connection.
//!
//! Long because it is the only one, for both directions of two protocol versions.

use mqtt_protocol_core::mqtt::packet::{
    self, MaximumPacketSize, Properties, Property, ReceiveMaximum, RetainHandling, SessionExpiryInterval,
    SubEntry, SubOpts, WillDelayInterval, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError,
};

use super::{Message, Qos};

/// The protocol version on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    V5,
    V311,
}

impl Wire {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        }
    }
}

/// A packet that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what} packet: {reason}")]
pub(super) struct CodecError {
    what: &'static str,
    reason: MqttError,
}

fn failed(what: &'static str) -> impl Fn(MqttError) -> CodecError {
    move |reason| CodecError { what, reason }
}

/// What CONNECT says.
pub(super) struct Connect<'a> {
    pub(super) client_id: &'a str,
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a [u8]>,
    pub(super) keep_alive: u16,
    pub(super) clean_start: bool,
    pub(super) session_expiry: u32,
    pub(super) receive_maximum: u16,
    pub(super) max_packet_size: u32,
    pub(super) will: Option<&'a Message>,
}

/// 3.1.1 cannot announce a window. Mosquitto takes 20 QoS 2 messages at once and drops what is over, with an
/// error in its PUBREC that 3.1.1 has no room for.
const WINDOW_V311: u16 = 20;

/// Seconds. When we take our own half-open session over, some brokers publish its will after our birth: with a
/// delay they find us back and publish none. 3.1.1 has no such thing.
const WILL_DELAY: u32 = 1;

/// What the broker allows, as its CONNACK says (MQTT 5 section 3.2.2.3; defaults for 3.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) receive_maximum: u16,
    pub(super) max_packet_size: Option<u32>,
    pub(super) max_qos: Qos,
    pub(super) retain: bool,
    pub(super) keep_alive: Option<u16>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_maximum: u16::MAX,
            max_packet_size: None,
            max_qos: Qos::ExactlyOnce,
            retain: true,
            keep_alive: None,
        }
    }
}

/// Why the broker refused a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Version,
    BadCredentials,
    NotAuthorised,
    ClientId,
    Other(u8),
}

/// Why the broker refused a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nack {
    pub(super) code: u8,
}

impl Nack {
    /// Sending the same bytes again will never help.
    pub(super) fn is_final(self) -> bool {
        matches!(self.code, 0x87 | 0x90 | 0x95 | 0x99)
    }

    /// It has nothing to do with the message: there is no room now.
    pub(super) fn is_busy(self) -> bool {
        self.code == 0x97
    }
}

impl std::fmt::Display for Nack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self.code {
            0x83 => "implementation specific error",
            0x87 => "not authorised",
            0x90 => "topic name invalid",
            0x91 => "packet identifier in use",
            0x95 => "packet too large",
            0x97 => "quota exceeded",
            0x99 => "payload format invalid",
            _ => "unspecified error",
        };
        write!(f, "{text} (0x{:02x})", self.code)
    }
}

/// A packet from the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Connected {
        session_present: bool,
        limits: Limits,
    },
    Refused(Refusal),
    Publish {
        topic: String,
        payload: Vec<u8>,
        qos: Qos,
        retain: bool,
        dup: bool,
        id: Option<u16>,
    },
    PubAck {
        id: u16,
        nack: Option<Nack>,
    },
    PubRec {
        id: u16,
        nack: Option<Nack>,
    },
    PubRel {
        id: u16,
    },
    PubComp {
        id: u16,
    },
    /// One entry per filter: granted or not.
    SubAck {
        id: u16,
        granted: Vec<bool>,
    },
    UnsubAck {
        id: u16,
    },
    PingResp,
    Disconnect {
        code: u8,
        reason: String,
    },
}

const fn qos_out(qos: Qos) -> packet::Qos {
    match qos {
        Qos::AtMostOnce => packet::Qos::AtMostOnce,
        Qos::AtLeastOnce => packet::Qos::AtLeastOnce,
        Qos::ExactlyOnce => packet::Qos::ExactlyOnce,
    }
}

const fn qos_in(qos: packet::Qos) -> Qos {
    match qos {
        packet::Qos::AtMostOnce => Qos::AtMostOnce,
        packet::Qos::AtLeastOnce => Qos::AtLeastOnce,
        packet::Qos::ExactlyOnce => Qos::ExactlyOnce,
    }
}

/// Builds a CONNECT-like packet in either version: the builders have the same methods but no common trait.
macro_rules! connect {
    ($packet:path, $connect:expr) => {{
        let c = $connect;
        let mut builder =
            <$packet>::builder().client_id(c.client_id)?.clean_start(c.clean_start).keep_alive(c.keep_alive);
        if let Some(user) = c.username {
            builder = builder.user_name(user)?;
        }
        if let Some(password) = c.password {
            builder = builder.password(password.to_vec())?;
        }
        if let Some(will) = c.will {
            builder = builder.will_message(
                will.topic.as_str(),
                will.payload.clone(),
                qos_out(will.qos),
                will.retain,
            )?;
        }
        builder
    }};
}

macro_rules! publish {
    ($packet:path, $message:expr, $id:expr, $dup:expr) => {{
        let m = $message;
        let mut builder = <$packet>::builder()
            .topic_name(m.topic.as_str())?
            .qos(qos_out(m.qos))
            .retain(m.retain)
            .dup($dup)
            .payload(m.payload.as_slice());
        if let Some(id) = $id {
            builder = builder.packet_id(id);
        }
        builder.build()
    }};
}

impl Wire {
    pub(super) fn connect(self, connect: &Connect<'_>) -> Result<Vec<u8>, CodecError> {
        self.try_connect(connect).map_err(failed("CONNECT"))
    }

    fn try_connect(self, connect: &Connect<'_>) -> Result<Vec<u8>, MqttError> {
        match self {
            Self::V311 => Ok(connect!(v3_1_1::Connect, connect).build()?.to_continuous_buffer()),
            Self::V5 => {
                let properties = vec![
                    Property::SessionExpiryInterval(SessionExpiryInterval::new(connect.session_expiry)?),
                    Property::ReceiveMaximum(ReceiveMaximum::new(connect.receive_maximum)?),
                    Property::MaximumPacketSize(MaximumPacketSize::new(connect.max_packet_size)?),
                ];
                let mut builder = connect!(v5_0::Connect, connect).props(properties);
                if connect.will.is_some() {
                    builder = builder
                        .will_props(vec![Property::WillDelayInterval(WillDelayInterval::new(WILL_DELAY)?)]);
                }
                Ok(builder.build()?.to_continuous_buffer())
            }
        }
    }

    pub(super) fn publish(
        self,
        message: &Message,
        id: Option<u16>,
        dup: bool,
    ) -> Result<Vec<u8>, CodecError> {
        let encode = || -> Result<Vec<u8>, MqttError> {
            Ok(match self {
                Self::V5 => publish!(v5_0::Publish, message, id, dup)?.to_continuous_buffer(),
                Self::V311 => publish!(v3_1_1::Publish, message, id, dup)?.to_continuous_buffer(),
            })
        };
        encode().map_err(failed("PUBLISH"))
    }

    pub(super) fn subscribe(self, id: u16, filters: &[(String, Qos)]) -> Result<Vec<u8>, CodecError> {
        let encode = || -> Result<Vec<u8>, MqttError> {
            let entries = filters.iter().map(|(filter, qos)| {
                let mut options = SubOpts::new().set_qos(qos_out(*qos));
                if self == Self::V5 {
                    // Subscribing again must not bring the retained messages again.
                    options = options.set_rh(RetainHandling::SendRetainedIfNotExists).set_rap(true);
                }
                SubEntry::new(filter.as_str(), options)
            });
            let entries = entries.collect::<Result<Vec<_>, _>>()?;
            Ok(match self {
                Self::V5 => {
                    v5_0::Subscribe::builder().packet_id(id).entries(entries).build()?.to_continuous_buffer()
                }
                Self::V311 => v3_1_1::Subscribe::builder()
                    .packet_id(id)
                    .entries(entries)
                    .build()?
                    .to_continuous_buffer(),
            })
        };
        encode().map_err(failed("SUBSCRIBE"))
    }

    pub(super) fn unsubscribe(self, id: u16, filters: &[String]) -> Result<Vec<u8>, CodecError> {
        let encode = || -> Result<Vec<u8>, MqttError> {
            let filters = filters.to_vec();
            Ok(match self {
                Self::V5 => v5_0::Unsubscribe::builder()
                    .packet_id(id)
                    .entries(filters)?
                    .build()?
                    .to_continuous_buffer(),
                Self::V311 => v3_1_1::Unsubscribe::builder()
                    .packet_id(id)
                    .entries(filters)?
                    .build()?
                    .to_continuous_buffer(),
            })
        };
        encode().map_err(failed("UNSUBSCRIBE"))
    }

    /// PUBACK, PUBREC, PUBREL and PUBCOMP of success look alike in both versions (MQTT 5: reason omitted).
    fn ack(first: u8, id: u16) -> [u8; 4] {
        let [high, low] = id.to_be_bytes();
        [first, 2, high, low]
    }

    pub(super) fn puback(id: u16) -> [u8; 4] {
        Self::ack(0x40, id)
    }

    pub(super) fn pubrec(id: u16) -> [u8; 4] {
        Self::ack(0x50, id)
    }

    pub(super) fn pubrel(id: u16) -> [u8; 4] {
        Self::ack(0x62, id)
    }

    pub(super) fn pubcomp(id: u16) -> [u8; 4] {
        Self::ack(0x70, id)
    }

    /// PINGREQ, in both versions.
    pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
    /// DISCONNECT of a normal end, in both versions: the broker drops the will.
    pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

    /// Decodes a whole packet: its first byte and its body.
    pub(super) fn decode(self, first: u8, body: &[u8]) -> Result<Incoming, CodecError> {
        match first >> 4 {
            2 => self.connack(body).map_err(failed("CONNACK")),
            3 => self.publish_in(first & 0x0f, body).map_err(failed("PUBLISH")),
            4 => self.puback_in(body).map_err(failed("PUBACK")),
            5 => self.pubrec_in(body).map_err(failed("PUBREC")),
            6 => id_of(body).map(|id| Incoming::PubRel { id }).map_err(failed("PUBREL")),
            7 => id_of(body).map(|id| Incoming::PubComp { id }).map_err(failed("PUBCOMP")),
            9 => self.suback_in(body).map_err(failed("SUBACK")),
            11 => id_of(body).map(|id| Incoming::UnsubAck { id }).map_err(failed("UNSUBACK")),
            13 => Ok(Incoming::PingResp),
            14 if self == Self::V5 => disconnect_in(body).map_err(failed("DISCONNECT")),
            _ => Err(failed("unexpected")(MqttError::ProtocolError)),
        }
    }

    fn connack(self, body: &[u8]) -> Result<Incoming, MqttError> {
        // A broker that speaks no 5 answers our CONNECT with a CONNACK of 3.1.1: two bytes, no properties.
        if self == Self::V311 || body.len() == 2 {
            let (connack, _) = v3_1_1::Connack::parse(body)?;
            return Ok(match connack.return_code() {
                ConnectReturnCode::Accepted if self == Self::V5 => Incoming::Refused(Refusal::Version),
                ConnectReturnCode::Accepted => Incoming::Connected {
                    session_present: connack.session_present(),
                    limits: Limits { receive_maximum: WINDOW_V311, ..Limits::default() },
                },
                ConnectReturnCode::UnacceptableProtocolVersion => Incoming::Refused(Refusal::Version),
                ConnectReturnCode::IdentifierRejected => Incoming::Refused(Refusal::ClientId),
                ConnectReturnCode::BadUserNameOrPassword => Incoming::Refused(Refusal::BadCredentials),
                ConnectReturnCode::NotAuthorized => Incoming::Refused(Refusal::NotAuthorised),
                other => Incoming::Refused(Refusal::Other(other as u8)),
            });
        }
        let (connack, _) = v5_0::Connack::parse(body)?;
        Ok(match connack.reason_code() {
            ConnectReasonCode::Success => Incoming::Connected {
                session_present: connack.session_present(),
                limits: limits(&connack.props),
            },
            ConnectReasonCode::UnsupportedProtocolVersion => Incoming::Refused(Refusal::Version),
            ConnectReasonCode::ClientIdentifierNotValid => Incoming::Refused(Refusal::ClientId),
            ConnectReasonCode::BadUserNameOrPassword => Incoming::Refused(Refusal::BadCredentials),
            ConnectReasonCode::NotAuthorized => Incoming::Refused(Refusal::NotAuthorised),
            other => Incoming::Refused(Refusal::Other(other as u8)),
        })
    }

    fn publish_in(self, flags: u8, body: &[u8]) -> Result<Incoming, MqttError> {
        macro_rules! incoming {
            ($packet:path) => {{
                let (publish, _) = <$packet>::parse(flags, body.into())?;
                Incoming::Publish {
                    topic: publish.topic_name().to_owned(),
                    payload: publish.payload().as_slice().to_vec(),
                    qos: qos_in(publish.qos()),
                    retain: publish.retain(),
                    dup: publish.dup(),
                    id: publish.packet_id(),
                }
            }};
        }
        let incoming = match self {
            Self::V5 => incoming!(v5_0::Publish),
            Self::V311 => incoming!(v3_1_1::Publish),
        };
        match incoming {
            Incoming::Publish { id: Some(0), .. } => Err(MqttError::MalformedPacket),
            // We announce no topic alias, so a topic is always there.
            Incoming::Publish { ref topic, .. } if topic.is_empty() => Err(MqttError::TopicAliasInvalid),
            other => Ok(other),
        }
    }

    fn puback_in(self, body: &[u8]) -> Result<Incoming, MqttError> {
        Ok(Incoming::PubAck { id: id_of(body)?, nack: self.nack_in(body) })
    }

    fn pubrec_in(self, body: &[u8]) -> Result<Incoming, MqttError> {
        Ok(Incoming::PubRec { id: id_of(body)?, nack: self.nack_in(body) })
    }

    /// By hand: a code that nobody knows is a refusal like any other, not the end of every connection.
    fn nack_in(self, body: &[u8]) -> Option<Nack> {
        body.get(2).filter(|_| self == Self::V5).and_then(|code| nack(*code))
    }

    fn suback_in(self, body: &[u8]) -> Result<Incoming, MqttError> {
        let (id, codes): (u16, Vec<u8>) = match self {
            Self::V5 => {
                let (suback, _) = v5_0::Suback::parse(body)?;
                (suback.packet_id(), suback.reason_codes().into_iter().map(|code| code as u8).collect())
            }
            Self::V311 => {
                let (suback, _) = v3_1_1::Suback::parse(body)?;
                (suback.packet_id(), suback.return_codes().into_iter().map(|code| code as u8).collect())
            }
        };
        Ok(Incoming::SubAck { id, granted: codes.into_iter().map(|code| code < 0x80).collect() })
    }
}

fn nack(code: u8) -> Option<Nack> {
    (code >= 0x80).then_some(Nack { code })
}

fn id_of(body: &[u8]) -> Result<u16, MqttError> {
    match body {
        [high, low, ..] if (*high, *low) != (0, 0) => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(MqttError::MalformedPacket),
    }
}

fn limits(properties: &Properties) -> Limits {
    let mut limits = Limits::default();
    for property in properties {
        match property {
            Property::ReceiveMaximum(value) => limits.receive_maximum = value.val(),
            Property::MaximumPacketSize(value) => limits.max_packet_size = Some(value.val()),
            Property::MaximumQos(value) => {
                limits.max_qos = if value.val() == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
            }
            Property::RetainAvailable(value) => limits.retain = value.val() != 0,
            Property::ServerKeepAlive(value) => limits.keep_alive = Some(value.val()),
            _ => {}
        }
    }
    limits
}

fn disconnect_in(body: &[u8]) -> Result<Incoming, MqttError> {
    let (disconnect, _) = v5_0::Disconnect::parse(body)?;
    let code = disconnect.reason_code().unwrap_or(DisconnectReasonCode::NormalDisconnection);
    Ok(Incoming::Disconnect { code: code as u8, reason: code.to_string() })
}

#[cfg(test)]
mod tests;
