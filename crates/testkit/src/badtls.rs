//! MQTT servers whose TLS no client may accept, each for one reason, and good ones to show that the harness would
//! notice. Every set-up answers a CONNECT that reaches it, so that a client too trusting would really be connected.

mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;

use crate::certs::{Flaw, Identity, Pki};
use crate::proxy::Proxy;

/// What to dial: every certificate but the one with the wrong name is for it.
pub const HOST: &str = "localhost";

/// One way of setting up a server.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Says what is wrong, for messages.
    pub name: &'static str,
    /// Part of what a rustls client says of it, so that none is refused for another reason than its own. Where no
    /// common ground is found it is the server that says so.
    pub reason: &'static str,
    kind: Kind,
}

type Options = &'static [&'static str];

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A good certificate, served by rustls.
    Rustls,
    /// A good certificate, shown by a rustls server that has another's key.
    RustlsWrongKey,
    /// A good certificate, served by `openssl s_server` with these options.
    Openssl(Key, Options),
    /// A flawed certificate, served by `openssl s_server` with these options.
    Flawed(Flaw, Options),
    /// No TLS at all.
    Plaintext,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Ecdsa,
    Rsa,
    None,
}

/// OpenSSL, left to itself, would refuse to serve most of these.
const LAX: Options = &["-cipher", "ALL:@SECLEVEL=0"];
/// TLS 1.3 has no signature for the curve.
const LAX_12: Options = &["-tls1_2", "-cipher", "ALL:@SECLEVEL=0"];

const fn setup(name: &'static str, reason: &'static str, kind: Kind) -> Setup {
    Setup { name, reason, kind }
}

const fn flawed(name: &'static str, reason: &'static str, flaw: Flaw) -> Setup {
    setup(name, reason, Kind::Flawed(flaw, LAX))
}

const fn openssl(name: &'static str, reason: &'static str, key: Key, options: Options) -> Setup {
    setup(name, reason, Kind::Openssl(key, options))
}

/// Set-ups that must be refused.
pub const BAD: [Setup; 30] = [
    flawed("certificate expired", "certificate expired", Flaw::Expired),
    flawed("certificate not yet valid", "certificate not valid yet", Flaw::NotYetValid),
    flawed("unknown authority", "UnknownIssuer", Flaw::UnknownAuthority),
    flawed("authority of the same name with another key", "BadSignature", Flaw::ImpostorAuthority),
    flawed("self-signed certificate", "UnknownIssuer", Flaw::SelfSigned),
    flawed("certificate for another host", "not valid for name", Flaw::WrongName),
    flawed("host in the common name only", "not valid for any names", Flaw::OnlyCommonName),
    flawed("wildcard inside a label", "not valid for name", Flaw::PartialWildcard),
    flawed("certificate for clients only", "does not allow extended key usage", Flaw::ClientOnly),
    flawed("signed by what is no authority", "EndEntityUsedAsCa", Flaw::IssuerIsNoAuthority),
    flawed("intermediate expired", "certificate expired", Flaw::ExpiredIntermediate),
    flawed("intermediate missing", "UnknownIssuer", Flaw::MissingIntermediate),
    flawed("chain longer than allowed", "PathLenConstraintViolated", Flaw::PathTooLong),
    flawed("name constraint violated", "NameConstraintViolation", Flaw::NameConstrained),
    flawed("unknown critical extension", "UnsupportedCriticalExtension", Flaw::UnknownCriticalExtension),
    flawed("RSA key of 1024 bits", "BadSignature", Flaw::Rsa1024),
    flawed("certificate signed over SHA-1", "UnsupportedSignatureAlgorithm", Flaw::Sha1Signed),
    flawed("certificate signed over MD5", "UnsupportedSignatureAlgorithm", Flaw::Md5Signed),
    flawed("X.509 version 1", "UnsupportedCertVersion", Flaw::VersionOne),
    setup("key on an unsupported curve", "HandshakeFailure", Kind::Flawed(Flaw::StrangeCurve, LAX_12)),
    setup("another's certificate without its key", "BadSignature", Kind::RustlsWrongKey),
    openssl("TLS 1.0 only", "ProtocolVersion", Key::Ecdsa, &["-tls1", "-cipher", "ALL:@SECLEVEL=0"]),
    openssl("TLS 1.1 only", "ProtocolVersion", Key::Ecdsa, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]),
    openssl(
        "no certificate (anonymous key exchange)",
        "HandshakeFailure",
        Key::None,
        &["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"],
    ),
    openssl("no encryption", "HandshakeFailure", Key::Ecdsa, &["-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"]),
    openssl(
        "no forward secrecy (RSA key exchange)",
        "HandshakeFailure",
        Key::Rsa,
        &["-tls1_2", "-cipher", "kRSA"],
    ),
    openssl(
        "CBC with SHA-1 only",
        "HandshakeFailure",
        Key::Ecdsa,
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
    ),
    openssl(
        "finite-field Diffie-Hellman only",
        "HandshakeFailure",
        Key::Rsa,
        &["-tls1_2", "-cipher", "kDHE"],
    ),
    openssl(
        "handshake signed over SHA-1 only",
        "HandshakeFailure",
        Key::Rsa,
        &["-tls1_2", "-sigalgs", "RSA+SHA1", "-cipher", "ALL:@SECLEVEL=0"],
    ),
    setup("plain MQTT on the TLS port", "InvalidContentType", Kind::Plaintext),
];

/// Set-ups that must be accepted.
pub const GOOD: [Setup; 4] = [
    setup("good: rustls", "", Kind::Rustls),
    openssl("good: OpenSSL, TLS 1.2, ECDSA", "", Key::Ecdsa, &["-tls1_2"]),
    openssl("good: OpenSSL, TLS 1.3, ECDSA", "", Key::Ecdsa, &["-tls1_3"]),
    openssl("good: OpenSSL, TLS 1.2, RSA", "", Key::Rsa, &["-tls1_2"]),
];

impl Setup {
    /// Starts the server on 127.0.0.1.
    ///
    /// # Errors
    /// When its certificates cannot be made or it does not come up.
    ///
    /// # Panics
    /// When openssl is not installed.
    pub async fn start(&self) -> anyhow::Result<Running> {
        self.run().await.with_context(|| format!("set up {:?}", self.name))
    }

    async fn run(&self) -> anyhow::Result<Running> {
        let pki = Pki::new()?;
        let seen = Arc::new(Seen::default());
        let server = match self.kind {
            Kind::Plaintext => server::plaintext(Arc::clone(&seen)).await?,
            Kind::Rustls => server::rustls(&pki.server()?, Arc::clone(&seen)).await?,
            Kind::RustlsWrongKey => {
                server::rustls(&pki.flawed(Flaw::KeyOfAnother)?, Arc::clone(&seen)).await?
            }
            Kind::Flawed(flaw, options) => {
                server::openssl(&pki, Some(&pki.flawed(flaw)?), options, Arc::clone(&seen)).await?
            }
            Kind::Openssl(key, options) => {
                let identity = identity(&pki, key)?;
                server::openssl(&pki, identity.as_ref(), options, Arc::clone(&seen)).await?
            }
        };
        let proxy = Proxy::start(server.address).await?;
        Ok(Running { seen, proxy, _server: server, pki })
    }
}

fn identity(pki: &Pki, key: Key) -> anyhow::Result<Option<Identity>> {
    match key {
        Key::Ecdsa => pki.server().map(Some),
        Key::Rsa => pki.server_rsa().map(Some),
        Key::None => Ok(None),
    }
}

/// What arrived behind TLS.
#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    connects: AtomicU64,
}

/// A set-up that runs until dropped.
#[derive(Debug)]
pub struct Running {
    seen: Arc<Seen>,
    proxy: Proxy,
    _server: server::Server,
    pki: Pki,
}

impl Running {
    /// The port on 127.0.0.1, to be dialled as [`HOST`].
    pub fn port(&self) -> u16 {
        self.proxy.port()
    }

    /// The CA that the client is told to trust.
    pub fn ca_file(&self) -> PathBuf {
        self.pki.ca_file()
    }

    /// TCP connections so far: a test shall see that its client did try.
    pub fn attempts(&self) -> u64 {
        self.proxy.stats().connections
    }

    /// Bytes that the server got from inside TLS (without TLS: of what begins as a CONNECT).
    pub fn application_bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::SeqCst)
    }

    /// CONNECTs that the server got, and answered.
    pub fn connects(&self) -> u64 {
        self.seen.connects.load(Ordering::SeqCst)
    }

    /// The proxy in front, to wait for attempts.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }
}
