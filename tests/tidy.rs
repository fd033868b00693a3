//! The house rules that a compiler does not know: which way imports go, where `unsafe` may stand, that every file
//! says what it is for, and how long a file may be.
//! Never here: what the code does.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, lowest first. A room may use any room on a floor below its own, and its own parts; nothing else.
const FLOORS: [&[&str]; 10] = [
    &[
        "error", "refusal", "range", "digest", "config", "metrics", "timing", "problems", "retry", "cancel", "modes",
        "lock", "media", "sqlite", "sys",
    ],
    &["store", "demo"],
    &["library", "cluster", "cache"],
    &["origin"],
    &["fetch"],
    &["read"],
    &["drive", "volume"],
    &["fuse", "control"],
    &["assemble", "service"],
    &["cli"],
];

/// Rooms on the lowest floor are single files; these uses among them are by design, and form no circle.
const AMONG_THE_LOWEST: [(&str, &str); 12] = [
    ("config", "error"),
    ("lock", "error"),
    ("lock", "modes"),
    ("metrics", "problems"),
    ("metrics", "timing"),
    ("problems", "error"),
    ("refusal", "error"),
    ("retry", "error"),
    ("retry", "metrics"),
    ("sqlite", "error"),
    ("sqlite", "sys"),
    ("sys", "range"),
];

/// Longest file: past it, two things live in one room.
const LINES_MAX: usize = 600;
/// Tests of one room are read one by one, and may stand together longer.
const TEST_LINES_MAX: usize = 700;

#[test]
fn imports_never_climb() {
    let mut climbs = Vec::new();
    for file in sources() {
        let Some(room) = room_of(&file) else { continue };
        let floor =
            floor_of(&room).unwrap_or_else(|| panic!("{} belongs to no floor: add it to FLOORS", file.display()));
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            for used in rooms_used(line) {
                let is_allowed = used == room
                    || floor_of(&used).is_some_and(|below| below < floor)
                    || AMONG_THE_LOWEST.contains(&(room.as_str(), used.as_str()));
                if !is_allowed {
                    climbs.push(format!("{}:{}: {room} uses {used}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(climbs.is_empty(), "imports that climb:\n{}", climbs.join("\n"));
}

#[test]
fn system_calls_stay_in_their_room() {
    for file in sources().into_iter().filter(|file| !file.ends_with("src/sys.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("unsafe {") && !text.contains("unsafe fn"), "{} says unsafe", file.display());
    }
}

#[test]
fn every_file_says_what_lives_in_it() {
    for file in sources().into_iter().chain(rust_files(Path::new("tests"))).chain(rust_files(Path::new("benches"))) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not open with `//!`", file.display());
        let lines = text.lines().count();
        let is_test = file.ends_with("tests.rs") || file.starts_with("tests");
        let lines_max = if is_test { TEST_LINES_MAX } else { LINES_MAX };
        assert!(lines <= lines_max, "{} has {lines} lines; do two things live there?", file.display());
    }
}

/// `src/cache/index/mod.rs` → `cache`; nothing for `lib.rs` and `main.rs`, which see the whole house.
fn room_of(file: &Path) -> Option<String> {
    let first = file.strip_prefix("src").ok()?.components().next()?;
    let name = Path::new(first.as_os_str()).with_extension("").to_string_lossy().into_owned();
    (name != "lib" && name != "main").then_some(name)
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// Every `crate::room` of a line of code.
fn rooms_used(line: &str) -> Vec<String> {
    if line.trim_start().starts_with("//") {
        return Vec::new();
    }
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    line.split("crate::").skip(1).map(name).filter(|room| !room.is_empty()).collect()
}

fn sources() -> Vec<PathBuf> {
    rust_files(Path::new("src"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry of it").path();
        // What the fuzzer builds may stand in its folder.
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
