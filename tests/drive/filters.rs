//! A part of a source as a drive: patterns as rclone reads them, what a guessed name gets, and mistakes in them.
//! Never here: one pattern and one path (see `src/origin/filter`).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use reelfs::demo::{Server, ServerConfig};

use super::compare::made;
use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Need, Test};

pub fn tests() -> Vec<Test> {
    const RCLONE: &[Need] = &[FUSE, Need::Program("rclone")];
    vec![
        Test::new("filters::the_same_files_as_rclone", RCLONE, the_same_files_as_rclone),
        Test::new("filters::a_guessed_name_is_not_there", &[FUSE], a_guessed_name_is_not_there),
        Test::new("filters::each_view_is_remembered_by_itself", &[FUSE], each_view_is_remembered_by_itself),
        Test::new("filters::mistakes_are_told_before_anything_is_done", &[FUSE], mistakes),
    ]
}

/// Names that patterns like to stumble over.
const NAMES: [&str; 24] = [
    "a.mkv",
    "A.MKV",
    "b.mkv.part",
    ".hidden.mkv",
    "[group] film (1999).mkv",
    "{braces}.mkv",
    "star*.mkv",
    "quest?on.mkv",
    "back\\slash.mkv",
    "a+b^c$d.mkv",
    "comma,name.srt",
    " space .mkv",
    "ünïcode é.mkv",
    "movie.sample.mkv",
    "noending",
    "Season 1/e01.mkv",
    "Season 1/e01.nfo",
    "Season 1/Extras/cut.mkv",
    "Season 10/e01.mkv",
    "Extras/x.mkv",
    "deep/a/b/c/d.mkv",
    "deep/a/b/c/d.srt",
    "deep/mkv/readme",
    "dir.mkv/inner.txt",
];

/// Filters that rclone reads as we do, whatever the order in which it takes its options.
const FILTERS: [&[&str]; 22] = [
    &["--include", "*.mkv"],
    &["--include", "*.{mkv,srt}"],
    &["--include", "/*.mkv"],
    &["--include", "/deep/**"],
    &["--include", "/deep/**.mkv"],
    &["--include", "/Season */e??.mkv"],
    &["--include", "/Season [0-9]/*"],
    &["--include", "[^a-z]*"],
    &["--include", "\\[group\\]*", "--include", "\\{braces\\}*"],
    &["--include", "star\\**", "--include", "quest\\?on*", "--include", "back\\\\*"],
    &["--include", "a+b^c$d.mkv", "--include", "* space *"],
    &["--include", "*,*", "--include", "ünïcode ?.mkv"],
    &["--include", "{{.*[0-9]{2}\\.(mkv|nfo)}}"],
    &["--exclude", "*.mkv"],
    &["--exclude", "Extras/"],
    &["--exclude", "/Extras/**"],
    &["--exclude", "Extras"],
    &["--exclude", "dir.mkv"],
    &["--exclude", "*sample*", "--exclude", "*.nfo", "--exclude", ".*"],
    &["--filter", "- *sample*", "--filter", "+ *.mkv", "--filter", "- *"],
    &["--filter", "+ /Season 1/e*", "--filter", "- /Season 1/", "--filter", "- *.srt"],
    &["--filter", "+ /deep/a/**", "--filter", "- /deep/**", "--filter", "- {a,b}*"],
];

fn tree() -> tempfile::TempDir {
    let films = tempfile::tempdir().unwrap();
    for name in NAMES {
        let path = films.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    films
}

/// All files below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    fn walk(top: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(top, &path, found);
            } else {
                let name = path.strip_prefix(top).unwrap().to_str().unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), name, "its bytes");
                found.insert(name.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(folder, folder, &mut found);
    found
}

fn the_same_files_as_rclone() {
    let films = tree();
    let source = films.path().to_str().unwrap();
    let place = Place::new();
    let mut sizes = BTreeSet::new();
    for options in FILTERS {
        let output = Command::new("rclone")
            .args(["lsf", "-R", "--files-only", "--config", ""])
            .args(options)
            .arg(source)
            .output()
            .unwrap();
        assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        let theirs: BTreeSet<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        // One cache for all of them: what one view knows is nothing to the next.
        let mount = Mount::on(&place, source, options);
        assert_eq!(files(&mount.point()), theirs, "{options:?}");
        mount.end();
        sizes.insert(theirs.len());
    }
    assert!(sizes.len() > 8, "{sizes:?}: filters that all leave out the same show nothing");
    // The same from a file, from the environment and from a file of settings.
    let rules = place.path("rules");
    fs::write(&rules, "# mine\n- *sample*\n+ *.mkv\n- *\n").unwrap();
    let settings = place.path("films.toml");
    fs::write(&settings, "filter = ['- *sample*', '+ *.mkv', '- *']\n").unwrap();
    let is_wanted = |name: &&str| name.strip_suffix(".mkv").is_some_and(|stem| !stem.contains("sample"));
    let wanted: BTreeSet<_> = NAMES.iter().filter(|name| is_wanted(name)).map(|&name| name.to_owned()).collect();
    let (rules, settings) = (rules.to_str().unwrap(), settings.to_str().unwrap());
    for (options, variables) in [
        (&["--filter-from", rules][..], &[][..]),
        (&["--config", settings], &[]),
        (&[], &[("REELFS_FILTER", "- *sample*\n+ *.mkv\n- *")]),
        (&["--exclude", "*sample*", "--include", "*.mkv"], &[]),
    ] {
        let mount = Mount::with(&place, source, options, variables);
        assert_eq!(files(&mount.point()), wanted, "{options:?} {variables:?}");
        mount.end();
    }
}

fn a_guessed_name_is_not_there() {
    let names = ["a.mkv", "a.nfo", "a.srt", "old/b.mkv", "notes.txt"];
    let files = names.iter().map(|name| ((*name).to_owned(), made(1, 5000))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let mount = Mount::new(&server.url(), &["--media-only", "--exclude", "/old/", "--exclude", "*.srt"]);
    let missing = |name: &str| {
        assert_eq!(fs::metadata(mount.file(name)).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
        assert_eq!(fs::read(mount.file(name)).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    };
    // Before anything was listed, and after.
    for _ in 0..2 {
        for name in ["a.nfo", "a.srt", "old", "old/b.mkv", "notes.txt"] {
            missing(name);
        }
        let shown: Vec<_> = fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(shown, ["a.mkv"]);
    }
    assert_eq!(fs::read(mount.file("a.mkv")).unwrap().len(), 5000);
    let asked: Vec<_> = names[1..].iter().map(|name| server.counts(name).requests).collect();
    assert_eq!(asked, [0; 4], "nothing is asked about what is left out");
}

fn each_view_is_remembered_by_itself() {
    let files = ["a.mkv", "a.nfo", "b.srt"].iter().map(|name| ((*name).to_owned(), made(1, 5000))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let (source, place) = (server.url(), Place::new());
    let shown = |options: &[&str]| {
        let mount = Mount::on(&place, &source, &[&["--chunk-timeout", "2"], options].concat());
        let mut names: Vec<_> = fs::read_dir(mount.point())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let film = fs::read(mount.file("a.mkv")).map(|bytes| bytes.len());
        mount.end();
        assert_eq!(film.unwrap(), 5000, "it is cached, whatever is shown beside it");
        names
    };
    let views: [(&[&str], &[&str]); 3] = [
        (&[], &["a.mkv", "a.nfo", "b.srt"]),
        (&["--include", "*.mkv"], &["a.mkv"]),
        (&["--media-only"], &["a.mkv", "b.srt"]),
    ];
    for (options, names) in views {
        assert_eq!(shown(options), names, "{options:?}");
    }
    drop(server);
    for (options, names) in views {
        assert_eq!(shown(options), names, "{options:?}, while the server is away");
    }
}

fn mistakes() {
    let films = tree();
    let (source, place) = (films.path().to_str().unwrap(), Place::new());
    let settings = place.path("films.toml");
    fs::write(&settings, "inclde = ['*.mkv']\n").unwrap();
    let library = format!("library:{}", place.path("library").display());
    assert!(reelfs().args(["init", &library]).output().unwrap().status.success());
    let store = format!("kv+file://{}", place.path("store").display());
    assert!(reelfs().args(["init", &store]).output().unwrap().status.success());
    for (source, options, code, told) in [
        (source, &["--include", "a[b"][..], 2, "--include 'a[b': the `[` at character 2 is not closed: write `\\["),
        (source, &["--filter", "*.mkv"], 2, "a rule is `+ PATTERN` or `- PATTERN`"),
        (source, &["--exclude-from", "/nowhere/at/all"], 2, "--exclude-from /nowhere/at/all: it can't be read"),
        (source, &["--config", settings.to_str().unwrap()], 2, "did you mean `include`?"),
        (source, &["--exclude", "*"], 1, "the filters leave none of its 20 names: check --include"),
        (
            &library,
            &["--include", "*.mkv"],
            2,
            "--include means nothing here: a library on this machine is shown whole",
        ),
        (&store, &["--media-only"], 2, "add --read-only"),
    ] {
        let place = Place::new();
        let output = reelfs()
            .arg("mount")
            .args([source.as_ref(), place.point().as_os_str(), "--cache-dir".as_ref(), place.cache().as_os_str()])
            .args(options)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{options:?}: {said}");
        assert!(said.contains(told) && said.trim_end().lines().count() == 1, "{options:?}: {said}");
        assert!(!place.cache().exists(), "nothing was done");
    }
    // To look only.
    let store_place = Place::new();
    let put = reelfs().arg("put").arg(films.path().join("Season 1")).arg(&store).output().unwrap();
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let mount = Mount::on(&store_place, &store, &["--media-only", "--read-only"]);
    let shown = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut found = BTreeSet::new();
    let mut folders = vec![mount.point()];
    while let Some(folder) = folders.pop() {
        for path in shown(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.file_name().unwrap().to_owned());
            }
        }
    }
    assert_eq!(found, BTreeSet::from(["e01.mkv".into(), "cut.mkv".into()]));
}
