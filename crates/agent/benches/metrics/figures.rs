//! All figures, in one table.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use testkit::{Mosquitto, Process, certs::Pki, mosquitto::Tls, procfs};
use tokio::time::sleep;

use crate::{
    agent::Home,
    collectd,
    counted::{self, Counted},
    crowd::{Crowd, NAMES, processes},
    quiet,
    sent::sent,
    table::Table,
    traced,
    watched::{Done, Program, watch},
};

/// Of collectd's processor time.
const SHARE: f64 = 0.4;
const CALLS: f64 = 400.0;
const ALLOCATIONS: f64 = 200.0;
/// Cost among `MANY` to the cost among `FEW`.
const GROWTH: f64 = 5.0;
const PSS_MB: f64 = 5.0;
const PAYLOAD: f64 = 4096.0;

const FEW: usize = 200;
const MANY: usize = 5_000;
/// Until what a start needs has ended, and no process is new any more.
const SETTLE: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

/// Takes them all; a failure when a limit is missed.
pub(crate) async fn take() -> ExitCode {
    let program = std::env::var_os("IOT_AGENT").map_or(env!("CARGO_BIN_EXE_iot-agent").into(), PathBuf::from);
    println!("measuring {}", program.display());
    let mut table = Table::default();
    quiet::measure(&program, &mut table).await;
    busy(&program, &mut table).await;
    println!("\n{table}");
    if table.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The settings under which all look, every second.
pub(crate) fn services(interval: &str, more: &str) -> String {
    let names = NAMES.join(", ");
    format!("heartbeat: {{interval: 60s}}, metrics: {{interval: {interval}, process_names: [{names}]{more}}}")
}

async fn busy(program: &Path, table: &mut Table) {
    let pki = Pki::new().unwrap();
    let broker = broker(&pki).await;
    let mut crowd = Crowd::new(FEW);
    let plain = format!("mqtt://127.0.0.1:{}", broker.port());
    let secure = format!("mqtts://localhost:{}", broker.tls_port());
    let every_second = services("1s", "");
    let agent = Home::serving(program, "plain", (&plain, None), &every_second);
    let secure = Home::serving(program, "secure", (&secure, Some(&pki.ca_file())), &every_second);
    let counting = Home::serving(program, "counted", (&plain, None), &every_second);
    let folder = tempfile::tempdir().unwrap();

    let agent = Process::run(agent.command().into()).unwrap();
    let over_tls = Process::run(secure.command().into()).unwrap();
    let collectd = collectd::start(folder.path(), broker.port());
    let mut programs = vec![Program { process: &agent, topic: "iot/plain/metrics" }];
    programs.extend(collectd.as_ref().map(|process| Program { process, topic: "collectd/" }));
    sleep(SETTLE).await;
    println!("among {} processes", processes());
    let few = watch(&broker, &programs, MINUTE).await;
    beside_collectd(table, &few);

    let pss = procfs::usage(over_tls.pid()).unwrap().pss;
    drop(over_tls);
    let (calls, most) = traced::calls(&broker, &agent, "iot/plain/metrics").await;
    table.limit("system calls a sample", CALLS, calls, most);
    let Counted { allocations, growth } =
        counted::count(&broker, &counting.path().join("config.yaml"), "iot/counted/metrics").await;
    table.limit("allocations a sample", ALLOCATIONS, allocations, "");
    table.limit("heap after 62 samples, bytes more than after the second", 0.0, growth, "");
    table.limit("PSS over TLS, MB", PSS_MB, pss as f64 / 1e6, "");
    let largest = sent(&broker, "iot/plain/metrics", 0).largest;
    table.limit("the largest full sample, bytes", PAYLOAD, largest as f64, "");

    crowd.grow(MANY);
    sleep(SETTLE).await;
    println!("among {} processes", processes());
    let many = watch(&broker, &programs, MINUTE).await;
    among_many(table, &few, &many);
}

async fn broker(pki: &Pki) -> Mosquitto {
    let tls = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    Mosquitto::builder().tls(tls).start().await.unwrap()
}

fn beside_collectd(table: &mut Table, done: &[Done]) {
    let (us, them) = (done[0], done.get(1));
    let beside = them.map_or("absent".to_owned(), |them| format!("collectd {:.0}", them.ms_a_minute()));
    table.figure("CPU, ms a minute of 60 samples", us.ms_a_minute(), beside);
    // What was not measured does not hold.
    let share = them.map_or(f64::NAN, |them| us.cpu.as_secs_f64() / them.cpu.as_secs_f64());
    table.limit("CPU, as a share of collectd's", SHARE, share, "");
    let beside = them.map_or(String::new(), |them| {
        let (messages, bytes) = (them.sent.messages as f64, them.sent.bytes as f64);
        format!("collectd {:.0} in {:.0} messages", bytes / them.seconds, messages / them.seconds)
    });
    table.figure("bytes of payload a second", us.sent.bytes as f64 / us.seconds, beside);
}

fn among_many(table: &mut Table, few: &[Done], many: &[Done]) {
    let ratio = |at: usize| Some(many.get(at)?.ms_a_look() / few.get(at)?.ms_a_look());
    let beside = ratio(1).map_or("absent".to_owned(), |ratio| format!("collectd {ratio:.1}"));
    table.figure("CPU a sample among 5,000 processes, ms", many[0].ms_a_look(), "");
    table.limit("CPU among 5,000, to that among 200", GROWTH, ratio(0).unwrap_or(f64::NAN), beside);
}
