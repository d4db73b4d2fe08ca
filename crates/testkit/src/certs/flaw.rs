//! Server certificates that no client may accept, each for one reason.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    NameConstraints,
};

use super::{Authority, Identity, Pki, SERVER_NAMES, authority, new_key, server_params, set_validity};
use crate::process::installed;

/// What is wrong with a server certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Its last day is long past.
    Expired,
    /// Its first day is yet to come.
    NotYetValid,
    /// Signed by an authority that the client does not know.
    UnknownAuthority,
    /// Signed by an authority that calls itself as the trusted one does.
    ImpostorAuthority,
    /// Signed by nobody but itself.
    SelfSigned,
    /// For another host.
    WrongName,
    /// The host stands in the common name only.
    OnlyCommonName,
    /// The host is matched by a wildcard inside a label only.
    PartialWildcard,
    /// For clients only.
    ClientOnly,
    /// Signed by a good server certificate, which is no authority.
    IssuerIsNoAuthority,
    /// Signed by an intermediate authority that has expired.
    ExpiredIntermediate,
    /// Signed by an intermediate authority that the server does not send.
    MissingIntermediate,
    /// Signed by an authority two below one that allows none below itself.
    PathTooLong,
    /// Signed by an intermediate authority for another domain only.
    NameConstrained,
    /// Has a critical extension that nobody knows.
    UnknownCriticalExtension,
    /// A good certificate, presented by someone who has another key.
    KeyOfAnother,
    /// An RSA key of 1024 bits.
    Rsa1024,
    /// Signed over SHA-1.
    Sha1Signed,
    /// Signed over MD5.
    Md5Signed,
    /// X.509 version 1: no extensions, so no names and no usages.
    VersionOne,
    /// A key on the curve secp256k1.
    StrangeCurve,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownAuthority,
        Self::ImpostorAuthority,
        Self::SelfSigned,
        Self::WrongName,
        Self::OnlyCommonName,
        Self::PartialWildcard,
        Self::ClientOnly,
        Self::IssuerIsNoAuthority,
        Self::ExpiredIntermediate,
        Self::MissingIntermediate,
        Self::PathTooLong,
        Self::NameConstrained,
        Self::UnknownCriticalExtension,
        Self::KeyOfAnother,
        Self::Rsa1024,
        Self::Sha1Signed,
        Self::Md5Signed,
        Self::VersionOne,
        Self::StrangeCurve,
    ];
}

pub(super) fn make(pki: &Pki, flaw: Flaw) -> anyhow::Result<Identity> {
    let stem = format!("{flaw:?}");
    match flaw {
        Flaw::UnknownAuthority => by_stranger(pki, &stem, "Some Other Root"),
        Flaw::ImpostorAuthority => by_stranger(pki, &stem, "Testkit Root"),
        Flaw::SelfSigned => self_signed(pki, &stem),
        Flaw::KeyOfAnother => {
            let good = pki.server()?;
            Ok(Identity { key: pki.server()?.key, ..good })
        }
        Flaw::IssuerIsNoAuthority
        | Flaw::ExpiredIntermediate
        | Flaw::MissingIntermediate
        | Flaw::PathTooLong
        | Flaw::NameConstrained => by_intermediate(pki, &stem, flaw),
        Flaw::Rsa1024 => by_openssl(pki, &stem, &["rsa:1024"], "-sha256", true),
        Flaw::Sha1Signed => by_openssl(pki, &stem, &["rsa:2048"], "-sha1", true),
        Flaw::Md5Signed => md5_signed(pki, &stem),
        Flaw::VersionOne => by_openssl(pki, &stem, &["rsa:2048"], "-sha256", false),
        Flaw::StrangeCurve => by_openssl(pki, &stem, &SECP256K1, "-sha256", true),
        _ => pki.issue(&stem, &leaf(flaw)?),
    }
}

const SECP256K1: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"];

/// The flaws that a leaf's own parameters make.
fn leaf(flaw: Flaw) -> anyhow::Result<CertificateParams> {
    let mut params = match flaw {
        Flaw::WrongName => server_params(&["elsewhere.example"])?,
        Flaw::PartialWildcard => server_params(&["l*calhost"])?,
        Flaw::OnlyCommonName => server_params(&[])?,
        _ => server_params(&SERVER_NAMES)?,
    };
    match flaw {
        Flaw::Expired => set_validity(&mut params, (2001, 1, 1), (2002, 1, 1)),
        Flaw::NotYetValid => set_validity(&mut params, (2100, 1, 1), (2110, 1, 1)),
        Flaw::ClientOnly => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        Flaw::UnknownCriticalExtension => {
            // An arc for examples and experiments; content: an ASN.1 NULL.
            let mut extension = CustomExtension::from_oid_content(&[2, 999, 1], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        }
        _ => {}
    }
    Ok(params)
}

fn by_stranger(pki: &Pki, stem: &str, name: &str) -> anyhow::Result<Identity> {
    let stranger = Authority::self_signed(authority(name), new_key()?).context("sign the stranger")?;
    pki.issue_by(stem, &server_params(&SERVER_NAMES)?, &stranger, &[])
}

fn self_signed(pki: &Pki, stem: &str) -> anyhow::Result<Identity> {
    let key = new_key()?;
    let leaf = server_params(&SERVER_NAMES)?.self_signed(&key).context("sign itself")?;
    pki.write(stem, &leaf.pem(), &key)
}

fn by_intermediate(pki: &Pki, stem: &str, flaw: Flaw) -> anyhow::Result<Identity> {
    let mut params = match flaw {
        Flaw::IssuerIsNoAuthority => server_params(&SERVER_NAMES)?,
        _ => authority("Testkit Intermediate"),
    };
    match flaw {
        Flaw::ExpiredIntermediate => set_validity(&mut params, (2001, 1, 1), (2002, 1, 1)),
        Flaw::PathTooLong => params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        Flaw::NameConstrained => {
            let permitted_subtrees = vec![GeneralSubtree::DnsName("example.org".into())];
            params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
        }
        _ => {}
    }
    let sign =
        |params, issuer: &Authority| Authority::signed_by(params, new_key()?, issuer).context("sign it");
    let intermediate = sign(params, &pki.ca)?;
    // Names by domain only: a constraint on domains says nothing of addresses.
    let leaf = server_params(&["localhost"])?;
    match flaw {
        Flaw::MissingIntermediate => pki.issue_by(stem, &leaf, &intermediate, &[]),
        Flaw::PathTooLong => {
            let below = sign(authority("Testkit Below"), &intermediate)?;
            pki.issue_by(stem, &leaf, &below, &[&below, &intermediate])
        }
        _ => pki.issue_by(stem, &leaf, &intermediate, &[&intermediate]),
    }
}

const EXTENSIONS: &str = "\
    subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n\
    basicConstraints=critical,CA:FALSE\n\
    keyUsage=digitalSignature,keyEncipherment\n\
    extendedKeyUsage=serverAuth\n";

/// What rcgen and ring rightly cannot make is made by the openssl program.
pub(super) fn by_openssl(
    pki: &Pki,
    stem: &str,
    new_key: &[&str],
    digest: &str,
    extensions: bool,
) -> anyhow::Result<Identity> {
    let ca = Identity { cert: pki.ca_file(), key: pki.path().join("ca.key") };
    sign_by_openssl(pki, stem, (new_key, digest, extensions), &ca)
}

/// MD5 goes with RSA only, so the intermediate authority has an RSA key.
fn md5_signed(pki: &Pki, stem: &str) -> anyhow::Result<Identity> {
    let text = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n";
    let ca = Identity { cert: pki.ca_file(), key: pki.path().join("ca.key") };
    let intermediate = request(pki, "Md5Intermediate", &["rsa:2048"], "/CN=Testkit RSA Intermediate")
        .and_then(|request| sign(pki, &request, "-sha256", Some(text), &ca))?;
    let leaf = sign_by_openssl(pki, stem, (&["rsa:2048"], "-md5", true), &intermediate)?;
    let mut chain = fs::read_to_string(&leaf.cert).context("read the leaf")?;
    chain += &fs::read_to_string(&intermediate.cert).context("read the intermediate")?;
    fs::write(&leaf.cert, chain).context("write the chain")?;
    Ok(leaf)
}

fn sign_by_openssl(
    pki: &Pki,
    stem: &str,
    (new_key, digest, extensions): (&[&str], &str, bool),
    issuer: &Identity,
) -> anyhow::Result<Identity> {
    let request = request(pki, stem, new_key, "/CN=localhost")?;
    sign(pki, &request, digest, extensions.then_some(EXTENSIONS), issuer)
}

/// A new key and a request beside it (`.csr`).
fn request(pki: &Pki, stem: &str, new_key: &[&str], subject: &str) -> anyhow::Result<Identity> {
    let identity = pki.unused(stem);
    super::write_private(&identity.key, "")?;
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-nodes", "-subj", subject, "-newkey"]).args(new_key);
    command.arg("-keyout").arg(&identity.key).arg("-out").arg(identity.cert.with_extension("csr"));
    run_openssl(command)?;
    Ok(identity)
}

fn sign(
    pki: &Pki,
    identity: &Identity,
    digest: &str,
    extensions: Option<&str>,
    issuer: &Identity,
) -> anyhow::Result<Identity> {
    let mut command = Command::new("openssl");
    command.args(["x509", "-req", "-days", "3650", digest, "-set_serial"]).arg(serial(pki));
    command.arg("-in").arg(identity.cert.with_extension("csr")).arg("-out").arg(&identity.cert);
    command.arg("-CA").arg(&issuer.cert).arg("-CAkey").arg(&issuer.key);
    if let Some(text) = extensions {
        let file = identity.cert.with_extension("ext");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        command.arg("-extfile").arg(file);
    }
    run_openssl(command)?;
    Ok(identity.clone())
}

/// One authority must not sign two certificates with one number.
fn serial(pki: &Pki) -> String {
    let made = fs::read_dir(pki.path()).map_or(0, |entries| entries.filter(is_request).count());
    (1_000 + made).to_string()
}

fn is_request(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| Path::new(&entry.file_name()).extension().is_some_and(|e| e == "csr"))
}

fn run_openssl(mut command: Command) -> anyhow::Result<()> {
    let output = installed("openssl", "openssl", command.output()).context("run openssl")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
