//! A running mount tells what it does, while it plays and while the origin hangs, to its own user and to Prometheus; and
//! is drawn on a terminal.
//! Never here: what the figures are made of.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use reelfs::demo::{Link, Server, ServerConfig};
use serde_json::Value;

use super::compare::{check_whole, made, wait_until};
use super::mount::{Mount, Place, open_direct, read_direct, reelfs};
use super::needs::{FUSE, Need, Test};

const FILM: (u64, u64) = (0xc0, 24 << 20);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("control::status_while_a_film_plays", &[FUSE], status_while_a_film_plays),
        Test::new("control::status_while_the_origin_hangs", &[FUSE], status_while_the_origin_hangs),
        Test::new("control::a_killed_mount_is_not_shown", &[FUSE], a_killed_mount_is_not_shown),
        Test::new(
            "control::only_its_own_user_is_answered",
            &[FUSE, Need::Program("curl"), Need::Program("setpriv")],
            only_its_own_user_is_answered,
        ),
        Test::new("control::a_page_for_prometheus", &[FUSE], a_page_for_prometheus),
        Test::new("control::a_mounted_library_is_told", &[FUSE], a_mounted_library_is_told),
        Test::new("control::what_is_wrong_now_is_told", &[FUSE], what_is_wrong_now_is_told),
        Test::new("control::top_draws_and_gives_the_terminal_back", &[FUSE, Need::Program("script")], top_draws),
    ]
}

fn server() -> Server {
    let link = Link { round_trip: Duration::from_millis(20), rate_total: Some(12_500_000), ..Link::default() };
    Server::start(ServerConfig { link, ..ServerConfig::default() }.file("films/a.mkv", made(FILM.0, FILM.1))).unwrap()
}

/// `reelfs status`, as whoever mounted in this place asks.
pub fn status(place: &Place, typed: &[&str]) -> Output {
    reelfs().arg("status").args(typed).env("XDG_RUNTIME_DIR", place.runtime()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The only mount of the place.
pub fn told(mount: &Mount) -> Value {
    let output = status(&mount.place, &["--json", mount.point().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["mounts"][0].take()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn status_while_a_film_plays() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--passthrough", "off"]);
    let film = open_direct(&mount.file("films/a.mkv")).unwrap();
    let mut bytes = vec![0; 256 << 10];
    for piece in 0..20 {
        std::os::unix::fs::FileExt::read_exact_at(&film, &mut bytes, piece * (256 << 10)).unwrap();
    }
    // It reads on: what comes next is fetched ahead.
    wait_until("some of it is ahead of its reader", || number(&told(&mount)["files"][0]["ahead_bytes"]) >= 4 << 20);
    let shown = told(&mount);
    assert_eq!((&shown["source"], &shown["pid"]), (&server.url().into(), &mount.pid().into()));
    assert_eq!(shown["files_open"], 1);
    let played = &shown["files"][0];
    assert_eq!((&played["path"], &played["size_bytes"]), (&"films/a.mkv".into(), &FILM.1.into()));
    assert_eq!(number(&played["position_byte"]), 20 * (256 << 10));
    assert_eq!(number(&played["readers"][0]), 20 * (256 << 10));
    // The link answers in 20 ms, and not before its connection is made.
    let first = played["first_byte_ms"].as_f64().unwrap();
    assert!((20.0..20_000.0).contains(&first), "{first}");
    assert!(number(&played["reads_waited"]) >= 1 && number(&played["reads"]) >= 20, "{played}");
    assert_eq!(number(&played["wasted_bytes"]), 0, "{played}");
    assert!(number(&shown["origin"]["requests"]) >= 2 && number(&shown["origin"]["bytes"]) >= 9 << 20, "{shown}");
    let (p50, p99) = (&shown["origin"]["latency_p50_ms"], &shown["origin"]["latency_p99_ms"]);
    assert!(p50.as_f64().unwrap() >= 19.0 && p99.as_f64() >= p50.as_f64(), "{shown}");
    assert!(number(&shown["cache"]["used_bytes"]) > 0, "{shown}");
    // For a person, of all mounts, and by any path on the drive.
    for typed in [&[][..], &[mount.file("films").to_str().unwrap()]] {
        let text = stdout(&status(&mount.place, typed));
        assert!(text.contains("films/a.mkv") && text.contains(" ahead"), "{text}");
    }
    // A seek leaves what was fetched ahead behind.
    std::os::unix::fs::FileExt::read_exact_at(&film, &mut bytes, FILM.1 - (5 << 20)).unwrap();
    wait_until("it is told as wasted", || number(&told(&mount)["files"][0]["wasted_bytes"]) >= 1 << 20);
    drop(film);
    wait_until("the file is closed", || told(&mount)["files_open"] == 0);
    // What was still under way has to end first.
    wait_until("it is told of the whole", || number(&told(&mount)["cache"]["wasted_bytes"]) >= 1 << 20);
    mount.end();
}

fn status_while_the_origin_hangs() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--chunk-timeout", "3", "--retries", "1"]);
    let film = mount.file("films/a.mkv");
    read_direct(&film, 0, 4096).unwrap();
    server.set_hanging(true);
    let reader = thread::spawn({
        let film = film.clone();
        move || read_direct(&film, 12 << 20, 1 << 20)
    });
    let mut shown = Value::Null;
    wait_until("a flight for who waits", || {
        shown = told(&mount);
        shown["files"].as_array().unwrap().iter().any(|file| !file["in_flight"].as_array().unwrap().is_empty())
    });
    assert!(reader.join().unwrap().is_err(), "the origin hangs");
    wait_until("errors are counted", || number(&told(&mount)["origin"]["errors"]) >= 1);
    assert!(number(&told(&mount)["reads"]["errors"]) >= 1);
    server.set_hanging(false);
    // It may be looked for first, if it was given up.
    wait_until("it plays again", || open_direct(&film).and_then(|film| check_whole(&film, FILM, 1 << 20)).is_ok());
    assert_eq!(told(&mount)["origin"]["breaker"], "closed");
    mount.end();
}

fn a_killed_mount_is_not_shown() {
    let server = server();
    let place = Place::new();
    let mount = Mount::on(&place, &server.url(), &[]);
    assert_eq!(told(&mount)["pid"], mount.pid());
    mount.kill();
    let point = place.point();
    let gone = status(&place, &[point.to_str().unwrap()]);
    let said = String::from_utf8(gone.stderr.clone()).unwrap();
    assert!(!gone.status.success() && said.lines().count() == 1 && said.contains("no reelfs"), "{said}");
    assert_eq!(stdout(&status(&place, &[])), "nothing is mounted\n");
    wait_until("the dead mount is taken off", || !place.is_mounted());
    // What it left by its name is replaced.
    let mount = Mount::on(&place, &server.url(), &[]);
    assert_eq!(told(&mount)["pid"], mount.pid());
    mount.end();
    assert_eq!(fs::read_dir(place.runtime().join("reelfs")).unwrap().count(), 0, "an orderly end leaves nothing");
}

fn the_socket(place: &Arc<Place>) -> String {
    let sockets = fs::read_dir(place.runtime().join("reelfs")).unwrap();
    let sockets: Vec<_> = sockets.map(|socket| socket.unwrap().path().to_str().unwrap().to_owned()).collect();
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    sockets[0].clone()
}

/// Even where the file's own mode would let them. Root only: nobody else can become another user.
fn only_its_own_user_is_answered() {
    if !reelfs::sys::is_root() {
        println!("control::only_its_own_user_is_answered shows nothing without root");
        return;
    }
    let server = server();
    let mount = Mount::new(&server.url(), &[]);
    let socket = the_socket(&mount.place);
    for (path, mode) in Path::new(&socket).ancestors().zip([0o777, 0o755, 0o755]) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let ask = |setpriv: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(setpriv).args(["curl", "-sS", "--max-time", "20", "--http0.9", "--unix-socket", &socket]);
        stdout(&command.arg("http://mount/").output().unwrap())
    };
    assert!(ask(&["--reuid=65534", "--regid=65534", "--clear-groups"]).contains("\"kind\":\"denied\""));
    // curl asks nothing that a mount understands; but it is told so.
    assert!(ask(&["--reuid=0"]).contains("\"kind\":\"unsupported\""));
    mount.end();
}

pub fn scrape(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The samples of a page, each line of which must be one, or a comment that belongs to one.
pub fn samples(page: &str) -> Vec<(String, f64)> {
    let mut kinds = std::collections::BTreeMap::new();
    let mut samples = Vec::new();
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["HELP", _, help] => assert!(!help.is_empty()),
                ["TYPE", name, kind] => assert_eq!(kinds.insert(name, kind), None, "{name} twice"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(kinds.contains_key(name) || kinds.get(base) == Some(&"histogram"), "{line} has no type");
        samples.push((series.to_owned(), value.parse().unwrap()));
    }
    samples
}

fn a_page_for_prometheus() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--metrics-listen", ":0", "-v"]);
    check_whole(&open_direct(&mount.file("films/a.mkv")).unwrap(), FILM, 1 << 20).unwrap();
    let log = mount.place.log();
    let address = log.split("http://").nth(1).unwrap().split('/').next().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{log}");
    // The reader had its bytes before the disk has them.
    #[allow(clippy::cast_precision_loss, reason = "a film's bytes are counted exactly")]
    let film = FILM.1 as f64;
    let (mut head, mut body) = Default::default();
    wait_until("all of the film is in the cache", || {
        (head, body) = scrape(address, "/metrics");
        samples(&body).iter().any(|(series, value)| series == "reelfs_cache_written_bytes_total" && *value >= film)
    });
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"), "{head}");
    let samples = samples(&body);
    let value = |name: &str| samples.iter().find(|(series, _)| series.starts_with(name)).unwrap().1;
    assert!(value("reelfs_origin_bytes_total") >= film && value("reelfs_reads_total") >= 24.0, "{body}");
    assert!(value("reelfs_origin_answer_seconds{quantile=\"0.99\"}") > 0.0, "{body}");
    assert!((value("reelfs_info{") - 1.0).abs() < f64::EPSILON, "{body}");
    assert!(scrape(address, "/").0.starts_with("HTTP/1.1 404 "));
    // An address that is taken is a mistake in the command: nothing is mounted.
    let refused = Place::new();
    let output = reelfs()
        .args(["mount", &server.url(), refused.point().to_str().unwrap(), "--metrics-listen", address])
        .args(["--cache-dir", refused.cache().to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!output.status.success() && !refused.is_mounted(), "{output:?}");
    mount.end();
}

/// A library on this machine answers as any mount does, and says what means nothing to it.
fn a_mounted_library_is_told() {
    let place = Place::new();
    let library = format!("library:{}", place.path("library").display());
    assert!(reelfs().args(["init", &library]).output().unwrap().status.success());
    let mount = Mount::on(&place, &library, &["--metrics-listen", ":0", "-v"]);
    fs::write(mount.file("a.mkv"), vec![7; 1 << 20]).unwrap();
    let mut open = File::create(mount.file("b.mkv")).unwrap();
    open.write_all(&vec![8; 100_000]).unwrap();
    let shown = told(&mount);
    assert_eq!((&shown["source"], &shown["pid"]), (&library.clone().into(), &mount.pid().into()));
    assert_eq!(shown["files_open"], 1, "{shown}");
    let told = &shown["library"];
    assert_eq!((&told["is_read_only"], number(&told["files"])), (&false.into(), 2), "{shown}");
    assert_eq!(told["open"][0]["path"], "b.mkv", "{shown}");
    let text = stdout(&status(&place, &[]));
    assert!(text.contains("read-write, 2 files") && text.contains("b.mkv"), "{text}");
    let ask = |typed: &[&str]| reelfs().args(typed).env("XDG_RUNTIME_DIR", place.runtime()).output().unwrap();
    let refreshed = ask(&["refresh", mount.point().to_str().unwrap()]);
    assert!(refreshed.status.success() && stdout(&refreshed).contains("always"), "{refreshed:?}");
    let warm = ask(&["cache", "warm", mount.file("a.mkv").to_str().unwrap()]);
    assert!(!warm.status.success() && String::from_utf8_lossy(&warm.stderr).contains("a library on this machine"));
    let log = place.log();
    let address = log.split("http://").nth(1).unwrap().split('/').next().unwrap();
    let page = samples(&scrape(address, "/metrics").1);
    assert!(page.iter().any(|(series, value)| series == "reelfs_library_files" && *value > 1.0), "{page:?}");
    drop(open);
    // It returns when what was written is where it belongs.
    let off = ask(&["umount", mount.point().to_str().unwrap()]);
    assert!(off.status.success() && !place.is_mounted(), "{off:?}");
    let listed = reelfs().args(["ls", &library]).output().unwrap();
    assert_eq!(stdout(&listed), "a.mkv\nb.mkv\n");
    let again = ask(&["umount", place.point().to_str().unwrap()]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.code() == Some(1) && said.contains("nothing is mounted here"), "{said}");
}

/// A disk with less than --min-free, and a server that is away, with the last error and its time.
fn what_is_wrong_now_is_told() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--min-free", "4000TiB", "--retries", "0"]);
    assert_eq!(told(&mount)["problems"], Value::Array(Vec::new()));
    read_direct(&mount.file("films/a.mkv"), 0, 4096).unwrap();
    wait_until("it is told that nothing is kept", || {
        told(&mount)["problems"][0]["message"].as_str().is_some_and(|why| why.contains("--min-free"))
    });
    let shown = told(&mount);
    assert_eq!(shown["problems"][0]["part"], "cache", "{shown}");
    assert!(shown["last_error"]["at_unix_seconds"].as_u64().unwrap() > 1_700_000_000, "{shown}");
    let text = stdout(&status(&mount.place, &[]));
    assert!(text.contains("  wrong   cache: nothing more is kept: ") && text.contains("  error   "), "{text}");
    // The same cause is told to who wants the cache to hold something.
    for (command, succeeds) in [("warm", false), ("pin", true)] {
        let asked = reelfs()
            .args(["cache", command, mount.file("films/a.mkv").to_str().unwrap()])
            .env("XDG_RUNTIME_DIR", mount.place.runtime())
            .output()
            .unwrap();
        let said = format!("{}{}", stdout(&asked), String::from_utf8_lossy(&asked.stderr));
        assert!(asked.status.success() == succeeds && said.contains("--min-free"), "{command}: {said}");
        assert!(!said.contains("--cache-size"), "{command}: {said}");
    }
    server.shutdown();
    wait_until("the server is told to be away", || {
        let _ = read_direct(&mount.file("films/a.mkv"), 16 << 20, 4096);
        told(&mount)["problems"].as_array().unwrap().iter().any(|problem| problem["part"] == "origin")
    });
    let warned = mount.place.log().lines().filter(|line| line.contains("nothing more is kept")).count();
    assert_eq!(warned, 1, "it is said once: {}", mount.place.log());
    mount.end();
}

/// On a terminal of 100 columns.
fn top_draws() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--passthrough", "off"]);
    let film = File::open(mount.file("films/a.mkv")).unwrap();
    check_whole(&film, (FILM.0, 4 << 20), 256 << 10).unwrap();
    let screen = mount.place.path("screen");
    let line = format!(
        "stty rows 40 cols 100; {} top {}; echo given back",
        env!("CARGO_BIN_EXE_reelfs"),
        mount.point().to_str().unwrap()
    );
    let mut top = Command::new("script")
        .args(["--quiet", "--flush", "--command", &line, screen.to_str().unwrap()])
        .env("XDG_RUNTIME_DIR", mount.place.runtime())
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let drawn = || String::from_utf8_lossy(&fs::read(&screen).unwrap_or_default()).into_owned();
    wait_until("its film is drawn", || drawn().contains("films/a.mkv") && drawn().contains('█'));
    // It is drawn anew while it is there, and ends when it is told to.
    top.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    wait_until("the terminal is given back", || {
        let drawn = drawn();
        drawn.contains("\u{1b}[?1049l") && drawn.contains("given back")
    });
    drop(top.stdin.take());
    assert!(top.wait().unwrap().success());
    // Where there is no terminal, it says so.
    let refused = reelfs().arg("top").env("XDG_RUNTIME_DIR", mount.place.runtime()).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("reelfs status"));
    mount.end();
}
