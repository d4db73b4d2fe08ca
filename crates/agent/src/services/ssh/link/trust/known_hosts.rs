//! The file `known_hosts` as sshd(8) describes it: names, plain or hashed, marks, keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::services::ssh::link::Server;

/// The port that names without one are for.
const PORT: u16 = 22;

/// One line that is about the server in question.
pub(super) struct Known {
    pub(super) mark: Option<Mark>,
    /// As it goes over the wire.
    pub(super) key: Vec<u8>,
}

/// What a line says of its key, if not just that it is the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It signs certificates for servers.
    Authority,
    /// Whoever has it is not believed.
    Revoked,
}

/// The lines of the file that are about `server`. What is no such line is passed over, as OpenSSH does.
pub(super) fn about(text: &str, server: &Server) -> Vec<Known> {
    let host = server.host.to_ascii_lowercase();
    let name = if server.port == PORT { host } else { format!("[{host}]:{}", server.port) };
    text.lines().filter_map(|line| known(line, &name)).collect()
}

fn known(line: &str, name: &str) -> Option<Known> {
    let mut words = line.split_whitespace().peekable();
    let mark = match *words.peek()? {
        "@cert-authority" => Some(Mark::Authority),
        "@revoked" => Some(Mark::Revoked),
        word if word.starts_with(['#', '@']) => return None,
        _ => None,
    };
    if mark.is_some() {
        words.next();
    }
    let names = words.next()?;
    let (kind, key) = (words.next()?, STANDARD.decode(words.next()?).ok()?);
    (super::kind(&key) == Some(kind) && is_about(names, name)).then_some(Known { mark, key })
}

fn is_about(names: &str, name: &str) -> bool {
    if let Some(hashed) = names.strip_prefix("|1|") {
        return is_hash_of(hashed, name).unwrap_or(false);
    }
    let mut found = false;
    for pattern in names.split(',') {
        match pattern.strip_prefix('!') {
            // One negation outweighs all that fits.
            Some(pattern) if matches(&pattern.to_ascii_lowercase(), name) => return false,
            Some(_) => {}
            None => found |= matches(&pattern.to_ascii_lowercase(), name),
        }
    }
    found
}

/// Salt and HMAC-SHA1 of the name.
fn is_hash_of(hashed: &str, name: &str) -> Option<bool> {
    let (salt, sum) = hashed.split_once('|')?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &STANDARD.decode(salt).ok()?);
    Some(hmac::verify(&key, name.as_bytes(), &STANDARD.decode(sum).ok()?).is_ok())
}

/// Whether `name` fits a pattern with `*` and `?`. Takes time in proportion to the product of their lengths at most.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(character) if *character == b'?' || *character == name[n] => (p, n) = (p + 1, n + 1),
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, n) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|character| *character == b'*')
}
