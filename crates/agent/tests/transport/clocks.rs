//! Certificates on a device that may not know the date.

use std::time::SystemTime;

use testkit::certs::Day;

use super::peers::OpenSsl;
use super::*;

const YEAR: Duration = Duration::from_secs(31_556_952);

fn year(year: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + (year - 1970) * YEAR + YEAR / 2
}

/// Dials a server whose certificate is valid from January `from` to January `until`; the device's clock shows the
/// middle of `shows`, its floor is the middle of 2040.
async fn dial(from: i32, until: i32, shows: u32, synchronised: bool) -> anyhow::Result<Result<(), String>> {
    let january = |year| -> Day { (year, 1, 1) };
    let pki = Pki::new()?;
    let server = OpenSsl::start(&pki.server_valid(january(from), january(until))?, &[]).await?;
    let clock = Clock::with_source(year(2040), move || Reading { time: year(shows), synchronised });
    let dial = Dial::new(endpoint(Scheme::Mqtts, server.port, trusting(&pki)), clock);
    Ok(bounded(dial.connect()).await.map(drop).map_err(|error| chain(&error)))
}

#[tokio::test]
async fn while_unsynchronised_the_floor_judges_the_end_and_nothing_the_beginning() -> anyhow::Result<()> {
    for shows in [1970, 2038, 2050, 2105] {
        assert_eq!(dial(2030, 2060, shows, false).await?, Ok(()), "clock at {shows}");
        assert_eq!(
            dial(2055, 2060, shows, false).await?,
            Ok(()),
            "clock at {shows}, not yet valid at the floor"
        );
        let text = dial(2030, 2040, shows, false).await?.expect_err("expired before the floor");
        assert_eq!(text, "TLS with localhost failed: its certificate expired on 2040-01-01");
    }
    Ok(())
}

#[tokio::test]
async fn a_synchronised_clock_judges_both() -> anyhow::Result<()> {
    assert_eq!(dial(2030, 2060, 2050, true).await?, Ok(()));
    let text = dial(2055, 2060, 2050, true).await?.expect_err("not yet valid");
    assert_eq!(text, "TLS with localhost failed: its certificate is valid only from 2055-01-01");
    let text = dial(2030, 2045, 2050, true).await?.expect_err("expired");
    assert_eq!(text, "TLS with localhost failed: its certificate expired on 2045-01-01");
    // Synchronised or not, it cannot be earlier than the floor.
    assert_eq!(dial(2039, 2060, 1970, true).await?, Ok(()));
    Ok(())
}
