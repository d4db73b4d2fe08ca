//! The authorities that the system trusts, asked for the one that vouches for a given chain.
//!
//! All of them would take half a megabyte of the agent's four, mostly in fragments that the heap never gives
//! back, and one that is withdrawn would stay trusted as long as the agent runs. So they are read one by one at
//! each full handshake, and only those that the chain names are kept, for its length.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};

#[cfg(not(target_vendor = "apple"))]
pub(super) use files::verifier;

/// Apple's authorities are in no file: the system's own verifier knows them.
#[cfg(target_vendor = "apple")]
pub(super) fn verifier(
    _chain: &[&CertificateDer<'_>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    Ok(Arc::new(rustls_platform_verifier::Verifier::new(provider.clone())?))
}

#[cfg(not(target_vendor = "apple"))]
mod files {
    use std::fs;
    use std::path::Path;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// What reading the system's authorities finds.
    struct Search {
        /// Those that the chain names.
        found: RootCertStore,
        /// How many there were.
        seen: usize,
    }

    /// A verifier that trusts those of the system's authorities that `chain` names.
    pub(in super::super) fn verifier(
        chain: &[&CertificateDer<'_>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, Error> {
        let places = openssl_probe::probe(); // `SSL_CERT_FILE` and `SSL_CERT_DIR`, else where systems keep them
        let mut search = Search { found: RootCertStore::empty(), seen: 0 };
        if let Some(bundle) = &places.cert_file {
            search.file(bundle, chain);
        }
        // The folders repeat the bundle in hundreds of files: they are only read for what it lacks.
        for folder in &places.cert_dir {
            if search.found.is_empty() {
                search.folder(folder, chain);
            }
        }
        match search {
            Search { seen: 0, .. } => Err(Error::General(
                "this system has no CA certificates; install ca-certificates or name a CA".to_owned(),
            )),
            Search { found, .. } if found.is_empty() => Err(CertificateError::UnknownIssuer.into()),
            Search { found, .. } => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(found), provider.clone())
                    .build()
                    .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
                    .map_err(|error| Error::General(error.to_string()))
            }
        }
    }

    impl Search {
        /// What cannot be read or parsed is no authority; systems are full of such files.
        fn file(&mut self, path: &Path, chain: &[&CertificateDer<'_>]) {
            let Ok(certificates) = CertificateDer::pem_file_iter(path) else { return };
            for certificate in certificates.flatten() {
                let mut one = RootCertStore::empty();
                if one.add(certificate).is_ok() {
                    self.seen += 1;
                    self.found.extend(one.roots.into_iter().filter(|root| names(chain, &root.subject)));
                }
            }
        }

        fn folder(&mut self, path: &Path, chain: &[&CertificateDer<'_>]) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.path().is_file() {
                    self.file(&entry.path(), chain);
                }
            }
        }
    }

    /// Whether some certificate holds `subject`, which the one that this authority has signed does, as its issuer.
    /// This only spares the verifier authorities that cannot matter; it is the verifier that judges.
    fn names(chain: &[&CertificateDer<'_>], subject: &[u8]) -> bool {
        chain.iter().any(|certificate| certificate.windows(subject.len()).any(|part| part == subject))
    }
}
