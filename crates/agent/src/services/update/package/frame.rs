//! The header of a zstd frame (RFC 8878, 3.1.1.1): what has to be known before memory is given for it.

use super::{Error, MAX_WINDOW_LOG, Result};

/// The longest header: magic number, descriptor, window, dictionary, content size.
pub(super) const LONGEST: usize = 4 + 1 + 1 + 4 + 8;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Looks at the first bytes of a package: those of a header, or all there are.
///
/// The decoder looks at the window, too. What it lets pass is a bit without a meaning: with that, two files would be the same
/// package, and one of them a damaged one.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let Header { window, .. } = read(bytes)?;
    if window > 1 << MAX_WINDOW_LOG { Err(Error::Window(window)) } else { Ok(()) }
}

/// What a frame says of itself, in bytes.
pub(super) struct Header {
    /// What its decoder has to remember.
    pub(super) window: u64,
    /// What comes of it.
    pub(super) content: Option<u64>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Header> {
    let magic = bytes.get(..4).ok_or(Error::Truncated)?;
    if magic != MAGIC {
        return Err(Error::NotZstd);
    }
    let descriptor = *bytes.get(4).ok_or(Error::Truncated)?;
    // Bit 4 is unused, bit 3 reserved.
    if descriptor & 0b1_1000 != 0 {
        return Err(Error::FrameHeader);
    }
    if descriptor & 0b11 != 0 {
        return Err(Error::Dictionary);
    }
    let single_segment = descriptor & 0b10_0000 != 0;
    if single_segment {
        let content = content_size(descriptor >> 6, &bytes[5..])?;
        return Ok(Header { window: content, content: Some(content) });
    }
    let byte = *bytes.get(5).ok_or(Error::Truncated)?;
    let base = 1_u64 << (10 + (byte >> 3));
    let window = base + base / 8 * u64::from(byte & 7);
    let known = descriptor >> 6 != 0;
    // A package of this kind may be cut off right here, which is seen when it is read on.
    let content = if known { content_size(descriptor >> 6, &bytes[6..]).ok() } else { None };
    Ok(Header { window, content })
}

/// What comes of a frame; of one that is a single segment the window is as large.
fn content_size(flag: u8, bytes: &[u8]) -> Result<u64> {
    let length = 1 << flag;
    let mut number = [0; 8];
    number[..length].copy_from_slice(bytes.get(..length).ok_or(Error::Truncated)?);
    // Two bytes count from 256.
    Ok(u64::from_le_bytes(number) + if flag == 1 { 256 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_known_beforehand() {
        let frame = |rest: &[u8]| check(&[&MAGIC[..], rest].concat());
        // 4 MiB is 2^22: exponent 12, mantissa 0.
        assert!(frame(&[0x00, 12 << 3]).is_ok());
        assert!(matches!(frame(&[0x00, (12 << 3) + 1]), Err(Error::Window(4_718_592))));
        assert!(matches!(frame(&[0x00, 0xff]), Err(Error::Window(_))));
        assert!(frame(&[0b1010_0000, 0, 0, 0x40, 0]).is_ok());
        assert!(matches!(frame(&[0b1010_0000, 1, 0, 0x40, 0]), Err(Error::Window(4_194_305))));
        assert!(frame(&[0b0110_0000, 0xff, 0xff]).is_ok());
        assert!(matches!(frame(&[0b0010_1000, 5]), Err(Error::FrameHeader)));
        assert!(matches!(frame(&[0b0011_0000, 5]), Err(Error::FrameHeader)));
        assert!(matches!(frame(&[0b0010_0001, 5]), Err(Error::Dictionary)));
        assert!(matches!(frame(&[0b0010_0000]), Err(Error::Truncated)));
        assert!(matches!(frame(&[]), Err(Error::Truncated)));
        assert!(matches!(check(b"PK\x03\x04...."), Err(Error::NotZstd)));
    }
}
