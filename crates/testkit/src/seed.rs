//! The seed of a run, and the small generator every random choice of the testkit comes from.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The variable that repeats a run: `IOT_AGENT_TEST_SEED=123 cargo test …`.
pub const VARIABLE: &str = "IOT_AGENT_TEST_SEED";

/// The run's seed: from [`VARIABLE`] or by chance; printed, so that a failing run can be repeated.
///
/// # Panics
/// If the variable is set to something that is not a number: a typo must not pass for another run.
#[expect(clippy::print_stderr, reason = "the test runner shows it with the failure, which is its purpose")]
pub fn seed() -> u64 {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.trim().parse().unwrap_or_else(|_| panic!("{VARIABLE}={text} is not a number")),
        Err(_) => chance(),
    };
    eprintln!("{VARIABLE}={seed}");
    seed
}

/// A number the operating system drew.
pub(crate) fn chance() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// SplitMix64 (Steele, Lea, Flood 2014): a few lines, and the same numbers on every machine for ever.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`; the modulo's bias is below what a test could see.
    ///
    /// # Panics
    /// If `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    /// A duration in `min..=max`, to the microsecond.
    pub fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let span = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u64::MAX - 1);
        min + Duration::from_micros(self.below(span + 1))
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}
