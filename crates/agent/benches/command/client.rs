//! The operator: as much of MQTT 3.1.1 as it takes to order and to listen, and no more, so that little of what is
//! measured is ours.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

/// No message for so long means that something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const FINAL: [&str; 7] =
    ["success", "failed", "timed_out", "cancelled", "interrupted", "rejected", "expired"];

/// Listens to the status of one device. It takes them with QoS 0, since nothing is lost within one machine.
pub(crate) struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    taken: usize,
}

/// Orders, of the same connection.
pub(crate) struct Orders {
    stream: TcpStream,
    topic: String,
    last: u16,
}

/// Connected and subscribed.
pub(crate) fn connect(port: u16, device: &str) -> (Orders, Client) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Clean session, no keep-alive; the broker makes an id.
    stream.write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0").unwrap();
    let mut body = vec![0, 1];
    text(&mut body, &format!("iot/{device}/command/status"));
    body.push(0);
    stream.write_all(&packet(0x82, &body)).unwrap();
    let mut client = Client { stream: stream.try_clone().unwrap(), bytes: Vec::new(), taken: 0 };
    assert_eq!(client.packet(), (0x20, vec![0, 0]), "CONNACK");
    assert_eq!(client.packet(), (0x90, vec![0, 1, 0]), "SUBACK");
    (Orders { stream, topic: format!("iot/{device}/command"), last: 0 }, client)
}

impl Orders {
    pub(crate) fn order(&mut self, id: &str, command: &str) {
        let packet = self.encode(id, command);
        self.stream.write_all(&packet).unwrap();
    }

    /// Many `true`, in few writes.
    pub(crate) fn order_all(&mut self, ids: &[String]) {
        for ids in ids.chunks(100) {
            let packets: Vec<u8> = ids.iter().flat_map(|id| self.encode(id, "true")).collect();
            self.stream.write_all(&packets).unwrap();
        }
    }

    /// A PUBLISH with QoS 1.
    fn encode(&mut self, id: &str, command: &str) -> Vec<u8> {
        self.last = self.last.checked_add(1).unwrap_or(1);
        let mut body = Vec::new();
        text(&mut body, &self.topic);
        body.extend(self.last.to_be_bytes());
        let order = serde_json::json!({ "execution_id": id, "command": command });
        body.extend(order.to_string().into_bytes());
        packet(0x32, &body)
    }
}

impl Client {
    /// The next status that is final.
    pub(crate) fn end(&mut self) -> Value {
        loop {
            let (first, body) = self.packet();
            if first >> 4 != 3 {
                continue;
            }
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let status: Value = serde_json::from_slice(&body[2 + topic..]).unwrap();
            if FINAL.contains(&status["status"].as_str().unwrap()) {
                return status;
            }
        }
    }

    /// The end of this one, which is the next to end, with exit code 0.
    pub(crate) fn success(&mut self, id: &str) -> Value {
        let end = self.end();
        assert_eq!(
            (end["execution_id"].as_str(), end["status"].as_str()),
            (Some(id), Some("success")),
            "{end}"
        );
        end
    }

    fn packet(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((first, from, to)) = whole(&self.bytes[self.taken..]) {
                let body = self.bytes[self.taken + from..self.taken + to].to_vec();
                self.taken += to;
                return (first, body);
            }
            self.bytes.drain(..self.taken);
            self.taken = 0;
            let mut buffer = [0; 64 << 10];
            let read = self.stream.read(&mut buffer).expect("the broker says something");
            assert!(read > 0, "the broker has closed the connection");
            self.bytes.extend_from_slice(&buffer[..read]);
        }
    }
}

/// First byte, and from where to where the body is.
fn whole(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, rest) = bytes.split_first()?;
    let last = rest.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let length = rest[..=last].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    let (from, to) = (2 + last, 2 + last + length);
    (bytes.len() >= to).then_some((*first, from, to))
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(body);
    bytes
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend((text.len() as u16).to_be_bytes());
    body.extend(text.as_bytes());
}
