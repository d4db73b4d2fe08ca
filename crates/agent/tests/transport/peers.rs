//! The TLS servers and proxies that the tests dial.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use testkit::Process;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use super::*;

/// OpenSSL's server, which sets no standards where it is told not to; killed when dropped. It sends back each
/// line reversed.
pub(super) struct OpenSsl {
    _process: Process,
    pub(super) port: u16,
}

impl OpenSsl {
    pub(super) async fn start(identity: &Identity, options: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-cipher", "ALL:@SECLEVEL=0"]);
        command.arg("-cert").arg(&identity.cert).arg("-cert_chain").arg(&identity.cert);
        command.arg("-key").arg(&identity.key).args(options);
        let process = Process::run(command)?;
        let line = process.stdout.find(|line| line.starts_with("ACCEPT "), LIMIT).await?;
        let port = line.rsplit(':').next().context("a port")?.trim().parse()?;
        Ok(Self { _process: process, port })
    }
}

/// A rustls server that presents a chain with whatever key it is given, and accepts one connection at a time.
pub(super) struct Rustls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

#[derive(Debug)]
struct Unchecked(Arc<CertifiedKey>);

impl ResolvesServerCert for Unchecked {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl Rustls {
    pub(super) async fn start(identity: &Identity) -> anyhow::Result<Self> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&identity.cert)?.collect();
        let key = ring::sign::any_supported_type(&PrivateKeyDer::from_pem_file(&identity.key)?)?;
        let resolver = Unchecked(Arc::new(CertifiedKey::new(chain?, key)));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(super) fn port(&self) -> anyhow::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Shakes hands with one client, sends it a byte, and says whether it came back to an earlier session.
    pub(super) async fn serve(&self) -> anyhow::Result<bool> {
        let (stream, _) = bounded(self.listener.accept()).await?;
        let mut stream = bounded(self.acceptor.accept(stream)).await?;
        bounded(stream.write_all(b"x")).await?;
        bounded(stream.flush()).await?;
        Ok(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
    }
}

/// A proxy program on a free port; killed when dropped.
pub(super) struct ProxyServer {
    process: tokio::process::Child,
    pub(super) port: u16,
}

impl ProxyServer {
    /// Starts `command`, told to listen on the port by `listen`; with another port where that one was just taken.
    pub(super) async fn start(listen: impl Fn(u16) -> anyhow::Result<Command>) -> anyhow::Result<Self> {
        for _ in 0..10 {
            let port = testkit::ports::free_port();
            let mut command = listen(port)?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let program = command.as_std().get_program().to_owned();
            let process = command.spawn().with_context(|| format!("start {program:?}; is it installed?"))?;
            let mut server = Self { process, port };
            if bounded(server.ready()).await? {
                return Ok(server);
            }
        }
        anyhow::bail!("ten ports in a row were taken")
    }

    /// Waits until it listens; false where it has ended instead.
    async fn ready(&mut self) -> anyhow::Result<bool> {
        loop {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(self.process.try_wait()?.is_none());
            }
            if self.process.try_wait()?.is_some() {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // it gives no other sign
        }
    }
}

/// tinyproxy with a login, which lets CONNECT through to one port only.
pub(super) async fn tinyproxy(dir: &Path, allowed: u16) -> anyhow::Result<ProxyServer> {
    ProxyServer::start(|port| {
        let file = dir.join(format!("tinyproxy-{port}.conf"));
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nAllow 127.0.0.1\nBasicAuth agent s3cret\n\
             ConnectPort {allowed}\n"
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new("tinyproxy");
        command.args(["-d", "-c"]).arg(file);
        Ok(command)
    })
    .await
}

/// microsocks, with a login where `login` says so.
pub(super) async fn microsocks(login: bool) -> anyhow::Result<ProxyServer> {
    ProxyServer::start(|port| {
        let mut command = Command::new("microsocks");
        command.args(["-i", "127.0.0.1", "-p", &port.to_string()]);
        if login {
            command.args(["-u", "agent", "-P", "s3cret"]);
        }
        Ok(command)
    })
    .await
}
