//! Links of a source: which of them are followed, that none makes a tree without an end, and those that other programs write
//! as files.
//! Never here: one folder and one link (see `src/store/dir.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use reelfs::demo::{Server, ServerConfig};
use tempfile::TempDir;

use super::compare::wait_until;
use super::daemon::free_port;
use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Need, Test};
use super::ssh;

pub fn tests() -> Vec<Test> {
    const OPENSSH: &[Need] = &[FUSE, Need::Program("ssh"), Need::Program("sshd")];
    vec![
        Test::new("links::of_this_machine", &[FUSE], of_this_machine),
        Test::new("links::over_sftp", OPENSSH, over_sftp),
        Test::new("links::rclones_links", &[FUSE, Need::Program("rclone")], rclones_links),
        Test::new("links::a_target_costs_one_request", &[FUSE], a_target_costs_one_request),
        Test::new("links::of_other_sources_are_theirs", &[FUSE], of_other_sources_are_theirs),
    ]
}

/// A source with links of every kind, in the folder `films`.
fn linked() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let films = home.path().join("films");
    fs::create_dir_all(films.join("series/s01")).unwrap();
    fs::create_dir_all(home.path().join("outside")).unwrap();
    for file in ["film.mkv", "series/s01/e01.mkv", "../outside/other.mkv"] {
        fs::write(films.join(file), file).unwrap();
    }
    let absolute = films.join("film.mkv");
    for (target, link) in [
        ("film.mkv", "relative.mkv"),
        (absolute.to_str().unwrap(), "absolute.mkv"),
        ("series", "shortcut"),
        ("../outside", "out"),
        ("../outside/other.mkv", "out.mkv"),
        (".", "self"),
        ("../..", "series/s01/top"),
        ("..", "up"),
        ("nowhere", "dangling.mkv"),
        ("round2", "round1"),
        ("round1", "round2"),
    ] {
        symlink(target, films.join(link)).unwrap();
    }
    home
}

/// All files below a folder; links are followed, as by `find -L`.
fn files(folder: &Path) -> BTreeSet<String> {
    let output =
        Command::new("timeout").args(["60", "find", "-L", ".", "-type", "f"]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line[2..].to_owned()).collect()
}

/// What each mode shows of `source`, which lies in `home`, and that a guessed name gets nothing else.
fn check_modes(home: &Path, source: &str, options: &[&str]) {
    let place = Place::new();
    let real = ["film.mkv", "series/s01/e01.mkv"];
    let inside = ["relative.mkv", "absolute.mkv", "shortcut/s01/e01.mkv"];
    let outside = ["out.mkv", "out/other.mkv", "up/outside/other.mkv"];
    for (links, shown) in [
        ("skip", &[&real[..]][..]),
        ("follow-inside", &[&real, &inside]),
        ("follow", &[&real, &inside, &outside]),
        ("skip", &[&real]),
    ] {
        // One cache for all of them: what one shows is nothing to the next.
        let mount = Mount::on(&place, source, &[options, &["--links", links]].concat());
        let shown: BTreeSet<_> = shown.iter().flat_map(|names| names.iter().map(|&name| name.to_owned())).collect();
        let mut found = files(&mount.point());
        // The folders of the test itself, and of the server, lie there, too.
        found.retain(|name| !name.starts_with("up/") || name == "up/outside/other.mkv");
        assert_eq!(found, shown, "--links {links}");
        for name in real.iter().chain(&inside).chain(&outside) {
            let text = fs::read_to_string(mount.file(name));
            if shown.contains(*name) {
                assert!(text.unwrap().contains(".mkv"), "{name}");
            } else {
                assert_eq!(text.unwrap_err().kind(), ErrorKind::NotFound, "--links {links}: {name}");
            }
        }
        for loops in ["self", "series/s01/top", "up/films", "dangling.mkv", "round1"] {
            assert_eq!(fs::metadata(mount.file(loops)).unwrap_err().kind(), ErrorKind::NotFound, "{links} {loops}");
        }
        mount.end();
        let log = place.log();
        let told = |link: &str| log.lines().filter(|line| line.contains(link) && line.contains("leads back")).count();
        let expected = usize::from(links != "skip");
        assert_eq!((told("films/self "), told("films/series/s01/top ")), (expected, expected), "{links}: {log}");
    }
    assert!(home.join("films/self").exists(), "nothing was changed");
}

fn of_this_machine() {
    let home = linked();
    check_modes(home.path(), home.path().join("films").to_str().unwrap(), &["--dir-ttl", "0"]);
}

fn over_sftp() {
    let (home, port) = (linked(), free_port());
    let _daemon = ssh::start_sshd(home.path(), port);
    let source = format!("sftp://127.0.0.1:{port}{}/films", home.path().display());
    check_modes(home.path(), &source, &["--ssh-command", &ssh::command(home.path())]);
}

fn of_other_sources_are_theirs() {
    for source in ["http://127.0.0.1:1/films/", "library:/nowhere", "kv+file:///nowhere"] {
        let output = reelfs().args(["mount", source, "/nowhere", "--links", "skip"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--links means nothing here") && said.trim_end().lines().count() == 1, "{said}");
    }
}

/// Links as rclone writes them are links again: where they lead, and through them the films.
fn rclones_links() {
    let home = linked();
    let (films, copy) = (home.path().join("films"), home.path().join("copy"));
    // With links of the one side only: the other side would make links of the files again.
    let source = format!(":local,links:{}", films.display());
    let copied = Command::new("rclone").args(["copy", "--config", "", &source]).arg(&copy).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert!(copy.join("relative.mkv.rclonelink").is_file());
    let mount = Mount::new(copy.to_str().unwrap(), &["--media-only"]);
    for link in ["relative.mkv", "absolute.mkv", "shortcut", "out.mkv", "self", "up", "dangling.mkv", "series/s01/top"]
    {
        assert_eq!(fs::read_link(mount.file(link)).unwrap(), fs::read_link(films.join(link)).unwrap(), "{link}");
    }
    for film in ["relative.mkv", "absolute.mkv", "shortcut/s01/e01.mkv", "self/film.mkv"] {
        assert!(fs::read_to_string(mount.file(film)).unwrap().contains(".mkv"), "{film}");
    }
    assert_eq!(fs::read(mount.file("dangling.mkv")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(fs::read(mount.file("round1")).is_err(), "the kernel ends that");
    let names: BTreeSet<_> = fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("rclonelink")), "{names:?}");
    // One that is written to is another link.
    fs::write(copy.join("relative.mkv.rclonelink"), "series/s01/e01.mkv\n").unwrap();
    let refresh = reelfs().arg("refresh").arg(mount.point()).env("XDG_RUNTIME_DIR", mount.place.runtime()).status();
    assert!(refresh.unwrap().success());
    wait_until("the new target", || {
        fs::read_link(mount.file("relative.mkv")).is_ok_and(|target| target == Path::new("series/s01/e01.mkv"))
    });
}

/// A target is asked for once, by who wants it, and is known without the server.
fn a_target_costs_one_request() {
    let long = "x".repeat(5000);
    let files = [
        ("x/real.mkv", "the film"),
        ("f/film.mkv.rclonelink", "../x/real.mkv"),
        ("f/both.mkv.rclonelink", "../x/real.mkv"),
        ("f/both.mkv", "a file"),
        ("f/long.rclonelink", &long),
        ("f/bad.rclonelink", "a\0b"),
    ];
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec().into())).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let (place, source) = (Place::new(), server.url());
    let mount = Mount::on(&place, &source, &[]);
    let kinds = |folder: &str| {
        let entries = fs::read_dir(mount.file(folder)).unwrap().map(Result::unwrap);
        let kinds =
            entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.file_type().unwrap().is_symlink()));
        kinds.collect::<BTreeSet<_>>()
    };
    let expected = [("bad", true), ("both.mkv", false), ("film.mkv", true), ("long.rclonelink", false)];
    assert_eq!(kinds("f"), expected.map(|(name, is_link)| (name.to_owned(), is_link)).into());
    let metadata = fs::symlink_metadata(mount.file("f/film.mkv")).unwrap();
    assert!(metadata.is_symlink() && metadata.permissions().mode() & 0o777 == 0o777);
    assert_eq!(server.counts("f/film.mkv.rclonelink").requests, 0, "to list it costs nothing");
    for _ in 0..3 {
        assert_eq!(fs::read_link(mount.file("f/film.mkv")).unwrap(), Path::new("../x/real.mkv"));
        assert_eq!(fs::read_to_string(mount.file("f/film.mkv")).unwrap(), "the film");
    }
    assert_eq!(server.counts("f/film.mkv.rclonelink").requests, 1);
    assert_eq!(fs::read_to_string(mount.file("f/both.mkv")).unwrap(), "a file");
    assert!(fs::read_link(mount.file("f/bad")).is_err());
    assert!(fs::File::create(mount.file("f/film.mkv")).is_err(), "nothing can be written");
    mount.end();
    drop(server);
    let mount = Mount::on(&place, &source, &["--chunk-timeout", "2"]);
    assert_eq!(fs::read_link(mount.file("f/film.mkv")).unwrap(), Path::new("../x/real.mkv"));
    assert_eq!(fs::read_to_string(mount.file("f/film.mkv")).unwrap(), "the film");
    mount.end();
}
