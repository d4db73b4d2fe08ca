//! The DNS server: answers one question a packet (RFC 1035), truthfully or otherwise.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::feed::Feed;
use crate::seed::Rng;

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Every name has this address, and no IPv6 address.
    Address(Ipv4Addr),
    /// Nothing comes back.
    Silence,
    /// SERVFAIL: the server could not find out.
    ServerFailure,
    /// NXDOMAIN: there is no such name.
    NoSuchName,
    /// REFUSED: not for you.
    Refused,
    /// NODATA: the name exists but has no address.
    NoData,
    /// TC: the answer does not fit, ask by TCP, where nobody listens.
    Truncated,
    /// The header of an answer and the question, and then bytes that are no answer.
    Garbage,
}

impl Answer {
    /// The ways to fail, apart from a wrong address.
    pub const FAILURES: [Self; 7] = [
        Self::Silence,
        Self::ServerFailure,
        Self::NoSuchName,
        Self::Refused,
        Self::NoData,
        Self::Truncated,
        Self::Garbage,
    ];
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The name, without the dot at its end.
    pub name: String,
    /// 1 for A, 28 for AAAA.
    pub kind: u16,
}

const HEADER: usize = 12;
const A: u16 = 1;
/// Response, recursion desired and available.
const FLAGS: u16 = 0x8180;
const TRUNCATED: u16 = 0x0200;

pub(super) async fn serve(socket: UdpSocket, answer: Arc<watch::Sender<Answer>>, queries: Feed<Query>) {
    let mut buffer = [0; 1500];
    loop {
        // An ICMP error of an earlier answer shows here; it is nothing to us.
        let Ok((read, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some((query, question)) = parse(&buffer[..read]) else { continue };
        let kind = query.kind;
        queries.push(query);
        let answer = *answer.borrow();
        if let Some(reply) = reply(answer, &buffer[..2], question, kind) {
            // Who asked may be gone.
            socket.send_to(&reply, from).await.ok();
        }
    }
}

/// The question, and its bytes.
fn parse(packet: &[u8]) -> Option<(Query, &[u8])> {
    let mut rest = packet.get(HEADER..)?;
    let mut labels = Vec::new();
    while let Some((&length @ 1.., after)) = rest.split_first() {
        let (label, after) = after.split_at_checked(usize::from(length))?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = after;
    }
    let kind = u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]);
    let end = packet.len() - rest.len() + 5;
    Some((Query { name: labels.join("."), kind }, packet.get(HEADER..end)?))
}

fn reply(answer: Answer, id: &[u8], question: &[u8], kind: u16) -> Option<Vec<u8>> {
    let (flags, address) = match answer {
        Answer::Silence => return None,
        Answer::Garbage => (FLAGS, None),
        Answer::Address(address) => (FLAGS, (kind == A).then_some(address)),
        Answer::NoData => (FLAGS, None),
        Answer::ServerFailure => (FLAGS | 2, None),
        Answer::NoSuchName => (FLAGS | 3, None),
        Answer::Refused => (FLAGS | 5, None),
        Answer::Truncated => (FLAGS | TRUNCATED, None),
    };
    let answers = u16::from(address.is_some() || answer == Answer::Garbage);
    let counts = [1, answers, 0, 0];
    let mut packet = id.to_vec();
    for number in [flags].iter().chain(&counts) {
        packet.extend_from_slice(&number.to_be_bytes());
    }
    packet.extend_from_slice(question);
    if answer == Answer::Garbage {
        let mut bytes = [0; 40];
        Rng::new(0).fill(&mut bytes);
        packet.extend_from_slice(&bytes);
    }
    if let Some(address) = address {
        // The name is the question's; type A, class IN, for no time at all, four bytes.
        packet.extend_from_slice(&[0xC0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        packet.extend_from_slice(&address.octets());
    }
    Some(packet)
}
