//! E2: DNS that fails in seven ways.

use std::{net::Ipv4Addr, time::Duration};

use testkit::{
    mosquitto::Mosquitto,
    namespace::{Answer, Resolver},
    process::Process,
    procfs,
    proxy::Proxy,
};
use tokio::time::Instant;

use super::support::{Home, SOON, proof, stop, wait_status};

const HERE: Answer = Answer::Address(Ipv4Addr::LOCALHOST);
const NAME: &str = "broker.example";
/// The runtime, the watchdog, and one name lookup.
const THREADS: usize = 3;

fn home(port: u16) -> Home {
    Home::new(&format!("mqtt://{NAME}:{port}")).mqtt("allow_plaintext: true").device("d1")
}

/// The agent, with no other resolver than this one.
fn start(resolver: &Resolver, home: &Home, options: &str) -> Process {
    let mut command = resolver.command(env!("CARGO_BIN_EXE_iot-agent"));
    command.args(["run", "--config"]).arg(home.write()).env("RES_OPTIONS", options);
    Process::run(command).unwrap()
}

#[tokio::test]
async fn prove_e2_dns_that_fails_is_outlived() {
    let broker = Mosquitto::plain().await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let resolver = Resolver::start(HERE).await.unwrap();
    let home = home(proxy.port());
    let mut agent = start(&resolver, &home, "timeout:1 attempts:1");
    wait_status(&home, |status| status["connection"]["state"] == "connected").await;
    let mut worst = Duration::ZERO;
    for failure in Answer::FAILURES {
        resolver.set(failure);
        proxy.reset_all();
        let unresolved = |status: &serde_json::Value| {
            status["connection"]["error"].as_str().is_some_and(|error| error.contains(NAME))
        };
        wait_status(&home, unresolved).await;
        resolver.queries.skip_to_end();
        for _ in 0..4 {
            resolver.queries.next(|query| query.name == NAME, SOON).await.unwrap();
            let threads = procfs::usage(agent.pid()).unwrap().threads;
            assert!(threads <= THREADS, "{failure:?}: {threads} threads");
        }
        let healed = Instant::now();
        resolver.set(HERE);
        wait_status(&home, |status| status["connection"]["state"] == "connected").await;
        worst = worst.max(healed.elapsed());
        assert!(worst <= Duration::from_secs(5), "{failure:?}: {worst:?}");
    }
    assert!(agent.is_running().unwrap());
    stop(&mut agent, "connected").await;
    let (failures, recovered) = (Answer::FAILURES.len(), worst.as_millis());
    proof("E2", &format!("wanted=recovered_ms<=5000 failures={failures} recovered_ms={recovered}"));
}

/// `getaddrinfo` cannot be cancelled, and must hold up neither `status` nor the end.
#[tokio::test]
async fn a_lookup_that_hangs_holds_up_nothing() {
    let resolver = Resolver::start(Answer::Silence).await.unwrap();
    let home = home(1883);
    let mut agent = start(&resolver, &home, "timeout:30 attempts:5");
    resolver.queries.next(|query| query.name == NAME, SOON).await.unwrap();
    let status = wait_status(&home, |status| status["connection"]["state"] == "connecting").await;
    assert_eq!(status["connection"]["error"], serde_json::Value::Null, "nothing has failed yet");
    stop(&mut agent, "looking up a name").await;
}
