//! Folders behind `ssh`, as drives: whole films, connections that die, files that change, and what is said when
//! nobody is let in.
//! Never here: names and listings (see `listings`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::compare::{check, check_whole, wait_until};
use super::daemon::{Daemon, free_port};
use super::mount::{Mount, read_direct};
use super::needs::{FUSE, Need, Test};
use super::places::{SIZE, check_films, refused, write};
use super::ssh;

pub fn tests() -> Vec<Test> {
    const OPENSSH: &[Need] = &[FUSE, Need::Program("ssh"), Need::Program("sshd")];
    const RCLONE: &[Need] = &[FUSE, Need::Program("ssh"), Need::Program("rclone")];
    vec![
        Test::new("sftp::openssh", OPENSSH, openssh),
        Test::new("sftp::rclone", RCLONE, rclone),
        Test::new("sftp::connections_that_die", OPENSSH, connections_that_die),
        Test::new("sftp::a_film_that_is_written_to", OPENSSH, || a_film_that_changes(true)),
        Test::new("sftp::a_film_that_is_replaced", OPENSSH, || a_film_that_changes(false)),
        Test::new("sftp::what_a_disk_may_hold", OPENSSH, what_a_disk_may_hold),
        Test::new("sftp::nobody_is_let_in", OPENSSH, nobody_is_let_in),
    ]
}

/// Films on this disk and a server of it.
struct Server {
    home: TempDir,
    port: u16,
    _daemon: Daemon,
}

impl Server {
    fn start() -> Self {
        let (home, port) = (tempfile::tempdir().unwrap(), free_port());
        fs::create_dir_all(home.path().join("films/a series")).unwrap();
        write(&home.path().join("films/film.mkv"), 7, SIZE);
        write(&home.path().join("films/a series/s01 e01.mkv"), 8, SIZE);
        let daemon = ssh::start_sshd(home.path(), port);
        Self { home, port, _daemon: daemon }
    }

    fn film(&self, name: &str) -> PathBuf {
        self.home.path().join("films").join(name)
    }

    fn source(&self) -> String {
        format!("sftp://127.0.0.1:{}{}/films", self.port, self.home.path().display())
    }

    fn mount(&self, options: &[&str]) -> Mount {
        let command = ssh::command(self.home.path());
        Mount::new(&self.source(), &[&["--ssh-command", &command], options].concat())
    }
}

/// The processes that a mount has started to log in, zombies too.
fn logins(parent: u32) -> Vec<Pid> {
    let is_login = |stat: &str| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        (name == "ssh" && rest.split_whitespace().nth(1)?.parse() == Ok(parent)).then_some(())
    };
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        is_login(&fs::read_to_string(entry.path().join("stat")).ok()?)?;
        Pid::from_raw(pid)
    });
    processes.collect()
}

fn openssh() {
    let server = Server::start();
    let mount = server.mount(&["--connections", "3"]);
    check_films(&mount);
    let count = logins(mount.pid()).len();
    assert!((1..=3).contains(&count), "{count}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts.contains(&server.source()), "{mounts}");
    mount.end();
    // A single film.
    let single = format!("{}/film.mkv", server.source());
    let single = Mount::new(&single, &["--ssh-command", &ssh::command(server.home.path())]);
    check_whole(&File::open(single.file("film.mkv")).unwrap(), (7, SIZE), 1 << 20).unwrap();
}

fn rclone() {
    let (home, port) = (tempfile::tempdir().unwrap(), free_port());
    fs::create_dir_all(home.path().join("films/a series")).unwrap();
    write(&home.path().join("films/film.mkv"), 7, SIZE);
    write(&home.path().join("films/a series/s01 e01.mkv"), 8, SIZE);
    let _daemon = ssh::start_rclone(home.path(), home.path(), port);
    let command = ssh::command(home.path());
    check_films(&Mount::new(&format!("sftp://127.0.0.1:{port}/films"), &["--ssh-command", &command]));
}

/// Every connection is lost: reads go on over others, and no process is left over.
fn connections_that_die() {
    let server = Server::start();
    let mount = server.mount(&["--lookahead-chunks", "0", "--fill", "never"]);
    let film = mount.file("film.mkv");
    let read = |offset| check(7, offset, &read_direct(&film, offset, 64 << 10).unwrap());
    read(0);
    for offset in [2 << 20, 6 << 20] {
        let before = logins(mount.pid());
        assert!(!before.is_empty());
        for login in &before {
            kill_process(*login, Signal::KILL).unwrap();
        }
        read(offset);
        wait_until("the end of what is dead", || before.iter().all(|login| !logins(mount.pid()).contains(login)));
    }
    let pid = mount.pid();
    let all = logins(pid);
    mount.end();
    wait_until("the end of all", || all.iter().all(|login| !Path::new(&format!("/proc/{login}")).exists()));
}

fn a_film_that_changes(is_written_to: bool) {
    let server = Server::start();
    let mount = server.mount(&["--dir-ttl", "0", "--lookahead-chunks", "0", "--fill", "never"]);
    let old = File::open(mount.file("film.mkv")).unwrap();
    let mut bytes = vec![0; 1000];
    old.read_exact_at(&mut bytes, 0).unwrap();
    check(7, 0, &bytes);
    if is_written_to {
        write(&server.film("film.mkv"), 9, SIZE - 5);
    } else {
        write(&server.film("new"), 9, SIZE - 5);
        fs::rename(server.film("new"), server.film("film.mkv")).unwrap();
    }
    match old.read_exact_at(&mut bytes, 6 << 20) {
        Ok(()) => {
            // The server has the old file open, and it is as it was.
            assert!(!is_written_to);
            check(7, 6 << 20, &bytes);
        }
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
    }
    wait_until("the new version", || fs::metadata(mount.file("film.mkv")).is_ok_and(|film| film.len() == SIZE - 5));
    check_whole(&File::open(mount.file("film.mkv")).unwrap(), (9, SIZE - 5), 1 << 20).unwrap();
    // Whoever has it open for longer never sees a mix.
    if old.read_exact_at(&mut bytes, 4 << 20).is_ok() {
        check(7, 4 << 20, &bytes);
    }
}

/// Links are followed, and what nobody could open is left out.
fn what_a_disk_may_hold() {
    let server = Server::start();
    fs::write(server.film("a").with_file_name(OsStr::from_bytes(b"not \xff UTF-8.mkv")), "x").unwrap();
    symlink("film.mkv", server.film("link to film.mkv")).unwrap();
    symlink("a series", server.film("link to series")).unwrap();
    symlink("nowhere", server.film("link to nothing")).unwrap();
    symlink("..", server.film("a series/link up")).unwrap();
    symlink("../..", server.film("a series/link above")).unwrap();
    symlink("link to itself", server.film("link to itself")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, server.film("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let mount = server.mount(&[]);
    let mut names: Vec<_> =
        fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["a series", "film.mkv", "link to film.mkv", "link to series"]);
    // A link back to the top would make a tree without an end; one that leads above it shows what is there, but for the top.
    let folders = |path: &str| {
        let names =
            fs::read_dir(mount.file(path)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| mount.file(path).join(name).is_dir()).collect::<Vec<_>>()
    };
    assert_eq!(folders("a series"), ["link above"]);
    let top = server.film("film.mkv").parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(!folders("a series/link above").contains(&top));
    assert!(mount.place.log().contains("1 names left out"), "{}", mount.place.log());
    check_whole(&File::open(mount.file("link to film.mkv")).unwrap(), (7, SIZE), 1 << 20).unwrap();
    check_whole(&File::open(mount.file("link to series/s01 e01.mkv")).unwrap(), (8, SIZE), 1 << 20).unwrap();
}

/// Nothing is asked of anybody: what is wrong is said in a line, with what to do about it.
fn nobody_is_let_in() {
    let server = Server::start();
    let said = |source: &str, command: &str| {
        let begun = Instant::now();
        let said = refused(source, &["--ssh-command", command, "--chunk-timeout", "20"], &[]);
        assert!(begun.elapsed() < Duration::from_mins(1) && said.trim_end().lines().count() == 1, "{said}");
        said
    };
    let (source, good) = (server.source(), ssh::command(server.home.path()));
    let none = said(&format!("{source}/none"), &good);
    assert!(none.contains("not there"), "{none}");
    let stranger = said(&source, &format!("{good} -o UserKnownHostsFile=/dev/null"));
    assert!(stranger.contains("host key") && stranger.contains("ssh -p"), "{stranger}");
    let keyless = said(
        &source,
        &format!(
            "ssh -F none -o UserKnownHostsFile={}/known_hosts -o IdentityFile=/dev/null -o IdentityAgent=none",
            server.home.path().display()
        ),
    );
    assert!(keyless.contains("ssh-copy-id"), "{keyless}");
    let closed = said(&format!("sftp://127.0.0.1:{}/films", free_port()), &good);
    assert!(closed.contains("nobody listens"), "{closed}");
    let talker = said(&source, "echo Welcome to this fine machine!");
    assert!(talker.contains("not SFTP"), "{talker}");
    let absent = said(&source, "no-such-program");
    assert!(absent.contains("no-such-program"), "{absent}");
    // And one that never says a word is waited for no longer than any other.
    let told = server.home.path().join("pid");
    let command = format!("sh -c 'echo $$ > {}; exec sleep 600'", told.display());
    let mute = refused(&source, &["--ssh-command", &command, "--chunk-timeout", "3"], &[]);
    assert!(mute.contains("within"), "{mute}");
    let pid = fs::read_to_string(told).unwrap();
    wait_until("the end of the program", || !Path::new("/proc").join(pid.trim()).exists());
}
