//! An HTTP/1.1 origin of plain files behind a simulated link, with weather: accepts, listens, and sends.
//! Never here: what is answered (`answer.rs`), how fast (`link.rs`), and what goes wrong (`weather.rs`).
//!
//! One thread for each connection, all within one scope: when the accepting thread has ended, so have all.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use socket2::SockRef;

use super::answer::{self, Answer};
use super::connections::{CONNECTIONS_MAX, Connections, Seat};
use super::http::{self, HEAD_BYTES_MAX, Parsed, Request};
use super::link::{Link, Pacer};
use super::page;
use super::site::{Content, Found, Opened, Site};
use super::tally::{Asked, Counts, Tally};
use super::weather::{Act, Fair, RequestInfo, Weather};
use crate::range::ByteRange;

/// A connection's thread holds its buffers on the heap; this is some times what it needs.
const STACK_BYTES: usize = 256 << 10;

/// After a failure to accept (no descriptors left), before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What a server begins with.
pub struct ServerConfig {
    /// On 127.0.0.1; 0 takes a free one. A given one lets an origin come back where it was.
    pub port: u16,
    /// How far away it seems.
    pub link: Link,
    /// Whether files have a strong `ETag`; without it `Last-Modified` alone tells versions apart.
    pub has_etags: bool,
    /// By decoded path, `/`-separated; folders are what the paths imply.
    pub files: Vec<(String, Content)>,
    /// What goes wrong from the first request on.
    pub weather: Arc<dyn Weather>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { port: 0, link: Link::default(), has_etags: true, files: Vec::new(), weather: Arc::new(Fair) }
    }
}

impl ServerConfig {
    /// The same with one more file.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }
}

/// A running origin. Dropping it ends it.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: TcpListener,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// What all connections share.
struct Shared {
    site: Site,
    has_etags: bool,
    pacer: Pacer,
    piece_bytes: usize,
    tally: Tally,
    weather: RwLock<Arc<dyn Weather>>,
    connections: Connections,
}

impl Server {
    /// Listens on 127.0.0.1 from now on.
    pub fn start(config: ServerConfig) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, config.port))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            site: Site::new(config.files),
            has_etags: config.has_etags,
            pacer: Pacer::new(config.link),
            piece_bytes: config.link.piece_bytes(),
            tally: Tally::default(),
            weather: RwLock::new(config.weather),
            connections: Connections::new(CONNECTIONS_MAX),
        });
        let accepting = {
            let (listener, shared) = (listener.try_clone()?, Arc::clone(&shared));
            thread::Builder::new().name("origin".into()).spawn(move || accept_all(&listener, &shared))?
        };
        Ok(Self { shared, address, listener, accepting: Mutex::new(Some(accepting)) })
    }

    /// `http://127.0.0.1:PORT/`: its root folder.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The URL of a decoded path.
    pub fn url_of(&self, path: &str) -> String {
        format!("{}{}", self.url(), page::encode_path(path.trim_start_matches('/')))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a file, or replaces it: a new `ETag` and a later time, even with the same bytes.
    /// Answers under way end with the bytes they began with.
    pub fn replace(&self, path: &str, content: impl Into<Content>) {
        self.shared.site.put(path, content.into());
    }

    /// Takes a file away; whether there was one.
    pub fn remove(&self, path: &str) -> bool {
        self.shared.site.remove(path)
    }

    /// What goes wrong from the next request on.
    pub fn set_weather(&self, weather: impl Weather + 'static) {
        *self.shared.weather.write() = Arc::new(weather);
    }

    /// While on, nothing is answered, and bodies under way stall; new connections are accepted, and hang.
    /// Off again, the connections of all requests held so far are dropped.
    pub fn set_hanging(&self, hanging: bool) {
        self.shared.connections.set_hanging(hanging);
    }

    /// What was asked of one decoded path (without its leading `/`) and sent for it.
    pub fn counts(&self, path: &str) -> Counts {
        self.shared.tally.of(path)
    }

    /// What was asked and sent in all.
    pub fn total(&self) -> Counts {
        self.shared.tally.total()
    }

    /// The ranges GETs asked for, in order of their coming: the first 100,000.
    pub fn ranges(&self) -> Vec<Asked> {
        self.shared.tally.ranges()
    }

    /// Connections accepted.
    pub fn connections(&self) -> u64 {
        self.shared.tally.connections()
    }

    /// Connections open right now.
    pub fn connections_open(&self) -> usize {
        self.shared.connections.len()
    }

    /// Requests and bodies held right now by `set_hanging`.
    pub fn held(&self) -> usize {
        self.shared.connections.held()
    }

    /// All counts, and the numbers of requests the weather sees, begin anew.
    pub fn reset_counts(&self) {
        self.shared.tally.reset();
    }

    /// Ends all connections and threads, and returns when they have ended. Once is enough; more do nothing.
    pub fn shutdown(&self) {
        let Some(accepting) = self.accepting.lock().take() else { return };
        self.shared.connections.stop();
        // Wakes the accepting thread; it fails only if nothing listens any more.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if accepting.join().is_err() {
            log::error!("the demo's origin: a connection's thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn accept_all(listener: &TcpListener, shared: &Shared) {
    thread::scope(|scope| {
        while !shared.connections.is_stopping() {
            let Ok((stream, _)) = listener.accept() else {
                // Stopping is the usual reason; else it may pass.
                let _ = shared.connections.wait(ACCEPT_PAUSE);
                continue;
            };
            let Some(seat) = shared.connections.admit(stream) else { continue };
            shared.tally.connection();
            let thread = thread::Builder::new().name("origin-conn".into()).stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn_scoped(scope, move || {
                // An error here is the end of a connection, which is the client's to notice.
                let _ = converse(&seat, shared);
            }) {
                log::warn!("the demo's origin: no thread for a connection: {error}");
            }
        }
    });
}

/// Answers one request after another until either side has had enough.
fn converse(seat: &Seat, shared: &Shared) -> io::Result<()> {
    let connected = Instant::now();
    // A head and the pieces of a body are separate writes; none waits for the other's acknowledgement.
    seat.stream().set_nodelay(true)?;
    let mut requests = Requests { stream: seat.stream(), received: Vec::new() };
    let mut buffer = Vec::new();
    while let Some(request) = requests.next()? {
        let asked = Instant::now();
        let request = match request {
            Ok(request) => request,
            Err(status) => return send_head(seat, &Answer::empty(status, Vec::new()), false),
        };
        shared.respond(seat, &request, shared.pacer.link().answer_at(connected, asked), &mut buffer)?;
        if !request.keep_alive {
            break;
        }
    }
    Ok(())
}

/// The requests of one connection, one behind the other.
struct Requests<'a> {
    stream: &'a TcpStream,
    /// Not yet parsed.
    received: Vec<u8>,
}

impl Requests<'_> {
    /// The next one, or the status that refuses it; `None` when the client has closed.
    fn next(&mut self) -> io::Result<Option<Result<Request, u16>>> {
        loop {
            match http::parse_request(&self.received) {
                Parsed::Complete(request, head_bytes) => {
                    self.received.drain(..head_bytes);
                    return Ok(Some(Ok(request)));
                }
                Parsed::Bad(status) => return Ok(Some(Err(status))),
                Parsed::Partial => {}
            }
            let room = (HEAD_BYTES_MAX - self.received.len()) as u64;
            // Reads what is there, not until `room` is full: one read for a usual head.
            let mut piece = [0; 4096];
            let len = self.stream.take(room).read(&mut piece)?;
            if len == 0 {
                return Ok(None);
            }
            self.received.extend_from_slice(&piece[..len]);
        }
    }
}

impl Shared {
    /// Counts a request, asks the weather, waits until the answer may have come over the link, and sends it.
    /// An error means that the connection is over.
    fn respond(&self, seat: &Seat, request: &Request, answer_at: Instant, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut found = self.site.find(&request.path);
        if let (Found::File(file), false) = (&mut found, self.has_etags) {
            file.etag = None;
        }
        let path: Arc<str> = request.path.as_str().into();
        let is_head = request.method == http::Method::Head;
        let range = answer::range_asked(request, &found);
        let (number, number_of_path) = self.tally.request(&path, is_head, range);
        let info = RequestInfo { path, number, number_of_path, is_head, range };
        // Not under the lock: what decides may take its time, or set other weather.
        let weather = Arc::clone(&self.weather.read());
        let act = weather.on_request(&info);

        seat.pass()?;
        self.connections.wait_until(answer_at)?;
        match act {
            Act::Delay(time) => self.connections.wait(time)?,
            Act::Hang => return Err(seat.hang()),
            _ => {}
        }
        seat.pass()?;
        let answer = answer::answer(request, found, act);
        send_head(seat, &answer, request.keep_alive)?;
        let Some((file, range)) = answer.body else { return Ok(()) };
        let cut = match act {
            Act::StallAfter(bytes) | Act::ResetAfter(bytes) | Act::TruncateAfter(bytes) => {
                ByteRange::at(range.start, bytes).intersect(range)
            }
            _ => range,
        };
        let inverted = match act {
            Act::FlipByte(offset) => ByteRange::at(offset, 1),
            Act::OtherVersion(_) => range,
            _ => ByteRange::new(0, 0),
        };
        self.send_body(seat, &info.path, &Body { file, range: cut, inverted }, buffer)?;
        match act {
            Act::StallAfter(_) => Err(seat.hang()),
            Act::ResetAfter(_) => seat.reset_on_close().and(Err(io::ErrorKind::ConnectionReset.into())),
            Act::TruncateAfter(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn send_body(&self, seat: &Seat, path: &Arc<str>, body: &Body, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut pace = self.pacer.begin();
        buffer.resize(self.piece_bytes, 0);
        let mut at = body.range.start;
        while at < body.range.end {
            let piece = ByteRange::at(at, self.piece_bytes as u64).intersect(body.range);
            let bytes = &mut buffer[..piece.len() as usize];
            body.fill(piece, bytes)?;
            if let Some(due) = pace.due(piece.len()) {
                self.connections.wait_until(due)?;
            }
            seat.pass()?;
            self.tally.body(path, piece.len());
            seat.stream().write_all(bytes)?;
            at = piece.end;
        }
        Ok(())
    }
}

/// What is sent behind a head.
struct Body {
    file: Opened,
    range: ByteRange,
    /// Bytes of the file that are sent wrong.
    inverted: ByteRange,
}

impl Body {
    fn fill(&self, piece: ByteRange, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(piece.start, bytes)?;
        let inverted = self.inverted.intersect(piece);
        if !inverted.is_empty() {
            let from = (inverted.start - piece.start) as usize;
            bytes[from..from + inverted.len() as usize].iter_mut().for_each(|byte| *byte = !*byte);
        }
        Ok(())
    }
}

fn send_head(seat: &Seat, answer: &Answer, keep_alive: bool) -> io::Result<()> {
    seat.stream().write_all(http::write_head(answer.status, &answer.headers, keep_alive).as_bytes())
}

#[cfg(test)]
mod tests;
