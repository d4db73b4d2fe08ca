//! The agent is ended in each state of a tunnel, by SIGKILL and by SIGTERM: always one end, never two tunnels.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{
    Process, Proxy,
    inject::attach,
    namespace::BlackHole,
    proxy::{Faults, Link},
};

use crate::{
    story::{Story, answers},
    support::{SOON, command::run, proof, stop, strace::detach, tier, wait_status},
};

/// How far a request is when the agent is ended, and for how long it stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Written down, and the server is being dialled.
    Accepted,
    /// The server was reached and says nothing.
    Greeting,
    /// It was asked for a port and does not answer.
    Asked,
    Open,
    /// It was asked to give the port up and does not answer: that is waited for a second.
    Closing,
}
use State::{Accepted, Asked, Closing, Greeting, Open};

const ALL: [State; 5] = [Accepted, Greeting, Asked, Open, Closing];

fn dead() -> Faults {
    Faults::both(Link { blackhole: true, ..Link::default() })
}

/// Brings the request `id` into this state.
async fn bring(story: &Story, line: &Proxy, id: &str, state: State) {
    match state {
        Accepted | Greeting => {
            story.ask(id, json!({})).await;
            story.written(id).await;
            if state == Greeting {
                line.wait(|stats| stats.open == 1, SOON).await.unwrap();
            }
        }
        Asked => {
            // The connection is there already, for another one.
            story.open(&format!("{id}-before"), json!({})).await;
            line.set(dead());
            story.ask(id, json!({})).await;
            story.written(id).await;
        }
        Open => answers(story.open(id, json!({})).await, "hello").await,
        Closing => {
            answers(story.open(id, json!({})).await, "hello").await;
            line.set(dead());
            story.close(id).await;
            wait_status(&story.home, |status| status["tunnels"].as_array().is_none_or(Vec::is_empty)).await;
        }
    }
}

/// One life of an agent that ends while `id` is in this state; the end that was told.
async fn round(story: &Story, id: &str, state: State, kill: bool) -> (Value, Duration) {
    let hole = BlackHole::start(0).await.unwrap();
    let line = story.line_to_server().await;
    match state {
        Accepted => story.reach(hole.addr()),
        Greeting => line.set(dead()),
        Asked | Open | Closing => {}
    }
    let before = story.listened();
    let mut agent = story.online().await;
    bring(story, &line, id, state).await;
    let took = if kill {
        agent.kill().await.unwrap();
        Duration::ZERO
    } else {
        stop(&mut agent, &format!("{state:?}")).await
    };
    // From here on sshd can be reached by whoever would.
    line.heal();
    story.reach(line.addr());
    let mut agent = story.online().await;
    for _ in 0..2 {
        story.ask(id, json!({})).await;
    }
    story.caught_up(&format!("{id}-after"), SOON).await;
    let end = story.end(id).await;
    assert_eq!(story.ends(id).len(), 1, "{state:?}: {:#?}", story.ends(id));
    let opened = usize::from(matches!(state, Open | Closing | Asked));
    // What was asked on the connection of another may have been on its way.
    let most = before + opened + usize::from(state == Asked);
    assert!((before + opened..=most).contains(&story.listened()), "{state:?}: {}", story.server.log());
    ends(&mut agent, story).await;
    (end, took)
}

/// Nothing is left at the server.
async fn ends(agent: &mut Process, story: &Story) {
    let list = run(&story.home, &["ssh", "list", "--json"], "").await;
    assert_eq!(list.out, "", "{list:#?}");
    agent.kill().await.unwrap();
    let deadline = tokio::time::Instant::now() + SOON;
    while !story.server.connections().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "sshd still has {:?}", story.server.connections());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn prove_l1_i3_one_end_whatever_state_it_is_in() {
    let rounds = if tier() > 1 { 10 } else { 1 };
    let story = Story::begin("").await;
    let (mut lives, mut slowest) = (0, Duration::ZERO);
    for n in 0..rounds {
        for state in ALL {
            for kill in [true, false] {
                let id = format!("{state:?}-{kill}-{n}");
                let (end, took) = round(&story, &id, state, kill).await;
                let reason = if kill { "interrupted" } else { "shutdown" };
                let closed = end["state"] == "closed";
                // The server may have been given up on before the signal came.
                let expected = end["reason"] == reason || state == Closing && end["reason"] == "requested";
                assert!(closed && expected, "{id}: {end}");
                if matches!(state, Open | Closing) && !kill {
                    assert_eq!((&end["bytes_in"], &end["bytes_out"]), (&json!(5), &json!(5)), "{end}");
                }
                (lives, slowest) = (lives + 1, slowest.max(took));
            }
        }
    }
    let wanted = "wanted=ends:1,tunnels:<=1,worst_ms<=5000";
    proof("l1-ssh", &format!("{wanted} states={} lives={lives} worst_ms={}", ALL.len(), slowest.as_millis()));
}

/// Killed within each system call that accepting, opening, using and closing one makes.
#[tokio::test]
async fn prove_i3_killed_at_every_call_of_a_tunnel() {
    const CALLS: [&str; 12] = [
        "pwrite64",
        "fdatasync",
        "openat",
        "close",
        "socket",
        "connect",
        "getsockopt",
        "sendto",
        "recvfrom",
        "epoll_wait",
        "shutdown",
        "futex",
    ];
    let nth = if tier() > 1 { 12 } else { 1 };
    let story = Story::begin("").await;
    let (mut agent, mut killed, mut points) = (story.online().await, 0, 0);
    for call in CALLS {
        for n in 1..=nth {
            let (id, before) = (format!("{call}-{n}"), story.listened());
            let strace = attach(agent.pid(), &format!("{call}:signal=SIGKILL:when={n}")).await.unwrap();
            story.ask(&id, json!({})).await;
            let dies = alive(&mut agent, &story, &id, "open").await;
            if !dies {
                story.close(&id).await;
                alive(&mut agent, &story, &id, "closed").await;
            }
            points += 1;
            if !detach(strace, &mut agent, &story.home).await {
                killed += 1;
                agent = story.online().await;
            }
            // One that came to nothing is opened by what the broker still has, and closed by this.
            story.close(&id).await;
            story.end(&id).await;
            story.ask(&id, json!({})).await;
            story.caught_up(&format!("{id}-after"), SOON).await;
            assert_eq!(story.ends(&id).len(), 1, "{id}: {:#?}", story.ends(&id));
            assert!(story.listened() <= before + 1, "{id}: {}", story.server.log());
        }
    }
    proof(
        "i3-ssh-calls",
        &format!("wanted=tunnels:<=1,ends:1 points={points} killed={killed} tunnels=1 ends=1"),
    );
    assert!(killed > 0, "nothing was ever killed");
}

/// Waits until this was told of it, or the agent is dead; whether it is.
async fn alive(agent: &mut Process, story: &Story, id: &str, wanted: &str) -> bool {
    let deadline = tokio::time::Instant::now() + SOON;
    while agent.is_running().unwrap() {
        if story.states(id).iter().any(|state| state == wanted) {
            return false;
        }
        assert!(tokio::time::Instant::now() < deadline, "{id}: neither {wanted} nor dead");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}
