//! Where the broker is, who we are to it, and how long we wait before we try again.

use std::time::Duration;

use super::{Version, transport};

/// Where to connect, as whom, and how patiently.
#[derive(Debug)]
pub struct Settings {
    /// How the broker is reached.
    pub dial: transport::Dial,
    /// Protocol version to speak.
    pub version: Version,
    /// MQTT client identifier.
    pub client_id: String,
    /// User name and password, where the broker wants them.
    pub credentials: Credentials,
    /// Longest silence on the connection.
    pub keep_alive: Duration,
    /// How long the broker keeps our session while we are away; zero asks for a clean one each time.
    pub session_expiry: Duration,
    /// Largest packet we take, in bytes.
    pub max_packet_size: u32,
    /// Wait between tries.
    pub reconnect: Backoff,
    /// Most bytes that wait in memory.
    pub queue: usize,
}

/// What CONNECT carries to say who we are.
#[derive(Default)]
pub struct Credentials {
    /// User name.
    pub username: Option<String>,
    /// Password; wiped when dropped.
    pub password: Option<zeroize::Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Full-jitter exponential back-off.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Shortest wait.
    pub min: Duration,
    /// Longest wait.
    pub max: Duration,
    /// A connection that held this long resets it.
    pub reset_after: Duration,
}

impl Backoff {
    /// The wait before try `n` (0 is the first after a success): uniform between `min` and `min * 2^n`, at
    /// most `max`.
    pub fn delay(&self, n: u32) -> Duration {
        let ceiling = self.min.saturating_mul(2u32.saturating_pow(n.saturating_add(1))).min(self.max);
        let spread = ceiling.saturating_sub(self.min);
        (self.min + spread.mul_f64(random_unit())).min(self.max.max(self.min))
    }
}

/// Uniform in [0, 1). Jitter needs no secret randomness, but a fleet must not share a seed.
fn random_unit() -> f64 {
    let random = getrandom::u32().unwrap_or_else(|_| std::process::id().wrapping_mul(2_654_435_761));
    f64::from(random) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_is_jittered_between_min_and_a_growing_ceiling() {
        let backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(300),
            reset_after: Duration::ZERO,
        };
        for n in [0, 1, 5, 8, 40] {
            let ceiling = Duration::from_secs(1 << (n + 1).min(20)).min(backoff.max);
            let delays: Vec<_> = (0..200).map(|_| backoff.delay(n)).collect();
            assert!(delays.iter().all(|delay| (backoff.min..=ceiling).contains(delay)), "{n}");
            let spread = delays.iter().max().unwrap().saturating_sub(*delays.iter().min().unwrap());
            assert!(spread > (ceiling - backoff.min) / 2, "{n}: no jitter");
        }
    }
}
