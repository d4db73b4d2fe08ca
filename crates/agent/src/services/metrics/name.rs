//! The names of values, written again and again into the same place.

/// `disk.sda.` and what follows.
#[derive(Debug, Default)]
pub(super) struct Name {
    text: String,
    shared: usize,
}

impl Name {
    /// Begins the names of one thing: `disk` and `sda`. What is not UTF-8 in it is replaced.
    pub(super) fn begin(&mut self, kind: &str, thing: &[u8]) {
        self.text.clear();
        self.text.push_str(kind);
        self.text.push('.');
        for chunk in thing.utf8_chunks() {
            self.text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                self.text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.text.push('.');
        self.shared = self.text.len();
    }

    /// The one of them that ends so.
    pub(super) fn of(&mut self, end: &str) -> &str {
        self.text.truncate(self.shared);
        self.text.push_str(end);
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_share_a_beginning() {
        let mut name = Name::default();
        name.begin("fs", b"/mnt/a b");
        assert_eq!(name.of("used"), "fs./mnt/a b.used");
        assert_eq!(name.of("free"), "fs./mnt/a b.free");
        name.begin("net", b"\xffx");
        assert_eq!(name.of("rx_bytes"), "net.\u{fffd}x.rx_bytes");
    }
}
