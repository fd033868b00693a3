//! Memory is bounded: fifty films at once, and folders of a hundred thousand and of a million names, the second of which is
//! listed once more without its server, stay below 100 MiB each.
//! Never here: disk.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::thread;

use reelfs::demo::{Server, ServerConfig};

use super::compare::{check_whole, made};
use super::mount::{Mount, Place, open_direct};
use super::needs::{FUSE, Test};

const PEAK_MAX: u64 = 100 << 20;
const STREAMS: u64 = 50;
const STREAM_BYTES: u64 = 64 << 20;
const NAMES: usize = 100_000;
const MILLION: usize = 1_000_000;

pub fn tests() -> Vec<Test> {
    vec![
        Test::alone("memory::fifty_streams", &[FUSE], fifty_streams),
        Test::alone("memory::a_hundred_thousand_names", &[FUSE], a_hundred_thousand_names),
        Test::long("memory::a_million_names", &[FUSE], a_million_names),
        Test::alone("memory::a_page_of_one_huge_value", &[FUSE], a_page_of_one_huge_value),
    ]
}

fn report(what: &str, mount: &Mount) {
    let peak = mount.peak_memory();
    println!("{what}: peak memory {} KiB", peak >> 10);
    assert!(peak < PEAK_MAX, "{peak} bytes");
}

fn fifty_streams() {
    let files = (0..STREAMS).map(|seed| (format!("{seed}.mkv"), made(seed, STREAM_BYTES))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let mount = Mount::new(&server.url(), &["--cache-size", "1GiB"]);
    thread::scope(|scope| {
        for seed in 0..STREAMS {
            let path = mount.file(&format!("{seed}.mkv"));
            scope.spawn(move || {
                // Half of them as players do, with the kernel reading ahead.
                let file = if seed % 2 == 0 { fs::File::open(path) } else { open_direct(&path) }.unwrap();
                check_whole(&file, (seed, STREAM_BYTES), 256 << 10).unwrap();
            });
        }
    });
    report("fifty streams at once", &mount);
}

fn a_hundred_thousand_names() {
    let files = (0..NAMES).map(|number| (format!("film number {number:06}.mkv"), made(1, 1 << 30))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "1"]);
    for _ in 0..3 {
        let sizes = fs::read_dir(mount.point()).unwrap().map(|name| name.unwrap().metadata().unwrap().len());
        assert_eq!(sizes.filter(|size| *size == 1 << 30).count(), NAMES);
        // The next walk finds the listing old: the new one is made beside it.
        thread::sleep(std::time::Duration::from_millis(1100));
    }
    report("a folder of 100,000 names", &mount);
}

fn a_million_names() {
    let files = (0..MILLION).map(|number| (format!("films/film number {number:07}.mkv"), made(1, 1 << 30))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let (place, options) = (Place::new(), ["--dir-ttl", "3600", "--chunk-timeout", "60"]);
    let mount = Mount::on(&place, &server.url(), &options);
    let count = |mount: &Mount| fs::read_dir(mount.file("films")).unwrap().flatten().count();
    assert_eq!(count(&mount), MILLION);
    report("a million names", &mount);
    server.reset_counts();
    assert_eq!(count(&mount), MILLION);
    mount.end();
    let mount = Mount::on(&place, &server.url(), &options);
    assert_eq!(count(&mount), MILLION);
    assert_eq!(fs::metadata(mount.file("films/film number 0777777.mkv")).unwrap().len(), 1 << 30);
    // But for connections that are made ready for a player.
    assert_eq!(server.total().requests, server.total().heads);
    report("a million names after a remount", &mount);
}

/// A page in JSON whose `size` is an array of millions of numbers: in memory each would be many bytes for its two.
fn a_page_of_one_huge_value() {
    const NUMBERS: usize = 12 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(Result::ok);
                let is_get = lines.take_while(|line| !line.is_empty()).any(|line| line.starts_with("GET "));
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
                let _ = socket.write_all(head.as_bytes());
                if is_get {
                    let _ = socket.write_all(b"[{\"name\":\"a.mkv\",\"type\":\"file\",\"size\":[0");
                    let piece = b",0".repeat(1 << 16);
                    for _ in 0..NUMBERS >> 16 {
                        let _ = socket.write_all(&piece);
                    }
                    let _ = socket.write_all(b"]}]");
                }
            });
        }
    });
    let mount = Mount::new(&url, &["--chunk-timeout", "60"]);
    assert_eq!(fs::read_dir(mount.point()).unwrap().count(), 1);
    report("a page of one huge value", &mount);
}
