//! The records of a pax header: `LENGTH KEY=VALUE\n`, LENGTH counting all of itself.

/// What of them is used.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// The member is not stored as it is.
    pub(super) sparse: bool,
}

/// None where it is malformed.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Fields> {
    let mut fields = Fields::default();
    while !bytes.is_empty() {
        let digits = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        match (&record[..equals], &record[equals + 1..]) {
            (b"path", value) => fields.path = Some(value.to_vec()),
            (b"size", value) => fields.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
            (key, _) if key.starts_with(b"GNU.sparse.") => fields.sparse = true,
            _ => {}
        }
        bytes = rest;
    }
    Some(fields)
}

/// One record.
pub(super) fn record(key: &str, value: &str) -> String {
    let rest = 3 + key.len() + value.len();
    // The length counts its own digits.
    let length =
        (1..20).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length);
    format!("{} {key}={value}\n", length.unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 2, 3, 85, 86, 87, 88, 89, 90, 91, 92, 93, 985, 990, 995] {
            let path = "p".repeat(length);
            let text = record("path", &path) + &record("mtime", "1.5") + &record("size", "9999999999");
            let fields = parse(text.as_bytes()).unwrap();
            assert_eq!(fields.path.unwrap(), path.as_bytes());
            assert_eq!((fields.size, fields.sparse), (Some(9_999_999_999), false));
        }
        assert!(parse(b"22 GNU.sparse.major=1\n").unwrap().sparse);
    }

    #[test]
    fn nonsense_is_none() {
        for text in [
            "x",
            "5",
            "3 a",
            "99 path=a\n",
            "0 path=a\n",
            "2 path=a\n",
            "7 path\n",
            "9 path=ab",
            "11 size=-1\n",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
