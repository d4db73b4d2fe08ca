use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use iot_agent_testkit::namespace::{Answer, BlackHole, Query, Resolver, without_network};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::SOON;

const NAME: &str = "broker.example";

/// What the C library's resolver makes of it, in a process of its own: exit code and address.
async fn look_up(resolver: &Resolver) -> Result<(Option<i32>, String)> {
    let output = timeout(SOON, resolver.command("getent").args(["ahostsv4", NAME]).output()).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok((output.status.code(), text.split_whitespace().next().unwrap_or_default().to_owned()))
}

#[tokio::test]
async fn a_name_resolves_as_told_and_heals() -> Result<()> {
    let resolver = Resolver::start(Answer::Address(Ipv4Addr::new(127, 1, 2, 3))).await?;
    assert_eq!(look_up(&resolver).await?, (Some(0), "127.1.2.3".into()));
    let asked = resolver.queries.all();
    assert!(asked.contains(&Query { name: NAME.into(), kind: 1 }), "{asked:?}");
    // 2: not found.
    for failure in Answer::FAILURES {
        resolver.set(failure);
        let before = resolver.queries.all().len();
        assert_eq!(look_up(&resolver).await?, (Some(2), String::new()), "{failure:?}");
        assert!(resolver.queries.all().len() > before, "{failure:?}: nobody asked");
    }
    resolver.set(Answer::Address(Ipv4Addr::LOCALHOST));
    assert_eq!(look_up(&resolver).await?, (Some(0), "127.0.0.1".into()));
    Ok(())
}

#[tokio::test]
async fn the_command_keeps_arguments_environment_and_process_id() -> Result<()> {
    let resolver = Resolver::start(Answer::Silence).await?;
    let mut command = resolver.command("sh");
    command.env("MARK", "a b").args([
        "-c",
        r#"cat /etc/resolv.conf; echo "$MARK/$1"; echo $$"#,
        "sh",
        "c  d",
    ]);
    let child = command.stdout(std::process::Stdio::piped()).spawn()?;
    let pid = child.id().expect("it runs").to_string();
    let output = timeout(SOON, child.wait_with_output()).await??;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("nameserver 127."), "{text}");
    assert_eq!(&lines[2..], ["a b/c  d", pid.as_str()]);
    assert!(
        !std::fs::read_to_string("/etc/resolv.conf")?.starts_with("nameserver 127.53"),
        "ours is untouched"
    );
    Ok(())
}

#[tokio::test]
async fn a_black_hole_swallows_connections() -> Result<()> {
    let hole = BlackHole::start(0).await?;
    assert!(timeout(Duration::from_millis(300), TcpStream::connect(hole.addr())).await.is_err());
    Ok(())
}

#[tokio::test]
async fn without_network_there_is_only_loopback() -> Result<()> {
    let output = timeout(SOON, without_network("ip").args(["-o", "link"]).output()).await??;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("lo: <LOOPBACK,UP"), "{text}");
    Ok(())
}
