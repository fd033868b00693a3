//! The program as a person meets it: bad input gets one line on stderr that says what to do, a failing exit code, and
//! touches nothing. Here also what `cache` prints where there is nothing yet.
//! Never here: what a mounted drive does.
#![allow(clippy::unwrap_used, reason = "a test that meets an error should end there")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use reelfs::library::catalog::{self, Node, NodeKind, Placed};
use reelfs::library::{Chunk, Content, Meta, Proof};
use tempfile::TempDir;

/// A home, a source with one file and an empty mount point, away from everything real.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "films", "mnt"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("films/film.mp4"), b"not much of a film").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Arguments that begin with `@` are paths below the place.
    fn run(&self, typed: &[&str]) -> Output {
        let args = typed.iter().map(|arg| arg.strip_prefix('@').map_or((*arg).to_owned(), |name| self.path(name)));
        Command::new(env!("CARGO_BIN_EXE_reelfs"))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .output()
            .unwrap()
    }

    /// The one line of a refusal.
    fn refusal(&self, typed: &[&str]) -> String {
        let output = self.run(typed);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{typed:?} succeeded: {said}");
        assert!(output.stdout.is_empty(), "{typed:?} wrote to stdout");
        // A mistake in the command line has its tips on lines of their own.
        let mut lines = said.lines().skip(1);
        let is_one = lines.all(|line| output.status.code() == Some(2) && line.starts_with("  "));
        assert!(said.ends_with('\n') && is_one, "{typed:?} said not one line: {said:?}");
        said.trim_end().strip_prefix("reelfs: ").unwrap_or_else(|| panic!("{typed:?}: {said:?}")).to_owned()
    }

    /// A refusal that holds each of these.
    fn refuses(&self, typed: &[&str], told: &[&str]) {
        let line = self.refusal(typed);
        for told in told {
            assert!(line.contains(told), "{typed:?}: {line:?} lacks {told:?}");
        }
    }

    fn untouched(&self) -> bool {
        let is_empty = |name: &str| fs::read_dir(self.path(name)).unwrap().next().is_none();
        is_empty("home") && is_empty("mnt") && fs::read(self.path("films/film.mp4")).unwrap() == b"not much of a film"
    }
}

#[test]
fn every_kind_of_source_is_listed() {
    let output = Place::new().run(&["sources"]);
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for kind in ["/mnt/nas/films", "http://", "s3://", "webdav://", "gs://", "--features azblob"] {
        assert!(listed.contains(kind), "{kind} is missing: {listed}");
    }
}

#[test]
fn nonsense_options_are_named_with_what_would_do() {
    let place = Place::new();
    let mount = |option: &'static str| vec!["mount", "@films", "@mnt", option];
    for (option, told) in [
        ("--cache-size=big", "2MiB, 500MB or 10G"),
        ("--cache-size=31MiB", "at least 32.0 MiB"),
        ("--cache-size=-5", "is not a size"),
        ("--chunk-size=1000", "multiple of 64KiB"),
        ("--chunk-size=1GiB", "multiple of 64KiB"),
        ("--min-free=12 parsecs", "is not a size"),
        ("--fill=always", "playing, never"),
        ("--lookahead-chunks=-1", "--lookahead-chunks"),
        ("--connections=0", "1..=64"),
        ("--chunk-timeout=0", "longer than 0"),
        ("--chunk-timeout=soon", "write seconds"),
        ("--retries=many", "--retries"),
        ("--dir-ttl=99999999", "up to a day"),
        ("--uid=no-such-user", "no user of this machine"),
        ("--umask=9", "octal"),
        ("--threads=0", "1..=64"),
        ("--cash-size=1G", "--cache-size"),
    ] {
        place.refuses(&mount(option), &[told]);
    }
    place.refuses(&["mount", "@films"], &["<MOUNTPOINT>"]);
    place.refuses(&["unmount"], &["<MOUNTPOINT>"]);
    assert!(place.untouched());
}

#[test]
fn a_variable_of_the_environment_is_checked_like_the_option() {
    let output = Command::new(env!("CARGO_BIN_EXE_reelfs"))
        .args(["mount", "a", "b"])
        .env("REELFS_CACHE_SIZE", "big")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("`big` is not a size"));
}

#[test]
fn a_file_of_settings_is_checked_like_what_is_typed() {
    let place = Place::new();
    let file = place.path("films.toml");
    for (text, told) in [
        ("cash-size = 1", ":1: unknown key `cash-size`: did you mean `cache-size`?"),
        ("# one\n\ncache-size = \"big\"", ":3: invalid value 'big'"),
        ("source = \"http://u:secret@host/\"\nfill = 7", ":2: invalid value '7'"),
        ("source = \"http://u:secret@host/", ":1: "),
    ] {
        fs::write(&file, text).unwrap();
        let line = place.refusal(&["mount", "--config", "@films.toml", "@mnt"]);
        assert!(line.contains(&format!("films.toml{told}")) && !line.contains("secret"), "{line}");
    }
    place.refuses(&["mount", "--config", "films"], &["home/.config/reelfs or /etc/reelfs"]);
    fs::create_dir_all(place.path("home/.config/reelfs")).unwrap();
    fs::write(place.path("home/.config/reelfs/films.toml"), "source = \"~/none\"").unwrap();
    // Found, and read; the one place that was typed is the one it leaves open.
    place.refuses(&["mount", "--config", "films", "@mnt"], &["home/none", "No such file"]);
    // What is typed comes first.
    place.refuses(&["mount", "--config", "films", "@no/such", "@mnt"], &["no/such"]);
}

#[test]
fn a_mount_that_fails_in_the_background_says_so_in_front() {
    let place = Place::new();
    for (source, told) in [("@no/such", "No such file"), ("http://u:secret@127.0.0.1:9/", "refused")] {
        let typed = ["mount", "--background", source, "@mnt", "--retries=0"];
        let line = place.refusal(&typed);
        assert!(line.contains(told) && !line.contains("secret"), "{line}");
        assert_eq!(place.run(&typed).status.code(), Some(1));
    }
    // A wrong command line, as without it.
    let wrong = place.run(&["mount", "--background", "@films", "@mnt", "--cache-size=big"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn as_mount_calls_it() {
    let place = Place::new();
    let helper = place.path("mount.fuse.reelfs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_reelfs"), &helper).unwrap();
    let run = |typed: &[&str]| Command::new(&helper).args(typed).env("HOME", place.path("home")).output().unwrap();
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    let refused = run(&[&place.path("films"), &place.path("mnt"), "-o", "rw,_netdev,cash_size=1"]);
    assert_eq!(refused.status.code(), Some(32));
    assert!(said(&refused).contains("unknown option `cash_size`"), "{}", said(&refused));
    let refused = run(&[&place.path("none"), &place.path("mnt"), "-o", "rw,cache_size=20G"]);
    assert_eq!(refused.status.code(), Some(32));
    assert!(said(&refused).contains("No such file"), "{}", said(&refused));
}

#[test]
fn options_without_use_are_refused_where_they_are_typed_and_warned_of_elsewhere() {
    let place = Place::new();
    let library = format!("library:{}", place.path("none"));
    fs::write(place.path("films.toml"), format!("source = '{library}'\numask = 0o027\n")).unwrap();
    let helper = place.path("mount.fuse.reelfs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_reelfs"), &helper).unwrap();
    let settings = format!("--config={}", place.path("films.toml"));
    let (reelfs, mnt) = (env!("CARGO_BIN_EXE_reelfs"), place.path("mnt"));
    let run = |program: &str, typed: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(program);
        let output =
            command.args(typed).env("HOME", place.path("home")).envs(variables.iter().copied()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(reelfs, &["mount", &library, &mnt, "--cache-size=1G"], &[]);
    assert!(code == 2 && said.contains("--cache-size means nothing here"), "{said}");
    // There is no such library: that is what each of these fails of.
    for (program, typed, variables, code, warning) in [
        (reelfs, vec!["mount", &settings, &mnt], vec![], 1, "umask in the file of settings does nothing here"),
        (
            reelfs,
            vec!["mount", &library, &mnt],
            vec![("REELFS_CACHE_SIZE", "1G")],
            1,
            "REELFS_CACHE_SIZE in the environment does nothing here",
        ),
        (&helper, vec![&library, &mnt, "-o", "cache_size=1G"], vec![], 32, "--cache-size does nothing here"),
    ] {
        let (ended, said) = run(program, &typed, &variables);
        assert!(ended == code && said.contains(warning) && said.contains("WARN"), "{typed:?}: {ended}: {said}");
        assert!(said.lines().count() == 2 && said.contains("none"), "{typed:?}: {said}");
    }
}

#[test]
fn pages_and_completions_tell_every_command() {
    let place = Place::new();
    assert!(place.run(&["man", "@pages"]).status.success());
    for page in ["reelfs.1", "reelfs-mount.1", "reelfs-cache-status.1"] {
        let page = fs::read_to_string(place.path(&format!("pages/{page}"))).unwrap();
        assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{page}");
    }
    let page = fs::read_to_string(place.path("pages/reelfs-mount.1")).unwrap();
    assert!(page.contains("cache\\-size") && page.contains("REELFS_SOURCE"), "{page}");
    let pages: Vec<_> = fs::read_dir(place.path("pages")).unwrap().map(|page| page.unwrap().file_name()).collect();
    assert!(!pages.iter().any(|page| page.to_string_lossy().contains("orphan")), "{pages:?}");
    for shell in ["bash", "zsh", "fish"] {
        let output = place.run(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("cache-size"), "{shell}");
    }
    place.refuses(&["completions", "tcsh"], &["bash", "zsh", "fish"]);
}

#[test]
fn mount_exits_with_2_for_wrong_settings_and_1_for_what_may_be_otherwise_later() {
    let place = Place::new();
    let file = place.path("films.toml");
    for (line, code, told) in [
        ("source = '@films'\nmountpoint = '@films/film.mp4'", 1, "not a folder"),
        ("source = '@films'\nmountpoint = '@home/..'", 1, "not empty"),
        ("source = '@films'\nmountpoint = '@no/such'", 1, "mkdir -p"),
        ("source = '/dev/null'\nmountpoint = '@mnt'", 1, "neither a folder nor a file"),
        ("source = 'nonsense://host/'\nmountpoint = '@mnt'", 2, "nonsense"),
        ("source = '@films'\nmountpoint = '@mnt'\ncache-size = '1'", 2, "at least"),
        ("source = '@films'\nmountpoint = '@mnt'\ncash-size = '1'", 2, "cache-size"),
        ("source = '@films'\nmountpoint = '@mnt'\ncache-dir = '@mnt/cache'", 2, "inside the mount point"),
    ] {
        fs::write(&file, line.replace('@', &place.path(""))).unwrap();
        for how in [&["mount", "--config", "@films.toml"][..], &["mount", "--background", "--config", "@films.toml"]] {
            let output = place.run(how);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(code) && said.contains(told), "{line}: {:?}: {said}", output.status);
        }
    }
}

#[test]
fn mount_points_that_cannot_be_used() {
    let place = Place::new();
    place.refuses(&["mount", "@films", "@no/such"], &["mkdir -p", "no/such"]);
    place.refuses(&["mount", "@films", "@films/film.mp4"], &["not a folder"]);
    place.refuses(&["mount", "@mnt", "@films"], &["not empty"]);
    assert!(place.untouched());
}

#[test]
fn a_mount_point_that_would_wait_for_itself() {
    let place = Place::new();
    place
        .refuses(&["mount", "@films", "@mnt", "--cache-dir", "@mnt/cache"], &["inside the mount point", "--cache-dir"]);
    place.refuses(&["mount", "@mnt", "@mnt"], &["lie in each other"]);
    place.refuses(&["mount", "@.", "@mnt"], &["lie in each other"]);
    assert!(place.untouched());
}

#[test]
fn sources_that_cannot_be_used() {
    let place = Place::new();
    place.refuses(&["mount", "gopher://host/films", "@mnt"], &["gopher://", "reelfs sources"]);
    place.refuses(&["mount", "gs://films", "@mnt"], &["not built in", "--features gcs"]);
    place.refuses(&["mount", "s3://key:secret@films/", "@mnt"], &["AWS_ACCESS_KEY_ID"]);
    place.refuses(&["mount", "", "@mnt"], &["source is empty"]);
    place.refuses(&["mount", "@no/such", "@mnt"], &["no/such", "No such file"]);
    // Nobody listens on the discard port.
    place.refuses(&["mount", "http://u:secret@127.0.0.1:9/", "@mnt", "--retries=0"], &["127.0.0.1:9", "refused"]);
}

#[test]
fn passwords_are_not_repeated() {
    let place = Place::new();
    for source in ["http://u:secret@127.0.0.1:9/", "http://u:secret@[/", "webdav://u:secret@127.0.0.1:9/"] {
        let line = place.refusal(&["mount", source, "@mnt", "--retries=0"]);
        assert!(!line.contains("secret"), "{line}");
    }
}

#[test]
fn a_cache_directory_that_cannot_be_used() {
    let place = Place::new();
    place.refuses(&["mount", "@films", "@mnt", "--cache-dir", "@films/film.mp4/x"], &["film.mp4/x"]);
}

#[test]
fn without_a_home_there_is_no_place_for_a_cache() {
    let output = Command::new(env!("CARGO_BIN_EXE_reelfs")).args(["cache", "status"]).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--cache-dir"));
}

#[test]
fn caches_that_are_not_there() {
    let place = Place::new();
    for command in ["status", "verify"] {
        place.refuses(&["cache", command, "--cache-dir", "@home/none"], &["home/none", "no cache"]);
        place.refuses(&["cache", command, "--source", "@films"], &[".cache/reelfs/films-", "no cache"]);
        place.refuses(&["cache", command, "--source", "gopher://host/"], &["reelfs sources"]);
    }
    place.refuses(&["cache", "purge"], &["<PATH>"]);
    place.refuses(&["cache", "purge", "a.mkv"], &["--source"]);
    place.refuses(&["cache", "purge", "a.mkv", "--all"], &["--all"]);
    assert!(place.untouched());
}

#[test]
fn nothing_cached_yet_is_no_failure() {
    let place = Place::new();
    let said = |typed: &[&str]| {
        let output = place.run(typed);
        assert!(output.status.success() && output.stderr.is_empty(), "{typed:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&["cache", "status"]), "nothing is cached yet\n");
    assert_eq!(said(&["cache", "status", "--json"]), "{\n  \"caches\": []\n}\n");
    assert_eq!(said(&["cache", "verify"]), "");
    assert_eq!(said(&["cache", "purge", "--all"]), "0 files forgotten, 0 B freed\n");
}

#[test]
fn a_cache_is_listed_verified_and_forgotten_unless_it_is_held() {
    let place = Place::new();
    let dir = place.path("home/cache");
    let config = reelfs::config::CacheConfig {
        dir: dir.clone().into(),
        size_bytes: 64 << 20,
        min_free_bytes: 0,
        chunk_size_bytes: reelfs::config::CHUNK_SIZE_BYTES,
    };
    let cache = reelfs::cache::Cache::open(&config, "/srv/films", std::sync::Arc::default()).unwrap();
    let holder = format!("process {}", std::process::id());
    for command in [
        &["cache", "verify", "--cache-dir", "@home/cache"][..],
        &["cache", "purge", "--all", "--cache-dir", "@home/cache"],
    ] {
        place.refuses(command, &["in use", &holder]);
    }
    let status = |json: &[&str]| {
        let output = place.run(&[&["cache", "status", "--cache-dir", "@home/cache"], json].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(status(&[]).contains(&format!("by {holder}")));
    drop(cache);
    assert!(!status(&[]).contains("by process"));
    assert!(status(&["--json"]).contains("\"budget_bytes\": 67108864"));
    let verified = place.run(&["cache", "verify", "--cache-dir", "@home/cache"]);
    assert!(verified.status.success());
    assert_eq!(String::from_utf8(verified.stdout).unwrap(), format!("{dir}: 0 chunks, 0 B: all good\n"));
    // Looking after a cache leaves its budget as its mount set it.
    assert!(status(&["--json"]).contains("\"budget_bytes\": 67108864"));
    let purged = place.run(&["cache", "purge", "--all", "--cache-dir", "@home/cache"]);
    assert_eq!(String::from_utf8(purged.stdout).unwrap(), "0 files forgotten, 0 B freed\n");
    assert!(Path::new(&dir).join("index.sqlite").exists());
}

/// A library with a film of several chunks in it, put from `films/long.mkv`.
fn library(place: &Place) {
    let film: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(place.path("films/long.mkv"), film).unwrap();
    assert!(place.run(&["init", "@library", "--chunk-size", "64KiB"]).status.success());
    assert!(place.run(&["put", "@films/long.mkv", "@library"]).status.success());
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_file_that_lost_a_blob_is_not_there_already() {
    let place = Place::new();
    library(&place);
    assert!(place.run(&["init", "@other", "--chunk-size", "64KiB"]).status.success());
    assert!(place.run(&["copy", "@library", "@other"]).status.success());
    let film = fs::read(place.path("films/long.mkv")).unwrap();
    for (library, again) in
        [("library", ["put", "@films/long.mkv", "@library"]), ("other", ["copy", "@library", "@other"])]
    {
        assert!(said(&place.run(&again)).contains("1 file there already"), "{again:?}");
        let folders = fs::read_dir(place.path(&format!("{library}/blobs"))).unwrap();
        let mut blobs = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        fs::remove_file(blobs.next().unwrap().unwrap().path()).unwrap();
        let said = said(&place.run(&again));
        assert!(said.starts_with("1 file"), "{said}");
        let got = place.run(&["get", &format!("@{library}/long.mkv"), "-"]);
        assert!(got.stdout == film, "{library}: it is whole again");
    }
}

/// What is whole stays, while a file is put that takes hours.
#[test]
fn a_put_that_is_stopped_has_kept_what_was_done() {
    for (signal, is_polite) in [("-KILL", false), ("-INT", true)] {
        let place = Place::new();
        assert!(place.run(&["init", "@library"]).status.success());
        let film = vec![7; 3 << 20];
        fs::write(place.path("films/film.mkv"), &film).unwrap();
        fs::File::create(place.path("films/long.mkv")).unwrap().set_len(1 << 40).unwrap();
        let put = Command::new(env!("CARGO_BIN_EXE_reelfs"))
            .args([
                "put",
                "-q",
                "--jobs=1",
                &place.path("films/film.mkv"),
                &place.path("films/long.mkv"),
                &place.path("library"),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_mins(1);
        while said(&place.run(&["ls", "@library"])) != "film.mkv\n" {
            assert!(Instant::now() < until, "it has no name yet");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(Command::new("kill").args([signal, &put.id().to_string()]).status().unwrap().success());
        let ended = put.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), is_polite.then_some(1), "{ended:?}");
        assert_eq!(said(&ended).contains("1 file put") && said(&ended).contains("broken off"), is_polite, "{ended:?}");
        assert!(place.run(&["get", "@library/film.mkv", "-"]).stdout == film);
        assert!(place.run(&["verify", "-q", "@library"]).status.success());
    }
}

#[test]
fn a_get_that_is_stopped_leaves_nothing_behind() {
    let place = Place::new();
    assert!(place.run(&["init", "@library"]).status.success());
    fs::write(place.path("films/long.mkv"), vec![7; 256 << 20]).unwrap();
    assert!(place.run(&["put", "@films/long.mkv", "@library"]).status.success());
    fs::create_dir(place.path("to")).unwrap();
    let got = Command::new(env!("CARGO_BIN_EXE_reelfs"))
        .args(["get", "-q", &place.path("library/long.mkv"), &place.path("to")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_mins(1);
    while fs::read_dir(place.path("to")).unwrap().next().is_none() {
        assert!(Instant::now() < until, "it has not begun");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &got.id().to_string()]).status().unwrap().success());
    let ended = got.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(1), &b"reelfs: broken off\n"[..]));
    assert!(fs::read_dir(place.path("to")).unwrap().next().is_none());
}

/// As a mount writes them: a film with a hole in it, a link, and a folder with nothing in it.
#[test]
fn what_a_copy_leaves_out_is_told_and_holes_stay_holes() {
    use std::os::unix::fs::MetadataExt as _;
    const HOLE: u64 = 100 << 20;
    let place = Place::new();
    for name in ["@library", "@other"] {
        assert!(place.run(&["init", name]).status.success());
    }
    assert!(!said(&place.run(&["copy", "@library", "@other"])).contains("left out"), "there is nothing");
    let catalog = reelfs::library::catalog::Catalog::open(Path::new(&place.path("library"))).unwrap();
    let hole = Chunk { range: reelfs::range::ByteRange::new(0, HOLE), proof: Proof::Zeros };
    let (content, meta, now) = (Content::Chunks(vec![hole]), Meta::now(), std::time::SystemTime::now());
    let placed = Placed { content: &content, meta: &meta, owner: (0, 0), mode: 0o644 };
    let made: reelfs::error::Result<()> = catalog.change(|change| {
        change.place("a/film.mkv", &placed, now)?;
        for (name, kind) in [("link", NodeKind::Link), ("empty", NodeKind::Folder)] {
            let node = change.add_node(&Node::new(kind, 0o755, (0, 0), now), Some("a").filter(|_| name == "link"))?;
            change.add_name(catalog::ROOT, name, &node, now)?;
        }
        Ok(())
    });
    made.unwrap();
    drop(catalog);
    let copied = said(&place.run(&["copy", "@library", "@other"]));
    assert!(copied.contains("1 file copied, 100.0 MiB, of which 0 B were sent"), "{copied}");
    assert!(copied.contains("left out: 1 special file (links, pipes, devices), 1 empty folder"), "{copied}");
    assert!(place.run(&["get", "@other/a/film.mkv", "@film.mkv"]).status.success());
    let film = fs::metadata(place.path("film.mkv")).unwrap();
    assert_eq!(film.len(), HOLE);
    assert!(film.blocks() * 512 < HOLE / 2, "{} blocks", film.blocks());
    assert!(fs::read(place.path("film.mkv")).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn names_of_a_library_are_listed_as_asked() {
    let place = Place::new();
    library(&place);
    place.refuses(&["ls", "--json", "@library/none"], &["none"]);
    place.refuses(&["stat", "@library"], &["is a library", "reelfs ls"]);
    assert_eq!(said(&place.run(&["ls", "@library/long.mkv"])), "long.mkv\n");
    assert!(said(&place.run(&["ls", "-l", "@library/long.mkv"])).contains("1.1 MiB"));
    let all = place.run(&["ls", "--limit", "1", "@library"]);
    assert!(all.status.success() && all.stderr.is_empty(), "that was all: {all:?}");
    fs::write(place.path("library/quarantine/x.blob"), b"damaged").unwrap();
    assert!(said(&place.run(&["gc", "@library"])).contains("1 damaged chunk, 7 B put aside by `verify`"));
}

/// What a URL would make something else of is a name like any other.
#[test]
fn names_in_a_store_are_taken_as_they_are_written() {
    let place = Place::new();
    let names = ["Film #1.mkv", "Film ", "What?.mkv", "What", "p%20c", "p c", "a\nb", "ab", "%2e%2e", "b\\c"];
    fs::create_dir(place.path("odd")).unwrap();
    for name in names {
        fs::write(Path::new(&place.path("odd")).join(name), name).unwrap();
    }
    for home in ["kv+redb://", "kv+file://"] {
        let library = format!("{home}{}", place.path(&format!("a #{}", &home[3..7])));
        assert!(place.run(&["init", &library]).status.success());
        assert!(said(&place.run(&["put", "@odd", &library])).starts_with("10 files put"));
        let at = |name: &str| format!("{library}/odd/{name}");
        for name in names {
            assert_eq!(said(&place.run(&["get", &at(name), "-"])), name, "{library}");
        }
        for (n, name) in names.into_iter().enumerate() {
            assert!(place.run(&["rm", &at(name)]).status.success());
            let left = names[n + 1..].iter().all(|left| said(&place.run(&["get", &at(left), "-"])) == *left);
            assert!(left && !place.run(&["stat", &at(name)]).status.success(), "{name} alone is removed");
        }
        place.refuses(&["put", "@films/film.mp4", &at("..")], &["`..`"]);
    }
}

#[test]
fn what_is_done_to_a_whole_library_is_not_done_for_a_path_in_it() {
    let place = Place::new();
    library(&place);
    let store = format!("kv+redb://{}", place.path("films.redb"));
    assert!(place.run(&["init", &store]).status.success());
    for library in ["@library", &store] {
        let at = |path: &str| format!("{library}/{path}");
        for path in ["one/film.mp4", "two/film.mp4"] {
            assert!(place.run(&["put", "@films/film.mp4", &at(path), "--tag", "old"]).status.success());
        }
        place.refuses(&["purge", &at("one"), "--tag", "old"], &["`one`", "name the library"]);
        place.refuses(&["purge", &at("none"), "--tag", "old"], &["name the library"]);
        place.refuses(&["gc", &at("one")], &["name the library"]);
        place.refuses(&["verify", &at("one")], &["name the library"]);
        assert!(said(&place.run(&["purge", library, "--tag", "old"])).starts_with("2 files"));
    }
}

#[test]
fn blobs_without_a_catalog_are_not_taken_for_an_empty_library() {
    let place = Place::new();
    library(&place);
    for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        let _ = fs::remove_file(place.path(&format!("library/{name}")));
    }
    place.refuses(&["ls", "@library"], &["lost its catalog"]);
    place.refuses(&["init", "@library"], &["lost its catalog"]);
}

#[test]
fn what_is_no_file_takes_the_bytes_and_stays_what_it_is() {
    let place = Place::new();
    library(&place);
    let film = fs::read(place.path("films/long.mkv")).unwrap();
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    assert!(place.run(&["get", "@library/long.mkv", "@pipe"]).status.success());
    assert!(reader.join().unwrap() == film);
    assert!(!fs::metadata(&pipe).unwrap().is_file());
    fs::write(place.path("old"), b"old").unwrap();
    std::os::unix::fs::symlink("old", place.path("link")).unwrap();
    assert!(place.run(&["get", "@library/long.mkv", "@link"]).status.success());
    assert!(fs::read(place.path("old")).unwrap() == film);
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
}

#[test]
fn one_chunk_of_two_files_is_repaired_for_both() {
    let place = Place::new();
    library(&place);
    assert!(place.run(&["put", "@films/long.mkv", "@library/twin.mkv"]).status.success());
    assert!(place.run(&["init", "@other"]).status.success());
    assert!(place.run(&["put", "@films/long.mkv", "@other"]).status.success());
    let blobs = fs::read_dir(place.path("library/blobs")).unwrap();
    let mut blobs = blobs.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    fs::write(blobs.next().unwrap().unwrap().path(), b"damaged").unwrap();
    let repaired = place.run(&["verify", "@library", "--repair-from", "@other"]);
    let told = said(&repaired);
    assert!(
        repaired.status.success() && told.matches("repaired: ").count() == 2 && !told.contains("not repaired"),
        "{told}"
    );
    assert!(place.run(&["verify", "@library"]).status.success());
}

#[test]
fn help_and_version_are_answers() {
    let place = Place::new();
    for typed in
        [&["--help"][..], &["mount", "--help"], &["cache", "purge", "--help"], &["demo", "--help"], &["--version"]]
    {
        let output = place.run(typed);
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{typed:?}");
    }
    let help = String::from_utf8(place.run(&["--help"]).stdout).unwrap();
    assert!(!help.contains("unmount-when-orphaned") && !help.contains("probe-mount"));
}

#[test]
fn a_library_is_made_as_the_environment_says_and_tells_who_holds_it() {
    let place = Place::new();
    let init = |name: &str, variables: &[(&str, &str)]| {
        Command::new(env!("CARGO_BIN_EXE_reelfs"))
            .args(["init", &place.path(name)])
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    };
    let sizes = [("REELFS_INLINE_MAX", "1M"), ("REELFS_LIBRARY_CHUNK_SIZE", "4M")];
    assert!(init("library", &sizes).status.success());
    let held = reelfs::library::catalog::Catalog::open(Path::new(&place.path("library"))).unwrap();
    assert_eq!((held.cut().inline_bytes_max, held.cut().chunk_size_bytes), (1 << 20, 4 << 20));
    let nonsense = init("other", &[("REELFS_INLINE_MAX", "much")]);
    assert_eq!(nonsense.status.code(), Some(2), "{nonsense:?}");
    // This process has it open.
    let holder = format!("open for writing by process {} (`", std::process::id());
    place.refuses(&["put", "@films/film.mp4", "@library"], &[&holder, "`, for "]);
}

#[test]
fn a_recut_that_is_killed_loses_nothing_and_goes_on() {
    const FILES: usize = 600;
    let place = Place::new();
    assert!(place.run(&["init", "--inline-max", "1K", "@library"]).status.success());
    for n in 0..FILES {
        fs::write(place.path(&format!("films/{n}")), vec![n as u8; 4000 + n]).unwrap();
    }
    assert!(place.run(&["put", "-q", "@films", "@library"]).status.success());
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    // A kill comes while it works, however fast this machine is.
    let begun = Instant::now();
    assert!(place.run(&["recut", "-q", "--inline-max", "64K", "@library"]).status.success());
    let took = begun.elapsed();
    assert!(place.run(&["recut", "-q", "--inline-max", "1K", "@library"]).status.success());
    let mut killed = 0;
    for max in ["64K", "1K", "64K"] {
        // Else the blobs of files that were moved in would be there for a while, and hide that one is missing.
        assert!(place.run(&["gc", "--grace", "0", "@library"]).status.success());
        for _ in 0..6 {
            let mut recut = Command::new(env!("CARGO_BIN_EXE_reelfs"))
                .args(["recut", "-q", "--inline-max", max, &place.path("library")])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(took.mul_f64(dice.f64() * 0.8));
            recut.kill().unwrap();
            killed += usize::from(!recut.wait().unwrap().success());
            let verified = place.run(&["verify", "-q", "@library"]);
            assert!(verified.status.success(), "{verified:?}");
        }
        let done = said(&place.run(&["recut", "-q", "--inline-max", max, "@library"]));
        assert!(done.contains("are kept in the catalog: "), "{done}");
    }
    assert!(killed > 0, "none was killed while it ran");
    let done = said(&place.run(&["recut", "-q", "--inline-max", "64K", "@library"]));
    assert!(done.contains("0 files moved into it, 0 files out of it"), "{done}");
    assert!(place.run(&["get", "-q", "@library/films", "@out"]).status.success());
    for n in 0..FILES {
        assert!(fs::read(place.path(&format!("out/{n}"))).unwrap() == vec![n as u8; 4000 + n], "{n}");
    }
    place.refuses(&["recut", "--inline-max", "64K", "kv+file:///nowhere"], &["in a store"]);
    let held = reelfs::library::catalog::Catalog::open(Path::new(&place.path("library"))).unwrap();
    place.refuses(&["recut", "--inline-max", "64K", "@library"], &["open for writing by process"]);
    drop(held);
}
