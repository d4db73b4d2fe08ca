use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

/// 2026-11-22T12:00:00.007Z, whatever the time.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_348_800_007)
}

/// What `story` logs, each line as `form` makes it.
fn logged<T: Send + 'static>(
    form: impl Fn(&Line<'_>) -> T + Send + Sync + 'static,
    story: impl FnOnce(&Handle),
) -> Vec<T> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let (filter, level) = reload::Layer::new(super::filter(Level::default()));
    let put = move |line: &Line<'_>| kept.lock().unwrap().push(form(line));
    let subscriber = Registry::default().with(filter).with(Lines { put, now: noon });
    tracing::subscriber::with_default(subscriber, || story(&Handle { level, format: Format::Json }));
    Arc::into_inner(lines).unwrap().into_inner().unwrap()
}

fn as_text(story: impl FnOnce(&Handle)) -> String {
    logged(|line| line.text(false), story).concat()
}

fn as_json(story: impl FnOnce(&Handle)) -> Vec<Value> {
    logged(|line| line.json(), story)
        .iter()
        .map(|line| {
            assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
            serde_json::from_str(line).unwrap()
        })
        .collect()
}

#[test]
fn json_is_flat() {
    let lines = as_json(|_| {
        let span = tracing::error_span!("service", service = "heartbeat", id = 1);
        let _inside = span.enter();
        tracing::error_span!("inner", id = 2, topic = tracing::field::Empty).in_scope(|| {
            tracing::Span::current().record("topic", "iot/d1");
            tracing::info!(seq = 7, ratio = 0.5, nan = f64::NAN, ok = true, who = %"x \"y\"", debug = ?[1], "sent\n");
        });
        tracing::warn!(r#type = "t", level = "mine", "odd names");
    });
    let expected = json!({
        "timestamp": "2026-11-22T12:00:00.007Z", "level": "info", "target": module_path!(), "message": "sent\n",
        "service": "heartbeat", "id": 2, "topic": "iot/d1", "seq": 7, "ratio": 0.5, "nan": "NaN", "ok": true,
        "who": "x \"y\"", "debug": "[1]"
    });
    assert_eq!(lines[0], expected);
    let expected = json!({
        "timestamp": "2026-11-22T12:00:00.007Z", "level": "warn", "target": module_path!(), "message": "odd names",
        "service": "heartbeat", "id": 1, "type": "t", "level_": "mine"
    });
    assert_eq!(lines[1], expected);
}

#[test]
fn text_is_for_people_and_cannot_be_forged() {
    let text = as_text(|_| {
        tracing::warn!(broker = "mqtts://b", reason = "not now", empty = "", n = 3, "no answer");
        tracing::info!(name = "a\n2026 ERROR forged\x1b[2J", "one\r\ntwo");
    });
    let expected = "2026-11-22T12:00:00.007Z WARN  no answer broker=mqtts://b reason=\"not now\" empty=\"\" n=3\n\
        2026-11-22T12:00:00.007Z INFO  one\\r\\ntwo name=\"a\\n2026 ERROR forged\\u{1b}[2J\"\n";
    assert_eq!(text, expected);
    let coloured = logged(|line| line.text(true), |_| tracing::error!("bad")).concat();
    assert_eq!(coloured, "\x1b[2m2026-11-22T12:00:00.007Z\x1b[0m \x1b[31mERROR\x1b[0m bad\n");
}

#[test]
fn an_error_is_shown_with_its_causes() {
    let source = io::Error::other("disk on fire");
    let error = crate::store::Error::Read { path: "/state/c.json".into(), source };
    let lines = as_json(|_| tracing::error!(error = &error as &dyn std::error::Error, "no state"));
    assert_eq!(lines[0]["error"], "cannot read /state/c.json: disk on fire");
}

#[test]
fn a_long_value_is_cut() {
    let long = "é".repeat(MAX_VALUE);
    let lines = as_json(|_| tracing::info!(long = %long, debug = ?long, "{long}"));
    for (field, least) in [("long", MAX_VALUE - 1), ("debug", MAX_VALUE - 2), ("message", MAX_VALUE - 1)] {
        let value = lines[0][field].as_str().unwrap();
        assert!(value.ends_with('…'), "{field}");
        assert!((least..=MAX_VALUE + '…'.len_utf8()).contains(&value.len()), "{field}: {}", value.len());
    }
}

#[test]
fn the_level_can_be_changed() {
    let messages: Vec<Value> = as_json(|log| {
        let say = || {
            tracing::debug!("debug");
            tracing::warn!("warn");
        };
        say();
        log.set_level(Level::Debug);
        say();
        log.set_level(Level::Error);
        say();
        let span = tracing::error_span!("service", service = "metrics");
        span.in_scope(|| tracing::error!("error"));
    })
    .into_iter()
    .map(|line| json!([line["message"], line["service"]]))
    .collect();
    assert_eq!(
        messages,
        [json!(["warn", null]), json!(["debug", null]), json!(["warn", null]), json!(["error", "metrics"])]
    );
}

/// journald's native protocol, read as its documentation says.
fn parse(mut entry: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|b| *b == b'\n').unwrap();
        let name = str::from_utf8(&entry[..end]).unwrap().to_owned();
        let length = u64::from_le_bytes(entry[end + 1..end + 9].try_into().unwrap()) as usize;
        let value = str::from_utf8(&entry[end + 9..end + 9 + length]).unwrap().to_owned();
        assert_eq!(entry[end + 9 + length], b'\n');
        entry = &entry[end + 10 + length..];
        fields.push((name, value));
    }
    fields
}

#[test]
fn the_journal_gets_fields() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    assert!(Journal::open(&path).is_err(), "nobody listens");
    let listener = UnixDatagram::bind(&path).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let journal = Journal::open(&path).unwrap();
    let mut buffer = [0; 65536];
    assert_eq!(listener.recv(&mut buffer).unwrap(), 0);

    logged(
        move |line| journal.send(&line.journal()).unwrap(),
        |_| tracing::warn!(service = "ssh", bytes = 5, _odd = "a\nb", message_ = "m", priority = 1, "closed"),
    );
    let length = listener.recv(&mut buffer).unwrap();
    let expected = [
        ("SERVICE", "ssh"),
        ("BYTES", "5"),
        ("F_ODD", "a\nb"),
        ("MESSAGE_", "m"),
        ("PRIORITY_", "1"),
        ("MESSAGE", "closed service=ssh bytes=5 _odd=a\\nb message_=m priority=1"),
        ("PRIORITY", "4"),
        ("TARGET", module_path!()),
    ];
    assert_eq!(parse(&buffer[..length]), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn the_biggest_entry_fits_into_a_datagram() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let _listener = UnixDatagram::bind(&path).unwrap();
    let journal = Journal::open(&path).unwrap();
    let long = "x".repeat(MAX_VALUE);
    let sent = logged(
        move |line| journal.send(&line.journal()).is_ok(),
        |_| {
            tracing::warn!(
                a = long,
                b = long,
                c = long,
                d = long,
                e = long,
                f = long,
                g = long,
                h = long,
                "{long}"
            )
        },
    );
    assert_eq!(sent, [true]);
}
