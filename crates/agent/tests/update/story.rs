//! A device that is to be updated, whoever builds its software, and where that is fetched from.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Mosquitto, Process, Watcher,
    downloads::{Downloads, Mood},
};
use tokio::time::{Instant, sleep};

use crate::support::{Home, SOON};

/// The states of which each id has exactly one.
pub(crate) const FINAL: [&str; 3] = ["success", "failed", "rolled_back"];
const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Where software is built and signed.
pub(crate) struct Builder {
    dir: TempDir,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let builder = Self { dir: tempfile::tempdir().unwrap() };
        builder.run("minisign", &["-G", "-W", "-p", "release.pub", "-s", "release.key"]);
        builder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).current_dir(self.dir.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    }

    /// A signed package of a folder that says which version it is; `more` are further arguments.
    pub(crate) fn package(&self, version: &str, files: &[(&str, &str)], more: &[&str]) -> PathBuf {
        let folder = format!("build-{version}");
        fs::remove_dir_all(self.path(&folder)).ok();
        self.write(&format!("{folder}/version"), version, 0o644);
        for (name, content) in files {
            self.write(&format!("{folder}/{name}"), content, 0o755);
        }
        let out = format!("app-{version}.pkg");
        let mut arguments = vec!["package", "create", &folder, "-o", &out, "--version", version];
        if !more.contains(&"--name") {
            arguments.extend(["--name", "app"]);
        }
        self.run(AGENT, &[&arguments, more].concat());
        self.run(AGENT, &["package", "sign", &out, "--key", "release.key"]);
        self.path(&out)
    }

    /// The text of a signature over a plain file with this trusted comment.
    pub(crate) fn sign(&self, path: &Path, comment: &str) -> String {
        let out = self.path("signature");
        let (path, out) = (path.to_str().unwrap(), out.to_str().unwrap());
        self.run("minisign", &["-S", "-H", "-s", "release.key", "-m", path, "-x", out, "-t", comment]);
        fs::read_to_string(out).unwrap()
    }
}

/// Hexadecimal SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) struct Story {
    pub(crate) broker: Mosquitto,
    pub(crate) watcher: Watcher,
    pub(crate) builder: Builder,
    pub(crate) home: Home,
    /// One for each file.
    servers: Mutex<Vec<Downloads>>,
}

impl Story {
    /// With further keys of the service.
    pub(crate) async fn begin(more: &str) -> Self {
        Self::with(more, "").await
    }

    /// And further sections.
    pub(crate) async fn with(more: &str, sections: &str) -> Self {
        let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
        let watcher = Watcher::start(&broker, "#").await.unwrap();
        let builder = Builder::new();
        let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()));
        let keys = fs::read_to_string(builder.path("release.pub")).unwrap();
        home.file("release.pub", &keys, 0o644);
        let more = more.replace("{home}", home.path().to_str().unwrap());
        let trusted = if more.contains("trusted_keys") { "" } else { ", trusted_keys: [release.pub]" };
        let home = home.device("d1").yaml(&format!(
            "services:\n  registration: {{device_secret_file: psk}}\n  heartbeat: {{interval: 1s}}\n  \
             metrics: {{enabled: false}}\n  update: {{enabled: true{trusted}{more}}}\n{sections}"
        ));
        Self { broker, watcher, builder, home, servers: Mutex::default() }
    }

    /// The folder of the software's versions.
    pub(crate) fn target(&self) -> PathBuf {
        self.home.path().join("app")
    }

    /// A signed package for [`Story::target`].
    pub(crate) fn package(&self, version: &str, files: &[(&str, &str)], more: &[&str]) -> PathBuf {
        let target = self.target();
        let more = [&["--target", target.to_str().unwrap()], more].concat();
        self.builder.package(version, files, &more)
    }

    /// The version in use, by what is in it.
    pub(crate) fn version(&self) -> Option<String> {
        fs::read_to_string(self.target().join("current/version")).ok()
    }

    pub(crate) async fn online(&self) -> Process {
        self.home.online().await
    }

    pub(crate) async fn send(&self, payload: impl AsRef<[u8]>) {
        testkit::client::publish(&self.broker, "iot/d1/update", payload, 1, false).await.unwrap();
    }

    /// The request for a file that is served from now on.
    pub(crate) async fn request(&self, id: &str, version: &str, file: &Path) -> Value {
        let bytes = fs::read(file).unwrap();
        let (size, sha256) = (bytes.len(), sha256(&bytes));
        let server = Downloads::start(bytes).await.unwrap();
        let url = format!("{}{}", server.url(), file.file_name().unwrap().to_str().unwrap());
        self.servers.lock().unwrap().push(server);
        json!({"update_id": id, "version": version, "update_url": url, "sha256": sha256, "size": size})
    }

    /// Asks for it.
    pub(crate) async fn ask(&self, id: &str, version: &str, file: &Path) {
        self.send(self.request(id, version, file).await.to_string()).await;
    }

    /// What the server of the latest file does with the next requests.
    pub(crate) fn next(&self, moods: impl IntoIterator<Item = Mood>) {
        self.servers.lock().unwrap().last().unwrap().next(moods);
    }

    /// Asks for it, and waits for the end.
    pub(crate) async fn update(&self, id: &str, version: &str, file: &Path) -> Value {
        self.ask(id, version, file).await;
        self.end(id).await
    }

    /// Waits for the end of an id.
    pub(crate) async fn end(&self, id: &str) -> Value {
        self.wait(id, |state| FINAL.contains(&state)).await
    }

    pub(crate) async fn wait(&self, id: &str, wanted: impl Fn(&str) -> bool) -> Value {
        let matching = |message: &testkit::client::Message| {
            // Of thousands most are of others.
            if !message.mentions(id) {
                return false;
            }
            let said = message.json().unwrap_or_default();
            said["update_id"] == id && said["state"].as_str().is_some_and(&wanted)
        };
        let found = self.watcher.messages().find(matching, SOON * 2).await;
        found.unwrap_or_else(|error| panic!("{id}: {error}: {:#?}", self.states(id))).json().unwrap()
    }

    /// Every status so far of one id.
    pub(crate) fn said(&self, id: &str) -> Vec<Value> {
        let all = self.watcher.messages().matching(|message| message.mentions(id));
        let all = all.into_iter().filter_map(|message| message.json().ok());
        all.filter(|said| said["state"].is_string() && said["update_id"] == id).collect()
    }

    /// The states that were told of an id, in order, each once in a row.
    pub(crate) fn states(&self, id: &str) -> Vec<String> {
        let mut states: Vec<String> =
            self.said(id).iter().map(|said| said["state"].as_str().unwrap().to_owned()).collect();
        states.dedup();
        states
    }

    /// Waits until this state was told so often.
    pub(crate) async fn hears(&self, id: &str, state: &str, times: usize) {
        until(state, || self.said(id).iter().filter(|said| said["state"] == state).count() >= times).await;
    }

    /// The different ends that were told of an id.
    pub(crate) fn ends(&self, id: &str) -> Vec<Value> {
        let mut ends: Vec<Value> = Vec::new();
        for said in self.said(id) {
            if FINAL.contains(&said["state"].as_str().unwrap()) && !ends.contains(&said) {
                ends.push(said);
            }
        }
        ends
    }

    /// Where the latest request for the latest file began.
    pub(crate) fn resumed(&self) -> Option<u64> {
        self.servers.lock().unwrap().last()?.asked().last()?.from
    }

    /// How often a file was asked for.
    pub(crate) fn fetched(&self) -> usize {
        self.asked().iter().sum()
    }

    /// The same of each file, in the order in which they were served.
    pub(crate) fn asked(&self) -> Vec<usize> {
        self.servers.lock().unwrap().iter().map(|server| server.asked().len()).collect()
    }
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}
