//! From the start of the process to CONNECT on the wire.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use testkit::{Process, certs::Pki};
use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    agent::Home,
    table::{Table, median},
};

const LIMIT_MS: f64 = 30.0;
const ROUNDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// First bytes on the wire.
const CONNECT: u8 = 0x10;

pub(crate) async fn measure(program: &Path, table: &mut Table) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pki = Pki::new().unwrap();

    let home = Home::new(program, "starter", &format!("mqtt://127.0.0.1:{port}"), None);
    let plain = rounds(|| home.command(), &listener, None).await;
    let peer = rounds(|| publisher(port, None), &listener, None).await;
    table.limit("start to CONNECT, ms", LIMIT_MS, plain, format!("mosquitto_pub {peer:.1}"));

    let acceptor = acceptor(&pki);
    let home = Home::new(program, "starter", &format!("mqtts://localhost:{port}"), Some(&pki.ca_file()));
    let tls = rounds(|| home.command(), &listener, Some(&acceptor)).await;
    let peer = rounds(|| publisher(port, Some(&pki)), &listener, Some(&acceptor)).await;
    table.limit("start to CONNECT over TLS, ms", LIMIT_MS, tls, format!("mosquitto_pub {peer:.1}"));
}

/// The time in milliseconds of the middle of many starts. The first one, which has to make its state, is not one
/// of them.
async fn rounds(command: impl Fn() -> Command, listener: &TcpListener, tls: Option<&TlsAcceptor>) -> f64 {
    round(command(), listener, tls).await;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(round(command(), listener, tls).await);
    }
    median(times)
}

async fn round(mut command: Command, listener: &TcpListener, tls: Option<&TlsAcceptor>) -> f64 {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut process = Process::run(command.into()).unwrap();
    let first = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        match tls {
            Some(acceptor) => acceptor.accept(stream).await.unwrap().read_u8().await.unwrap(),
            None => stream.read_u8().await.unwrap(),
        }
    };
    let first = timeout(PATIENCE, first).await.expect("it connects");
    let took = began.elapsed();
    assert_eq!(first, CONNECT);
    process.kill().await.unwrap();
    took.as_secs_f64() * 1e3
}

/// The smallest peer that does the same.
fn publisher(port: u16, tls: Option<&Pki>) -> Command {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-V", "mqttv5", "-q", "1", "-t", "t", "-m", "x", "-p", &port.to_string(), "-h"]);
    match tls {
        Some(pki) => command.arg("localhost").arg("--cafile").arg(pki.ca_file()),
        None => command.arg("127.0.0.1"),
    };
    command
}

fn acceptor(pki: &Pki) -> TlsAcceptor {
    let server = pki.server().unwrap();
    let chain = CertificateDer::pem_file_iter(server.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(server.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
