//! RFC 8785 (JSON Canonicalization Scheme): one byte string per JSON value, so that two programs sign the same.

use std::fmt::Write;

use ring::digest;
use serde_json::{Number, Value};

use crate::hex;

/// The canonical form of a value.
///
/// Numbers are IEEE 754 doubles there, as the RFC has it: two integers beyond 2^53 that are one double are one
/// and the same. The value must not nest deeper than the stack allows; what `serde_json` has parsed never does.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

/// SHA-256, as lower-case hexadecimal.
pub fn sha256hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            write_list(out, ['[', ']'], items, write_value);
        }
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            // By UTF-16 code units (RFC 8785, 3.2.3), which is not the order of UTF-8.
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            write_list(out, ['{', '}'], members, |out, (key, value)| {
                write_string(out, key);
                out.push(':');
                write_value(out, value);
            });
        }
    }
}

fn write_list<T>(
    out: &mut String,
    [open, close]: [char; 2],
    items: impl IntoIterator<Item = T>,
    write_item: impl Fn(&mut String, T),
) {
    out.push(open);
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_item(out, item);
    }
    out.push(close);
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// ECMAScript's `Number::toString` (ECMA-262, 6.1.6.1.20): shortest digits that read back as the same double.
fn write_number(out: &mut String, number: &Number) {
    let value = number.as_f64().unwrap_or(0.0);
    if value == 0.0 {
        return out.push('0');
    }
    if value < 0.0 {
        out.push('-');
    }
    let scientific = shortest(value.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    write_digits(out, &digits, exponent + 1);
}

/// The fewest digits that read back as `value`, in scientific notation; of two equally near, the even one.
/// Rust's own choice is the odd one then (1424953923781206.25), so it is asked again for as many digits, exactly.
fn shortest(value: f64) -> String {
    let shortest = format!("{value:e}");
    let decimals = shortest.find('e').unwrap_or(1).saturating_sub(2);
    let nearest = format!("{value:.decimals$e}");
    // Just above a power of two the nearest may lie outside the narrower half of the interval.
    if nearest.parse() == Ok(value) { nearest } else { shortest }
}

/// Writes 0.`digits` × 10^`point`, in ECMAScript's choice of notation.
fn write_digits(out: &mut String, digits: &str, point: i32) {
    let count = i32::try_from(digits.len()).expect("a double has at most 17 digits");
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    if count <= point && point <= 21 {
        out.push_str(digits);
        out.push_str(&zeros(point - count));
    } else if 0 < point && point <= 21 {
        let (whole, fraction) = digits.split_at(usize::try_from(point).expect("point is positive"));
        write!(out, "{whole}.{fraction}").expect("writing to a String cannot fail");
    } else if -6 < point && point <= 0 {
        write!(out, "0.{}{digits}", zeros(-point)).expect("writing to a String cannot fail");
    } else {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        write!(out, "{first}{dot}{rest}e{:+}", point - 1).expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests;
