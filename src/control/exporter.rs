//! A page of figures for Prometheus, over plain HTTP: one question for each connection.
//! Never here: what the figures are (see `prometheus`).

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::seats::Seats;
use super::{Mount, prometheus};
use crate::error::{Error, Result};

/// A few scrapers.
const CONNECTIONS_MAX: usize = 8;
/// A scraper's head has a dozen lines.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// Whoever connects asks at once.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// And takes the page at once: it is a few kilobytes.
const WRITE_WAIT: Duration = Duration::from_secs(5);

/// Serves the page until it is dropped.
pub struct Exporter {
    listener: TcpListener,
    address: SocketAddr,
    seats: Arc<Seats>,
    accepting: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Takes the address, before anything is mounted: one that is taken already is a mistake in the command.
    pub fn listen(address: SocketAddr) -> Result<TcpListener> {
        TcpListener::bind(address).map_err(|error| Error::io(format!("--metrics-listen {address}"), &error))
    }

    /// Answers on `listener` from now on.
    pub fn start(listener: TcpListener, mount: Arc<Mount>) -> Result<Self> {
        let failed = |error: io::Error| Error::io("serving metrics", &error);
        let address = listener.local_addr().map_err(failed)?;
        let seats = Seats::new(CONNECTIONS_MAX);
        let accepting = {
            let (listener, seats) = (listener.try_clone().map_err(failed)?, Arc::clone(&seats));
            let thread = thread::Builder::new().name("metrics".into());
            thread.spawn(move || accept_all(&listener, &seats, mount)).map_err(failed)?
        };
        Ok(Self { listener, address, seats, accepting: Some(accepting) })
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.seats.end();
        // Wakes the accepting thread.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.seats.wait_until_free();
    }
}

fn accept_all(listener: &TcpListener, seats: &Arc<Seats>, mount: Arc<Mount>) {
    let accept = || listener.accept().map(|(stream, _)| stream);
    // One too many is closed: a scraper comes again.
    seats.accept_all("metrics-conn", accept, drop, move |stream| {
        // An error is the end of a connection, which is the other side's to notice.
        let _ = converse(stream, &|| prometheus::text(&mount));
    });
}

/// One request, and its answer.
fn converse(mut stream: &TcpStream, page: &dyn Fn() -> String) -> io::Result<()> {
    let deadline = Instant::now() + REQUEST_WAIT;
    let mut head = Vec::new();
    let mut piece = [0; 2048];
    let asked = loop {
        match asked(&head) {
            Asked::Partial if head.len() < HEAD_BYTES_MAX => {}
            Asked::Partial => break Asked::Status("431 Request Header Fields Too Large"),
            asked => break asked,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            len => head.extend_from_slice(&piece[..len]),
        }
    };
    let (status, has_body, body) = match asked {
        Asked::Page { has_body } => ("200 OK", has_body, page()),
        Asked::Status(status) => (status, true, format!("{status}\n")),
        Asked::Partial => return Ok(()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        prometheus::CONTENT_TYPE,
        body.len(),
        if has_body { &*body } else { "" },
    );
    stream.set_write_timeout(Some(WRITE_WAIT))?;
    stream.write_all(answer.as_bytes())?;
    stream.shutdown(Shutdown::Write)
}

/// What a request's head asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// It has not all come yet.
    Partial,
    Page {
        has_body: bool,
    },
    /// Something else: this is the answer's status.
    Status(&'static str),
}

fn asked(head: &[u8]) -> Asked {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return Asked::Partial,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Asked::Status("400 Bad Request"),
    }
    let path = request.path.unwrap_or_default();
    match (request.method, path.split('?').next()) {
        (Some(method @ ("GET" | "HEAD")), Some("/metrics")) => Asked::Page { has_body: method == "GET" },
        (Some("GET" | "HEAD"), _) => Asked::Status("404 Not Found"),
        _ => Asked::Status("405 Method Not Allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_and_nothing_else() {
        for (head, expected) in [
            ("", Asked::Partial),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n", Asked::Partial),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Asked::Page { has_body: true }),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\n", Asked::Page { has_body: true }),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Asked::Page { has_body: false }),
            ("GET / HTTP/1.1\r\n\r\n", Asked::Status("404 Not Found")),
            ("POST /metrics HTTP/1.1\r\n\r\n", Asked::Status("405 Method Not Allowed")),
            ("\u{1}\r\n\r\n", Asked::Status("400 Bad Request")),
        ] {
            assert_eq!(asked(head.as_bytes()), expected, "{head:?}");
        }
    }

    #[test]
    fn whoever_sends_too_much_is_told_so() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
        client.write_all(&vec![b'x'; HEAD_BYTES_MAX]).unwrap();
        converse(&server, &String::new).unwrap();
        drop(server);
        let mut said = String::new();
        // Reset, where some of what was sent was not read.
        let _ = client.read_to_string(&mut said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{said}");
    }
}
