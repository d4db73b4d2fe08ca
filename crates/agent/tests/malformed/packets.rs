//! MQTT from a broker that does not speak it: the connection is ended for its reason, and the next one works.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::{Home, SOON, wait_status};

/// When the broker goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Instead of its CONNACK.
    Greeting,
    /// After the birth.
    Up,
}
use When::{Greeting, Up};

/// What is sent, and how the reason ends that the agent logs.
type Row = (When, &'static [u8], &'static str);

const UNEXPECTED: &str = "the broker sent something malformed: unexpected packet: ProtocolError";
const EARLY: &str = "the broker sent a packet before CONNACK out of turn";
const LENGTH: &str = "the broker sent something that is no MQTT: malformed packet length";

/// In both versions.
const BOTH: &[Row] = &[
    (Greeting, b"\x15\x03\x03\x00\x02\x02\x28", UNEXPECTED),
    (Greeting, b"\x00\x00", UNEXPECTED),
    (Greeting, b"\xd0\x00", EARLY),
    (Greeting, b"\x20\x00", "CONNACK packet: MalformedPacket"),
    (Greeting, b"\x20\x01\x00", "CONNACK packet: MalformedPacket"),
    (Greeting, b"\x20\x02\x00\x07", "CONNACK packet: MalformedPacket"),
    (Greeting, b"\x20\xff\xff\xff\xff\x01", LENGTH),
    (
        Greeting,
        b"\x20\xff\xff\xff\x7f",
        "the broker sent something that is no MQTT: packet of type 2 with 268435460 bytes: over the limit of 262144",
    ),
    (Up, b"\x00\x00", UNEXPECTED),
    (Up, b"\x10\x00", UNEXPECTED),
    (Up, b"\x80\x00", UNEXPECTED),
    (Up, b"\xa0\x00", UNEXPECTED),
    (Up, b"\xc0\x00", UNEXPECTED),
    (Up, b"\xf0\x00", UNEXPECTED),
    (Up, b"\x20\x02\x00\x00", "the broker sent CONNACK out of turn"),
    (Up, b"\x20\x03\x00\x00\x00", "the broker sent CONNACK out of turn"),
    (Up, b"\xd0\xff\xff\xff\xff\x01", LENGTH),
    (
        Up,
        b"\x90\xff\xff\xff\x7f",
        "the broker sent something that is no MQTT: packet of type 9 with 268435460 bytes: over the limit of 262144",
    ),
    (Up, b"\x30\x00", "PUBLISH packet: MalformedPacket"),
    (Up, b"\x30\x02\x00\x05", "PUBLISH packet: MalformedPacket"),
    (Up, b"\x36\x06\x00\x01a\x00\x01\x00", "PUBLISH packet: MalformedPacket"),
    (Up, b"\x32\x06\x00\x01a\x00\x00\x00", "PUBLISH packet: MalformedPacket"),
    (Up, b"\x30\x03\x00\x00\x00", "PUBLISH packet: TopicAliasInvalid"),
    (Up, b"\x30\x04\x00\x01\xff\x00", "PUBLISH packet: MalformedPacket"),
    (Up, b"\x40\x00", "PUBACK packet: MalformedPacket"),
    (Up, b"\x40\x01\x00", "PUBACK packet: MalformedPacket"),
    (Up, b"\x40\x02\x00\x00", "PUBACK packet: MalformedPacket"),
    (Up, b"\x50\x01\x00", "PUBREC packet: MalformedPacket"),
    (Up, b"\x50\x02\x00\x00", "PUBREC packet: MalformedPacket"),
    (Up, b"\x62\x00", "PUBREL packet: MalformedPacket"),
    (Up, b"\x62\x02\x00\x00", "PUBREL packet: MalformedPacket"),
    (Up, b"\x70\x01\x01", "PUBCOMP packet: MalformedPacket"),
    (Up, b"\xb0\x00", "UNSUBACK packet: MalformedPacket"),
    (Up, b"\x90\x00", "SUBACK packet: MalformedPacket"),
    (Up, b"\x90\x04\x7f\xff\x00\x00", "the broker sent SUBACK out of turn"),
];

/// Only there.
const V5: &[Row] = &[
    (
        Greeting,
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>no</html>\n",
        EARLY,
    ),
    (Greeting, b"\x20\x03\x00\x00\x05", "CONNACK packet: MalformedPacket"),
    (Greeting, b"\x20\x03\x00\x01\x00", "CONNACK packet: MalformedPacket"),
    (Greeting, b"\x20\x06\x00\x00\x03\x21\x00\x00", "CONNACK packet: ProtocolError"),
    (Greeting, b"\x20\x08\x00\x00\x05\x27\x00\x00\x00\x00", "CONNACK packet: ProtocolError"),
    (Greeting, b"\x20\x05\x00\x00\x02\x24\x02", "CONNACK packet: ProtocolError"),
    (Greeting, b"\x20\x05\x00\x00\x02\x7f\x00", "CONNACK packet: MalformedPacket"),
    (Greeting, b"\x20\x07\x00\x00\x04\x25\x01\x25\x01", "CONNACK packet: ProtocolError"),
    (Up, b"\x30\x05\x00\x01a\x05\x01", "PUBLISH packet: MalformedPacket"),
    (Up, b"\x30\x06\x00\x01a\x02\x7f\x00", "PUBLISH packet: MalformedPacket"),
    (Up, b"\x30\x07\x00\x01a\x03\x23\x00\x00", "PUBLISH packet: ProtocolError"),
    (Up, b"\x40\x03\x00\x00\x01", "PUBACK packet: MalformedPacket"),
    (Up, b"\x50\x03\x00\x00\x01", "PUBREC packet: MalformedPacket"),
    (Up, b"\x90\x04\x00\x01\x00\x03", "SUBACK packet: MalformedPacket"),
    (Up, b"\xe0\x01\x05", "DISCONNECT packet: MalformedPacket"),
];

/// Only there.
const V311: &[Row] = &[
    (
        Greeting,
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>no</html>\n",
        EARLY,
    ),
    (Greeting, b"\x20\x02\x00\x06", "CONNACK packet: MalformedPacket"),
    (Up, b"\x90\x03\x00\x01\x03", "SUBACK packet: MalformedPacket"),
    (Up, b"\xe0\x00", UNEXPECTED),
];

/// How many there are.
pub(crate) async fn table() -> usize {
    let (five, three) = tokio::join!(each(5, V5), each(4, V311));
    five + three
}

async fn each(level: u8, own: &[Row]) -> usize {
    let rows: Vec<Row> = BOTH.iter().chain(own).copied().collect();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = broker(listener, level, rows.clone());
    let version = if level == 5 { "version: 5" } else { "version: 3.1.1" };
    let home = Home::new(&format!("mqtt://127.0.0.1:{port}")).device("d1").mqtt(version);
    let mut agent = home.start();
    for (when, bytes, reason) in &rows {
        let said = agent.wait_line("\"not connected\"", SOON).await.unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        let row = format!("{level} {when:?} {}", bytes.escape_ascii());
        let said = said["error"].as_str().unwrap();
        assert!(said.ends_with(reason), "{row}: {said}");
    }
    wait_status(&home, |status| status["connection"]["state"] == "connected").await;
    assert!(agent.is_running().unwrap());
    broker.abort();
    agent.terminate().unwrap();
    assert!(agent.wait_exit(Duration::from_secs(5)).await.unwrap().success());
    rows.len()
}

/// Goes wrong once for each row, and then works.
fn broker(listener: TcpListener, level: u8, rows: Vec<Row>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut rows = rows.into_iter();
        loop {
            let (mut agent, _) = listener.accept().await.unwrap();
            // The agent may end it at any moment.
            converse(&mut agent, level, rows.next()).await;
        }
    })
}

/// One connection, to its end.
async fn converse(agent: &mut TcpStream, level: u8, row: Option<Row>) -> Option<()> {
    while let Some((kind, body)) = packet(agent).await {
        let properties = if level == 5 { &[0][..] } else { &[] };
        let answer = match (kind, row) {
            (1, Some((Greeting, wrong, _))) => wrong.to_vec(),
            (1, _) => [&[0x20, 2 + properties.len() as u8, 0, 0], properties].concat(),
            (8, _) => [&[0x90, 3 + properties.len() as u8, body[0], body[1]], properties, &[1]].concat(),
            (3, Some((Up, wrong, _))) => wrong.to_vec(),
            (3, None) => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                vec![0x40, 2, body[2 + topic], body[3 + topic]]
            }
            (12, _) => vec![0xd0, 0],
            _ => continue,
        };
        agent.write_all(&answer).await.ok()?;
    }
    Some(())
}

/// The next packet's type and body.
async fn packet(agent: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = agent.read_u8().await.ok()?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = agent.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    agent.read_exact(&mut body).await.ok()?;
    Some((first >> 4, body))
}
