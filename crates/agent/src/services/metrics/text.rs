//! The text of `/proc` and `/sys`, taken apart as bytes: what is not understood is nothing, never a panic.

/// The lines, without their ends.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// The words between blanks.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

/// A whole number; blanks round it do not matter.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    // `parse` would take "+5".
    text.first().filter(|byte| byte.is_ascii_digit())?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A whole number that may be below zero.
pub(super) fn signed(text: &[u8]) -> Option<i64> {
    match text.trim_ascii().strip_prefix(b"-") {
        Some(rest) => i64::try_from(number(rest)?).ok().map(|value| -value),
        None => i64::try_from(number(text)?).ok(),
    }
}

/// Digits with or without a point, as in `0.53`: no sign, no exponent, no `inf`.
pub(super) fn decimal(text: &[u8]) -> Option<f64> {
    let text = text.trim_ascii();
    text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.').then_some(())?;
    std::str::from_utf8(text).ok()?.parse().ok().filter(|value: &f64| value.is_finite())
}

/// `part` of `whole` in percent; nothing of nothing.
pub(super) fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_number_is_one() {
        assert_eq!(number(b" 17\n"), Some(17));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for odd in [&b""[..], b"+5", b"-5", b"18446744073709551616", b"1e3", b"0x10", b"1 2", b"\xff"] {
            assert_eq!(number(odd), None, "{odd:?}");
        }
        assert_eq!(signed(b"-128000\n"), Some(-128_000));
        for odd in [&b"--5"[..], b"-", b"- 5x", b"9223372036854775808"] {
            assert_eq!(signed(odd), None, "{odd:?}");
        }
        assert_eq!(decimal(b"0.53"), Some(0.53));
        for odd in [&b"nan"[..], b"inf", b"1e9", b"-1.0", b".", b""] {
            assert_eq!(decimal(odd), None, "{odd:?}");
        }
    }
}
