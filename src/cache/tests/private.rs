//! Whose modes a cache changes: those of files and folders that reelfs made, and no others.
//! Never here: the bits themselves (see `modes`).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// As an earlier version left a cache, under the usual umask.
fn open_up(top: &Path) {
    for entry in fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            open_up(&entry);
        } else {
            chmod(&entry, 0o644);
        }
    }
    chmod(top, 0o755);
}

fn fill(home: &Path) {
    let cache = open_with(&config(home));
    let film = cache.entry("film", &stat(CHUNK, "1")).unwrap();
    assert_eq!(keep(&cache, &film, 1, slot(0)), Kept::Written);
}

#[test]
fn cache_in_a_folder_of_others_changes_no_mode_of_theirs() {
    for names in [&[][..], &["budget.xlsx", "lock.txt", "entries/mine"]] {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().join("srv");
        fs::create_dir(&home).unwrap();
        for name in names {
            let path = home.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "mine").unwrap();
        }
        open_up(&home);
        let entries_mode = if names.is_empty() { 0o700 } else { 0o755 };
        for _ in 0..3 {
            fill(&home);
            set_group_read(&home, true).unwrap();
            set_group_read(&home, false).unwrap();
            assert_eq!((mode(&home), mode(&home.join("entries"))), (0o755, entries_mode));
            for name in names {
                assert_eq!(mode(&home.join(name)), 0o644, "{name}");
            }
            assert_eq!(mode(&home.join("index.sqlite")), 0o600);
        }
        // What the owner gives to the group by hand, the cache in it is given, too; and keeps.
        chmod(&home, 0o750);
        for _ in 0..2 {
            fill(&home);
            set_group_read(&home, false).unwrap();
            assert_eq!((mode(&home), mode(&home.join("index.sqlite"))), (0o750, 0o640));
        }
    }
}

#[test]
fn cache_of_an_earlier_version_is_closed_and_other_files_beside_it_stay_open() {
    for has_others in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let (home, mine) = (temp.path().join("cache"), temp.path().join("cache/mine"));
        fill(&home);
        fs::remove_file(home.join(MADE)).unwrap();
        if has_others {
            fs::write(&mine, "mine").unwrap();
        }
        open_up(&home);
        fill(&home);
        let found = ["entries", "index.sqlite", "lock", "budget"].map(|name| mode(&home.join(name)));
        assert_eq!(found, [0o700, 0o600, 0o600, 0o600]);
        assert_eq!(mode(&home), if has_others { 0o755 } else { 0o700 });
        assert!(!has_others || mode(&mine) == 0o644);
    }
}

#[test]
fn cache_folder_that_reelfs_made_is_opened_to_the_group_and_closed_again() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("above/cache");
    fill(&home);
    assert_eq!(mode(&home), 0o700);
    for (is_read, folder, file) in [(true, 0o750, 0o640), (false, 0o700, 0o600)] {
        set_group_read(&home, is_read).unwrap();
        fill(&home);
        assert_eq!((mode(&home), mode(&home.join("index.sqlite"))), (folder, file));
    }
    chmod(&home, 0o755);
    fill(&home);
    assert_eq!(mode(&home), 0o700);
}
