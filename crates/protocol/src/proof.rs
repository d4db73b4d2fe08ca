//! Proofs over a pre-shared key: what is signed, signing and checking. Comparison takes constant time.

use std::fmt;

use ring::hmac;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::canonical::{canonical, sha256hex};
use crate::hex;

/// The shortest pre-shared key, in bytes.
pub const MIN_PSK: usize = 16;

/// A pre-shared key. Never shown, wiped when dropped.
pub struct Psk(Zeroizing<Vec<u8>>);

/// The key is shorter than [`MIN_PSK`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {length} bytes; at least {MIN_PSK} are needed")]
pub struct PskError {
    /// Its length without trailing white space.
    pub length: usize,
}

impl Psk {
    /// The key in the bytes of a secret file: trailing white space does not count.
    pub fn from_file_bytes(bytes: &[u8]) -> Result<Psk, PskError> {
        let bytes = bytes.trim_ascii_end();
        if bytes.len() < MIN_PSK {
            return Err(PskError { length: bytes.len() });
        }
        Ok(Psk(Zeroizing::new(bytes.to_vec())))
    }

    /// Whether `secret`, sent openly by a device with `proof: plain`, is this key. Takes constant time.
    pub fn is(&self, secret: &[u8]) -> bool {
        let key = self.key();
        hmac::verify(&key, secret, hmac::sign(&key, &self.0).as_ref()).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    fn sign(&self, text: &str) -> String {
        hex::encode(hmac::sign(&self.key(), text.as_bytes()).as_ref())
    }

    fn verify(&self, text: &str, mac: &str) -> bool {
        hex::decode(mac).is_some_and(|mac| hmac::verify(&self.key(), text.as_bytes(), &mac).is_ok())
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(…)")
    }
}

/// The mac of a registration request; `body` is the request without `proof`.
pub fn sign_request(psk: &Psk, client_id: &str, nonce: &str, timestamp: &str, body: &Value) -> String {
    psk.sign(&request_text(client_id, nonce, timestamp, body))
}

/// Whether `mac` is that of [`sign_request`]. All arguments are to be given as they were received.
pub fn verify_request(psk: &Psk, [client_id, nonce, timestamp]: [&str; 3], body: &Value, mac: &str) -> bool {
    psk.verify(&request_text(client_id, nonce, timestamp, body), mac)
}

/// The mac of a registration reply; `body` is the reply without `mac`.
pub fn sign_reply(psk: &Psk, client_id: &str, nonce: &str, body: &Value) -> String {
    psk.sign(&reply_text(client_id, nonce, body))
}

/// Whether `mac` is that of [`sign_reply`].
pub fn verify_reply(psk: &Psk, client_id: &str, nonce: &str, body: &Value, mac: &str) -> bool {
    psk.verify(&reply_text(client_id, nonce, body), mac)
}

fn request_text(client_id: &str, nonce: &str, timestamp: &str, body: &Value) -> String {
    let body = sha256hex(canonical(body).as_bytes());
    format!("iot-agent/registration/v1\n{client_id}\n{nonce}\n{timestamp}\n{body}")
}

fn reply_text(client_id: &str, nonce: &str, body: &Value) -> String {
    let body = sha256hex(canonical(body).as_bytes());
    format!("iot-agent/registration-reply/v1\n{client_id}\n{nonce}\n{body}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn psk() -> Psk {
        Psk::from_file_bytes(b"correct horse battery staple \r\n\t").unwrap()
    }

    /// Computed independently with Python 3:
    /// `body='{"agent_version":"0.1.0","client_id":"c1"}'; hmac.new(b"correct horse battery staple",
    /// ("iot-agent/registration/v1\nc1\n"+"0"*32+"\n2026-01-31T12:00:00.000Z\n"
    /// +hashlib.sha256(body.encode()).hexdigest()).encode(), "sha256").hexdigest()`
    #[test]
    fn the_mac_is_that_of_an_independent_computation() {
        let body = json!({"client_id": "c1", "agent_version": "0.1.0"});
        let (nonce, time) = ("0".repeat(32), "2026-01-31T12:00:00.000Z");
        let mac = sign_request(&psk(), "c1", &nonce, time, &body);
        assert_eq!(mac, "4afad3f8cf0ae6baeec4d1344c2526bec52dacd23122a5a2a3317f019944f1c9");
        assert!(verify_request(&psk(), ["c1", &nonce, time], &body, &mac));
        assert!(!verify_request(&psk(), ["c2", &nonce, time], &body, &mac));
        assert!(!verify_request(&psk(), ["c1", &nonce, "2026-01-31T12:00:00Z"], &body, &mac));
        assert!(!verify_request(&psk(), ["c1", &nonce, time], &json!({}), &mac));
        for bad in ["", "00", &mac.to_uppercase(), &mac[..62], &format!("{mac}00")] {
            assert!(!verify_request(&psk(), ["c1", &nonce, time], &body, bad), "{bad}");
        }
        // The same with "iot-agent/registration-reply/v1\nc1\n" + nonce + "\n" + the hash of {"device_id":"d1"}.
        let reply = json!({"device_id": "d1"});
        let mac = sign_reply(&psk(), "c1", &nonce, &reply);
        assert_eq!(mac, "ebcfdf4ada04be6e4f9a2112d4426d1b3ba6c499670cd2d190bf7a60f81e65d3");
        assert!(verify_reply(&psk(), "c1", &nonce, &reply, &mac));
        assert!(!verify_reply(&psk(), "c1", "1", &reply, &mac));
    }

    #[test]
    fn a_key_is_long_enough_and_never_shown() {
        assert_eq!(Psk::from_file_bytes(b"fifteen bytes..\n   ").unwrap_err(), PskError { length: 15 });
        assert_eq!(format!("{:?}", psk()), "Psk(…)");
        assert!(psk().is(b"correct horse battery staple"));
        assert!(!psk().is(b"correct horse battery staple "));
        assert!(!psk().is(b""));
    }
}
