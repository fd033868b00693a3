//! The folder a drive appears in: what must be true before mounting there, said in one line where it isn't, and the
//! ways off it.
//! Never here: mounting itself, and what the drive shows.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::mount_table::{self, Mount};
use crate::error::{Error, Kind, Result};
use crate::sys;

/// The kernel's table of the mounts this process sees.
const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// The kernel's door for FUSE.
const DEVICE: &str = "/dev/fuse";

/// Says what users other than root may do with FUSE.
const FUSE_CONFIG: &str = "/etc/fuse.conf";

/// The setuid helper that mounts and unmounts for users; the older name is what FUSE 2 called it. As fuser looks for it.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// Looked through after `$PATH`, which services often leave short. As fuser does.
const HELPER_FOLDERS: [&str; 2] = ["/sbin", "/bin"];

/// Checks that a drive can be mounted on `mountpoint`, and returns it absolute, with links resolved. What a dead run of
/// ours left there is taken off first.
pub fn prepare(mountpoint: &Path, allow_other: bool) -> Result<PathBuf> {
    let shown = mountpoint.display();
    let path = resolve(mountpoint)?;
    if let Some(mount) = mounted(&path)? {
        // The process that tidies up after a crash may take it off between two questions: what was found of the mount
        // counts only while it is still there.
        let is_still_there = || mounted(&path).map(|now| now.as_ref() == Some(&mount));
        if mount.is_ours() && is_dead(&path) {
            log::info!("{shown}: taking off the dead mount of an earlier run");
            if let Err(error) = unmount(&path, true)
                && is_still_there()?
            {
                return Err(error);
            }
        } else if mount.is_fuse() && is_still_there()? {
            let what = format!("{shown}: {} is already mounted here ({})", mount.source, mount.fs_type);
            let message = format!("{what}: choose another folder, or unmount it: fusermount3 -u {shown}");
            return Err(Error::new(Kind::Busy, message));
        }
        // A disk or a container's volume may well be an empty folder to mount on.
    }
    check_folder(mountpoint, &path)?;
    check_device()?;
    if !sys::is_root() {
        check_helper()?;
        if allow_other {
            check_allow_other()?;
        }
    }
    Ok(path)
}

/// Takes the drive off `path`: as root by the system call, else by `fusermount3`. `lazy` also while files on it are open.
pub fn unmount(path: &Path, lazy: bool) -> Result<()> {
    let what = || format!("{}: can't unmount", path.display());
    match sys::unmount(path, lazy) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unmount_by_helper(path, lazy, &what()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(Error::new(Kind::Busy, format!("{}: {error}", what())))
        }
        done => done.map_err(|error| Error::io(what(), &error)),
    }
}

/// Takes a mount of ours, dead or alive, off `mountpoint`, as a person named it. `Missing`: none is there. `Busy`: files on it
/// are open, and `lazy` was not asked for.
pub fn take_off(mountpoint: &Path, lazy: bool) -> Result<()> {
    let shown = mountpoint.display();
    let path = match resolve(mountpoint) {
        Err(error) if error.kind() == Kind::Missing => {
            return Err(Error::new(Kind::Missing, format!("{shown}: no such folder: nothing to unmount")));
        }
        path => path?,
    };
    match mounted(&path)? {
        Some(mount) if mount.is_ours() => {}
        Some(mount) => {
            let message = format!("{shown}: what is mounted here is no reelfs ({}): umount {shown}", mount.fs_type);
            return Err(invalid(message));
        }
        None => {
            let message = format!("{shown}: nothing is mounted here: `reelfs status` lists what is");
            return Err(Error::new(Kind::Missing, message));
        }
    }
    unmount(&path, lazy).map_err(|error| match error.kind() {
        Kind::Busy => {
            let message = format!(
                "{shown}: in use: close what is open on it (`fuser -vm {shown}` shows who has), or take it off at once with --lazy"
            );
            Error::new(Kind::Busy, message)
        }
        _ => error,
    })
}

/// Whether `path` (absolute, links resolved) holds a mount of ours that nobody serves any longer.
pub fn is_dead_mount_of_ours(path: &Path) -> Result<bool> {
    let Some(mount) = mounted(path)?.filter(Mount::is_ours) else { return Ok(false) };
    // Looked at again: between the two questions a new run may have put its own, live mount there.
    Ok(is_dead(path) && mounted(path)? == Some(mount))
}

/// Absolute and without links, so that it can be found in the mount table.
fn resolve(mountpoint: &Path) -> Result<PathBuf> {
    let shown = mountpoint.display();
    match fs::canonicalize(mountpoint) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::new(Kind::Missing, format!("{shown}: no such mount point: create it with `mkdir -p {shown}`")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(not_a_folder(mountpoint)),
        // A dead mount may refuse to be looked at; the folder it lies in does not.
        Err(error) if is_disconnected(&error) => {
            let parent = mountpoint.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent =
                fs::canonicalize(parent.unwrap_or(Path::new("."))).map_err(|error| Error::io(shown, &error))?;
            Ok(mountpoint.file_name().map_or(parent.clone(), |name| parent.join(name)))
        }
        Err(error) => Err(Error::io(shown, &error)),
    }
}

fn check_folder(mountpoint: &Path, path: &Path) -> Result<()> {
    let fail = |error: io::Error| Error::io(mountpoint.display(), &error);
    if !fs::metadata(path).map_err(fail)?.is_dir() {
        return Err(not_a_folder(mountpoint));
    }
    match fs::read_dir(path).map_err(fail)?.next() {
        None => Ok(()),
        Some(_) => Err(invalid(format!(
            "{}: the mount point is not empty: choose an empty folder, the drive would hide what is in it",
            mountpoint.display()
        ))),
    }
}

fn check_device() -> Result<()> {
    // Opening it has no effect; a mount begins with the first message on it.
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) => Err(device_error(&error)),
    }
}

fn device_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            Kind::Missing,
            format!(
                "{DEVICE} is missing: load FUSE with `modprobe fuse` (package fuse3), or give the container `--device {DEVICE}`"
            ),
        ),
        io::ErrorKind::PermissionDenied => Error::new(
            Kind::Denied,
            format!("{DEVICE} may not be opened: `apt install fuse3` lets every user do so, or run as root"),
        ),
        // The node is there, the driver behind it isn't.
        _ => Error::io(DEVICE, error).context("FUSE does not answer: load it with `modprobe fuse` (package fuse3)"),
    }
}

fn check_helper() -> Result<()> {
    helper().map(|_| ()).ok_or_else(|| {
        Error::new(Kind::Missing, "fusermount3 is missing: install it with `apt install fuse3`, or run as root")
    })
}

fn check_allow_other() -> Result<()> {
    // A file that is missing or unreadable allows nothing; fusermount3 sees it the same way.
    let config = fs::read(FUSE_CONFIG).unwrap_or_default();
    if allows_other(&String::from_utf8_lossy(&config)) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!(
            "--allow-other is not allowed: add the line `user_allow_other` to {FUSE_CONFIG}, or leave the option out"
        ),
    ))
}

/// Whether `fuse.conf` lets every user mount for all: the word alone on a line; `#` begins a comment.
fn allows_other(config: &str) -> bool {
    config.lines().any(|line| line.split('#').next().unwrap_or_default().trim() == "user_allow_other")
}

/// What is mounted on exactly `path` (absolute, links resolved).
pub(super) fn mounted(path: &Path) -> Result<Option<Mount>> {
    let table = fs::read(MOUNT_TABLE).map_err(|error| Error::io(MOUNT_TABLE, &error))?;
    Ok(mount_table::topmost(&table, path))
}

/// Whether nobody serves the mount any longer. Waits while its program lives and does not answer; ask it of our own only.
fn is_dead(path: &Path) -> bool {
    sys::stat_afresh(path).is_err_and(|error| is_disconnected(&error))
}

/// "Transport endpoint is not connected"; or aborted, when the program died while we asked.
fn is_disconnected(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted)
}

fn unmount_by_helper(path: &Path, lazy: bool, what: &str) -> Result<()> {
    check_helper()?;
    let program = helper().unwrap_or_else(|| HELPERS[0].into());
    let output = Command::new(program)
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        // What it says is looked into.
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| Error::io(what, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let kind = if said.contains("busy") { Kind::Busy } else { Kind::Local };
    Err(Error::new(kind, format!("{what}: {}", said.trim())))
}

fn helper() -> Option<PathBuf> {
    find_helper(&std::env::var_os("PATH").unwrap_or_default(), Path::is_file)
}

/// The first helper there is, by name first: the newer one wins wherever it lies.
fn find_helper(path: &OsStr, is_file: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(path).chain(HELPER_FOLDERS.map(PathBuf::from)).collect();
    HELPERS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| is_file(file))
}

fn not_a_folder(mountpoint: &Path) -> Error {
    invalid(format!("{}: the mount point is not a folder: choose an empty folder", mountpoint.display()))
}

fn invalid(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_alone_on_a_line_allows_others() {
        for (config, allows) in [
            ("user_allow_other", true),
            ("# comment\n  user_allow_other  # yes\nmount_max = 5\n", true),
            ("#user_allow_other\n", false),
            ("user_allow_other = 1\n", false),
            ("user_allow_others\n", false),
            ("", false),
        ] {
            assert_eq!(allows_other(config), allows, "{config:?}");
        }
    }

    #[test]
    fn the_newer_helper_wins_wherever_it_lies() {
        let find = |there: &'static [&'static str]| {
            find_helper(OsStr::new("/usr/local/bin:/usr/bin"), move |file| there.iter().any(|it| Path::new(it) == file))
        };
        assert_eq!(find(&["/usr/local/bin/fusermount", "/bin/fusermount3"]), Some("/bin/fusermount3".into()));
        assert_eq!(find(&["/usr/bin/fusermount"]), Some("/usr/bin/fusermount".into()));
        assert_eq!(find(&["/opt/fusermount3"]), None);
    }

    #[test]
    fn folders_that_cannot_be_mounted_on() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let refusal = |path: &Path| match resolve(path).and_then(|resolved| check_folder(path, &resolved)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(refusal(folder), "");
        let missing = folder.join("a/b");
        assert!(refusal(&missing).ends_with(&format!("create it with `mkdir -p {}`", missing.display())));
        let file = folder.join("file");
        fs::write(&file, "").unwrap();
        assert!(refusal(&file).contains("not a folder"));
        assert!(refusal(&file.join("below")).contains("not a folder"));
        assert!(refusal(folder).contains("not empty"));
    }

    #[test]
    fn a_device_that_is_not_there_names_its_package() {
        for (errno, hint) in
            [(libc::ENOENT, "modprobe fuse"), (libc::EACCES, "apt install fuse3"), (libc::ENXIO, "modprobe fuse")]
        {
            let message = device_error(&io::Error::from_raw_os_error(errno)).to_string();
            assert!(message.contains(hint) && message.contains(DEVICE), "{message}");
        }
    }

    #[test]
    fn nothing_dead_where_nothing_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_dead_mount_of_ours(folder.path()).unwrap());
        assert!(!is_dead(folder.path()));
        assert!(!is_dead(&folder.path().join("missing")));
        assert!(unmount(folder.path(), false).unwrap_err().to_string().contains("can't unmount"));
    }
}
