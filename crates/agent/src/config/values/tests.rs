use proptest::prelude::*;
use serde_json::{from_value, json};

use super::*;

fn fault<T: serde::de::DeserializeOwned + fmt::Debug>(value: serde_json::Value) -> String {
    from_value::<T>(value).unwrap_err().to_string()
}

#[test]
fn spans_are_read_as_documented() {
    for (value, milliseconds, shown) in [
        (json!("10s"), 10_000, "10s"),
        (json!("250ms"), 250, "250ms"),
        (json!("5m"), 300_000, "5m"),
        (json!("90m"), 5_400_000, "1h30m"),
        (json!("1h30m"), 5_400_000, "1h30m"),
        (json!("1d2h3m4s5ms"), 93_784_005, "1d2h3m4s5ms"),
        (json!("7d"), 604_800_000, "7d"),
        (json!(10), 10_000, "10s"),
        (json!(0), 0, "0s"),
    ] {
        let span: Span = from_value(value).unwrap();
        assert_eq!((span.get().as_millis(), span.to_string().as_str()), (milliseconds, shown));
    }
    for text in ["", "10", "s", "10 s", "1.5s", "-1s", "10x", "10min", "30m1h", "1s1s", "1ss", "٣s"] {
        let expected = format!("expected {A_SPAN}, found {text:?}");
        assert_eq!(fault::<Span>(json!(text)), expected);
    }
    for value in [json!("300y"), json!(u64::MAX), json!("99999999999999999999d"), json!("73001d")] {
        assert!(from_value::<Span>(value).is_err());
    }
    assert_eq!(fault::<Span>(json!("73001d")), "must not be over 200 years");
    assert_eq!(fault::<Interval>(json!("0ms")), "must not be zero");
}

#[test]
fn sizes_are_read_as_documented() {
    for (value, bytes, shown) in [
        (json!("64KiB"), 65_536, "64KiB"),
        (json!("64 KiB"), 65_536, "64KiB"),
        (json!("1024KiB"), 1 << 20, "1MiB"),
        (json!("10MB"), 10_000_000, "10MB"),
        (json!("1kB"), 1000, "1kB"),
        (json!(1000), 1000, "1kB"),
        (json!("7B"), 7, "7B"),
    ] {
        let size: ByteSize = from_value(value).unwrap();
        assert_eq!((size.get(), size.to_string().as_str()), (bytes, shown));
    }
    for text in ["", "64", "KiB", "64k", "64kib", "1.5MiB", "-1B", "99999999999999999999B", "99999999999GiB"]
    {
        assert_eq!(fault::<ByteSize>(json!(text)), format!("expected {A_SIZE}, found {text:?}"));
    }
    assert_eq!(fault::<ByteSize>(json!(0)), "must not be zero");
}

#[test]
fn qos_and_version_are_numbers_or_names() {
    assert_eq!(from_value::<Qos>(json!(2)).unwrap(), Qos::ExactlyOnce);
    assert_eq!(fault::<Qos>(json!(3)), "expected 0, 1 or 2, found the integer 3");
    assert_eq!(fault::<Qos>(json!("1")), "expected 0, 1 or 2, found the string \"1\"");
    assert_eq!(from_value::<Version>(json!(5)).unwrap(), Version::V5);
    assert_eq!(from_value::<Version>(json!("5")).unwrap(), Version::V5);
    assert_eq!(from_value::<Version>(json!("3.1.1")).unwrap(), Version::V311);
    assert_eq!(fault::<Version>(json!(4)), "expected auto, 5 or 3.1.1, found \"4\"");
}

proptest! {
    #[test]
    fn what_is_shown_is_read_back(milliseconds in 0_u64..6_000_000_000_000, bytes in 1_u64..) {
        let span = Span(Duration::from_millis(milliseconds));
        prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
        let size = ByteSize(bytes);
        prop_assert_eq!(ByteSize::parse(&size.to_string()), Ok(size));
    }

    #[test]
    fn no_text_breaks_the_parsers(text in "\\PC{0,12}|[0-9]{0,22}[a-zA-Z]{0,3}") {
        if let Ok(span) = Span::parse(&text) {
            prop_assert!(span.get() <= MAX_SPAN);
        }
        prop_assert!(ByteSize::parse(&text).is_ok_and(|size| size.get() > 0) || ByteSize::parse(&text).is_err());
    }
}
