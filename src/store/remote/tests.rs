//! The guard against servers that lie, break off, or say nothing. Each server is a thread and a script.

use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::*;
use crate::cancel::Cancel;
use crate::store::Version;

const ETAG: &str = "\"v1\"";
const FILE: &[u8] = b"0123456789abcdefghij";

/// What the script does with one request, given its head.
type Script = dyn Fn(&str, &mut TcpStream) + Send + Sync;

/// A server that answers each connection's one request by `script`; remembers the heads of the requests it got.
pub(super) struct Server {
    pub url: Url,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(script: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}/film.mkv", listener.local_addr().unwrap())).unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            for mut socket in listener.incoming().map_while(std::result::Result::ok) {
                let (script, kept) = (Arc::clone(&script), Arc::clone(&kept));
                thread::spawn(move || {
                    let mut reader = BufReader::new(socket.try_clone().unwrap());
                    let lines = reader.by_ref().lines().map_while(std::result::Result::ok);
                    let head: String = lines.take_while(|line| !line.is_empty()).map(|line| line + "\n").collect();
                    let length = head.to_lowercase().lines().find_map(|line| {
                        line.strip_prefix("content-length: ").and_then(|length| length.parse::<u64>().ok())
                    });
                    // An answer over an unread request would be cut by a reset.
                    let _ = std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink());
                    kept.lock().unwrap().push(head.clone());
                    script(&head, &mut socket);
                });
            }
        });
        Self { url, heads }
    }

    /// Always the same answer, then the connection is closed.
    fn always(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, socket| socket.write_all(&answer).unwrap_or(()))
    }

    fn remote(&self) -> Remote {
        Remote::new(&self.url, &Access::plain()).unwrap()
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

pub(super) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(super) fn patience() -> Patience {
    Patience { stall: Duration::from_secs(5), cancel: Cancel::new() }
}

fn expected() -> Stat {
    Stat { size_bytes: FILE.len() as u64, modified: None, version: Version::etag(ETAG) }
}

fn read_with(remote: &Remote, range: ByteRange, patience: &Patience) -> Result<Vec<u8>> {
    let mut body = remote.read("", &expected(), range, patience)?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next()? {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Reads bytes 5 to 9.
fn read(server: &Server) -> Result<Vec<u8>> {
    read_with(&server.remote(), ByteRange::new(5, 10), &patience())
}

fn kind_of(answer: impl Into<Vec<u8>>) -> Option<Kind> {
    let error = read(&Server::always(answer)).err()?;
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(error.to_string().contains("/film.mkv"), "{error}");
    Some(error.kind())
}

const GOOD: &str = "Content-Range: bytes 5-9/20\r\nContent-Length: 5\r\nETag: \"v1\"\r\n";

#[test]
fn a_good_answer_is_passed_on() {
    // A header OpenDAL could not parse does no harm.
    let headers = format!("{GOOD}Last-Modified: yesterday\r\nContent-MD5: \u{1}\r\n").replace('\u{1}', "?");
    let server = Server::always(answer("206 Partial Content", &headers, &FILE[5..10]));
    assert_eq!(read(&server).unwrap(), &FILE[5..10]);
    let head = server.heads()[0].to_lowercase();
    for line in [
        "get /film.mkv ",
        "range: bytes=5-9\n",
        "if-match: \"v1\"\n",
        "accept-encoding: identity\n",
        "user-agent: reelfs/",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
}

#[test]
fn a_server_that_ignores_ranges_is_refused() {
    let headers = "Content-Length: 20\r\nETag: \"v1\"\r\n";
    assert_eq!(kind_of(answer("200 OK", headers, FILE)), Some(Kind::Unsupported));
    // Unless the whole file was asked for.
    let server = Server::always(answer("200 OK", headers, FILE));
    assert_eq!(read_with(&server.remote(), ByteRange::new(0, 20), &patience()).unwrap(), FILE);
}

#[test]
fn answers_that_prove_nothing_are_refused() {
    let partial = |headers: &str, body: &[u8]| kind_of(answer("206 Partial Content", headers, body));
    let shifted = GOOD.replace("5-9/", "4-8/");
    assert_eq!(partial(&shifted, &FILE[4..9]), Some(Kind::Unsupported));
    assert_eq!(partial("ETag: \"v1\"\r\nContent-Length: 5\r\n", &FILE[5..10]), Some(Kind::Unsupported));
    assert_eq!(partial(&GOOD.replace("/20", "/21"), &FILE[5..10]), Some(Kind::Changed));
    assert_eq!(partial(&GOOD.replace("v1", "v2"), &FILE[5..10]), Some(Kind::Changed));
    assert_eq!(partial(&GOOD.replace("Content-Length: 5", "Content-Length: 7"), FILE), Some(Kind::Unsupported));
    assert_eq!(partial(&format!("{GOOD}Content-Encoding: gzip\r\n"), &FILE[5..10]), Some(Kind::Unsupported));
}

/// What the answer does not tell is asked for, once its bytes are on their way.
#[test]
fn versions_that_an_answer_does_not_tell_are_asked_for() {
    let mute = GOOD.replace("ETag: \"v1\"\r\n", "");
    for (now, kind) in [("\"v1\"", None), ("v1", None), ("\"v2\"", Some(Kind::Changed)), ("v2", Some(Kind::Changed))] {
        let mute = mute.clone();
        let server = Server::start(move |head, socket| {
            let told = answer("200 OK", &format!("Content-Length: 20\r\nETag: {now}\r\n"), b"");
            let bytes = answer("206 Partial Content", &mute, &FILE[5..10]);
            socket.write_all(&if head.starts_with("HEAD") { told } else { bytes }).unwrap();
        });
        let expected = Stat { version: Version::etag(now.replace('2', "1").as_str()), ..expected() };
        let read = server.remote().read("", &expected, ByteRange::new(5, 10), &patience());
        assert_eq!(read.err().map(|error| error.kind()), kind, "{now}");
        let heads = server.heads();
        assert!(heads[0].starts_with("GET") && heads[1].starts_with("HEAD") && heads.len() == 2, "{heads:?}");
        assert_eq!(heads[0].contains("if-match"), now.starts_with('"'), "{heads:?}");
    }
}

/// Else first contact and stat would tell two versions of one file.
#[test]
fn versions_that_head_or_get_alone_tells_are_found_by_stat_and_begin() {
    for teller in ["HEAD", "GET"] {
        let server = Server::start(move |head, socket| {
            let etag = if head.starts_with(teller) { "ETag: \"v1\"\r\n" } else { "" };
            let reply = if head.starts_with("HEAD") {
                answer("200 OK", &format!("Content-Length: 20\r\n{etag}"), b"")
            } else {
                let last = if head.contains("bytes=0-0\n") { 0 } else { 4 };
                let length = last + 1;
                let headers = format!("Content-Range: bytes 0-{last}/20\r\nContent-Length: {length}\r\n{etag}");
                answer("206 Partial Content", &headers, &FILE[..length])
            };
            socket.write_all(&reply).unwrap();
        });
        assert_eq!(server.remote().stat("", &patience()).unwrap().version, Version::etag(ETAG), "{teller}");
        let begun = server.remote().begin("", Section::First(5), &patience()).unwrap().unwrap();
        assert_eq!((begun.stat.version, begun.range), (Version::etag(ETAG), ByteRange::new(0, 5)), "{teller}");
    }
}

/// Bytes of a file that was replaced before its version was asked for are not the new version's.
#[test]
fn first_bytes_and_a_version_told_by_head_are_of_one_file() {
    for changes in [1, usize::MAX] {
        let (gets, heads) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let server = Server::start(move |head, socket| {
            // The file is another one after its first bytes were sent; or after each question.
            let version = if head.starts_with("HEAD") {
                heads.fetch_add(1, Ordering::Relaxed) + 1
            } else {
                gets.fetch_add(1, Ordering::Relaxed)
            }
            .min(changes);
            let reply = if head.starts_with("HEAD") {
                answer("200 OK", &format!("Content-Length: 20\r\nETag: \"v{version}\"\r\n"), b"")
            } else {
                let headers = "Content-Range: bytes 0-4/20\r\nContent-Length: 5\r\n";
                answer("206 Partial Content", headers, format!("text{version}").as_bytes())
            };
            socket.write_all(&reply).unwrap();
        });
        let begun = server.remote().begin("", Section::First(5), &patience()).unwrap();
        if changes > 1 {
            assert!(begun.is_none(), "it changes all the time");
            continue;
        }
        let mut begun = begun.unwrap();
        assert_eq!(begun.stat.version, Version::etag("\"v1\""));
        assert_eq!(begun.body.next().unwrap().unwrap(), "text1");
    }
}

#[test]
fn bodies_of_the_wrong_length_never_end_cleanly() {
    assert_eq!(kind_of(answer("206 Partial Content", GOOD, &FILE[5..8])), Some(Kind::Unreachable));
    let chunked = GOOD.replace("Content-Length: 5", "Transfer-Encoding: chunked");
    let body = |text: &str| kind_of(answer("206 Partial Content", &chunked, text.as_bytes()));
    assert_eq!(body("5\r\n56789\r\n0\r\n\r\n"), None);
    assert_eq!(body("3\r\n567\r\n0\r\n\r\n"), Some(Kind::Unreachable));
    assert_eq!(body("3\r\n567\r\n"), Some(Kind::Unreachable));
    assert_eq!(body("5\r\n56789\r\n1\r\na\r\n0\r\n\r\n"), Some(Kind::Unsupported));
    // No length at all: the end of the connection is the end of the body.
    let bare = GOOD.replace("Content-Length: 5\r\n", "");
    assert_eq!(kind_of(answer("206 Partial Content", &bare, &FILE[5..10])), None);
    assert_eq!(kind_of(answer("206 Partial Content", &bare, &FILE[5..7])), Some(Kind::Unreachable));
    assert_eq!(kind_of(answer("206 Partial Content", &bare, &FILE[5..12])), Some(Kind::Unsupported));
}

#[test]
fn statuses_become_kinds() {
    for (status, kind) in [
        ("404 Not Found", Kind::Missing),
        ("403 Forbidden", Kind::Denied),
        ("412 Precondition Failed", Kind::Changed),
        ("416 Range Not Satisfiable", Kind::Changed),
        ("500 Internal Server Error", Kind::Busy),
        ("405 Method Not Allowed", Kind::Unsupported),
    ] {
        assert_eq!(kind_of(answer(status, "Content-Length: 0\r\n", b"")), Some(kind), "{status}");
    }
    let server = Server::always(answer("429 Too Many Requests", "Retry-After: 3\r\nContent-Length: 0\r\n", b""));
    let error = read(&server).unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (Kind::Busy, Some(Duration::from_secs(3))));
}

#[test]
fn a_lost_connection_may_pass() {
    // Refused: the port was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused =
        Remote::new(&Url::parse(&format!("http://127.0.0.1:{port}/film.mkv")).unwrap(), &Access::plain()).unwrap();
    let error = read_with(&refused, ByteRange::new(5, 10), &patience()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("refused"), "{error}");
    // Closed without an answer, and reset in the middle of one.
    assert_eq!(kind_of(""), Some(Kind::Unreachable));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/film.mkv", listener.local_addr().unwrap())).unwrap();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.peek(&mut [0]).unwrap();
        socket.write_all(&answer("206 Partial Content", GOOD, &FILE[5..7])).unwrap();
        // Closed with the request unread: the kernel sends a reset.
    });
    let error =
        read_with(&Remote::new(&url, &Access::plain()).unwrap(), ByteRange::new(5, 10), &patience()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(kind_of("SSH-2.0-OpenSSH_9.2\r\n"), Some(Kind::Unreachable));
}

/// Sends `part` and then nothing for a long time.
fn silent_after(part: Vec<u8>) -> Server {
    Server::start(move |_, socket| {
        socket.write_all(&part).unwrap();
        thread::sleep(Duration::from_secs(30));
    })
}

#[test]
fn silence_ends_in_time() {
    let stall = Duration::from_millis(200);
    for part in [Vec::new(), answer("206 Partial Content", GOOD, &FILE[5..7])] {
        let server = silent_after(part);
        let started = Instant::now();
        let patience = Patience { stall, cancel: Cancel::new() };
        let error = read_with(&server.remote(), ByteRange::new(5, 10), &patience).unwrap_err();
        assert_eq!(error.kind(), Kind::TimedOut);
        assert!(started.elapsed() >= stall && started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[test]
fn a_slow_but_steady_body_is_no_silence() {
    let server = Server::start(|_, socket| {
        socket.write_all(&answer("206 Partial Content", GOOD, b"")).unwrap();
        for byte in &FILE[5..10] {
            thread::sleep(Duration::from_millis(150));
            socket.write_all(&[*byte]).unwrap();
        }
    });
    let patience = Patience { stall: Duration::from_millis(500), cancel: Cancel::new() };
    assert_eq!(read_with(&server.remote(), ByteRange::new(5, 10), &patience).unwrap(), &FILE[5..10]);
}

#[test]
fn a_cancelled_read_ends_at_once() {
    for part in [Vec::new(), answer("206 Partial Content", GOOD, &FILE[5..7])] {
        let server = silent_after(part);
        let patience = Patience { stall: Duration::from_secs(20), cancel: Cancel::new() };
        let cancel = patience.cancel.clone();
        let canceller = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            cancel.cancel();
            Instant::now()
        });
        let error = read_with(&server.remote(), ByteRange::new(5, 10), &patience).unwrap_err();
        let ended = Instant::now();
        assert_eq!(error.kind(), Kind::Cancelled);
        let late = ended.saturating_duration_since(canceller.join().unwrap());
        assert!(late < Duration::from_millis(500), "{late:?}");
    }
}

/// The password is for the host it was given for.
#[test]
fn redirects_are_followed_and_passwords_stay_home() {
    let target = Server::always(answer("206 Partial Content", GOOD, &FILE[5..10]));
    let location = format!("Location: {}\r\nContent-Length: 0\r\n", target.url);
    let server = Server::always(answer("302 Found", &location, b""));
    let mut url = server.url.clone();
    url.set_username("user").unwrap();
    url.set_password(Some("p:w%")).unwrap();
    let remote = Remote::new(&url, &Access::plain()).unwrap();
    assert_eq!(read_with(&remote, ByteRange::new(5, 10), &patience()).unwrap(), &FILE[5..10]);
    assert!(
        server.heads()[0].contains(
            "Basic dXNlcjpwOncl
"
        ),
        "user:p:w% in base64: {:?}",
        server.heads()
    );
    assert!(!target.heads()[0].to_lowercase().contains("authorization"), "{:?}", target.heads());
    assert!(target.heads()[0].contains("bytes=5-9"));

    let endless = Server::start(|_, socket| {
        socket.write_all(&answer("302 Found", "Location: /film.mkv\r\nContent-Length: 0\r\n", b"")).unwrap();
    });
    assert_eq!(read(&endless).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn credentials_are_never_shown() {
    let server = Server::always(answer("401 Unauthorized", "Content-Length: 0\r\n", b""));
    let mut url = server.url.clone();
    url.set_username("alice").unwrap();
    url.set_password(Some("secret")).unwrap();
    url.set_query(Some("signature=hidden"));
    let remote = Remote::new(&url, &Access::plain()).unwrap();
    let errors = [
        remote.stat("", &patience()).unwrap_err(),
        remote.page("", Form::Json, &patience()).err().unwrap(),
        read_with(&remote, ByteRange::new(0, 5), &patience()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Denied);
        let text = format!("{error} {error:?}");
        assert!(!["alice", "secret", "hidden"].iter().any(|word| text.contains(word)), "{text}");
    }
    assert!(server.heads().iter().all(|head| head.contains("/film.mkv?signature=hidden ")));
}

#[test]
fn stat_asks_with_head_or_else_for_one_byte() {
    let headers = "Content-Length: 20\r\nETag: \"v1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let stat = Server::always(answer("200 OK", headers, b"")).remote().stat("", &patience()).unwrap();
    assert_eq!((stat.size_bytes, stat.version), (20, Version::etag(ETAG)));
    assert_eq!(stat.modified, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));

    for refusal in [
        "405 Method Not Allowed",
        "501 Not Implemented",
        "403 Forbidden",
        "400 Bad Request",
        "404 Not Found",
        "500 Internal Server Error",
        "503 Service Unavailable",
        "200 OK",
    ] {
        let get_alone = Server::start(move |head, socket| {
            let get = answer("206 Partial Content", "Content-Range: bytes 0-0/20\r\nContent-Length: 1\r\n", b"0");
            let reply = if head.starts_with("HEAD") { answer(refusal, "", b"") } else { get };
            socket.write_all(&reply).unwrap();
        });
        let remote = get_alone.remote();
        for _ in 0..2 {
            assert_eq!(remote.stat("", &patience()).unwrap().size_bytes, 20, "{refusal}");
        }
        let asked = get_alone.heads().iter().filter(|head| head.starts_with("HEAD")).count();
        assert_eq!(asked, if refusal == "200 OK" { 2 } else { 1 }, "{refusal}: HEAD fails, so it is not tried again");
    }

    let empty = Server::start(|head, socket| {
        let reply = if head.starts_with("HEAD") { "405 Method Not Allowed" } else { "416 Range Not Satisfiable" };
        socket.write_all(&answer(reply, "Content-Range: bytes */0\r\nContent-Length: 0\r\n", b"")).unwrap();
    });
    assert_eq!(empty.remote().stat("", &patience()).unwrap().size_bytes, 0);
}

#[test]
fn stat_asks_again_where_head_is_never_answered_or_reset() {
    for is_silent in [true, false] {
        let server = Server::start(move |head, socket| {
            if head.starts_with("HEAD") {
                thread::sleep(Duration::from_secs(if is_silent { 60 } else { 0 }));
                return;
            }
            let headers = "Content-Range: bytes 0-0/20\r\nContent-Length: 1\r\n";
            socket.write_all(&answer("206 Partial Content", headers, b"0")).unwrap();
        });
        let patience = Patience { stall: Duration::from_secs(if is_silent { 2 } else { 20 }), cancel: Cancel::new() };
        assert_eq!(server.remote().stat("", &patience).unwrap().size_bytes, 20, "silent: {is_silent}");
    }
}

#[test]
fn stat_asks_once_where_get_would_be_refused_too() {
    for (status, headers, kind, requests) in [
        ("401 Unauthorized", "", Kind::Denied, 1),
        ("429 Too Many Requests", "", Kind::Busy, 1),
        ("503 Service Unavailable", "Retry-After: 1\r\n", Kind::Busy, 1),
        ("404 Not Found", "", Kind::Missing, 2),
        ("403 Forbidden", "", Kind::Denied, 2),
    ] {
        let server = Server::always(answer(status, &format!("{headers}Content-Length: 0\r\n"), b""));
        assert_eq!(server.remote().stat("", &patience()).unwrap_err().kind(), kind, "{status}");
        assert_eq!(server.heads().len(), requests, "{status}");
    }
}

#[test]
fn stat_takes_a_file_that_no_byte_can_be_had_of_for_empty() {
    let empty = Server::start(|head, socket| {
        let reply = if head.starts_with("HEAD") { "200 OK" } else { "416 Range Not Satisfiable" };
        socket.write_all(&answer(reply, "", b"")).unwrap();
    });
    assert_eq!(empty.remote().stat("", &patience()).unwrap().size_bytes, 0);
    let whole_only = Server::start(|head, socket| {
        let reply = if head.starts_with("HEAD") {
            answer("200 OK", "", b"")
        } else if head.contains("range:") {
            answer("416 Range Not Satisfiable", "", b"")
        } else {
            answer("200 OK", "Content-Length: 20\r\n", FILE)
        };
        socket.write_all(&reply).unwrap();
    });
    assert_eq!(
        whole_only.remote().stat("", &patience()).unwrap().size_bytes,
        20,
        "it refuses ranges, and is not empty"
    );
}

/// A server that sends at most `bytes_max` bytes of `FILE` at once.
fn capped(bytes_max: usize) -> Server {
    Server::start(move |head, socket| {
        let range = head.split_once("range: bytes=").and_then(|(_, rest)| rest.lines().next()?.split_once('-'));
        let (start, last): (usize, usize) = range.map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap();
        let end = (last + 1).min(start + bytes_max);
        let headers = format!(
            "Content-Range: bytes {start}-{}/20\r\nContent-Length: {}\r\nETag: \"v1\"\r\n",
            end - 1,
            end - start
        );
        socket.write_all(&answer("206 Partial Content", &headers, &FILE[start..end])).unwrap();
    })
}

#[test]
fn a_short_answer_is_taken_and_the_rest_asked_for() {
    let (server, range) = (capped(7), ByteRange::new(1, 19));
    assert_eq!(read_with(&server.remote(), range, &patience()).unwrap(), &FILE[1..19]);
    let ranges: Vec<_> = server
        .heads()
        .iter()
        .filter_map(|head| Some(head.split_once("range: ")?.1.lines().next()?.to_owned()))
        .collect();
    assert_eq!(ranges, ["bytes=1-18", "bytes=8-18", "bytes=15-18"]);
    let server =
        Server::always(answer("206 Partial Content", &GOOD.replace("5-9/", "5-7/").replace(": 5", ": 3"), &FILE[5..7]));
    assert_eq!(read(&server).unwrap_err().kind(), Kind::Unreachable, "short of what it announced");
    let server =
        Server::always(answer("206 Partial Content", &GOOD.replace("5-9/", "5-7/").replace(": 5", ": 3"), &FILE[5..8]));
    assert_eq!(read(&server).unwrap_err().kind(), Kind::Unsupported, "the same part again");
}

#[test]
fn keys_are_encoded_to_the_letter_and_cannot_climb() {
    let remote = Remote::new(&Url::parse("http://host/a%20b/").unwrap(), &Access::plain()).unwrap();
    let url = |key: &str| remote.url(key).map(String::from).ok();
    assert_eq!(url(""), Some("http://host/a%20b/".into()));
    assert_eq!(url(" x/ö?#%.mkv "), Some("http://host/a%20b/%20x/%C3%B6%3F%23%25.mkv%20".into()));
    assert_eq!(url("sub/"), Some("http://host/a%20b/sub/".into()));
    assert_eq!(url("%2e%2e/x"), Some("http://host/a%20b/%252e%252e/x".into()));
    for bad in ["..", "a/../b", "./a", "/a", "a\0"] {
        assert_eq!(url(bad), None, "{bad:?}");
    }
    let server = Server::always(answer("206 Partial Content", GOOD, &FILE[5..10]));
    let place = server.remote().at(&server.url.join("/films/").unwrap());
    for key in [" a//b ", " ", "sub/\n"] {
        place.read(key, &expected(), ByteRange::new(5, 10), &patience()).unwrap();
    }
    let asked: Vec<_> = server.heads().iter().filter_map(|head| head.lines().next().map(str::to_owned)).collect();
    let get = |path: &str| format!("GET {path} HTTP/1.1");
    assert_eq!(asked, [get("/films/%20a//b%20"), get("/films/%20"), get("/films/sub/%0A")]);
}

/// A new connection costs a far reader two round trips or more; bodies read to their end must give theirs back.
#[test]
fn connections_are_kept_warm() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/film.mkv", listener.local_addr().unwrap())).unwrap();
    let connections = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&connections);
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(std::result::Result::ok) {
            *counted.lock().unwrap() += 1;
            thread::spawn(move || {
                let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
                for _ in lines.filter(String::is_empty) {
                    let head = format!("HTTP/1.1 206 Partial Content\r\n{GOOD}\r\n");
                    socket.write_all(&[head.as_bytes(), &FILE[5..10]].concat()).unwrap();
                }
            });
        }
    });
    let remote = Remote::new(&url, &Access::plain()).unwrap();
    for _ in 0..10 {
        assert_eq!(read_with(&remote, ByteRange::new(5, 10), &patience()).unwrap(), &FILE[5..10]);
    }
    // A reader that stops at the last byte, without asking for the end.
    for _ in 0..10 {
        let mut body = remote.read("", &expected(), ByteRange::new(5, 10), &patience()).unwrap();
        assert_eq!(body.next().unwrap().unwrap().len(), 5);
        drop(body);
        thread::sleep(Duration::from_millis(5));
    }
    // Not exactly one: a connection is given back by another thread, which may be a moment late.
    let connections = *connections.lock().unwrap();
    assert!(connections <= 5, "{connections} connections for 20 reads");
}

#[test]
fn an_answer_from_elsewhere_is_about_something_else() {
    let leads = |asked: &str, answered: &str| leads_away(&Url::parse(asked).unwrap(), &Url::parse(answered).unwrap());
    for (asked, answered) in [
        ("http://h/films/", "https://h/films/"),
        ("http://h/films", "http://h/films/"),
        ("http://h/a%20b/", "http://m/pub/a b/"),
        ("http://h/%28a%29.mkv", "http://cdn/1/(a).mkv?token=2"),
    ] {
        assert!(!leads(asked, answered), "{asked} {answered}");
    }
    for (asked, answered) in [
        ("http://h/", "http://h/login"),
        ("http://h/films/", "http://portal/"),
        ("http://h/films/", "http://h/login?to=/films/"),
        ("http://h/films/a.mkv", "http://h/films/"),
        ("http://h/films/", "http://h/newfilms2/"),
    ] {
        assert!(leads(asked, answered), "{asked} {answered}");
    }
}
