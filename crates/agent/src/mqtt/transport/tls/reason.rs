//! TLS errors in words that tell a person what to do.

use std::io;

use protocol::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription as Alert, CertificateError as Flaw, Error, InvalidMessage, PeerIncompatible};

/// The reason inside an error that came out of a TLS stream, during the handshake or later: under TLS 1.3 a
/// broker refuses our certificate only after it. `None` where the error is not TLS's.
pub fn explain(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Error>().map(of)
}

pub(super) fn of(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => format!("the broker refused: {}", refusal(*alert)),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not answer in TLS; is this its port for plain MQTT?".to_owned()
        }
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "it speaks no TLS newer than 1.1".to_owned()
        }
        Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

fn certificate(error: &Flaw) -> String {
    match error {
        Flaw::ExpiredContext { not_after, .. } => format!("its certificate expired on {}", date(*not_after)),
        Flaw::NotValidYetContext { not_before, .. } => {
            format!("its certificate is valid only from {}", date(*not_before))
        }
        Flaw::UnknownIssuer => "its certificate comes from an authority that is not trusted here".to_owned(),
        Flaw::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "its certificate names no host (it has no subjectAltName)".to_owned()
        }
        Flaw::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            format!("its certificate is for another host ({})", names.join(", "))
        }
        Flaw::BadSignature => "a signature in its certificate or its handshake does not hold \
            (a wrong key, or RSA under 2048 bits)"
            .to_owned(),
        Flaw::UnsupportedSignatureAlgorithmContext { .. }
        | Flaw::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its certificate is signed by a method that is unsafe (SHA-1, MD5) or unknown".to_owned()
        }
        Flaw::Other(error) => format!("its certificate is not acceptable: {}", error.0),
        other => format!("its certificate is not acceptable: {other}"),
    }
}

fn refusal(alert: Alert) -> String {
    match alert {
        Alert::CertificateRequired => "it requires a client certificate".to_owned(),
        Alert::CertificateExpired => "our client certificate has expired".to_owned(),
        Alert::CertificateRevoked => "our client certificate is revoked".to_owned(),
        Alert::UnknownCA => "our client certificate comes from an authority it does not trust".to_owned(),
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            "it does not accept our client certificate".to_owned()
        }
        Alert::ProtocolVersion => "it speaks no TLS version that we do".to_owned(),
        Alert::HandshakeFailure => {
            "no cipher or key in common, or it requires a client certificate".to_owned()
        }
        Alert::UnrecognisedName => "it does not know the host name".to_owned(),
        other => format!("{other:?}"),
    }
}

/// `name` out of `DnsName("name")`, which is how webpki shows it.
fn bare(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

/// The day, as far as there are days.
fn date(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_secs()).ok().and_then(|seconds| seconds.checked_mul(1000));
    match millis.and_then(Timestamp::from_millis) {
        Some(time) => time.to_string().chars().take_while(|letter| *letter != 'T').collect(),
        None => format!("second {}", time.as_secs()),
    }
}
