//! MQTT.

pub mod transport;
