use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use iot_agent_testkit::badtls::{BAD, GOOD, HOST, Running};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::SOON;

const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01x";
const CONNACK: &[u8] = &[0x20, 2, 0, 0];

#[tokio::test]
async fn a_careful_client_refuses_the_bad_and_takes_the_good() -> Result<()> {
    for setup in BAD {
        let running = setup.start().await?;
        let refused =
            timeout(SOON, connect(&running, careful(&running)?)).await.with_context(|| setup.name)?;
        let error = refused.err().with_context(|| format!("accepted: {}", setup.name))?;
        ensure!(format!("{error:#}").contains(setup.reason), "{}: {error:#}", setup.name);
        running.proxy().wait(|stats| stats.connections == 1 && stats.open == 0, SOON).await?;
        let seen = (running.application_bytes(), running.connects(), running.attempts());
        ensure!(seen == (0, 0, 1), "{}: {seen:?}", setup.name);
    }
    for setup in GOOD {
        let running = setup.start().await?;
        connect(&running, careful(&running)?).await.with_context(|| setup.name)?;
        ensure!(running.connects() == 1, "{}", setup.name);
        ensure!(running.application_bytes() == CONNECT.len() as u64, "{}", setup.name);
    }
    Ok(())
}

/// Else a set-up that serves nobody would pass for one that was refused.
#[tokio::test]
async fn a_careless_client_is_connected_by_every_one() -> Result<()> {
    for setup in BAD {
        let running = setup.start().await?;
        let connected = match setup.name {
            "plain MQTT on the TLS port" => exchange(TcpStream::connect(running.proxy().addr()).await?).await,
            "another's certificate without its key" => connect(&running, careless()?).await,
            _ => timeout(SOON, openssl_client(&running)).await?,
        };
        connected.with_context(|| setup.name)?;
        ensure!(running.connects() == 1, "{}", setup.name);
        ensure!(running.application_bytes() == CONNECT.len() as u64, "{}", setup.name);
    }
    Ok(())
}

async fn connect(running: &Running, config: ClientConfig) -> Result<()> {
    let stream = TcpStream::connect(running.proxy().addr()).await?;
    exchange(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST)?, stream).await?).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    stream.write_all(CONNECT).await?;
    let mut answer = [0; 4];
    timeout(SOON, stream.read_exact(&mut answer)).await??;
    ensure!(answer == CONNACK, "{answer:?}");
    Ok(())
}

async fn openssl_client(running: &Running) -> Result<()> {
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-servername", HOST, "-connect", &running.proxy().addr().to_string()])
        .args(["-min_protocol", "TLSv1", "-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let input = child.stdin.take().context("piped")?;
    let output = child.stdout.take().context("piped")?;
    exchange(tokio::io::join(output, input)).await
}

fn careful(running: &Running) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(running.ca_file())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

fn careless() -> Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.dangerous();
    Ok(config.with_custom_certificate_verifier(Arc::new(Blind)).with_no_client_auth())
}

#[derive(Debug)]
struct Blind;

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
