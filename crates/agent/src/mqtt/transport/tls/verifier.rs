//! Verification of the broker's certificate on a device that may not know the date.
//!
//! While the clock is synchronised, a certificate is judged at `now`. While it is not, `notAfter` is judged at
//! the floor, the latest time known to have passed, and `notBefore` not at all: a device that boots in 1970
//! connects, and a certificate that had expired before the floor is refused all the same.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

#[cfg(not(target_vendor = "apple"))]
use super::roots::system_verifier;
use crate::clock::Clock;

/// Each link of a chain may begin later than the one before; longer chains than this are refused anyway.
const LINKS: usize = 8;

#[derive(Debug)]
pub(super) struct Verifier {
    roots: Roots,
    provider: Arc<CryptoProvider>,
    clock: Clock,
}

#[derive(Debug)]
enum Roots {
    /// The system's, looked up for each full handshake.
    System,
    Own(Arc<WebPkiServerVerifier>),
}

impl Verifier {
    pub(super) fn system(provider: Arc<CryptoProvider>, clock: Clock) -> Self {
        Self { roots: Roots::System, provider, clock }
    }

    pub(super) fn own(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
        clock: Clock,
    ) -> Result<Self, VerifierBuilderError> {
        let own = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        Ok(Self { roots: Roots::Own(own), provider: provider.clone(), clock })
    }

    /// Runs `verify` at the time that our clock allows to judge by.
    fn at_a_fair_time<T>(&self, verify: impl Fn(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
        if self.clock.synchronised() {
            return verify(unix(self.clock.now()));
        }
        let mut time = unix(self.clock.floor());
        for _ in 0..LINKS {
            match verify(time) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before, ..
                })) if not_before > time => {
                    time = not_before;
                }
                judged => return judged,
            }
        }
        verify(time)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier: Arc<dyn ServerCertVerifier> = match &self.roots {
            Roots::Own(own) => own.clone(),
            Roots::System => {
                let chain: Vec<_> = [end_entity].into_iter().chain(intermediates).collect();
                system_verifier(&chain, &self.provider)?
            }
        };
        self.at_a_fair_time(|time| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Apple's authorities are in no file: the system's own verifier knows them.
#[cfg(target_vendor = "apple")]
fn system_verifier(
    _chain: &[&CertificateDer<'_>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    Ok(Arc::new(rustls_platform_verifier::Verifier::new(provider.clone())?))
}

/// For the age of session tickets, the only other thing that TLS asks the time for.
impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.now()))
    }
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring;

    use super::*;
    use crate::clock::{Reading, built};

    fn verifier(synchronised: bool) -> Verifier {
        let clock = Clock::with_source(built(), move || Reading { time: built(), synchronised });
        Verifier::system(Arc::new(ring::default_provider()), clock)
    }

    /// A chain whose links become valid at these seconds after the floor and end at `end`, as webpki judges it.
    fn chain(begins: &[u64], end: u64) -> impl Fn(UnixTime) -> Result<u64, Error> {
        let floor = unix(built()).as_secs();
        let at = move |seconds| UnixTime::since_unix_epoch(Duration::from_secs(floor + seconds));
        move |time| {
            let flaw = |flaw: CertificateError| Err(flaw.into());
            if time > at(end) {
                return flaw(CertificateError::ExpiredContext { time, not_after: at(end) });
            }
            match begins.iter().find(|&&begin| time < at(begin)) {
                Some(&begin) => flaw(CertificateError::NotValidYetContext { time, not_before: at(begin) }),
                None => Ok(time.as_secs() - floor),
            }
        }
    }

    #[test]
    fn an_unsynchronised_clock_waits_for_every_link_to_begin() {
        let judge = |begins: &[u64], end| verifier(false).at_a_fair_time(chain(begins, end));
        assert_eq!(judge(&[], 0), Ok(0));
        assert_eq!(judge(&[10], 100), Ok(10));
        assert_eq!(judge(&[10, 30, 20], 100), Ok(30));
        assert!(judge(&[10, 30], 20).is_err(), "its links are never valid together");
        let longest: Vec<u64> = (1..=LINKS as u64).collect();
        assert_eq!(judge(&longest, 100), Ok(LINKS as u64));
        let longer: Vec<u64> = (1..=LINKS as u64 + 1).collect();
        assert!(judge(&longer, 100).is_err(), "too many links");
    }

    #[test]
    fn a_synchronised_clock_waits_for_none() {
        let judge = |begins: &[u64], end| verifier(true).at_a_fair_time(chain(begins, end));
        assert_eq!(judge(&[0], 0), Ok(0));
        assert!(judge(&[10], 100).is_err());
    }

    /// A verifier that says the same whatever the time must not be asked for ever.
    #[test]
    fn a_stuck_verifier_ends() {
        let stuck = |time| {
            let flaw = CertificateError::NotValidYetContext { time, not_before: time };
            Err::<(), _>(Error::from(flaw))
        };
        assert!(verifier(false).at_a_fair_time(stuck).is_err());
    }
}
