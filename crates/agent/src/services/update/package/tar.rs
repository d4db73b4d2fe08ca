//! One header of a tar archive: ustar of POSIX.1-1988, with what GNU tar and pax add to it (POSIX.1-2001, pax, "ustar
//! Interchange Format"; the GNU tar manual, "Basic Tar Format").

/// The size of a header and of what content is filled up to, in bytes.
pub(super) const BLOCK: usize = 512;

/// What a member is, by the header's type flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// A plain file.
    File,
    Folder,
    /// The next member's name, as GNU tar writes long ones.
    GnuName,
    /// Fields of the next member, as pax writes them.
    Pax,
    /// Fields of all members.
    PaxGlobal,
    /// What has no place in a package, and what it is called.
    Other(&'static str),
}

/// A header as it stands.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) flag: Flag,
    pub(super) size: u64,
    pub(super) mode: u64,
}

/// What is wrong with a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is no header.
    Sum,
    /// This field is no number.
    Field(&'static str),
}

/// Reads a header that is not all zeroes.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Header, Fault> {
    if number(&block[148..156]) != Some(sum(block)) {
        return Err(Fault::Sum);
    }
    let mut name = text(&block[..100]).to_vec();
    // GNU tar, which writes other bytes behind `ustar`, has something else there.
    if &block[257..263] == b"ustar\0" && block[345] != 0 {
        name = [text(&block[345..500]), b"/", &name].concat();
    }
    Ok(Header {
        name,
        flag: flag(block[156]),
        size: number(&block[124..136]).ok_or(Fault::Field("size"))?,
        mode: number(&block[100..108]).ok_or(Fault::Field("mode"))?,
    })
}

/// The header of a plain file or an extended header, for a name that fits.
pub(super) fn header(name: &str, flag: u8, size: u64, mode: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let (prefix, name) = split(name).unwrap_or(("", name));
    block[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
    octal(&mut block[100..108], mode.into());
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], 0);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = sum(&block);
    octal(&mut block[148..155], sum);
    block[155] = b' ';
    block
}

/// Whether a header alone can say all this.
pub(super) fn fits(name: &str, size: u64) -> bool {
    split(name).is_some() && size <= 0o777_7777_7777
}

/// A name as ustar has room for it: up to 100 bytes, or up to 155 before a slash and up to 100 behind.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= 100 {
        return Some(("", name));
    }
    let slashes = name.match_indices('/').map(|(at, _)| (&name[..at], &name[at + 1..]));
    slashes.rev().find(|(prefix, name)| prefix.len() <= 155 && (1..=100).contains(&name.len()))
}

fn octal(field: &mut [u8], mut value: u64) {
    let (last, digits) =
        field.split_last_mut().map_or((None, &mut [][..]), |(last, rest)| (Some(last), rest));
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value & 7).unwrap_or(0);
        value >>= 3;
    }
    if let Some(last) = last {
        *last = 0;
    }
}

/// Of all bytes, with blanks for the sum itself.
fn sum(block: &[u8; BLOCK]) -> u64 {
    let blank = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { *byte };
    block.iter().enumerate().map(blank).map(u64::from).sum()
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or GNU's binary number behind a set bit.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, digits @ ..] = field {
        return digits
            .iter()
            .try_fold(0_u64, |sum, byte| (sum < 1 << 55).then_some((sum << 8) | u64::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_u64, |sum, byte| {
        (matches!(byte, b'0'..=b'7') && sum < 1 << 60).then(|| (sum << 3) | u64::from(byte - b'0'))
    })
}

fn flag(byte: u8) -> Flag {
    match byte {
        b'0' | 0 => Flag::File,
        b'5' => Flag::Folder,
        b'L' => Flag::GnuName,
        b'x' => Flag::Pax,
        b'g' => Flag::PaxGlobal,
        b'1' => Flag::Other("a hard link"),
        b'2' => Flag::Other("a symbolic link"),
        b'3' => Flag::Other("a character device"),
        b'4' => Flag::Other("a block device"),
        b'6' => Flag::Other("a named pipe"),
        b'S' => Flag::Other("a sparse file"),
        b'K' => Flag::Other("a link"),
        _ => Flag::Other("of an unknown type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let long = format!("{}/{}", "d".repeat(155), "f".repeat(100));
        for (name, size) in [("payload/a", 0), ("payload/b", 0o777_7777_7777), (&long, 7)] {
            assert!(fits(name, size));
            let read = parse(&header(name, b'0', size, 0o755)).unwrap();
            assert_eq!((read.name, read.size, read.mode), (name.as_bytes().to_vec(), size, 0o755));
            assert_eq!(read.flag, Flag::File);
        }
        assert!(!fits(&"f".repeat(101), 0));
        assert!(!fits("a", 1 << 33));
    }

    #[test]
    fn numbers_come_in_two_ways() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0"), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some(0x2_0000_0001));
        assert_eq!(number(&[0xff; 12]), None, "less than nothing");
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "more than there is");
        assert_eq!(number(b"0008\0"), None);
    }

    #[test]
    fn a_changed_bit_is_no_header() {
        let block = header("manifest.json", b'0', 1, 0o644);
        for bit in 0..BLOCK * 8 {
            let mut changed = block;
            changed[bit / 8] ^= 1 << (bit % 8);
            // In the digits of the sum a bit may change a blank or a zero to another.
            assert!(parse(&changed).is_err() || (148..156).contains(&(bit / 8)), "bit {bit}");
        }
    }
}
