//! A1: servers that must not be trusted hear nothing from us, and the user hears why.

use serde_json::Value;
use testkit::badtls::{BAD, GOOD, HOST, Setup};
use tokio::task::JoinSet;

use super::support::{Home, SOON, log, proof, stop, wait_status};

/// At a time: each is two processes.
const AT_ONCE: usize = 6;

/// What the agent makes of it, in words for a person.
fn reason(setup: &Setup) -> &'static str {
    match setup.reason {
        "certificate expired" => "its certificate expired on ",
        "certificate not valid yet" => "its certificate is valid only from ",
        "UnknownIssuer" => "its certificate comes from an authority that is not trusted here",
        "BadSignature" => "a signature in its certificate or its handshake does not hold",
        "not valid for name" => "its certificate is for another host",
        "not valid for any names" => "its certificate names no host",
        "UnsupportedSignatureAlgorithm" => "its certificate is signed by a method that is unsafe",
        "ProtocolVersion" => "it speaks no TLS version that we do",
        "HandshakeFailure" => "no cipher or key in common",
        "InvalidContentType" => "it does not answer in TLS",
        _ => "its certificate is not acceptable: ",
    }
}

fn home(port: u16, ca: &std::path::Path) -> Home {
    Home::new(&format!("mqtts://{HOST}:{port}"))
        .device("d1")
        .mqtt("username: somebody")
        .mqtt(&format!("ca_certificate: {}", ca.display()))
}

/// Whether it was refused, as all are but one on a machine that does not know the time.
async fn refused(setup: Setup) -> bool {
    let server = setup.start().await.unwrap();
    let home = home(server.port(), &server.ca_file());
    let mut agent = home.start();
    if setup.name == "certificate not yet valid" && !synchronised(&home).await {
        // The rule for a device that wakes up in 1970: it cannot know what is not yet valid.
        wait_status(&home, |status| status["connection"]["connects"] == 1).await;
        return false;
    }
    let told = agent.find_line("not connected", SOON).await;
    told.unwrap_or_else(|error| panic!("{}: {error:#}", setup.name));
    let lines = log(&agent);
    let line = lines.iter().find(|line| line["message"] == "not connected").unwrap();
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(reason(&setup)), "{}: {error}", setup.name);
    assert!(error.contains(HOST), "{}: {error}", setup.name);
    let status = home.status().unwrap();
    assert_eq!(status["connection"]["error"], error, "{}", setup.name);
    assert_eq!(status["connection"]["connects"], 0, "{}", setup.name);
    stop(&mut agent, setup.name).await;
    assert!(server.attempts() > 0, "{}", setup.name);
    assert_eq!((server.application_bytes(), server.connects()), (0, 0), "{}", setup.name);
    true
}

/// Whether the agent trusts this machine's clock.
async fn synchronised(home: &Home) -> bool {
    wait_status(home, |status| status["clock"]["synchronised"].is_boolean()).await["clock"]["synchronised"]
        == true
}

async fn accepted(setup: Setup) {
    let server = setup.start().await.unwrap();
    let home = home(server.port(), &server.ca_file());
    let mut agent = home.start();
    // It answers the CONNECT, and nothing after it.
    wait_status(&home, |status| status["connection"]["connects"] == 1).await;
    assert_eq!((server.connects(), home.status().unwrap()["connection"]["error"].clone()), (1, Value::Null));
    stop(&mut agent, setup.name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prove_a1_no_untrusted_server_hears_anything() {
    let mut count = 0;
    for some in BAD.chunks(AT_ONCE) {
        let tests: JoinSet<bool> = some.iter().copied().map(refused).collect();
        count += tests.join_all().await.into_iter().filter(|refused| *refused).count();
    }
    assert!(count + 1 >= BAD.len());
    let tests: JoinSet<()> = GOOD.into_iter().map(accepted).collect();
    tests.join_all().await;
    proof("A1", &format!("wanted=0-connects refused={count} application_bytes=0 good={}", GOOD.len()));
}
