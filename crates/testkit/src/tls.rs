//! A TLS server end for the testkit's own servers.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::TlsAcceptor;

use crate::certs::Identity;

/// Presents the chain whether or not the key belongs to it: that is for the client to find out.
pub(crate) fn acceptor(identity: &Identity) -> anyhow::Result<TlsAcceptor> {
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|error| anyhow!("read {}: {error}", identity.key.display()))?;
    let key = ring::sign::any_supported_type(&key).context("use the server's key")?;
    let certified = CertifiedKey::new(certificates(&identity.cert)?, key);
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = |error| anyhow!("read {}: {error}", file.display());
    CertificateDer::pem_file_iter(file).map_err(read)?.map(|entry| entry.map_err(read)).collect()
}
