//! Packets and their protection (RFC 4253, section 6): AES in GCM (RFC 5647, with OpenSSH's names) and
//! chacha20-poly1305@openssh.com. Before the first keys there is none.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
    chacha20_poly1305_openssh::{self as chacha, OpeningKey, SealingKey},
};

use super::wire::Malformed;

/// The longest packet that is taken, without its length and tag: a payload of 32 KiB and what belongs to it.
const LONGEST: usize = 64 << 10;
/// Bytes of a tag, of each cipher here.
const TAG: usize = 16;
/// Bytes of the length before a packet.
const LENGTH: usize = 4;
/// Bytes before the payload: the lengths of packet and padding.
pub(super) const HEADER: usize = LENGTH + 1;
/// The least padding.
const PADDING: usize = 4;
/// The most bytes that a packet has behind its payload.
pub(super) const ROOM: usize = PADDING + 15 + TAG;

/// A cipher that can be agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128,
    Aes256,
    ChaCha,
}

impl Cipher {
    /// In the order of preference: what this processor has instructions for comes first. `terrapin_safe` is whether both
    /// sides hold to strict key exchange, without which ChaCha lets a man in the middle remove messages (CVE-2023-48795).
    pub(super) fn preferred(terrapin_safe: bool) -> Vec<Self> {
        let aes = [Self::Aes128, Self::Aes256];
        let chacha = terrapin_safe.then_some(Self::ChaCha);
        if has_aes() {
            aes.into_iter().chain(chacha).collect()
        } else {
            chacha.into_iter().chain(aes).collect()
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "aes128-gcm@openssh.com",
            Self::Aes256 => "aes256-gcm@openssh.com",
            Self::ChaCha => "chacha20-poly1305@openssh.com",
        }
    }

    /// So many bytes under one key at most: for AES 2^32 blocks, for what has smaller blocks than that 1 GiB (RFC 4344,
    /// section 3.2). OpenSSH does the same, and takes ChaCha for a cipher with blocks of 8 bytes.
    fn endures(self) -> u64 {
        match self {
            Self::Aes128 | Self::Aes256 => 16 << 32,
            Self::ChaCha => 1 << 30,
        }
    }

    /// Bytes of key.
    pub(super) fn key_length(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 => 32,
            Self::ChaCha => chacha::KEY_LEN,
        }
    }
}

/// The processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(unreachable_code, reason = "where there is nothing to ask")]
    false
}

/// Bytes of a nonce of GCM.
pub(super) const NONCE: usize = NONCE_LEN;

/// A counter that makes the nonces of GCM (RFC 5647, section 7.1): four bytes that stay and eight that count.
struct Counter([u8; NONCE]);

impl Counter {
    fn next(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.0);
        let (_, count) = self.0.split_at_mut(4);
        let next = count.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)).wrapping_add(1);
        count.copy_from_slice(&next.to_be_bytes());
        nonce
    }
}

fn gcm(cipher: Cipher, key: &[u8]) -> LessSafeKey {
    let algorithm = if cipher == Cipher::Aes128 { &AES_128_GCM } else { &AES_256_GCM };
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("the key is as long as its cipher wants"))
}

/// After how much in either direction other keys are agreed on.
#[derive(Debug, Clone, Copy)]
pub(in crate::services::ssh) struct Limit {
    /// Packets.
    pub(in crate::services::ssh) packets: u32,
    /// Bytes, where the cipher does not endure less.
    pub(in crate::services::ssh) bytes: u64,
}

impl Default for Limit {
    /// RFC 4344, section 3.1, for packets, as OpenSSH; of bytes what the cipher endures.
    fn default() -> Self {
        Self { packets: 1 << 31, bytes: u64::MAX }
    }
}

/// How much a key was used.
struct Use {
    packets: u32,
    bytes: u64,
    endures: u64,
}

impl Use {
    fn of(cipher: Option<Cipher>) -> Self {
        Self { packets: 0, bytes: 0, endures: cipher.map_or(u64::MAX, Cipher::endures) }
    }

    fn count(&mut self, bytes: usize) {
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    fn reaches(&self, limit: &Limit) -> bool {
        self.packets >= limit.packets || self.bytes >= limit.bytes.min(self.endures)
    }
}

/// What protects packets in one direction.
enum Protection<ChaCha> {
    None,
    Gcm(Box<LessSafeKey>, Counter),
    ChaCha(ChaCha),
}

impl<C> Protection<C> {
    fn new(
        cipher: Cipher,
        key: &[u8],
        iv: [u8; NONCE],
        chacha: impl FnOnce(&[u8; chacha::KEY_LEN]) -> C,
    ) -> Self {
        match cipher {
            Cipher::Aes128 | Cipher::Aes256 => Self::Gcm(Box::new(gcm(cipher, key)), Counter(iv)),
            Cipher::ChaCha => {
                Self::ChaCha(chacha(key.try_into().expect("the key is as long as its cipher wants")))
            }
        }
    }

    /// What the packet, with or without its length, is a multiple of.
    fn block(&self) -> usize {
        if matches!(self, Self::Gcm(..)) { 16 } else { 8 }
    }
}

/// Protects what goes out.
pub(super) struct Sealer {
    protection: Protection<SealingKey>,
    sequence: u32,
    used: Use,
}

impl Sealer {
    pub(super) fn plain() -> Self {
        Self { protection: Protection::None, sequence: 0, used: Use::of(None) }
    }

    /// From now on with this key; with strict key exchange counted from the start again.
    pub(super) fn rekey(&mut self, cipher: Cipher, key: &[u8], iv: [u8; NONCE], strict: bool) {
        self.protection = Protection::new(cipher, key, iv, SealingKey::new);
        self.used = Use::of(Some(cipher));
        if strict {
            self.sequence = 0;
        }
    }

    /// Packets under this key so far.
    pub(super) fn packets(&self) -> u32 {
        self.used.packets
    }

    /// It is time for another key.
    pub(super) fn is_worn(&self, limit: &Limit) -> bool {
        self.used.reaches(limit)
    }

    /// Makes a packet in place of [`HEADER`] bytes of any value, a payload of this length, and room for [`ROOM`] more;
    /// how long it is.
    pub(super) fn seal(&mut self, packet: &mut [u8], payload: usize) -> usize {
        let with_length = if matches!(self.protection, Protection::None) { 0 } else { LENGTH };
        let block = self.protection.block();
        let unpadded = HEADER + payload - with_length;
        let padding = PADDING + (block - (unpadded + PADDING) % block) % block;
        let (packet, rest) = packet.split_at_mut(HEADER + payload + padding);
        let length = u32::try_from(packet.len() - LENGTH).expect("packets are short");
        packet[..LENGTH].copy_from_slice(&length.to_be_bytes());
        packet[LENGTH] = u8::try_from(padding).expect("padding is shorter than two blocks");
        // Nobody sees what it is under a cipher, and before there is one nothing is secret.
        packet[HEADER + payload..].fill(0);
        let sealed = packet.len();
        self.sequence = self.sequence.wrapping_add(1);
        self.used.count(sealed);
        let tag = match &mut self.protection {
            Protection::None => return sealed,
            Protection::Gcm(key, counter) => {
                let (length, plain) = packet.split_at_mut(LENGTH);
                let tag = key.seal_in_place_separate_tag(counter.next(), Aad::from(length), plain);
                let tag = tag.expect("packets are far shorter than GCM allows");
                tag.as_ref().try_into().expect("a tag has 16 bytes")
            }
            Protection::ChaCha(key) => {
                let mut tag = [0; TAG];
                key.seal_in_place(self.sequence.wrapping_sub(1), packet, &mut tag);
                tag
            }
        };
        rest[..TAG].copy_from_slice(&tag);
        sealed + TAG
    }
}

/// Opens what comes in.
pub(super) struct Opener {
    protection: Protection<OpeningKey>,
    sequence: u32,
    used: Use,
    /// The length of the packet that comes next, once it is known.
    length: Option<usize>,
}

impl Opener {
    pub(super) fn plain() -> Self {
        Self { protection: Protection::None, sequence: 0, used: Use::of(None), length: None }
    }

    /// As [`Sealer::rekey`].
    pub(super) fn rekey(&mut self, cipher: Cipher, key: &[u8], iv: [u8; NONCE], strict: bool) {
        self.protection = Protection::new(cipher, key, iv, OpeningKey::new);
        self.used = Use::of(Some(cipher));
        if strict {
            self.sequence = 0;
        }
    }

    /// As [`Sealer::is_worn`].
    pub(super) fn is_worn(&self, limit: &Limit) -> bool {
        self.used.reaches(limit)
    }

    /// The number of the packet that was opened last.
    pub(super) fn last(&self) -> u32 {
        self.sequence.wrapping_sub(1)
    }

    /// Opens the packet at the start of `bytes`, if it is there whole: its payload, and how long it was altogether.
    ///
    /// # Errors
    /// It is no packet, or somebody has changed it: nothing of the connection can be believed any more.
    pub(super) fn open<'a>(&mut self, bytes: &'a mut [u8]) -> Result<Option<(&'a [u8], usize)>, Malformed> {
        let Some(length) = self.length(bytes)? else { return Ok(None) };
        let tag = if matches!(self.protection, Protection::None) { 0 } else { TAG };
        let whole = LENGTH + length + tag;
        let Some(packet) = bytes.get_mut(..whole) else { return Ok(None) };
        let plain = self.decrypt(packet, length)?;
        self.length = None;
        self.sequence = self.sequence.wrapping_add(1);
        self.used.count(whole);
        let (padding, rest) = plain.split_first().ok_or(Malformed)?;
        let payload = rest.len().checked_sub(usize::from(*padding)).ok_or(Malformed)?;
        if payload == 0 || usize::from(*padding) < PADDING {
            return Err(Malformed);
        }
        Ok(Some((&rest[..payload], whole)))
    }

    fn length(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        if let Some(known) = self.length {
            return Ok(Some(known));
        }
        let Some(length) = bytes.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = match &self.protection {
            Protection::ChaCha(key) => key.decrypt_packet_length(self.sequence, *length),
            Protection::None | Protection::Gcm(..) => *length,
        };
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed)?;
        if !(1 + PADDING..=LONGEST).contains(&length) {
            return Err(Malformed);
        }
        let aligned = if matches!(self.protection, Protection::None) { LENGTH + length } else { length };
        if !aligned.is_multiple_of(self.protection.block()) {
            return Err(Malformed);
        }
        self.length = Some(length);
        Ok(self.length)
    }

    fn decrypt<'a>(&mut self, packet: &'a mut [u8], length: usize) -> Result<&'a [u8], Malformed> {
        match &mut self.protection {
            Protection::None => Ok(&packet[LENGTH..]),
            Protection::Gcm(key, counter) => {
                let (head, sealed) = packet.split_at_mut(LENGTH);
                let plain = key.open_in_place(counter.next(), Aad::from(head), sealed);
                Ok(plain.map_err(|_| Malformed)?)
            }
            Protection::ChaCha(key) => {
                let (sealed, tag) = packet.split_at_mut(LENGTH + length);
                let tag: &[u8; chacha::TAG_LEN] = (&*tag).try_into().map_err(|_| Malformed)?;
                key.open_in_place(self.sequence, sealed, tag).map_err(|_| Malformed)
            }
        }
    }
}

#[cfg(test)]
mod tests;
