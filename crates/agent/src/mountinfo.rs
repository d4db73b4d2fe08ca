//! `/proc/self/mountinfo`: what is written there, as bytes, since a path need be no text.

/// Where the file system of this line is mounted.
pub(crate) fn place(line: &[u8]) -> Option<Vec<u8>> {
    line.split(|byte| *byte == b' ').nth(4).map(unescape)
}

/// The kernel writes blank, tab, newline and backslash as `\040` and so on.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = if *first == b'\\' { tail.first_chunk().and_then(octal) } else { None };
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    plain
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit)
    })
}
