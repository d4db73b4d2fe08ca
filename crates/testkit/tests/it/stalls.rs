use std::time::Duration;

use anyhow::{Result, ensure};
use iot_agent_testkit::certs::Pki;
use iot_agent_testkit::stalls::{Stage, Staller};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::SOON;

const CONNECT_5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01x";
const CONNACK_5: &[u8] = &[0x20, 3, 0, 0, 0];
const SUBSCRIBE_5: &[u8] = b"\x82\x0a\0\x07\0\0\x01a\x01\0\0\x00";
const PUBLISH_5: &[u8] = b"\x32\x06\0\x01t\0\x09\0";
const PINGREQ: &[u8] = &[0xC0, 0];

async fn visit(stage: Stage) -> Result<(Staller, TcpStream)> {
    let staller = Staller::start(stage, None).await?;
    let mut stream = TcpStream::connect(staller.addr()).await?;
    stream.write_all(CONNECT_5).await?;
    Ok((staller, stream))
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut got = vec![0; bytes.len()];
    timeout(SOON, stream.read_exact(&mut got)).await??;
    ensure!(got == bytes, "{got:?} instead of {bytes:?}");
    Ok(())
}

async fn expect_silence(stream: &mut TcpStream) {
    let more = timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(more.is_err(), "it must neither answer nor hang up: {more:?}");
}

#[tokio::test]
async fn each_stage_answers_so_far_and_notes_the_leaving() -> Result<()> {
    let until_connack: [(Stage, &[u8]); 4] = [
        (Stage::Accepted, &[]),
        (Stage::NoConnack, &[]),
        (Stage::HalfConnack, &CONNACK_5[..2]),
        (Stage::TrickledConnack, &[0x20]),
    ];
    for (stage, answer) in until_connack {
        let (staller, mut stream) = visit(stage).await?;
        expect(&mut stream, answer).await?;
        expect_silence(&mut stream).await;
        drop(stream);
        let visit = staller.next_visit(SOON).await?;
        assert!(visit.stayed >= Duration::from_millis(50), "{stage:?}: {visit:?}");
        assert_eq!(visit.packets, if stage == Stage::Accepted { vec![] } else { vec![1] });
    }
    Ok(())
}

#[tokio::test]
async fn a_trickled_connack_takes_minutes() -> Result<()> {
    let (_staller, mut stream) = visit(Stage::TrickledConnack).await?;
    let start = Instant::now();
    // The length, in two bytes, promises about 200 more at one a second.
    expect(&mut stream, &[0x20, 0xCB, 0x01]).await?;
    assert!(start.elapsed() >= Duration::from_millis(1_900));
    Ok(())
}

#[tokio::test]
async fn after_the_connack_each_leaves_out_its_own_answer() -> Result<()> {
    let suback = &[0x90, 5, 0, 7, 0, 1, 0];
    let puback = &[0x40, 2, 0, 9];
    for stage in [Stage::NoSuback, Stage::NoPuback, Stage::NoPingresp] {
        let (staller, mut stream) = visit(stage).await?;
        expect(&mut stream, CONNACK_5).await?;
        stream.write_all(SUBSCRIBE_5).await?;
        if stage != Stage::NoSuback {
            expect(&mut stream, suback).await?;
        }
        stream.write_all(PUBLISH_5).await?;
        if stage == Stage::NoPingresp {
            expect(&mut stream, puback).await?;
        }
        stream.write_all(PINGREQ).await?;
        if stage != Stage::NoPingresp {
            expect(&mut stream, &[0xD0, 0]).await?;
        }
        expect_silence(&mut stream).await;
        drop(stream);
        assert_eq!(staller.next_visit(SOON).await?.packets, [1, 8, 3, 12], "{stage:?}");
    }
    Ok(())
}

#[tokio::test]
async fn garbage_has_no_end() -> Result<()> {
    let (staller, mut stream) = visit(Stage::Garbage).await?;
    let mut bytes = vec![0; 1 << 20];
    timeout(SOON, stream.read_exact(&mut bytes)).await??;
    drop(stream);
    staller.next_visit(SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_deaf_broker_closes_its_window() -> Result<()> {
    let (staller, mut stream) = visit(Stage::Deaf).await?;
    expect(&mut stream, CONNACK_5).await?;
    stream.write_all(SUBSCRIBE_5).await?;
    let mut suback = [0; 7];
    timeout(SOON, stream.read_exact(&mut suback)).await??;
    let flood = async { while stream.write_all(&[0; 65_536]).await.is_ok() {} };
    assert!(timeout(Duration::from_millis(500), flood).await.is_err(), "writing must block for good");
    drop(stream);
    // It could not say that it left; its next connection does.
    let _again = TcpStream::connect(staller.addr()).await?;
    assert_eq!(staller.next_visit(SOON).await?.packets, [1, 8]);

    let (staller, mut quiet) = visit(Stage::Deaf).await?;
    expect(&mut quiet, CONNACK_5).await?;
    quiet.write_all(SUBSCRIBE_5).await?;
    timeout(SOON, quiet.read_exact(&mut suback)).await??;
    quiet.write_all(PINGREQ).await?;
    drop(quiet);
    staller.next_visit(SOON).await?;
    assert_eq!(staller.arrivals(), 1);
    Ok(())
}

#[tokio::test]
async fn it_stalls_behind_tls_too() -> Result<()> {
    let pki = Pki::new()?;
    let staller = Staller::start(Stage::NoPuback, Some(&pki.server()?)).await?;
    // A real client: subscribed, it prints that and waits; told to give up after a second, it leaves.
    let ca = pki.ca_file();
    let port = staller.port().to_string();
    let subscribe = Command::new("mosquitto_sub")
        .args([
            "-h",
            "localhost",
            "-p",
            &port,
            "-V",
            "mqttv5",
            "-t",
            "a",
            "-t",
            "b",
            "-d",
            "-W",
            "1",
            "--cafile",
        ])
        .arg(ca)
        .output();
    let output = timeout(SOON, subscribe).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Subscribed (mid: 1): 0, 0"), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let visit = staller.next_visit(SOON).await?;
    assert_eq!(&visit.packets[..2], [1, 8]);
    assert!(visit.stayed >= Duration::from_millis(900), "{visit:?}");
    Ok(())
}
