//! The authorities that the system trusts, asked for the one that vouches for a given chain.
//!
//! All of them would take half a megabyte of the agent's four, mostly in fragments that the heap never gives
//! back, and one that is withdrawn would stay trusted as long as the agent runs. So they are read one by one at
//! each full handshake, and only those that the chain names are kept, for its length.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{CertificateError, Error, RootCertStore};

/// A verifier that trusts those of the system's authorities that `chain` names.
pub(super) fn system_verifier(
    chain: &[&CertificateDer<'_>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let places = openssl_probe::probe(); // `SSL_CERT_FILE` and `SSL_CERT_DIR`, else where systems keep them
    let roots = vouching_for(chain, places.cert_file.as_deref(), &places.cert_dir)?;
    match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build() {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(Error::General(error.to_string())),
    }
}

fn vouching_for(
    chain: &[&CertificateDer<'_>],
    bundle: Option<&Path>,
    folders: &[PathBuf],
) -> Result<RootCertStore, Error> {
    let mut search = Search { chain, found: RootCertStore::empty(), seen: 0 };
    if let Some(bundle) = bundle {
        search.file(bundle);
    }
    // The folders repeat the bundle in hundreds of files: they are only read for what it lacks.
    for folder in folders {
        if search.found.is_empty() {
            search.folder(folder);
        }
    }
    match search {
        Search { seen: 0, .. } => Err(Error::General(
            "this system has no CA certificates; install ca-certificates or name a CA".to_owned(),
        )),
        Search { found, .. } if found.is_empty() => Err(CertificateError::UnknownIssuer.into()),
        Search { found, .. } => Ok(found),
    }
}

struct Search<'a> {
    chain: &'a [&'a CertificateDer<'a>],
    /// The authorities that the chain names.
    found: RootCertStore,
    /// How many there were in all.
    seen: usize,
}

impl Search<'_> {
    /// What cannot be read or parsed is no authority; systems are full of such files.
    fn file(&mut self, path: &Path) {
        let Ok(sections) = CertificateDer::pem_file_iter(path) else { return };
        for section in sections {
            match section {
                Ok(certificate) => self.authority(certificate),
                Err(pem::Error::Io(_)) => return, // it would come again and again
                Err(_) => {}
            }
        }
    }

    fn folder(&mut self, path: &Path) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().is_file() {
                self.file(&entry.path());
            }
        }
    }

    fn authority(&mut self, certificate: CertificateDer<'_>) {
        let mut one = RootCertStore::empty();
        if one.add(certificate).is_ok() {
            self.seen += 1;
            self.found.extend(one.roots.into_iter().filter(|root| names(self.chain, &root.subject)));
        }
    }
}

/// Whether some certificate holds `subject`, which the one that this authority has signed does, as its issuer.
/// This only spares the verifier authorities that cannot matter; it is the verifier that judges.
fn names(chain: &[&CertificateDer<'_>], subject: &[u8]) -> bool {
    !subject.is_empty()
        && chain.iter().any(|certificate| certificate.windows(subject.len()).any(|part| part == subject))
}

#[cfg(test)]
mod tests {
    use testkit::certs::Pki;

    use super::*;

    fn leaf(pki: &Pki) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(pki.server().expect("a certificate").cert).expect("PEM")
    }

    /// Authorities, all of one name, between things that are none.
    fn bundle(pkis: &[&Pki]) -> String {
        let junk = "# a comment\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let pem = |pki: &&Pki| fs::read_to_string(pki.ca_file()).expect("the CA's file") + junk;
        junk.to_owned() + &pkis.iter().map(pem).collect::<String>() + "-----BEGIN CERTIFICATE-----\nAA"
    }

    #[test]
    fn authorities_that_are_named_are_found_in_a_bundle_or_a_folder() {
        let pki = Pki::new().expect("a CA");
        let dir = tempfile::tempdir().expect("a folder");
        let (leaf, file) = (leaf(&pki), dir.path().join("bundle.pem"));
        fs::write(&file, bundle(&[&pki, &Pki::new().expect("a namesake")])).expect("written");
        let found = vouching_for(&[&leaf], Some(&file), &[]).expect("a bundle");
        assert_eq!(found.len(), 2, "both of that name: the verifier judges");
        let folders = [PathBuf::from("/nonexistent"), dir.path().to_owned()];
        assert_eq!(vouching_for(&[&leaf], None, &folders).expect("a folder").len(), 2);
        // A bundle that is a folder, as a careless `SSL_CERT_FILE` makes it, ends.
        assert_eq!(vouching_for(&[&leaf], Some(dir.path()), &folders).expect("a folder").len(), 2);
    }

    #[test]
    fn a_stranger_and_an_empty_system_are_told_apart() {
        let pki = Pki::new().expect("a CA");
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("bundle.pem");
        fs::write(&file, bundle(&[&pki])).expect("written");
        let stranger = CertificateDer::from(b"no certificate at all".to_vec());
        let ended = vouching_for(&[&stranger], Some(&file), &[]);
        assert_eq!(ended.map(|found| found.len()), Err(CertificateError::UnknownIssuer.into()));
        let ended = vouching_for(&[&leaf(&pki)], Some(Path::new("/nonexistent")), &[]);
        assert!(ended.is_err_and(|error| error.to_string().contains("no CA certificates")));
    }
}
