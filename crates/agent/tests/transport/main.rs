//! Every way to the broker, against real brokers, TLS servers and proxies.

mod certificates;
mod clocks;
mod peers;
mod proxies;
mod schemes;

use std::error::Error as _;
use std::time::Duration;

use iot_agent::clock::{Clock, Reading, built};
use iot_agent::mqtt::transport::{Dial, Endpoint, Error, Scheme, Stream, TlsFiles};
use testkit::certs::{Identity, Pki};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Longer than any one step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("an end within 20 s")
}

/// This machine's time, whether or not something synchronises it.
fn now_synchronised() -> Clock {
    let time = Clock::new(built(), None).now();
    Clock::with_source(built(), move || Reading { time, synchronised: true })
}

fn endpoint(scheme: Scheme, port: u16, tls: TlsFiles) -> Endpoint {
    Endpoint { scheme, host: "localhost".into(), port, path: "/mqtt".into(), tls, proxy: None }
}

fn trusting(pki: &Pki) -> TlsFiles {
    TlsFiles { ca: Some(pki.ca_file()), ..TlsFiles::default() }
}

fn as_client(pki: &Pki, Identity { cert, key }: Identity) -> TlsFiles {
    TlsFiles { certificate: Some(cert), key: Some(key), ..trusting(pki) }
}

async fn connect(endpoint: Endpoint) -> Result<Stream, Error> {
    bounded(Dial::new(endpoint, now_synchronised()).connect()).await
}

/// The error of a connection that must not come about, as a log shows it.
async fn refusal(endpoint: Endpoint) -> String {
    match connect(endpoint).await {
        Ok(_) => panic!("connected"),
        Err(error) => chain(&error),
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Says CONNECT (MQTT 3.1.1, clean session) and expects to be let in.
async fn greet(stream: &mut Stream) -> std::io::Result<()> {
    stream.write_all(b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05agent").await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, [0x20, 2, 0, 0], "a CONNACK that lets us in");
    Ok(())
}
