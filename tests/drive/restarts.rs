//! A server that is busy or gone for a moment, or that hangs: whoever mounts, reads or lists meanwhile gets what there is.
//! Never here: a server that is gone for long (`outage`), or one that hangs under reads (`hanging`).

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Act, RequestInfo, Server, ServerConfig};

use super::compare::{check, made, wait_until};
use super::mount::{Mount, open_direct, reelfs};
use super::needs::{FUSE, Test};

const FILM: (u64, u64) = (1, 64 << 20);
/// How long a restart takes.
const GONE: Duration = Duration::from_millis(1_500);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("restarts::film_that_seeks_goes_on", &[FUSE], film_that_seeks_goes_on),
        Test::new("restarts::mount_of_a_busy_server", &[FUSE], mount_of_a_busy_server),
        Test::new("restarts::refresh_while_the_server_hangs", &[FUSE], refresh_while_the_server_hangs),
    ]
}

fn config(port: u16) -> ServerConfig {
    ServerConfig { port, ..ServerConfig::default() }.file("film.mkv", made(FILM.0, FILM.1))
}

fn film_that_seeks_goes_on() {
    let first = Server::start(config(0)).unwrap();
    let mount = Mount::new(&first.url(), &["--fill", "never"]);
    let film = open_direct(&mount.file("film.mkv")).unwrap();
    let port = first.address().port();
    drop(first);
    let back = thread::spawn(move || {
        thread::sleep(GONE);
        let mut server = None;
        wait_until("the port", || {
            server = Server::start(config(port)).ok();
            server.is_some()
        });
        server
    });
    let mut bytes = vec![0; 64 << 10];
    for offset in [20 << 20, 40 << 20] {
        film.read_exact_at(&mut bytes, offset).unwrap_or_else(|error| panic!("{error}: {}", mount.place.log()));
        check(FILM.0, offset, &bytes);
    }
    drop(back.join());
}

/// Each of its first answers says that it can't, in another way.
fn mount_of_a_busy_server() {
    let statuses = [503, 500, 429];
    let server = Server::start(config(0)).unwrap();
    server.set_weather(move |request: &RequestInfo| {
        let number = usize::try_from(request.number).unwrap_or(usize::MAX);
        statuses.get(number).map_or(Act::Serve, |status| Act::Status(*status, None))
    });
    let mount = Mount::new(&server.url(), &[]);
    assert_eq!(fs::read_dir(mount.point()).unwrap().count(), 1);
}

fn refresh_while_the_server_hangs() {
    let server = Server::start(config(0).file("series/1.mkv", made(2, 1 << 20))).unwrap();
    let mount = Mount::new(&server.url(), &["--chunk-timeout", "60", "--dir-ttl", "600"]);
    let list = || {
        let names = fs::read_dir(mount.file("series")).unwrap().count();
        (names, fs::metadata(mount.file("series/1.mkv")).unwrap().len())
    };
    assert_eq!(list(), (1, 1 << 20));
    server.set_hanging(true);
    let refreshed =
        reelfs().arg("refresh").arg(mount.point()).env("XDG_RUNTIME_DIR", mount.place.runtime()).status().unwrap();
    assert!(refreshed.success());
    let begun = Instant::now();
    assert_eq!(list(), (1, 1 << 20));
    let took = begun.elapsed();
    println!("a list after a refresh, of a server that hangs, took {took:.1?}");
    assert!(took < Duration::from_secs(15), "{took:?}: it waits for the server");
    server.set_hanging(false);
}
