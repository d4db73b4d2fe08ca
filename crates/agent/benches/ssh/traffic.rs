//! What goes through: servers on the device's side, clients on the other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

/// Bytes of one bulk transfer.
pub(crate) const BULK: usize = 256 << 20;
const PIECE: usize = 256 << 10;
/// Bytes of a small request, and of its answer.
const SMALL: usize = 64;

/// Serves each connection in a thread of its own; its port.
fn serve(each: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || each(stream.unwrap()));
        }
    });
    port
}

/// A target that reads to the end, then says so by one byte.
pub(crate) fn sink() -> u16 {
    serve(|mut stream| {
        let mut buffer = vec![0; PIECE];
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
        stream.write_all(b".").ok();
    })
}

/// A target that sends [`BULK`] bytes.
pub(crate) fn source() -> u16 {
    serve(|mut stream| {
        let piece = vec![7; PIECE];
        for _ in 0..BULK / PIECE {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    })
}

/// A target that sends back what comes.
pub(crate) fn echo() -> u16 {
    serve(|mut stream| {
        stream.set_nodelay(true).unwrap();
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Seconds until a sink behind `port` has [`BULK`] bytes.
pub(crate) fn push(port: u16) -> f64 {
    let start = Instant::now();
    let mut stream = dial(port);
    let piece = vec![7; PIECE];
    for _ in 0..BULK / PIECE {
        stream.write_all(&piece).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    start.elapsed().as_secs_f64()
}

/// Seconds until all from a source behind `port` is here.
pub(crate) fn pull(port: u16) -> f64 {
    let start = Instant::now();
    let mut stream = dial(port);
    let (mut buffer, mut sum) = (vec![0; PIECE], 0);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        sum += count;
    }
    assert_eq!(sum, BULK);
    start.elapsed().as_secs_f64()
}

/// Requests answered in a second by an echo behind `port`, over so many connections, each one after the other.
pub(crate) fn ask(port: u16, connections: usize, each: usize) -> f64 {
    let streams: Vec<_> = (0..connections)
        .map(|_| {
            let mut stream = dial(port);
            question(&mut stream);
            stream
        })
        .collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || (0..each).for_each(|_| question(&mut stream)));
        }
    });
    (connections * each) as f64 / start.elapsed().as_secs_f64()
}

fn question(stream: &mut TcpStream) {
    let mut answer = [0; SMALL];
    stream.write_all(&[7; SMALL]).unwrap();
    stream.read_exact(&mut answer).unwrap();
}

/// Connections in a second, one after the other, each with one request.
pub(crate) fn connect(port: u16, count: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        question(&mut dial(port));
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// So many connections that are open and silent.
pub(crate) fn hold(port: u16, count: usize) -> Vec<TcpStream> {
    let open = || {
        let mut stream = dial(port);
        question(&mut stream);
        stream
    };
    std::iter::repeat_with(open).take(count).collect()
}
