//! The settings of a driver that a test or a benchmark runs itself.

use std::time::Duration;

use iot_agent::{
    clock::{self, Clock},
    mqtt::{
        Backoff, Credentials, Settings, Version,
        transport::{Dial, Endpoint, Scheme, TlsFiles},
    },
};

/// Plainly to a broker on loopback, quick to reconnect, with a session of an hour.
pub(crate) fn settings(port: u16, client_id: &str) -> Settings {
    let endpoint = Endpoint {
        scheme: Scheme::Mqtt,
        host: "127.0.0.1".into(),
        port,
        path: String::new(),
        tls: TlsFiles::default(),
        proxy: None,
    };
    Settings {
        dial: Dial::new(endpoint, Clock::new(clock::built(), None)),
        version: Version::Auto,
        client_id: client_id.to_owned(),
        credentials: Credentials::default(),
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_secs(3600),
        max_packet_size: 64 * 1024,
        reconnect: Backoff {
            min: Duration::from_millis(20),
            max: Duration::from_millis(100),
            reset_after: Duration::ZERO,
        },
        queue: 1 << 20,
    }
}
