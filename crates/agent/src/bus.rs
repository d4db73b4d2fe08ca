//! The system bus of D-Bus, for questions and signals. The only file that knows how the library does that; each question has
//! its deadline.

use std::{collections::HashMap, future::poll_fn, pin::Pin, time::Duration};

use serde::Serialize;
use tokio::time::timeout;
use zbus::{
    Connection, DynamicType, Error, MatchRule, MessageStream, OwnedVariant, Variant,
    export::futures_core::Stream as _, message::Type, wire::DynamicDeserialize,
};

/// How long the bus, and an answer to a question, may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Properties, by name.
pub(crate) type Properties = HashMap<String, OwnedVariant>;

/// A connection to the system bus (`DBUS_SYSTEM_BUS_ADDRESS`, or the usual socket).
pub(crate) struct Bus(Connection);

/// One interface of one object.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) service: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
}

/// A signal, each time that it comes.
pub(crate) struct Signals(MessageStream);

impl Bus {
    pub(crate) async fn open() -> Result<Self, Error> {
        let open = zbus::connection::Builder::system().method_timeout(DEADLINE).build();
        let opened = timeout(DEADLINE, open).await;
        opened.unwrap_or_else(|_| Err(Error::Failure("it does not answer".to_owned()))).map(Self)
    }

    /// Calls a method.
    pub(crate) async fn call<T>(
        &self,
        place: Place<'_>,
        method: &str,
        body: &(impl Serialize + DynamicType),
    ) -> Result<T, Error>
    where
        T: for<'a> DynamicDeserialize<'a>,
    {
        let Place { service, path, interface } = place;
        let answer = self.0.call_method(Some(service), path, Some(interface), method, body).await?;
        answer.body().deserialize()
    }

    /// What an interface says of itself from now on.
    pub(crate) async fn signals(&self, place: Place<'_>, member: &str) -> Result<Signals, Error> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(place.service)
            .path(place.path)
            .interface(place.interface)
            .member(member)
            .build()?;
        MessageStream::for_match_rule(rule, &self.0, None).await.map(Signals)
    }

    /// All properties.
    pub(crate) async fn properties(&self, place: Place<'_>) -> Result<Properties, Error> {
        let properties = Place { interface: "org.freedesktop.DBus.Properties", ..place };
        self.call(properties, "GetAll", &place.interface).await
    }
}

impl Signals {
    /// The next one; none when the bus is gone.
    pub(crate) async fn next<T>(&mut self) -> Option<T>
    where
        T: for<'a> DynamicDeserialize<'a>,
    {
        loop {
            let next = poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await;
            // One that reads otherwise is another's.
            if let Ok(body) = next?.and_then(|message| message.body().deserialize()) {
                return Some(body);
            }
        }
    }
}

/// An error in few words.
pub(crate) fn plain(error: &Error) -> String {
    let text = match error {
        Error::MethodError(name, text, _) => text.clone().unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A whole number of whatever type.
pub(crate) fn whole(value: Option<&OwnedVariant>) -> Option<i64> {
    match &**value? {
        Variant::U8(n) => Some(i64::from(*n)),
        Variant::I16(n) => Some(i64::from(*n)),
        Variant::U16(n) => Some(i64::from(*n)),
        Variant::I32(n) => Some(i64::from(*n)),
        Variant::U32(n) => Some(i64::from(*n)),
        Variant::I64(n) => Some(*n),
        Variant::U64(n) => i64::try_from(*n).ok(),
        // Levels come as such, and not as what is no number.
        Variant::F64(n) if n.abs() < 1e9 => Some(n.round() as i64),
        _ => None,
    }
}

/// A text.
pub(crate) fn text(value: Option<&OwnedVariant>) -> Option<&str> {
    match &**value? {
        Variant::Str(text) => Some(text.as_str()),
        _ => None,
    }
}

/// A truth.
pub(crate) fn truth(value: Option<&OwnedVariant>) -> bool {
    matches!(value.map(|value| &**value), Some(Variant::Bool(true)))
}

/// Bytes.
pub(crate) fn bytes(value: Option<&OwnedVariant>) -> Option<Vec<u8>> {
    match &**value? {
        Variant::Array(bytes) => {
            let byte = |value: &Variant<'_>| if let Variant::U8(byte) = value { Some(*byte) } else { None };
            bytes.iter().map(byte).collect()
        }
        _ => None,
    }
}
