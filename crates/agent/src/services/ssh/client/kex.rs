//! Agreeing on keys (RFC 4253, sections 7 and 8; RFC 5656; RFC 8731), with OpenSSH's strict key exchange.

use ring::{
    agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    digest::{self, Context, Digest},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::{
    super::link::trust,
    Error,
    cipher::{Cipher, NONCE, Opener, Sealer},
    wire::{Malformed, Reader, Write as _, msg},
};

/// In the order of preference; each with its curve and hash.
const METHODS: [(&str, &agreement::Algorithm, &digest::Algorithm); 4] = [
    ("curve25519-sha256", &agreement::X25519, &digest::SHA256),
    ("curve25519-sha256@libssh.org", &agreement::X25519, &digest::SHA256),
    ("ecdh-sha2-nistp256", &agreement::ECDH_P256, &digest::SHA256),
    ("ecdh-sha2-nistp384", &agreement::ECDH_P384, &digest::SHA384),
];
/// Said in the first exchange: we understand messages that extend the protocol (RFC 8308), and count packets anew with
/// each key.
const MARKERS: [&str; 2] = ["ext-info-c", "kex-strict-c-v00@openssh.com"];
const STRICT: &str = "kex-strict-s-v00@openssh.com";

/// What stays the same over all exchanges of a connection.
pub(super) struct Session {
    /// The lines that each side has begun with.
    pub(super) versions: (String, String),
    /// The hash of the first exchange.
    pub(super) id: Option<Digest>,
    /// The key that the server has shown in the first exchange.
    pub(super) host_key: Vec<u8>,
    /// Both sides hold to strict key exchange.
    pub(super) strict: bool,
    /// The names of host keys to ask for.
    pub(super) host_keys: Vec<&'static str>,
}

/// An exchange that waits for the server's half.
pub(super) struct Exchange {
    ours: Vec<u8>,
    theirs: Vec<u8>,
    hash: &'static digest::Algorithm,
    curve: &'static agreement::Algorithm,
    private: EphemeralPrivateKey,
    public: Vec<u8>,
    host_key_algorithm: &'static str,
    ciphers: (Cipher, Cipher),
    /// The server has guessed wrong: the next packet is to be passed over.
    pub(super) skip: bool,
}

/// New keys, and for which ciphers.
pub(super) struct Keys {
    out: Material,
    inward: Material,
}

struct Material {
    cipher: Cipher,
    key: Zeroizing<Vec<u8>>,
    iv: [u8; NONCE],
}

impl Exchange {
    /// Answers the server's proposal: our own proposal, and then our half of the key.
    pub(super) fn begin(session: &mut Session, theirs: &[u8]) -> Result<(Self, [Vec<u8>; 2]), Error> {
        if session.id.is_none() {
            session.strict = Proposal::read(theirs)?.has(KEX, STRICT);
        }
        let ours = propose(session)?;
        let (exchange, init) = Self::agree(session, &ours, theirs)?;
        Ok((exchange, [ours, init]))
    }

    /// Where both have proposed: our half of the key.
    pub(super) fn agree(session: &Session, ours: &[u8], theirs: &[u8]) -> Result<(Self, Vec<u8>), Error> {
        let proposal = Proposal::read(theirs)?;
        let (_, curve, hash) = choose(&proposal, KEX, &METHODS, |method| method.0)?;
        let host_key = choose(&proposal, HOST_KEY, &session.host_keys, |name| name)?;
        let preferred = Cipher::preferred(session.strict);
        let to = choose(&proposal, CIPHER_OUT, &preferred, |cipher| cipher.name())?;
        let from = choose(&proposal, CIPHER_IN, &preferred, |cipher| cipher.name())?;
        for compression in [COMPRESSION_OUT, COMPRESSION_IN] {
            choose(&proposal, compression, &["none"], |name| name)?;
        }
        let private =
            EphemeralPrivateKey::generate(curve, &SystemRandom::new()).map_err(|_| Error::Random)?;
        let public = private.compute_public_key().map_err(|_| Error::Random)?.as_ref().to_vec();
        let mut init = vec![msg::KEX_ECDH_INIT];
        init.put_string(&public);
        let exchange = Self {
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            hash,
            curve,
            private,
            public,
            host_key_algorithm: host_key,
            ciphers: (*to, *from),
            skip: proposal.follows && !proposal.guesses(session),
        };
        Ok((exchange, init))
    }

    /// Takes the server's half: the keys, once the server has proved who it is. That its key is to be believed is for the
    /// first exchange to ask; after that it is to stay the same.
    pub(super) fn finish(self, session: &mut Session, reply: &[u8]) -> Result<Keys, Error> {
        let mut reader = Reader::new(reply);
        if reader.u8()? != msg::KEX_ECDH_REPLY {
            return Err(Error::Unexpected(reply[0]));
        }
        let (host_key, theirs, signature) = (reader.string()?, reader.string()?, reader.string()?);
        if session.id.is_some() && session.host_key != host_key {
            return Err(Error::HostKeyChanged);
        }
        let public = UnparsedPublicKey::new(self.curve, theirs);
        let mut hash = Context::new(self.hash);
        hash.put_string(&session.versions.0);
        hash.put_string(&session.versions.1);
        hash.put_string(&self.ours);
        hash.put_string(&self.theirs);
        hash.put_string(host_key);
        hash.put_string(&self.public);
        hash.put_string(theirs);
        let secret = agree_ephemeral(self.private, &public, |secret| {
            let mut number = Zeroizing::new(Vec::with_capacity(secret.len() + 5));
            number.put_mpint(secret);
            number
        });
        let secret = secret.map_err(|_| Malformed)?;
        hash.update(&secret);
        let digest = hash.finish();
        trust::verify(self.host_key_algorithm, host_key, signature, digest.as_ref())?;
        session.host_key = host_key.to_vec();
        let id = *session.id.get_or_insert(digest);
        let material = |cipher: Cipher, key, iv| {
            let derive = |letter, length| derive(self.hash, &secret, &digest, (letter, &id), length);
            let mut nonce = [0; NONCE];
            nonce.copy_from_slice(&derive(iv, NONCE));
            Material { cipher, key: derive(key, cipher.key_length()), iv: nonce }
        };
        Ok(Keys { out: material(self.ciphers.0, b'C', b'A'), inward: material(self.ciphers.1, b'D', b'B') })
    }
}

impl Keys {
    /// What goes out is protected by them from now on.
    pub(super) fn seal(&self, sealer: &mut Sealer, strict: bool) {
        sealer.rekey(self.out.cipher, &self.out.key, self.out.iv, strict);
    }

    /// What comes in is.
    pub(super) fn open(&self, opener: &mut Opener, strict: bool) {
        opener.rekey(self.inward.cipher, &self.inward.key, self.inward.iv, strict);
    }
}

/// RFC 4253, section 7.2.
fn derive(
    hash: &'static digest::Algorithm,
    secret: &[u8],
    digest: &Digest,
    (letter, id): (u8, &Digest),
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let begin = || {
        let mut context = Context::new(hash);
        context.update(secret);
        context.update(digest.as_ref());
        context
    };
    let mut context = begin();
    context.update(&[letter]);
    context.update(id.as_ref());
    // With room for all of it: what grows leaves copies behind.
    let mut key = Zeroizing::new(Vec::with_capacity(length + digest::MAX_OUTPUT_LEN));
    key.extend_from_slice(context.finish().as_ref());
    while key.len() < length {
        let mut context = begin();
        context.update(&key);
        let more = context.finish();
        key.extend_from_slice(more.as_ref());
    }
    key.truncate(length);
    key
}

/// The lists of a proposal, in their order.
const KEX: usize = 0;
const HOST_KEY: usize = 1;
const CIPHER_OUT: usize = 2;
const CIPHER_IN: usize = 3;
const COMPRESSION_OUT: usize = 6;
const COMPRESSION_IN: usize = 7;
const LISTS: [&str; 10] = [
    "key exchange",
    "host key",
    "cipher",
    "cipher",
    "integrity",
    "integrity",
    "compression",
    "compression",
    "language",
    "language",
];

struct Proposal<'a> {
    lists: [&'a str; 10],
    follows: bool,
}

impl<'a> Proposal<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        reader.take(1 + 16)?;
        let mut lists = [""; 10];
        for list in &mut lists {
            *list = reader.text()?;
        }
        let follows = reader.bool()?;
        reader.u32()?;
        Ok(Self { lists, follows })
    }

    fn has(&self, list: usize, wanted: &str) -> bool {
        self.lists[list].split(',').any(|name| name == wanted)
    }

    /// Whether what follows it is of use: both sides prefer the same method and the same kind of host key (RFC 4253,
    /// section 7.1). That they can agree on what the server prefers is not enough.
    fn guesses(&self, session: &Session) -> bool {
        let prefers = |list: usize| self.lists[list].split(',').next();
        prefers(KEX) == Some(METHODS[0].0) && prefers(HOST_KEY) == session.host_keys.first().copied()
    }
}

/// The first of ours that the server knows.
fn choose<'a, T>(
    proposal: &Proposal<'_>,
    list: usize,
    ours: &'a [T],
    name: impl Fn(&'a T) -> &'a str,
) -> Result<&'a T, Error> {
    let chosen = ours.iter().find(|item| proposal.has(list, name(item)));
    let none = || Error::NothingInCommon {
        what: LISTS[list],
        ours: ours.iter().map(&name).collect::<Vec<_>>().join(","),
        theirs: proposal.lists[list].chars().filter(|c| c.is_ascii_graphic()).take(400).collect(),
    };
    chosen.ok_or_else(none)
}

/// Our proposal.
pub(super) fn propose(session: &Session) -> Result<Vec<u8>, Error> {
    let mut cookie = [0; 16];
    SystemRandom::new().fill(&mut cookie).map_err(|_| Error::Random)?;
    let mut payload = vec![msg::KEXINIT];
    payload.extend(cookie);
    let mut methods: Vec<&str> = METHODS.iter().map(|method| method.0).collect();
    if session.id.is_none() {
        methods.extend(MARKERS);
    }
    payload.put_names(&methods);
    payload.put_names(&session.host_keys);
    let ciphers: Vec<&str> = Cipher::preferred(session.strict).into_iter().map(Cipher::name).collect();
    payload.put_names(&ciphers);
    payload.put_names(&ciphers);
    // These ciphers bring their own; some servers do not like an empty list.
    payload.put_names(&["hmac-sha2-256-etm@openssh.com"]);
    payload.put_names(&["hmac-sha2-256-etm@openssh.com"]);
    payload.put_names(&["none"]);
    payload.put_names(&["none"]);
    payload.put_names(&[]);
    payload.put_names(&[]);
    payload.put_bool(false);
    payload.put_u32(0);
    Ok(payload)
}

#[cfg(test)]
mod tests;
