//! The data types of SSH (RFC 4251, section 5), and the numbers of its messages.

/// Messages (RFC 4250, section 4.1).
pub(super) mod msg {
    pub(in crate::services::ssh) const DISCONNECT: u8 = 1;
    pub(in crate::services::ssh) const IGNORE: u8 = 2;
    pub(in crate::services::ssh) const UNIMPLEMENTED: u8 = 3;
    pub(in crate::services::ssh) const DEBUG: u8 = 4;
    pub(in crate::services::ssh) const SERVICE_REQUEST: u8 = 5;
    pub(in crate::services::ssh) const SERVICE_ACCEPT: u8 = 6;
    pub(in crate::services::ssh) const EXT_INFO: u8 = 7;
    pub(in crate::services::ssh) const KEXINIT: u8 = 20;
    pub(in crate::services::ssh) const NEWKEYS: u8 = 21;
    pub(in crate::services::ssh) const KEX_ECDH_INIT: u8 = 30;
    pub(in crate::services::ssh) const KEX_ECDH_REPLY: u8 = 31;
    pub(in crate::services::ssh) const USERAUTH_REQUEST: u8 = 50;
    pub(in crate::services::ssh) const USERAUTH_FAILURE: u8 = 51;
    pub(in crate::services::ssh) const USERAUTH_SUCCESS: u8 = 52;
    pub(in crate::services::ssh) const USERAUTH_BANNER: u8 = 53;
    pub(in crate::services::ssh) const GLOBAL_REQUEST: u8 = 80;
    pub(in crate::services::ssh) const REQUEST_SUCCESS: u8 = 81;
    pub(in crate::services::ssh) const REQUEST_FAILURE: u8 = 82;
    pub(in crate::services::ssh) const CHANNEL_OPEN: u8 = 90;
    pub(in crate::services::ssh) const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub(in crate::services::ssh) const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub(in crate::services::ssh) const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub(in crate::services::ssh) const CHANNEL_DATA: u8 = 94;
    pub(in crate::services::ssh) const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub(in crate::services::ssh) const CHANNEL_EOF: u8 = 96;
    pub(in crate::services::ssh) const CHANNEL_CLOSE: u8 = 97;
    pub(in crate::services::ssh) const CHANNEL_REQUEST: u8 = 98;
    pub(in crate::services::ssh) const CHANNEL_FAILURE: u8 = 100;
}

/// What was read is shorter than it says, or no such thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message")]
pub(in crate::services::ssh) struct Malformed;

/// Reads the types one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next so many bytes.
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.u8()? != 0)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// `string`: a length and so many bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    /// A `string` that is text.
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// `mpint`: a number that is not negative, without its leading zeros.
    pub(super) fn mpint(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.string()?;
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return Err(Malformed);
        }
        Ok(trimmed(bytes))
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A number without its leading zeros.
pub(super) fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Writes the types one after the other.
pub(super) trait Write {
    fn put(&mut self, bytes: &[u8]);

    fn put_bool(&mut self, value: bool) {
        self.put(&[u8::from(value)]);
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// # Panics
    /// With 4 GiB or more.
    fn put_string(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.put_u32(u32::try_from(bytes.len()).expect("a string is shorter than 4 GiB"));
        self.put(bytes);
    }

    /// A number that is not negative, in network byte order.
    fn put_mpint(&mut self, number: &[u8]) {
        let number = trimmed(number);
        let sign = usize::from(number.first().is_some_and(|first| first & 0x80 != 0));
        self.put_u32(u32::try_from(number.len() + sign).expect("a number is shorter than 4 GiB"));
        self.put(&[0][..sign]);
        self.put(number);
    }

    /// `name-list`: names with commas between them.
    fn put_names(&mut self, names: &[&str]) {
        self.put_string(names.join(","));
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Write for ring::digest::Context {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4251, section 5.
    #[test]
    fn numbers_are_written_as_the_standard_shows() {
        let mpint = |number: &[u8]| {
            let mut out = Vec::new();
            out.put_mpint(number);
            out
        };
        assert_eq!(mpint(&[]), [0, 0, 0, 0]);
        assert_eq!(mpint(&[0, 0]), [0, 0, 0, 0]);
        assert_eq!(
            mpint(&[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7]),
            [0, 0, 0, 8, 0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7]
        );
        assert_eq!(mpint(&[0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(Reader::new(&[0, 0, 0, 2, 0, 0x80]).mpint(), Ok(&[0x80][..]));
        assert_eq!(Reader::new(&[0, 0, 0, 2, 0xed, 0xcc]).mpint(), Err(Malformed), "a negative one");
        let mut names = Vec::new();
        names.put_names(&["zlib", "none"]);
        assert_eq!(names, b"\0\0\0\x09zlib,none");
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        let whole = b"\0\0\0\x02ab\0\0\0\x01";
        for cut in 0..whole.len() {
            let mut reader = Reader::new(&whole[..cut]);
            let read = reader.string().and_then(|_| reader.u32());
            assert_eq!(read, Err(Malformed), "at {cut}");
        }
        let mut reader = Reader::new(b"\xff\xff\xff\xffx");
        assert_eq!(reader.string(), Err(Malformed));
    }
}
