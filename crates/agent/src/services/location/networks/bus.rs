//! The system bus, for questions. The only file that knows how the library does that; each question has its deadline.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;
use tokio::time::timeout;
use zbus::{Connection, DynamicType, Error, OwnedVariant, Variant, wire::DynamicDeserialize};

/// How long the bus, and an answer to a question, may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Properties, by name.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// A connection to the system bus (`DBUS_SYSTEM_BUS_ADDRESS`, or the usual socket).
pub(super) struct Bus(Connection);

/// One interface of one object.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) service: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

impl Bus {
    pub(super) async fn open() -> Result<Self, Error> {
        let open = zbus::connection::Builder::system().method_timeout(DEADLINE).build();
        let opened = timeout(DEADLINE, open).await;
        opened.unwrap_or_else(|_| Err(Error::Failure("it does not answer".to_owned()))).map(Self)
    }

    /// Calls a method.
    pub(super) async fn call<T>(
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

    /// All properties.
    pub(super) async fn properties(&self, place: Place<'_>) -> Result<Properties, Error> {
        let properties = Place { interface: "org.freedesktop.DBus.Properties", ..place };
        self.call(properties, "GetAll", &place.interface).await
    }
}

/// An error in few words.
pub(super) fn plain(error: &Error) -> String {
    let text = match error {
        Error::MethodError(name, text, _) => text.clone().unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A whole number of whatever type.
pub(super) fn whole(value: Option<&OwnedVariant>) -> Option<i64> {
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
pub(super) fn text(value: Option<&OwnedVariant>) -> Option<&str> {
    match &**value? {
        Variant::Str(text) => Some(text.as_str()),
        _ => None,
    }
}

/// A truth.
pub(super) fn truth(value: Option<&OwnedVariant>) -> bool {
    matches!(value.map(|value| &**value), Some(Variant::Bool(true)))
}

/// Bytes.
pub(super) fn bytes(value: Option<&OwnedVariant>) -> Option<Vec<u8>> {
    match &**value? {
        Variant::Array(bytes) => {
            let byte = |value: &Variant<'_>| if let Variant::U8(byte) = value { Some(*byte) } else { None };
            bytes.iter().map(byte).collect()
        }
        _ => None,
    }
}
