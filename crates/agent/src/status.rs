//! What `iot-agent status` shows: made by the daemon, printed by the command.

use std::{fmt::Write as _, ops::Add as _, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    mqtt::{Connection, Counters, Mqtt},
    outbox::{Class, Outbox, Stats},
    service::Shared,
    services::update::Listed,
};

/// The daemon's state as JSON.
pub fn report(shared: &Shared, mqtt: &Mqtt, broker: &str) -> Value {
    let identity = &shared.identity;
    let mut who = json!({
        "client_id": identity.client_id(),
        "boot_id": identity.boot_id(),
        "run_id": identity.run_id(),
    });
    if let Some(device) = &*identity.device().borrow() {
        who["device_id"] = json!(device.device_id);
    }
    let counters = mqtt.counters();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "identity": who,
        "connection": connection(mqtt, counters.connects, broker),
        "services": services(shared),
        "tunnels": shared.tunnels.list(),
        "updates": shared.updates.list(),
        "outbox": outbox(&counters, mqtt.with_outbox(Outbox::cap)),
        "received": {
            "unclaimed": counters.unclaimed,
            "overflowed": counters.overflowed,
            "oversized": counters.oversized,
        },
        "clock": {
            "now": protocol::Timestamp::from_system_time(shared.clock.now()),
            "synchronised": shared.clock.synchronised(),
        },
    })
}

fn connection(mqtt: &Mqtt, connects: u64, broker: &str) -> Value {
    let mut shown = json!({ "broker": broker, "connects": connects });
    // Also during the next try, which may take longer than the wait before it.
    if let Some(error) = mqtt.lost() {
        shown["error"] = json!(error);
    }
    match &*mqtt.connection().borrow() {
        Connection::Connecting => shown["state"] = json!("connecting"),
        Connection::Connected { version, session_present } => {
            shown["state"] = json!("connected");
            shown["mqtt_version"] = json!(version);
            shown["session_present"] = json!(session_present);
        }
        Connection::Waiting { delay, .. } => {
            shown["state"] = json!("waiting");
            shown["retry_ms"] = json!(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        }
        Connection::Stopped => shown["state"] = json!("stopped"),
    }
    shown
}

/// What waits, all messages of all kinds; `max_size` bounds those on disk.
fn outbox(counters: &Counters, max_size: Option<u64>) -> Value {
    let mut shown = json!(counters.classes.into_iter().fold(Stats::default(), Stats::add));
    let classes = Class::ALL.into_iter().zip(&counters.classes);
    shown["classes"] = classes.map(|(class, stats)| (class.name().to_owned(), json!(stats))).collect();
    if let Some(max_size) = max_size {
        shown["max_size"] = json!(max_size);
    }
    if let Some(why) = &counters.degraded {
        shown["degraded"] = json!(why);
    }
    shown
}

fn services(shared: &Shared) -> Value {
    let mut services = Map::new();
    for (name, line) in shared.board.all() {
        let mut shown = json!({ "state": line.state, "restarts": line.restarts });
        if let Some(detail) = line.detail {
            shown["detail"] = json!(detail);
        }
        if !line.counters.is_empty() {
            shown["counters"] = json!(line.counters);
        }
        services.insert(name.to_owned(), shown);
    }
    Value::Object(services)
}

/// The report for people.
pub fn render(report: &Value) -> String {
    let text = |pointer: &str| report.pointer(pointer).map(plain).unwrap_or_default();
    let mut out = String::new();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<14}{value}").unwrap_or_default();
    line("iot-agent", format!("{} (process {})", text("/version"), text("/pid")));
    let device = report.pointer("/identity/device_id").map_or("not enrolled yet".to_owned(), plain);
    line("device", device);
    line("client", text("/identity/client_id"));
    let mut connection = format!("{} to {}", text("/connection/state"), text("/connection/broker"));
    for (key, shown) in [("mqtt_version", ", MQTT "), ("error", ": "), ("retry_ms", ", next try in ms: ")] {
        if let Some(value) = report.pointer(&format!("/connection/{key}")) {
            connection.push_str(shown);
            connection.push_str(&plain(value));
        }
    }
    line("broker", connection);
    let mut waiting = ["messages", "bytes", "dropped"]
        .map(|what| format!("{} {what}", text(&format!("/outbox/{what}"))))
        .join(", ");
    for what in ["refused", "damaged"] {
        if report.pointer(&format!("/outbox/{what}")).and_then(Value::as_u64).is_some_and(|count| count > 0) {
            waiting.push_str(&format!(", {} {what}", text(&format!("/outbox/{what}"))));
        }
    }
    if report.pointer("/outbox/degraded").is_some() {
        waiting.push_str(&format!("; in memory only: {}", text("/outbox/degraded")));
    }
    line("waiting", waiting);
    for (name, service) in report["services"].as_object().into_iter().flatten() {
        let detail = service.get("detail").map(|detail| format!(": {}", plain(detail))).unwrap_or_default();
        let counters = service["counters"].as_object().into_iter().flatten();
        let counters: String = counters.map(|(what, sum)| format!(" ({what}: {sum})")).collect();
        line(name, format!("{}{detail}{counters}", plain(&service["state"])));
    }
    for tunnel in report["tunnels"].as_array().into_iter().flatten() {
        line("tunnel", self::tunnel(tunnel));
    }
    let updates: Vec<Listed> = serde_json::from_value(report["updates"].clone()).unwrap_or_default();
    for listed in updates.iter().filter(|listed| !listed.report.state.is_final()) {
        line("in hand", update_line(listed));
    }
    out
}

/// An update, as one line for people.
pub(crate) fn update_line(Listed { update_id, report }: &Listed) -> String {
    let version = report.version.as_deref().unwrap_or("-");
    let mut line = format!("{}  {version}  {update_id}  {}", report.timestamp, report.state.name());
    if let Some(progress) = report.progress {
        line.push_str(&format!(" {progress} %"));
    }
    if report.attempt > 1 {
        line.push_str(&format!(", attempt {}", report.attempt));
    }
    if let Some(error) = &report.error {
        line.push_str(&format!(": {error}"));
    }
    printable(&line)
}

/// An open tunnel, as one line for people.
pub(crate) fn tunnel(listed: &Value) -> String {
    let text = |key: &str| plain(&listed[key]);
    let ends = listed["ends_in_s"].as_u64().map(Duration::from_secs).unwrap_or_default();
    format!(
        "{}  {} port {} to {}, {} channels, {} bytes in, {} out, since {}, ends in {} min {} s",
        text("request_id"),
        text("server"),
        text("rport"),
        text("target"),
        text("channels"),
        text("bytes_in"),
        text("bytes_out"),
        text("since"),
        ends.as_secs() / 60,
        ends.as_secs() % 60,
    )
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), printable)
}

/// What somebody else may have said, made harmless for a terminal: no control characters, and none that turn the
/// direction of what follows, so that it reads as what it is not.
pub(crate) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `proof: plain` whoever may publish on the reply's topic writes the detail.
    #[test]
    fn nothing_in_a_report_drives_the_terminal() {
        let said = "refused by the backend: \u{1b}[2J\u{9b}31m\u{202e}\r\nfake          running";
        let report = json!({
            "identity": {"client_id": "c1"},
            "connection": {"state": "waiting", "error": said},
            "services": {"registration": {"state": "degraded", "detail": said}},
        });
        let shown = render(&report);
        assert_eq!(shown.lines().count(), 6, "{shown:?}");
        assert!(!shown.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
        assert!(shown.contains("registration  degraded: refused by the backend: \u{fffd}[2J"), "{shown:?}");
    }
}
