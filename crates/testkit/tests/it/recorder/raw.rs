//! An MQTT client made of bytes.

use anyhow::{Result, ensure};
use iot_agent_testkit::Recorder;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::SOON;

/// A message whose data is its number.
pub(super) fn payload(seq: u64) -> String {
    format!(r#"{{"seq":{seq},"data":{seq}}}"#)
}

pub(super) struct Raw {
    stream: BufReader<TcpStream>,
    level: u8,
}

impl Raw {
    pub(super) async fn dial(recorder: &Recorder, level: u8) -> Result<Self> {
        Ok(Self { stream: BufReader::new(TcpStream::connect(recorder.addr()).await?), level })
    }

    /// Dials and connects with a session that is kept; tells whether there was one.
    pub(super) async fn connect(recorder: &Recorder, level: u8, client: &str) -> Result<(Self, bool)> {
        let mut raw = Self::dial(recorder, level).await?;
        let connack = raw.greet(client).await?;
        ensure!(connack[1] == 0, "{connack:x?}");
        Ok((raw, connack[0] == 1))
    }

    /// The body of the CONNACK.
    pub(super) async fn greet(&mut self, client: &str) -> Result<Vec<u8>> {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', self.level, 0, 0, 0];
        if self.level == 5 {
            body.extend_from_slice(&[5, 0x11, 0, 0, 1, 0]);
        }
        body.extend_from_slice(&[0, client.len() as u8]);
        body.extend_from_slice(client.as_bytes());
        self.packet(0x10, &body).await?;
        let (first, body) = self.read().await?;
        ensure!(first == 0x20, "{first:x}");
        Ok(body)
    }

    pub(super) async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        let mut body = vec![0, 9];
        if self.level == 5 {
            body.push(0);
        }
        body.extend_from_slice(&[0, filter.len() as u8]);
        body.extend_from_slice(filter.as_bytes());
        body.push(qos);
        self.packet(0x82, &body).await?;
        let (first, body) = self.read().await?;
        ensure!((first, body.last()) == (0x90, Some(&qos)), "{first:x} {body:x?}");
        Ok(())
    }

    /// A PUBLISH whose first byte says which QoS over 0, and whether it comes again.
    pub(super) async fn publish(&mut self, first: u8, id: u16, topic: &str, payload: &str) -> Result<()> {
        let mut body = vec![0, topic.len() as u8];
        body.extend_from_slice(topic.as_bytes());
        body.extend_from_slice(&id.to_be_bytes());
        if self.level == 5 {
            body.push(0);
        }
        body.extend_from_slice(payload.as_bytes());
        self.packet(first, &body).await
    }

    /// Publishes all at QoS 1, at most 60,000 under way, and takes their PUBACKs.
    pub(super) async fn exchange(&mut self, lines: &[String]) -> Result<()> {
        for (index, line) in lines.iter().enumerate() {
            self.publish(0x32, index as u16 + 1, "t", line).await?;
        }
        for _ in lines {
            self.acknowledgement(0x40).await?;
        }
        Ok(())
    }

    /// The identifier and code of the next packet, which is of this kind.
    pub(super) async fn acknowledgement(&mut self, first: u8) -> Result<(u16, u8)> {
        let (came, body) = self.read().await?;
        ensure!(came == first && body.len() >= 2, "{came:x} {body:x?} for {first:x}");
        Ok((u16::from_be_bytes([body[0], body[1]]), body.get(2).copied().unwrap_or(0)))
    }

    pub(super) async fn ping(&mut self) -> Result<()> {
        self.write(&[0xC0, 0]).await?;
        let (first, _) = self.read().await?;
        ensure!(first == 0xD0, "{first:x}");
        Ok(())
    }

    /// Every kind of packet, DISCONNECT last and at once; tells the first bytes of the answers.
    pub(super) async fn say_everything(&mut self) -> Result<Vec<u8>> {
        let mut said = Vec::new();
        let none: &[u8] = if self.level == 5 { &[0] } else { &[] };
        for (first, fields) in [
            (0x10, [&[0, 4, b'M', b'Q', b'T', b'T', self.level, 2, 0, 0][..], none, &[0, 1, b'c']]),
            (0x82, [&[0, 9], none, &[0, 1, b'd', 1]]),
            (0x32, [&[0, 1, b't', 0, 1], none, b"1"]),
            (0x34, [&[0, 1, b't', 0, 2], none, b"2"]),
            (0x62, [&[0, 2], &[], &[]]),
            (0xC0, [&[], &[], &[]]),
            (0xE0, [&[], &[], &[]]),
        ] {
            let body = fields.concat();
            said.extend_from_slice(&[first, body.len() as u8]);
            said.extend_from_slice(&body);
        }
        self.write(&said).await?;
        self.stream.shutdown().await?;
        let mut firsts = Vec::new();
        while let Ok((first, _)) = self.read().await {
            firsts.push(first);
        }
        Ok(firsts)
    }

    async fn packet(&mut self, first: u8, body: &[u8]) -> Result<()> {
        let mut bytes = vec![first];
        let mut length = body.len();
        while length > 0x7F {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(body);
        self.write(&bytes).await
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(timeout(SOON, self.stream.write_all(bytes)).await??)
    }

    /// The next packet: its first byte and its body.
    pub(super) async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let read = async {
            let first = self.stream.read_u8().await?;
            let length = self.stream.read_u8().await?;
            ensure!(length < 0x80, "a long packet");
            let mut body = vec![0; usize::from(length)];
            self.stream.read_exact(&mut body).await?;
            Ok((first, body))
        };
        timeout(SOON, read).await?
    }

    /// Nothing but the end is left to read.
    pub(super) async fn ended(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        // A reset is an end, too.
        timeout(SOON, self.stream.read_to_end(&mut rest)).await?.ok();
        ensure!(rest.is_empty(), "{rest:x?}");
        Ok(())
    }
}
