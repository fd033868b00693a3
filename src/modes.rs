//! Who may read what reelfs keeps: caches and libraries are their owner's alone, unless the owner opens them to a group.
//! Never here: what is kept, and the modes of files on a drive.
//!
//! The folder's own permission bits are the one record of it: what its owner gave to the group, files in it are given,
//! too. A folder that others may enter gives nothing to files in it.
//!
//! Always true: reelfs changes the mode of a file or a folder only if reelfs made it. The callers know which those are.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Permission bits of the owner, the group and others; and those that say more, like setgid.
const OWNER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;
const SPECIAL: u32 = 0o7000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// What databases are called at their ends, and the files that `SQLite` makes beside them.
const DATABASE_ENDING: &str = ".sqlite";
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Folders within each other that are mended: deeper than any that a cache or a library has by itself.
const DEPTH_MAX: u32 = 64;

/// What the group may do in a folder that is kept, and so with the files in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    // Permission bits of the group, where they stand in a mode. Others never have any.
    group: u32,
}

impl Modes {
    /// The owner's alone.
    pub const OWNER: Self = Self { group: 0 };
    /// The group may read.
    pub const GROUP_READ: Self = Self { group: 0o050 };

    /// As the permission bits of the folder say.
    pub fn of(dir: &Path) -> Self {
        fs::metadata(dir).map_or(Self::OWNER, |metadata| Self::kept_of(metadata.mode()))
    }

    /// What a mode gives to the group on purpose: no common umask leaves the group some bits and others none, and setgid is
    /// only set by hand.
    fn kept_of(mode: u32) -> Self {
        if mode & OTHERS == 0 || mode & SETGID != 0 { Self { group: mode & GROUP } } else { Self::OWNER }
    }

    /// Of a folder.
    pub fn folder(self) -> u32 {
        OWNER | self.group
    }

    /// Of a file that is written.
    pub fn file(self) -> u32 {
        0o600 | (self.group & 0o060)
    }

    /// Of a file that nobody writes any more.
    pub fn sealed(self) -> u32 {
        0o400 | (self.group & 0o040)
    }

    /// Whether the group may do with the file at `path` what this says.
    pub fn is_of_file(self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|metadata| self.mended(metadata.mode() & 0o7777, false) == metadata.mode() & 0o7777)
    }

    /// What a file or folder with this mode should have instead.
    fn mended(self, mode: u32, is_folder: bool) -> u32 {
        // The group gets no more of a file than the owner has.
        let group = if is_folder { self.group } else { self.group & ((mode & 0o600) >> 3) };
        (mode & (SPECIAL | OWNER)) | group
    }

    /// Options that make a file with this mode, whatever the umask leaves of it.
    pub fn options(self) -> OpenOptions {
        let mut options = File::options();
        options.mode(self.file());
        options
    }

    /// Gives an open file the mode it should have. What the filesystem refuses (one without modes) stays as it is.
    pub fn mend_file(self, file: &File) {
        if let Ok(metadata) = file.metadata()
            && metadata.is_file()
        {
            let (mode, wanted) = (metadata.mode() & 0o7777, self.mended(metadata.mode() & 0o7777, false));
            if mode != wanted {
                let changed = file.set_permissions(Permissions::from_mode(wanted));
                let _ = changed.inspect_err(|error| log::debug!("a file keeps the mode {mode:o}: {error}"));
            }
        }
    }

    /// Makes sure that there is a file at `path`, with this mode, before a library that knows no modes opens it.
    pub fn make_file(self, path: &Path) -> io::Result<()> {
        match self.options().write(true).create_new(true).open(path) {
            // A umask may have taken more.
            Ok(file) => file.set_permissions(Permissions::from_mode(self.file())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Replaces what is in a small file, or makes it.
    pub fn write(self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        use io::Write as _;
        let mut file = self.options().write(true).create(true).truncate(true).open(path)?;
        self.mend_file(&file);
        file.write_all(bytes)
    }

    /// Makes a folder, and those above it that are missing, with this mode. One that is there stays as it is.
    pub fn make_folders(self, path: &Path) -> io::Result<()> {
        match self.make_folder(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(self.folder()).create(path)?;
                fs::set_permissions(path, Permissions::from_mode(self.folder()))
            }
            made => made,
        }
    }

    /// Makes a folder with this mode in one that is there. One that is there already stays as it is.
    pub fn make_folder(self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(self.folder()).create(path) {
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(self.folder())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Opens what is kept at `path` to its group, to be read, or closes it to everybody but its owner; `ours` in a folder, too.
pub fn set_group_read(path: &Path, ours: &[&str], is_read: bool) -> io::Result<()> {
    let modes = if is_read { Modes::GROUP_READ } else { Modes::OWNER };
    let metadata = fs::metadata(path)?;
    let mode = metadata.mode() & 0o7777;
    let wanted = modes.mended(mode, metadata.is_dir());
    if mode != wanted && mode & STICKY == 0 {
        fs::set_permissions(path, Permissions::from_mode(wanted))?;
    }
    mend(path, ours);
    Ok(())
}

/// Closes the folder (or file) `path` to others, and gives what is in it the modes that follow from its own: those of an
/// earlier version, which went by the umask, too. Only for a folder that reelfs made, or that holds nothing but one cache or
/// library; in it only names of `ours` (see [`is_ours`]) are changed. A folder below it that is as it should be is not looked into. Links are left alone, and so is what another user owns. What can't be mended is told once in the
/// log, and is no error: there are filesystems without modes.
pub fn mend(path: &Path, ours: &[&str]) {
    let mut mending = Mending::of(path);
    if mending.is_ours_alone {
        mending.one(path);
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if is_ours(&entry.file_name(), ours) {
                mending.below(&entry.path(), DEPTH_MAX);
            }
        }
    }
    mending.tell(path);
}

/// The same for these very names in a folder that reelfs did not make: the folder itself stays as it is.
pub fn mend_within(folder: &Path, ours: &[&str]) {
    let mut mending = Mending::of(folder);
    if mending.is_ours_alone {
        for name in ours {
            mending.below(&folder.join(name), DEPTH_MAX);
        }
    }
    mending.tell(folder);
}

/// Whether others than the owner and the group may do anything with what is at `path`. Versions that went by the umask made
/// such files, and later ones never do.
pub fn is_open_to_others(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.mode() & OTHERS != 0)
}

/// Whether the group of a folder may write in it by its owner's hand (setgid): several users share it.
pub fn is_shared(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & SETGID != 0)
}

/// Whether a name is one of `ours`, or, of a database, one that belongs to it: a journal, a new or a damaged one. An empty
/// one in `ours` stands for every name.
pub fn is_ours(name: &OsStr, ours: &[&str]) -> bool {
    let name = name.to_str().unwrap_or_default();
    ours.iter().any(|ours| {
        ours.is_empty()
            || name
                .strip_prefix(ours)
                .is_some_and(|rest| rest.is_empty() || (ours.ends_with(DATABASE_ENDING) && belongs_to_database(rest)))
    })
}

/// Whether a name that begins with a database's belongs to it, by what follows: `-wal`, `.new`, `.damaged.2-wal`.
fn belongs_to_database(rest: &str) -> bool {
    let rest = COMPANIONS.iter().find_map(|companion| rest.strip_suffix(companion)).unwrap_or(rest);
    let number = rest.strip_prefix(".damaged").map(|number| number.strip_prefix(['.', '-']).unwrap_or(number));
    let is_number = |number: &str| number.bytes().all(|byte| byte.is_ascii_digit());
    rest.is_empty() || rest == ".new" || number.is_some_and(is_number)
}

struct Mending {
    modes: Modes,
    // Who we are: of others' files, only root mends any.
    user: u32,
    // Not where everybody puts files, as in `/tmp`.
    is_ours_alone: bool,
    failed: Option<io::Error>,
}

impl Mending {
    /// The folder itself is mended first, so that nobody looks in while the rest is.
    fn of(path: &Path) -> Self {
        let is_ours_alone = fs::metadata(path).is_ok_and(|metadata| metadata.mode() & STICKY == 0);
        let user = rustix::process::geteuid().as_raw();
        Self { modes: Modes::of(path), user, is_ours_alone, failed: None }
    }

    fn tell(self, path: &Path) {
        if let Some(error) = self.failed {
            log::warn!("{}: others may be able to read in it: {error}", path.display());
        }
    }

    /// What is in a folder, and then itself: one that is right was mended to its end.
    fn below(&mut self, path: &Path, depth: u32) {
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        let mode = metadata.mode() & 0o7777;
        if self.modes.mended(mode, metadata.is_dir()) == mode || !(metadata.is_dir() || metadata.is_file()) {
            return;
        }
        if metadata.is_dir() && depth > 0 {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                self.below(&entry.path(), depth - 1);
            }
        }
        self.one(path);
    }

    /// Through a descriptor, so that nobody can put a link in its place.
    fn one(&mut self, path: &Path) {
        let changed =
            File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path).and_then(|file| {
                let metadata = file.metadata()?;
                let mode = metadata.mode() & 0o7777;
                let wanted = self.modes.mended(mode, metadata.is_dir());
                let is_ours = self.user == 0 || metadata.uid() == self.user;
                if mode == wanted || !is_ours || !(metadata.is_dir() || metadata.is_file()) {
                    return Ok(());
                }
                fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), Permissions::from_mode(wanted))
            });
        if let Err(error) = changed
            && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        {
            self.failed.get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OURS: [&str; 4] = ["file", "sealed", "below", "link"];

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// A folder as an earlier version left it: `top/{file,sealed,below/deep,link}`; the link leads to `outside`.
    fn old(dir: &Path, folder_mode: u32) -> std::path::PathBuf {
        let top = dir.join("top");
        fs::create_dir_all(top.join("below")).unwrap();
        for (name, mode) in [("file", 0o644), ("sealed", 0o444), ("below/deep", 0o664)] {
            fs::write(top.join(name), "x").unwrap();
            chmod(&top.join(name), mode);
        }
        fs::write(dir.join("outside"), "x").unwrap();
        chmod(&dir.join("outside"), 0o644);
        symlink("../outside", top.join("link")).unwrap();
        chmod(&top.join("below"), 0o755);
        chmod(&top, folder_mode);
        top
    }

    #[test]
    fn modes_of_an_open_folder_are_mended_to_the_owner_alone() {
        for open in [0o755, 0o777, 0o775, 0o705, 0o751] {
            let temp = tempfile::tempdir().unwrap();
            let top = old(temp.path(), open);
            mend(&top, &OURS);
            assert_eq!(Modes::of(&top), Modes::OWNER);
            let modes = ["", "below", "file", "sealed", "below/deep"].map(|name| mode(&top.join(name)));
            assert_eq!(modes, [0o700, 0o700, 0o600, 0o400, 0o600], "{open:o}");
            assert_eq!(mode(&temp.path().join("outside")), 0o644, "links are left alone");
        }
    }

    #[test]
    fn modes_of_what_is_not_ours_are_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let top = old(temp.path(), 0o755);
        mend(&top, &["sealed", "fil", "belo"]);
        let modes = || ["", "below", "file", "sealed", "below/deep"].map(|name| mode(&top.join(name)));
        assert_eq!(modes(), [0o700, 0o755, 0o644, 0o400, 0o664]);
        mend_within(&top, &["below"]);
        assert_eq!(modes(), [0o700, 0o700, 0o644, 0o400, 0o600]);
        // A folder that is only used, too, stays open.
        fs::set_permissions(&top, Permissions::from_mode(0o755)).unwrap();
        mend_within(&top, &["file", "none"]);
        assert_eq!(modes(), [0o755, 0o700, 0o600, 0o400, 0o600]);
        // Where everybody puts files, nothing is closed.
        let shared = old(&temp.path().join("shared"), 0o1777);
        mend(&shared, &OURS);
        mend_within(&shared, &OURS);
        set_group_read(&shared, &OURS, true).unwrap();
        let modes = ["", "below", "file", "sealed", "below/deep"].map(|name| mode(&shared.join(name)));
        assert_eq!(modes, [0o1777, 0o755, 0o644, 0o444, 0o664]);
    }

    #[test]
    fn names_that_only_begin_like_ours_are_not_ours() {
        let ours = ["lock", "budget", "entries", "index.sqlite"];
        for name in
            ["lock", "budget", "index.sqlite", "index.sqlite-wal", "index.sqlite.new", "index.sqlite.damaged-17-shm"]
        {
            assert!(is_ours(OsStr::new(name), &ours), "{name}");
        }
        for name in [
            "lock.txt",
            "budget.xlsx",
            "budget-2026",
            "entries.zip",
            "index.sqlite.gz",
            "index.sqlite-old",
            "index",
            "Lock",
        ] {
            assert!(!is_ours(OsStr::new(name), &ours), "{name}");
        }
    }

    #[test]
    fn modes_that_the_owner_gave_to_a_group_are_kept() {
        for (open, expected) in [
            (0o750, [0o750, 0o750, 0o640, 0o440, 0o640]),
            (0o770, [0o770, 0o770, 0o660, 0o440, 0o660]),
            // A share of several users.
            (0o2775, [0o2770, 0o770, 0o660, 0o440, 0o660]),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let top = old(temp.path(), open);
            mend(&top, &OURS);
            let modes = ["", "below", "file", "sealed", "below/deep"].map(|name| mode(&top.join(name)));
            assert_eq!(modes, expected, "{open:o}");
        }
    }

    #[test]
    fn modes_follow_group_read_given_and_taken() {
        let temp = tempfile::tempdir().unwrap();
        let top = old(temp.path(), 0o755);
        set_group_read(&top, &OURS, true).unwrap();
        assert_eq!(Modes::of(&top), Modes::GROUP_READ);
        assert_eq!([mode(&top), mode(&top.join("sealed")), mode(&top.join("below/deep"))], [0o750, 0o440, 0o640]);
        set_group_read(&top, &OURS, false).unwrap();
        assert_eq!(Modes::of(&top), Modes::OWNER);
        assert_eq!([mode(&top), mode(&top.join("sealed")), mode(&top.join("below/deep"))], [0o700, 0o400, 0o600]);
    }

    #[test]
    fn modes_of_what_is_made_do_not_depend_on_the_umask() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("a/b");
        for modes in [Modes::OWNER, Modes::GROUP_READ] {
            modes.make_folders(&folder).unwrap();
            modes.make_file(&folder.join("file")).unwrap();
            modes.write(&folder.join("written"), b"x").unwrap();
            let found = ["", "file", "written"].map(|name| mode(&folder.join(name)));
            assert_eq!(found, [modes.folder(), modes.file(), modes.file()]);
            fs::remove_dir_all(temp.path().join("a")).unwrap();
        }
    }
}
