//! Certificates as PEM files: an authority of its own, what it signs, and every way to get that wrong.

mod flaw;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
pub use flaw::Flaw;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// What a good server certificate is valid for.
pub const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// An authority that signs, with its key.
pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// A date: year, month, day.
pub type Day = (i32, u8, u8);

/// A certificate chain, leaf first, and its key, each in a PEM file; the key's mode is 0600.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The chain.
    pub cert: PathBuf,
    /// The key, PKCS #8.
    pub key: PathBuf,
}

/// An authority and everything made with it, in a folder that lives as long as this does.
#[derive(Debug)]
pub struct Pki {
    dir: TempDir,
    ca: Authority,
}

impl Pki {
    /// A new authority (ECDSA P-256, valid 2020–2120: the clock does not matter).
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("pki-").tempdir().context("create the PKI's folder")?;
        let ca = Authority::self_signed(authority("Testkit Root"), new_key()?).context("sign the CA")?;
        let pki = Self { dir, ca };
        pki.write("ca", &ca_pem(&pki.ca), pki.ca.key())?;
        Ok(pki)
    }

    /// The authority's certificate, which a client of its servers (or a server of its clients) trusts.
    pub fn ca_file(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// The folder of all its files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A server certificate for [`SERVER_NAMES`].
    ///
    /// # Errors
    /// When it cannot be signed or written; so for the other kinds.
    pub fn server(&self) -> anyhow::Result<Identity> {
        self.issue("server", &server_params(&SERVER_NAMES)?)
    }

    /// A server certificate with an RSA key of 2048 bits, made by the openssl program.
    pub fn server_rsa(&self) -> anyhow::Result<Identity> {
        flaw::by_openssl(self, "server-rsa", &["rsa:2048"], "-sha256", true)
    }

    /// A server certificate for [`SERVER_NAMES`] valid between two days, for tests that move the clock.
    pub fn server_valid(&self, not_before: Day, not_after: Day) -> anyhow::Result<Identity> {
        let mut params = server_params(&SERVER_NAMES)?;
        set_validity(&mut params, not_before, not_after);
        self.issue("server", &params)
    }

    /// A client certificate with this common name.
    pub fn client(&self, common_name: &str) -> anyhow::Result<Identity> {
        self.issue(common_name, &client_params(common_name))
    }

    /// A client certificate valid between two days.
    pub fn client_valid(
        &self,
        common_name: &str,
        not_before: Day,
        not_after: Day,
    ) -> anyhow::Result<Identity> {
        let mut params = client_params(common_name);
        set_validity(&mut params, not_before, not_after);
        self.issue(common_name, &params)
    }

    /// A server certificate with one thing wrong with it; everything else about it is as [`Pki::server`] makes it.
    pub fn flawed(&self, flaw: Flaw) -> anyhow::Result<Identity> {
        flaw::make(self, flaw).with_context(|| format!("make the certificate {flaw:?}"))
    }

    fn issue(&self, stem: &str, params: &CertificateParams) -> anyhow::Result<Identity> {
        self.issue_by(stem, params, &self.ca, &[])
    }

    /// Signs with `issuer` and sends `intermediates` along.
    fn issue_by(
        &self,
        stem: &str,
        params: &CertificateParams,
        issuer: &Authority,
        intermediates: &[&Authority],
    ) -> anyhow::Result<Identity> {
        let key = new_key()?;
        let leaf = params.signed_by(&key, issuer).with_context(|| format!("sign {stem}"))?;
        let chain: String =
            std::iter::once(leaf.pem()).chain(intermediates.iter().map(|ca| ca.pem())).collect();
        self.write(stem, &chain, &key)
    }

    /// Writes under a name not yet taken: two clients may well have the same common name.
    fn write(&self, stem: &str, chain: &str, key: &KeyPair) -> anyhow::Result<Identity> {
        let identity = self.unused(stem);
        fs::write(&identity.cert, chain).with_context(|| format!("write {}", identity.cert.display()))?;
        write_private(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }

    fn unused(&self, stem: &str) -> Identity {
        let names = std::iter::once(stem.to_owned()).chain((2..).map(|n| format!("{stem}-{n}")));
        names
            .map(|name| self.path().join(name))
            .map(|path| Identity { cert: path.with_extension("pem"), key: path.with_extension("key") })
            .find(|identity| !identity.cert.exists())
            .expect("the names never end")
    }
}

fn new_key() -> anyhow::Result<KeyPair> {
    KeyPair::generate().context("generate a key")
}

fn ca_pem(ca: &Authority) -> String {
    let certificate: &Certificate = ca.as_ref();
    certificate.pem()
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, (2020, 1, 1), (2120, 1, 1));
    params
}

fn authority(common_name: &str) -> CertificateParams {
    let mut params = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_params(names: &[&str]) -> anyhow::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let alternatives = CertificateParams::new(names).context("read the server's names")?.subject_alt_names;
    let mut params = named("localhost");
    params.subject_alt_names = alternatives;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn client_params(common_name: &str) -> CertificateParams {
    let mut params = named(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn set_validity(params: &mut CertificateParams, not_before: Day, not_after: Day) {
    params.not_before = date_time_ymd(not_before.0, not_before.1, not_before.2);
    params.not_after = date_time_ymd(not_after.0, not_after.1, not_after.2);
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
