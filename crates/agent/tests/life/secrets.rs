//! L4: no secret where it does not belong, and no listening TCP port.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use testkit::{
    client::{self, Endpoint, Watcher},
    mosquitto::Mosquitto,
    process::{Process, Signal},
    procfs,
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::support::{Home, SOON, stop, wait_status};

const PSK: &str = "psk-Oo5iePhahwaeR6ei";
const PASSWORD: &str = "mqtt-Ieb3eiToov";
const PROXY: &str = "proxy-quaT5Fiela";

/// Each secret, as it is and as it may be encoded.
fn forbidden() -> Vec<String> {
    let plain = [PSK, PASSWORD, PROXY, super::support::SECRET];
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let bytes = |text: &str| text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    let mut all: Vec<String> = plain
        .iter()
        .flat_map(|text| [(*text).to_owned(), hex(text), bytes(text), BASE64_STANDARD.encode(text)])
        .collect();
    all.push(BASE64_STANDARD.encode(format!("somebody:{PROXY}")));
    all
}

fn clean(what: &str, text: &str) {
    for secret in forbidden() {
        assert!(!text.contains(&secret), "{what} tells {secret}: {text}");
    }
}

/// Everything about a running agent that others can see.
fn inspect(home: &Home, agent: &Process) {
    let pid = agent.pid();
    assert_eq!(procfs::listening_tcp(pid).unwrap(), []);
    clean("argv", &procfs::arguments(pid).unwrap().join("\n"));
    clean("the environment", &procfs::environment(pid).unwrap().join("\n"));
    for arguments in [&["status"][..], &["status", "--json"], &["config", "show"], &["config", "check"]] {
        let output = home.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        clean(&arguments.join(" "), &String::from_utf8_lossy(&output.stdout));
        clean(&arguments.join(" "), &String::from_utf8_lossy(&output.stderr));
    }
}

fn logged(agent: &Process) {
    let lines = [agent.stderr.all(), agent.stdout.all()].concat();
    assert!(lines.iter().any(|line| line.contains("\"debug\"")), "the level is set: {lines:#?}");
    clean("the log", &lines.join("\n"));
}

fn home(broker: &str, password: &str) -> Home {
    Home::new(broker)
        .mqtt("client_id: c1")
        .mqtt("username: somebody")
        .mqtt(&format!("password: {password}"))
        .yaml("log: {level: trace}")
        .yaml(&format!(
            "services:\n  registration: {{device_secret: {PSK}, response_timeout: 1s}}\n  heartbeat: {{interval: 1s}}"
        ))
}

#[tokio::test]
async fn secrets_stay_where_they_are() {
    let broker = Mosquitto::builder().user("somebody", PASSWORD).user("watcher", "w").start().await.unwrap();
    let endpoint = Endpoint::from(&broker).login("watcher", "w");
    let watcher = Watcher::start(&endpoint, "#").await.unwrap();
    let home = home(&format!("mqtt://127.0.0.1:{}", broker.port()), PASSWORD);
    let mut agent = home.start();
    // Unenrolled, asking; a forged reply, one that is none, and more than one request.
    watcher.next_on("iot/registration/c1", SOON).await.unwrap();
    inspect(&home, &agent);
    for reply in [r#"{"device_id": "forged"}"#, "{", r#"{"error": "no", "message": "really"}"#] {
        client::publish(&endpoint, "iot/registration/c1/reply", reply, 1, false).await.unwrap();
    }
    watcher.next_on("iot/registration/c1", SOON).await.unwrap();
    agent.signal(Signal::HUP).unwrap();
    agent.find_line("configuration reloaded", SOON).await.unwrap();
    inspect(&home, &agent);
    stop(&mut agent, "asking").await;
    logged(&agent);

    let home = home.device("d1");
    let mut agent = home.start();
    watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    inspect(&home, &agent);
    stop(&mut agent, "beating").await;
    logged(&agent);
    let messages = watcher.all();
    assert!(messages.len() >= 5, "{messages:#?}");
    for message in messages {
        clean("MQTT", &format!("{} {} {}", message.topic, message.text(), message.properties));
    }
}

/// Refused by broker and by proxy: what goes wrong is told without the secret that was wrong.
#[tokio::test]
async fn errors_keep_secrets_too() {
    let broker = Mosquitto::builder().user("somebody", "another").start().await.unwrap();
    let wrong = home(&format!("mqtt://127.0.0.1:{}", broker.port()), PASSWORD);
    let mut agent = wrong.start();
    agent.find_line("not authorised", SOON).await.unwrap();
    inspect(&wrong, &agent);
    stop(&mut agent, "refused by the broker").await;
    logged(&agent);

    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let refusing = tokio::spawn(async move {
        while let Ok((mut client, _)) = proxy.accept().await {
            // The agent may have hung up.
            client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.ok();
        }
    });
    let behind =
        home("mqtts://broker.example", PASSWORD).mqtt(&format!("proxy: http://somebody:{PROXY}@{address}"));
    let mut agent = behind.start();
    agent.find_line("not connected", SOON).await.unwrap();
    wait_status(&behind, |status| status["connection"]["error"].is_string()).await;
    inspect(&behind, &agent);
    stop(&mut agent, "refused by the proxy").await;
    logged(&agent);
    refusing.abort();
}

/// A mistake in the configuration is shown with its place, not with the secret beside it.
#[test]
fn mistakes_are_told_without_secrets() {
    for text in [
        format!("mqtt: {{broker: mqtts://h, password: [{PASSWORD}]}}"),
        format!("mqtt: {{broker: mqtts://h, password: {{{PASSWORD}: 1}}}}"),
        format!("mqtt: {{broker: mqtts://h, pasword: {PASSWORD}}}"),
        format!("mqtt: {{broker: \"mqtts://somebody:{PASSWORD}@h\"}}"),
        format!("mqtt: {{broker: mqtts://h, proxy: \"ftp://somebody:{PROXY}@h:1\"}}"),
        format!("mqtt: {{broker: mqtts://h, proxy: \"http://somebody:{PROXY}@\"}}"),
        format!("mqtt: {{broker: mqtts://h}}\nservices: {{registration: {{device_secret: [{PSK}]}}}}"),
        format!(
            "mqtt: {{broker: mqtts://h}}\nservices: {{registration: {{device_secret_file: {{a: {PSK}}}}}}}"
        ),
        format!("mqtt: {{broker: mqtts://h, password: \"{PASSWORD}}}"),
    ] {
        let home = Home::new("mqtts://h");
        let file = home.file("bad.yaml", &text, 0o600);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_iot-agent"));
        let output = command.args(["config", "check", "--config"]).arg(file).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{text}: {error}");
        assert!(error.contains("bad.yaml:"), "{text}: {error}");
        clean(&text.replace(PASSWORD, "…").replace(PROXY, "…").replace(PSK, "…"), &error);
    }
    let home = Home::new("mqtts://h");
    for (key, value) in [("mqtt.password", PASSWORD), ("services.registration.device_secret", PSK)] {
        let output = home.command(&["config", "check", "--set", &format!("{key}={value}")]).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        clean("--set", &String::from_utf8_lossy(&output.stderr));
        let name = format!("IOT_AGENT__{}", key.to_uppercase().replace('.', "__"));
        let output = home.command(&["config", "check"]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        clean("the environment", &String::from_utf8_lossy(&output.stderr));
    }
}
