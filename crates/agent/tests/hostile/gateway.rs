//! A gateway from websockets to plain MQTT, as quick as the sockets: each MQTT packet is one frame, however large.

use std::net::SocketAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use tokio::{
    io::{self, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
};

/// On a free port of 127.0.0.1; ends when dropped.
pub(super) struct Gateway {
    pub(super) port: u16,
    task: JoinHandle<()>,
}

impl Gateway {
    pub(super) async fn start(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(serve(client, broker));
            }
        });
        Self { port, task }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends when either side does.
async fn serve(client: TcpStream, broker: SocketAddr) -> io::Result<()> {
    let (from_client, mut to_client) = client.into_split();
    let mut from_client = BufReader::new(from_client);
    upgrade(&mut from_client, &mut to_client).await?;
    let (from_broker, to_broker) = TcpStream::connect(broker).await?.into_split();
    tokio::select! {
        ended = up(from_client, to_broker) => ended,
        ended = down(BufReader::new(from_broker), to_client) => ended,
    }
}

/// RFC 6455, section 4.2.
async fn upgrade(from: &mut BufReader<OwnedReadHalf>, to: &mut OwnedWriteHalf) -> io::Result<()> {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    let mut line = String::new();
    while from.read_line(&mut line).await? > 2 {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("sec-websocket-key")
        {
            digest.update(value.trim().as_bytes());
        }
        line.clear();
    }
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = BASE64_STANDARD.encode(digest.finish());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    to.write_all(answer.as_bytes()).await
}

/// Unmasks what the client sends. Its frames are small.
async fn up(mut from: BufReader<OwnedReadHalf>, mut to: OwnedWriteHalf) -> io::Result<()> {
    loop {
        let opcode = from.read_u8().await? & 0x0f;
        let length = match from.read_u8().await? & 0x7f {
            126 => from.read_u16().await?,
            length => u16::from(length),
        };
        let mask = from.read_u32().await?.to_be_bytes();
        let mut payload = vec![0; length.into()];
        from.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        match opcode {
            8 => return Ok(()),
            0..3 => to.write_all(&payload).await?,
            _ => {}
        }
    }
}

/// Puts each packet into a frame.
async fn down(mut from: BufReader<OwnedReadHalf>, mut to: OwnedWriteHalf) -> io::Result<()> {
    loop {
        let mut head = vec![from.read_u8().await?];
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = from.read_u8().await?;
            head.push(byte);
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        // A length has to be told in as few bytes as it fits into (section 5.2).
        let whole = length + head.len() as u64;
        let mut frame = vec![0x82];
        match (u8::try_from(whole), u16::try_from(whole)) {
            (Ok(small @ ..126), _) => frame.push(small),
            (_, Ok(medium)) => frame.extend([&[126], &medium.to_be_bytes()[..]].concat()),
            _ => frame.extend([&[127], &whole.to_be_bytes()[..]].concat()),
        }
        frame.extend(head);
        to.write_all(&frame).await?;
        io::copy(&mut (&mut from).take(length), &mut to).await?;
    }
}
