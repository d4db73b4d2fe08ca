//! Free ports for servers that cannot be asked to take port 0.

use std::net::{Ipv4Addr, TcpListener};

use crate::seed::{Rng, chance};

/// Below the ports that outgoing connections take (Linux: 32768, BSD and macOS: 49152): a server that is stopped
/// and started again must find its port free, and a client that dials a dead port there could even connect to
/// itself.
const RANGE: std::ops::Range<u64> = 10_240..32_768;

/// A loopback TCP port that nothing listened on a moment ago. Another process may still take it first: whoever
/// uses it tries again with another.
///
/// # Panics
/// When no port in the range is free.
pub fn free_port() -> u16 {
    let mut rng = Rng::new(chance());
    for _ in 0..1_000 {
        let port = (RANGE.start + rng.below(RANGE.end - RANGE.start)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port in {RANGE:?}");
}
