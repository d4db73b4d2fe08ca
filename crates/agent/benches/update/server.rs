//! A server of one file, as cheap as one can be: both who is measured and the peer are served by it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rustix::fs::sendfile;

/// What is sent at once, in bytes.
const PIECE: u64 = 256 << 10;

pub(crate) struct Server {
    url: String,
    sent: Arc<AtomicU64>,
}

impl Server {
    /// On a free port, until the process ends. With a send buffer of so many bytes, so that what counts as sent has been; by
    /// itself the kernel takes some megabytes.
    pub(crate) fn start(path: &Path, buffer: Option<usize>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}/package", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicU64::new(0));
        let (path, count) = (path.to_owned(), Arc::clone(&sent));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, path, count) = (stream.unwrap(), path.clone(), Arc::clone(&count));
                if let Some(buffer) = buffer {
                    rustix::net::sockopt::set_socket_send_buffer_size(&stream, buffer).unwrap();
                }
                // A client that is killed ends its connection.
                thread::spawn(move || serve(stream, &path, &count).ok());
            }
        });
        Self { url, sent }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Bytes of the file that were given to connections so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, path: &Path, sent: &AtomicU64) -> std::io::Result<()> {
    let (mut line, mut from) = (String::new(), 0);
    let mut reader = BufReader::new(stream.try_clone()?);
    while reader.read_line(&mut line)? > 2 {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end().trim_end_matches('-').parse().unwrap();
        }
        line.clear();
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let status = if from > 0 {
        format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{size}", size - 1)
    } else {
        "200 OK".to_owned()
    };
    let length = size - from;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n"
    )?;
    let mut at = from;
    while at < size {
        let piece = usize::try_from(PIECE.min(size - at)).unwrap();
        let count = sendfile(&stream, &file, Some(&mut at), piece)?;
        sent.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(())
}
