//! The origin over real sockets. What is timed is only ever asked to be slow enough: a busy machine can't break that.

use std::io::{BufRead as _, BufReader};

use proptest::prelude::*;

use super::super::noise::generated;
use super::*;

const SIZE: u64 = 300_000;
const SEED: u64 = 42;

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Short: how long to listen for an answer that must not come.
const GLANCE: Duration = Duration::from_millis(50);

fn config() -> ServerConfig {
    ServerConfig::default()
        .file("a b/film.mp4", Content::Generated { size_bytes: SIZE, seed: SEED })
        .file("notes.txt", b"some notes".to_vec())
}

fn server() -> Server {
    Server::start(config()).expect("a free port")
}

/// A connection as a client has it.
struct Client(BufReader<TcpStream>);

struct Response {
    status: u16,
    head: String,
    body: io::Result<Vec<u8>>,
}

impl Client {
    fn new(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a live socket");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, line: &str, headers: &str) {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        self.0.get_mut().write_all(head.as_bytes()).expect("a live socket");
    }

    fn receive(&mut self, with_body: bool) -> io::Result<Response> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head[9..12].parse().expect("a status");
        let mut response = Response { status, head, body: Ok(Vec::new()) };
        let len = response.header("Content-Length").expect("always given").parse().expect("a number");
        if with_body {
            let mut body = vec![0; len];
            response.body = self.0.read_exact(&mut body).map(|()| body);
        }
        Ok(response)
    }

    fn get(&mut self, path: &str, headers: &str) -> Response {
        self.send(&format!("GET {path}"), headers);
        self.receive(true).expect("a head")
    }

    /// Whatever still comes until the connection ends or stays silent for `GLANCE`.
    fn rest(&mut self) -> (Vec<u8>, io::Result<usize>) {
        self.0.get_ref().set_read_timeout(Some(GLANCE)).expect("a live socket");
        let mut bytes = Vec::new();
        let end = self.0.read_to_end(&mut bytes);
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).expect("a live socket");
        (bytes, end)
    }
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn bytes(self) -> Vec<u8> {
        self.body.expect("a whole body")
    }
}

fn is_silence(end: &io::Result<usize>) -> bool {
    matches!(end, Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}

#[test]
fn one_connection_serves_many_requests_and_all_are_counted() {
    let server = server();
    let mut client = Client::new(&server);
    assert_eq!(client.get("/a%20b/film.mp4", "").bytes(), generated(SEED, 0, SIZE as usize));
    let part = client.get("/a%20b/film.mp4", "Range: bytes=1001-2000\r\n");
    assert_eq!((part.status, part.header("Content-Range")), (206, Some("bytes 1001-2000/300000")));
    assert_eq!(part.bytes(), generated(SEED, 1001, 1000));
    client.send("HEAD /notes.txt", "");
    let head = client.receive(false).expect("a head");
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("10")));
    assert_eq!(client.get("/none", "").status, 404);
    let page = String::from_utf8(client.get("/", "").bytes()).expect("UTF-8");
    assert!(page.contains("<a href=\"a%20b/\">") && page.contains("<a href=\"notes.txt\">"), "{page}");

    let film = server.counts("a b/film.mp4");
    assert_eq!(film, Counts { requests: 2, heads: 0, body_bytes: SIZE + 1000 });
    assert_eq!(server.counts("notes.txt"), Counts { requests: 1, heads: 1, body_bytes: 0 });
    assert_eq!((server.total().requests, server.connections()), (5, 1));
    let ranges: Vec<_> = server.ranges().into_iter().map(|asked| (asked.path.to_string(), asked.range)).collect();
    let path = "a b/film.mp4".to_owned();
    assert_eq!(ranges, [(path.clone(), ByteRange::new(0, SIZE)), (path, ByteRange::new(1001, 2001))]);
    server.reset_counts();
    assert_eq!(server.total(), Counts::default());
}

#[test]
fn requests_may_be_sent_before_the_last_is_answered() {
    let server = server();
    let mut client = Client::new(&server);
    for _ in 0..3 {
        client.send("GET /notes.txt", "");
    }
    for _ in 0..3 {
        assert_eq!(client.receive(true).expect("a head").bytes(), b"some notes");
    }
}

#[test]
fn nonsense_is_refused_and_closed() {
    let server = server();
    let mut client = Client::new(&server);
    client.send("nonsense", "");
    let refused = client.receive(true).expect("a head");
    assert_eq!((refused.status, refused.header("Connection")), (400, Some("close")));
    assert!(matches!(client.rest(), (bytes, Ok(0)) if bytes.is_empty()));
}

#[test]
fn a_file_on_disk_is_served_as_it_is_now() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("film");
    std::fs::write(&path, b"first")?;
    let server = Server::start(ServerConfig::default().file("f", Content::Disk(path.clone())))?;
    let mut client = Client::new(&server);
    let first = client.get("/f", "");
    let etag = first.header("ETag").expect("files have one").to_owned();
    assert_eq!(first.bytes(), b"first");
    std::fs::write(&path, b"second one")?;
    assert_eq!(client.get("/f", &format!("If-Match: {etag}\r\n")).status, 412);
    assert_eq!(client.get("/f", "").bytes(), b"second one");
    std::fs::remove_file(&path)?;
    assert_eq!(client.get("/f", "").status, 404);
    Ok(())
}

#[test]
fn a_replaced_file_is_another_version() {
    let server = server();
    let mut client = Client::new(&server);
    let etag = client.get("/notes.txt", "").header("ETag").expect("files have one").to_owned();
    server.replace("notes.txt", b"other notes".to_vec());
    assert_eq!(client.get("/notes.txt", &format!("If-Match: {etag}\r\n")).status, 412);
    let changed = client.get("/notes.txt", &format!("If-Range: {etag}\r\nRange: bytes=0-1\r\n"));
    assert_eq!((changed.status, changed.bytes()), (200, b"other notes".to_vec()));
    assert!(server.remove("notes.txt"));
    assert_eq!(client.get("/notes.txt", "").status, 404);
}

#[test]
fn without_etags_the_time_tells_versions_apart() -> io::Result<()> {
    let server = Server::start(ServerConfig { has_etags: false, ..config() })?;
    let mut client = Client::new(&server);
    let first = client.get("/notes.txt", "");
    assert_eq!(first.header("ETag"), None);
    let since = format!("If-Unmodified-Since: {}\r\n", first.header("Last-Modified").expect("always given"));
    assert_eq!(client.get("/notes.txt", &since).status, 200);
    server.replace("notes.txt", b"other".to_vec());
    assert_eq!(client.get("/notes.txt", &since).status, 412);
    Ok(())
}

/// A server under an act, and a client that has received the head of bytes 100 to 1099 of the film.
fn under(act: Act) -> (Server, Client, Response) {
    let server = server();
    server.set_weather(move |_: &RequestInfo| act);
    let mut client = Client::new(&server);
    client.send("GET /a%20b/film.mp4", "Range: bytes=100-1099\r\n");
    let head = client.receive(false).expect("a head");
    (server, client, head)
}

#[test]
fn a_stalled_body_goes_silent_after_its_bytes() {
    let (_server, mut client, head) = under(Act::StallAfter(300));
    assert_eq!((head.status, head.header("Content-Length")), (206, Some("1000")));
    let (bytes, end) = client.rest();
    // All of it, unless the machine was too busy to send it within the glance.
    assert!(generated(SEED, 100, 300).starts_with(&bytes));
    assert!(is_silence(&end), "{end:?}");
}

#[test]
fn a_truncated_body_ends_cleanly_and_short() {
    let (_server, mut client, head) = under(Act::TruncateAfter(300));
    assert_eq!(head.header("Content-Length"), Some("1000"));
    let mut bytes = Vec::new();
    client.0.read_to_end(&mut bytes).expect("a clean end");
    assert_eq!(bytes, generated(SEED, 100, 300));
}

#[test]
fn a_reset_body_ends_in_an_error() {
    let (_server, mut client, _) = under(Act::ResetAfter(300));
    let mut bytes = Vec::new();
    let end = client.0.read_to_end(&mut bytes);
    assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    assert!(generated(SEED, 100, 300).starts_with(&bytes));
}

#[test]
fn a_flipped_byte_is_the_only_wrong_one() {
    let (server, mut client, _) = under(Act::FlipByte(150));
    let mut bytes = vec![0; 1000];
    client.0.read_exact(&mut bytes).expect("a whole body");
    let mut expected = generated(SEED, 100, 1000);
    expected[50] = !expected[50];
    assert_eq!(bytes, expected);
    server.set_weather(|_: &RequestInfo| Act::FlipByte(5000));
    assert_eq!(client.get("/a%20b/film.mp4", "Range: bytes=100-1099\r\n").bytes(), generated(SEED, 100, 1000));
}

#[test]
fn weather_knows_what_is_asked_and_how_often() {
    let server = server();
    server.set_weather(|request: &RequestInfo| match (&*request.path, request.number_of_path) {
        ("notes.txt", 0) => Act::Status(503, Some(7)),
        ("notes.txt", 1) => Act::Delay(Duration::from_millis(1)),
        _ if request.range == Some(ByteRange::new(5, 10)) => Act::IgnoreRange,
        _ => Act::Serve,
    });
    let mut client = Client::new(&server);
    let busy = client.get("/notes.txt", "");
    assert_eq!((busy.status, busy.header("Retry-After")), (503, Some("7")));
    assert_eq!(client.get("/notes.txt", "").bytes(), b"some notes");
    let whole = client.get("/a%20b/film.mp4", "Range: bytes=5-9\r\n");
    assert_eq!((whole.status, whole.bytes().len() as u64), (200, SIZE));
}

#[test]
fn while_it_hangs_nothing_is_answered_and_then_what_was_held_is_dropped() {
    let server = server();
    let mut old = Client::new(&server);
    assert_eq!(old.get("/notes.txt", "").status, 200);
    server.set_hanging(true);
    let mut new = Client::new(&server);
    let mut idle = Client::new(&server);
    old.send("GET /notes.txt", "");
    new.send("GET /notes.txt", "");
    while server.held() < 2 {
        thread::yield_now();
    }
    let (bytes, end) = new.rest();
    assert!(bytes.is_empty() && is_silence(&end), "{end:?}");
    server.set_hanging(false);
    for mut client in [old, new] {
        assert!(client.receive(true).is_err());
    }
    assert_eq!(idle.get("/notes.txt", "").status, 200);
    assert_eq!(server.total().requests, 4, "held requests count");
}

#[test]
fn shutdown_ends_whatever_is_under_way() -> io::Result<()> {
    let link = Link { rate_total: Some(1), ..Link::default() };
    let server = Server::start(ServerConfig { link, ..config() })?;
    server.set_weather(|request: &RequestInfo| match request.number {
        0 => Act::Hang,
        1 => Act::Delay(PATIENCE * 10),
        2 => Act::StallAfter(0),
        _ => Act::Serve,
    });
    let mut clients: Vec<_> = (0..4).map(|_| Client::new(&server)).collect();
    for client in &mut clients {
        client.send("GET /notes.txt", "");
    }
    clients.push(Client::new(&server));
    while server.total().requests < 4 {
        thread::yield_now();
    }
    let started = Instant::now();
    server.shutdown();
    assert!(started.elapsed() < PATIENCE, "nothing is waited out");
    assert_eq!(server.connections_open(), 0);
    for mut client in clients {
        assert!(client.receive(true).and_then(|response| response.body).is_err());
    }
    assert!(TcpStream::connect(server.address()).is_err());
    let port = server.address().port();
    drop(server);
    let again = Server::start(ServerConfig { port, ..config() })?;
    assert_eq!(Client::new(&again).get("/notes.txt", "").status, 200);
    Ok(())
}

#[test]
fn a_far_origin_is_never_nearer_than_its_link() -> io::Result<()> {
    const ROUND_TRIP: Duration = Duration::from_millis(15);
    let link = Link { round_trip: ROUND_TRIP, rate_per_connection: Some(2_000_000), rate_total: Some(3_000_000) };
    let server = Server::start(ServerConfig { link, ..config() })?;
    let started = Instant::now();
    let mut client = Client::new(&server);
    assert_eq!(client.get("/notes.txt", "").status, 200);
    assert!(started.elapsed() >= 2 * ROUND_TRIP, "connecting takes one, asking another");
    let started = Instant::now();
    assert_eq!(client.get("/a%20b/film.mp4", "").bytes(), generated(SEED, 0, SIZE as usize));
    assert!(started.elapsed() >= ROUND_TRIP + Duration::from_millis(150), "300 kB at 2 MB/s");
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(Client::new(&server).get("/a%20b/film.mp4", "").body.is_ok()));
        }
    });
    assert!(started.elapsed() >= Duration::from_millis(295), "900 kB at 3 MB/s");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any file, any range, at any rate: the bytes asked for.
    #[test]
    fn every_range_is_served_to_the_byte(seed: u64, size in 1u64..400_000, a: u64, b: u64, paced: bool) {
        let (start, end) = (a % size, b % size);
        let (start, end) = (start.min(end), start.max(end));
        let link = Link { rate_total: paced.then_some(1 << 30), ..Link::default() };
        let config = ServerConfig { link, ..ServerConfig::default() };
        let server = Server::start(config.file("f", Content::Generated { size_bytes: size, seed })).expect("a free port");
        let part = Client::new(&server).get("/f", &format!("Range: bytes={start}-{end}\r\n"));
        prop_assert_eq!(part.bytes(), generated(seed, start, (end - start + 1) as usize));
    }
}
