//! Whom we trust, and the files that say so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use testkit::certs::Flaw;
use tokio::process::Command;

use super::peers::{OpenSsl, Rustls};
use super::*;

/// What is said of each flaw.
fn reason(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::Expired | Flaw::ExpiredIntermediate => "its certificate expired on 2002-01-01",
        Flaw::NotYetValid => "its certificate is valid only from 2100-01-01",
        Flaw::UnknownAuthority | Flaw::SelfSigned | Flaw::MissingIntermediate => {
            "its certificate comes from an authority that is not trusted here"
        }
        Flaw::ImpostorAuthority | Flaw::KeyOfAnother | Flaw::Rsa1024 => {
            "a signature in its certificate or its handshake does not hold"
        }
        Flaw::WrongName => "its certificate is for another host (elsewhere.example)",
        Flaw::PartialWildcard => "its certificate is for another host (l*calhost)",
        Flaw::OnlyCommonName => "its certificate names no host (it has no subjectAltName)",
        Flaw::Sha1Signed | Flaw::Md5Signed => "its certificate is signed by a method that is unsafe",
        Flaw::StrangeCurve => "the broker refused: no cipher or key in common",
        Flaw::ClientOnly
        | Flaw::IssuerIsNoAuthority
        | Flaw::PathTooLong
        | Flaw::NameConstrained
        | Flaw::UnknownCriticalExtension
        | Flaw::VersionOne => "its certificate is not acceptable: ",
    }
}

#[tokio::test]
async fn every_flawed_certificate_is_refused_with_its_reason() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    for flaw in Flaw::ALL {
        let identity = pki.flawed(flaw)?;
        let text = if flaw == Flaw::KeyOfAnother {
            let server = Rustls::start(&identity).await?; // OpenSSL refuses to be such a server
            let dialled = refusal(endpoint(Scheme::Mqtts, server.port()?, trusting(&pki)));
            tokio::join!(dialled, server.serve()).0
        } else {
            let server = OpenSsl::start(&identity, &[]).await?;
            refusal(endpoint(Scheme::Mqtts, server.port, trusting(&pki))).await
        };
        assert!(text.starts_with("TLS with localhost failed: "), "{flaw:?}: {text}");
        assert!(text.contains(reason(flaw)), "{flaw:?}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn old_protocols_are_refused() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    for version in ["-tls1", "-tls1_1"] {
        let server = OpenSsl::start(&pki.server()?, &[version]).await?;
        let text = refusal(endpoint(Scheme::Mqtts, server.port, trusting(&pki))).await;
        assert!(text.contains("speaks no TLS"), "{text}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let server = OpenSsl::start(&pki.server()?, &[version]).await?;
        connect(endpoint(Scheme::Mqtts, server.port, trusting(&pki))).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_address_of_a_broker_may_stand_in_its_certificate() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    let server = OpenSsl::start(&pki.server()?, &[]).await?;
    let by_address =
        Endpoint { host: "127.0.0.1".into(), ..endpoint(Scheme::Mqtts, server.port, trusting(&pki)) };
    connect(by_address).await?;
    Ok(())
}

#[tokio::test]
async fn a_second_dial_resumes_the_session() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    let server = Rustls::start(&pki.server()?).await?;
    let dial = Dial::new(endpoint(Scheme::Mqtts, server.port()?, trusting(&pki)), now_synchronised());
    for resumed in [false, true, true] {
        let client = async {
            let mut stream = bounded(dial.connect()).await?;
            bounded(stream.read_u8()).await?; // TLS 1.3 hands its tickets out before the first byte
            anyhow::Ok(())
        };
        let (dialled, served) = tokio::join!(client, server.serve());
        dialled?;
        assert_eq!(served?, resumed);
    }
    Ok(())
}

#[tokio::test]
async fn files_that_change_count_from_the_next_dial_on() -> anyhow::Result<()> {
    let (old, new) = (Pki::new()?, Pki::new()?);
    let server = OpenSsl::start(&new.server()?, &[]).await?;
    let dial = Dial::new(endpoint(Scheme::Mqtts, server.port, trusting(&old)), now_synchronised());
    assert!(bounded(dial.connect()).await.is_err(), "connected to a stranger");
    fs::copy(new.ca_file(), old.ca_file())?;
    bounded(dial.connect()).await?;
    fs::remove_file(old.ca_file())?;
    let error = bounded(dial.connect()).await.err().expect("an error without its CA");
    assert_eq!(
        chain(&error),
        format!("cannot read {}: No such file or directory (os error 2)", old.ca_file().display())
    );
    Ok(())
}

/// The same key in the three forms that PEM files have.
#[tokio::test]
async fn keys_are_read_in_every_form() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    let client = pki.client("agent")?;
    let sec1 = pki.path().join("sec1.key");
    openssl(&["ec", "-in", path(&client.key), "-out", path(&sec1)]).await?;
    private(&sec1)?;
    assert!(fs::read_to_string(&sec1)?.contains("BEGIN EC PRIVATE KEY"));
    let (pkcs1, cert) = (pki.path().join("pkcs1.key"), pki.path().join("rsa.pem"));
    openssl(&["genrsa", "-traditional", "-out", path(&pkcs1), "2048"]).await?;
    openssl(&["req", "-x509", "-key", path(&pkcs1), "-subj", "/CN=agent", "-out", path(&cert)]).await?;
    private(&pkcs1)?;
    assert!(fs::read_to_string(&pkcs1)?.contains("BEGIN RSA PRIVATE KEY"));
    for identity in [client.clone(), Identity { key: sec1, ..client }, Identity { cert, key: pkcs1 }] {
        check(as_client(&pki, identity)).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

#[tokio::test]
async fn each_useless_file_has_its_reason() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    let (client, other) = (pki.client("agent")?, pki.client("other")?);
    let file = |name: &str, text: &str| -> anyhow::Result<_> {
        let file = pki.path().join(name);
        fs::write(&file, text)?;
        private(&file)?;
        Ok(file)
    };
    let missing = pki.path().join("missing");
    let empty = file("empty", "")?;
    let cut = file("cut", "-----BEGIN CERTIFICATE-----\nAAAA\n")?;
    let nonsense = file("nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    let large = file("large", &" ".repeat((1 << 20) + 1))?;
    let odd = file("odd", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")?;
    let open = file("open", &fs::read_to_string(&client.key)?)?;
    fs::set_permissions(&open, Permissions::from_mode(0o640))?;
    let locked = pki.path().join("locked");
    openssl(&["pkcs8", "-topk8", "-in", path(&client.key), "-passout", "pass:x", "-out", path(&locked)])
        .await?;
    private(&locked)?;

    let pipe = pki.path().join("pipe");
    assert!(Command::new("mkfifo").args(["-m", "600", path(&pipe)]).status().await?.success());

    let ca = |file: &Path| TlsFiles { ca: Some(file.to_owned()), ..TlsFiles::default() };
    let key = |file: &Path| as_client(&pki, Identity { key: file.to_owned(), ..client.clone() });
    let cert = |file: &Path| as_client(&pki, Identity { cert: file.to_owned(), ..client.clone() });
    let cases = [
        (ca(&missing), "cannot read {}: No such file or directory (os error 2)", &missing),
        (ca(&empty), "{}: holds no PEM certificate", &empty),
        (ca(&cut), "{}: is damaged: missing section end marker", &cut),
        (ca(&nonsense), "{}: holds something that is not a certificate", &nonsense),
        (ca(&pipe), "cannot read {}: it is not a regular file", &pipe),
        (ca(&large), "{}: is larger than 1 MiB", &large),
        (cert(&missing), "cannot read {}: No such file", &missing),
        (cert(&empty), "{}: holds no PEM certificate", &empty),
        (cert(&nonsense), "{}: begins with something that is not a certificate", &nonsense),
        (key(&missing), "cannot read {}: No such file", &missing),
        (key(&empty), "{}: holds no PEM private key", &empty),
        (key(&pipe), "cannot read {}: it is not a regular file", &pipe),
        (key(&odd), "{}: is not an RSA, ECDSA (P-256, P-384) or Ed25519 key", &odd),
        (key(&open), "{}: can be read by group or others; make it 0600", &open),
        (key(&locked), "{}: is encrypted", &locked),
        (key(&other.key), "{}: is not the key of ", &other.key),
    ];
    for (files, reason, file) in cases {
        let text = check(files).expect_err(reason);
        let expected = reason.replace("{}", path(file));
        assert!(text.starts_with(&expected), "{text:?} should say {expected:?}");
    }
    for half in
        [TlsFiles { key: None, ..key(&client.key) }, TlsFiles { certificate: None, ..key(&client.key) }]
    {
        assert_eq!(check(half), Err("a client certificate and its key are only of use together".to_owned()));
    }
    Ok(())
}

fn check(files: TlsFiles) -> Result<(), String> {
    Dial::new(endpoint(Scheme::Mqtts, 8883, files), now_synchronised()).check().map_err(|error| chain(&error))
}

async fn openssl(arguments: &[&str]) -> anyhow::Result<()> {
    let output = bounded(Command::new("openssl").args(arguments).output()).await?;
    anyhow::ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn private(file: &Path) -> anyhow::Result<()> {
    Ok(fs::set_permissions(file, Permissions::from_mode(0o600))?)
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a temporary path is UTF-8")
}
