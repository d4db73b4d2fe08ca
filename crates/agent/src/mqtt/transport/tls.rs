//! TLS to the broker: at least 1.2, always verified, by the system's roots or by the one CA that is named.

mod files;
mod reason;
#[cfg(not(target_vendor = "apple"))]
mod roots;
mod verifier;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use self::files::Stamp;
use self::verifier::Verifier;
use super::{Error, Stream};
use crate::clock::Clock;

pub use reason::explain;

/// The PEM files that decide whom we trust and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The only authorities trusted; where absent, the system's roots.
    pub ca: Option<PathBuf>,
    /// Our certificate, followed by its intermediates.
    pub certificate: Option<PathBuf>,
    /// The key of our certificate: PKCS#8, SEC1 or PKCS#1, not encrypted.
    pub key: Option<PathBuf>,
}

/// Starts TLS sessions with one broker. Files are read anew when they have changed; as long as they have not,
/// sessions are resumed.
#[derive(Debug)]
pub(super) struct Connector {
    files: TlsFiles,
    clock: Clock,
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    stamps: Vec<Stamp>,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub(super) fn new(files: TlsFiles, clock: Clock) -> Self {
        Self { files, clock, loaded: Mutex::new(None) }
    }

    /// Reads the files and looks at the name, without a connection.
    pub(super) fn check(&self, host: &str) -> Result<(), Error> {
        server_name(host)?;
        self.config().map(drop)
    }

    /// Shakes hands over `stream`.
    pub(super) async fn connect(&self, stream: Stream, host: &str) -> Result<Stream, Error> {
        let session = TlsConnector::from(self.config()?).connect(server_name(host)?, stream);
        session.await.map(|session| Box::new(session) as Stream).map_err(|error| failure(host, error))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let stamps = files::stamps(&self.files)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.stamps == stamps) {
            return Ok(loaded.config.clone());
        }
        let config = Arc::new(self.load()?);
        *loaded = Some(Loaded { stamps, config: config.clone() });
        Ok(config)
    }

    fn load(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = match &self.files.ca {
            Some(path) => Verifier::own(own_roots(path)?, &provider, self.clock.clone())
                .map_err(|reason| Error::BadFile { path: path.clone(), reason: reason.to_string() })?,
            None => Verifier::system(provider.clone(), self.clock.clone()),
        };
        let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(self.clock.clone()))
            .with_safe_default_protocol_versions()
            .expect("ring's provider has suites for TLS 1.2 and 1.3")
            .dangerous() // an own verifier, which judges time by our clock and all else as rustls would
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.files.certificate, &self.files.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(files::certificates(certificate)?, files::key(key)?)
                .map_err(|error| unfit(&error, certificate, key))?,
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(Error::HalfIdentity),
        };
        config.resumption = Resumption::in_memory_sessions(1); // one broker; the default keeps room for 32
        Ok(config)
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(host.to_owned()).map_err(|_| Error::BadName { host: host.to_owned() })
}

fn own_roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in files::certificates(path)? {
        store.add(certificate).map_err(|error| Error::BadFile {
            path: path.to_owned(),
            reason: format!("holds something that is not a certificate: {}", reason::of(&error)),
        })?;
    }
    Ok(store)
}

/// Which of our two files is wrong, and how.
fn unfit(error: &rustls::Error, certificate: &Path, key: &Path) -> Error {
    let (path, reason) = match error {
        rustls::Error::InvalidCertificate(_) => {
            (certificate, "begins with something that is not a certificate".to_owned())
        }
        rustls::Error::InconsistentKeys(_) => (key, format!("is not the key of {}", certificate.display())),
        rustls::Error::General(_) => (key, "is not an RSA, ECDSA (P-256, P-384) or Ed25519 key".to_owned()),
        other => (key, reason::of(other)),
    };
    Error::BadFile { path: path.to_owned(), reason }
}

fn failure(host: &str, error: io::Error) -> Error {
    let host = host.to_owned();
    match explain(&error) {
        Some(reason) => Error::Handshake { host, reason },
        None => Error::HandshakeIo { host, source: error },
    }
}
