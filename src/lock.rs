//! The lock of a folder: one process holds it, and others are told which.
//! Never here: what it guards, and what a person is to do.
//!
//! The lock is the kernel's and goes with the process, however it ends; the pid in the file is only for messages.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::modes::Modes;

/// A process that is just ending, or a child of it that is just starting, may hold the folder a moment longer.
const WAIT: Duration = Duration::from_millis(500);
/// How often it is looked whether it is still held.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What stands in the place of a lock is written to: a link is not followed, and nothing holds the opener up.
const NOT_THROUGH: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// Of a command line, more is not looked at.
const COMMAND_BYTES_MAX: u64 = 4096;
/// No command's name is longer.
const COMMAND_WORD_BYTES_MAX: usize = 24;
/// The hidden command that a mount in the background runs.
const IN_BACKGROUND: &str = "serve-in-background";
/// No pid is longer.
const PID_BYTES_MAX: u64 = 32;

/// Held as long as this lives.
pub struct Lock {
    file: File,
    // Whether the file is a lock that reelfs made, and has no other name: only then is it written to.
    is_own: bool,
}

impl Lock {
    /// Takes the lock of `dir`, and waits a moment for it. `None`: another process holds it.
    pub fn take(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        let failed = |error: io::Error| Error::io(path.display(), &error);
        let modes = Modes::of(dir);
        let file = modes
            .options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(NOT_THROUGH)
            .open(&path)
            .map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            let message = format!("{} is no plain file: remove it", path.display());
            return Err(Error::new(Kind::Denied, message));
        }
        // A snapshot of hard links (`cp -al`) shares the file; and a file that holds more than a pid is another program's.
        // Either can be locked, and stays as it is.
        let is_own = meta.nlink() == 1 && is_signature(&file, meta.len());
        if is_own {
            modes.mend_file(&file);
        }
        let give_up_at = Instant::now() + WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { file, is_own })),
                Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => thread::sleep(LOOK_EVERY),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Writes down that it is this process, unless the file has another name, too, or another program's bytes.
    pub fn sign(&mut self, dir: &Path) -> Result<()> {
        if !self.is_own {
            log::debug!("{}: not signed: it has other names, or another program wrote it", path(dir).display());
            return Ok(());
        }
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            writeln!(self.file, "{}", std::process::id())
        };
        write().map_err(|error| Error::io(path(dir).display(), &error))
    }

    /// Whether it is still the lock of `dir`: its file may have been removed, with the folder.
    pub fn is_at(&self, dir: &Path) -> bool {
        let id = |meta: Metadata| (meta.dev(), meta.ino());
        let there = path(dir).symlink_metadata().map(id);
        self.file.metadata().map(id).is_ok_and(|held| there.is_ok_and(|there| held == there))
    }

    /// A file of the folder's own filesystem.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// The process that holds the lock of `dir` now.
pub fn holder_pid(dir: &Path) -> Option<u32> {
    let file = File::open(path(dir)).ok()?;
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)).then(|| pid_in(&file)).flatten()
}

/// The process that holds it, or held it last, as a person is told: its id, what it does, and for how long it has had the
/// lock.
pub fn holder(dir: &Path) -> String {
    let unknown = || "another process".to_owned();
    let Ok(file) = File::open(path(dir)) else { return unknown() };
    // It is signed when it is taken.
    let held_for = file.metadata().and_then(|meta| meta.modified()).ok().and_then(|signed| signed.elapsed().ok());
    let Some(pid) = pid_in(&file) else { return unknown() };
    let mut typed = Vec::new();
    let read = File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|cmdline| cmdline.take(COMMAND_BYTES_MAX).read_to_end(&mut typed));
    let command = read.ok().and_then(|_| command(&typed));
    told(pid, command.as_deref(), held_for)
}

fn told(pid: u32, command: Option<&str>, held_for: Option<Duration>) -> String {
    let parts = [command.map(|command| format!("`{command}`")), held_for.map(|time| format!("for {}", roughly(time)))];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { format!("process {pid}") } else { format!("process {pid} ({})", parts.join(", ")) }
}

/// The program and its command, of the words of a command line, each with a zero behind it. The others are not told: they may
/// be passwords.
fn command(typed: &[u8]) -> Option<String> {
    let mut words = typed.split(|byte| *byte == 0);
    let program = Path::new(std::str::from_utf8(words.next()?).ok()?).file_name()?.to_str()?.to_owned();
    let is_command = |word: &&str| {
        (1..=COMMAND_WORD_BYTES_MAX).contains(&word.len())
            && word.starts_with(|letter: char| letter.is_ascii_lowercase())
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    let command = words.filter_map(|word| std::str::from_utf8(word).ok()).take(1).find(is_command);
    // What a person typed to start it.
    let command = command.map(|command| if command == IN_BACKGROUND { "mount" } else { command });
    let program: String = program.chars().filter(|letter| !letter.is_control()).collect();
    Some(command.map_or_else(|| program.clone(), |command| format!("{program} {command}")))
}

/// In the largest unit there is one of.
fn roughly(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds @ ..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Whether a file of so many bytes is empty, or holds a pid and no more.
fn is_signature(file: &File, size_bytes: u64) -> bool {
    let mut bytes = [0; PID_BYTES_MAX as usize];
    size_bytes <= PID_BYTES_MAX
        && file
            .read_at(&mut bytes, 0)
            .is_ok_and(|count| bytes[..count].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'\n')))
}

fn pid_in(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn who_holds_it_is_told_with_what_it_does_and_without_its_secrets() {
        let told = |typed: &[u8]| command(typed);
        let put = told(b"/usr/bin/reelfs\0put\0s3://me:secret@bucket\0").unwrap();
        assert_eq!(put, "reelfs put");
        assert_eq!(told(b"reelfs\0--token=secret\0mount\0").unwrap(), "reelfs");
        assert_eq!(told(b"/srv/films\0Secret\0").unwrap(), "films");
        assert_eq!(told(b"reelfs\0serve-in-background\0--\0/mnt\0").unwrap(), "reelfs mount");
        assert_eq!(told(b""), None);
        let minutes = Duration::from_secs(200);
        assert_eq!(super::told(7, Some(&put), Some(minutes)), "process 7 (`reelfs put`, for 3 min)");
        assert_eq!(super::told(7, None, None), "process 7");
        // This very process, as others are told.
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(holder(temp.path()), "another process");
        Lock::take(temp.path()).unwrap().unwrap().sign(temp.path()).unwrap();
        let whole = holder(temp.path());
        assert!(whole.starts_with(&format!("process {} (`", std::process::id())), "{whole}");
        assert!(whole.contains("`, for "), "{whole}");
    }

    #[test]
    fn lock_that_another_name_or_program_shares_is_held_and_left_as_it_is() {
        for is_snapshot in [true, false] {
            let temp = tempfile::tempdir().unwrap();
            let there = path(temp.path());
            let bytes = if is_snapshot { "12\n" } else { "the key of the shed" };
            fs::write(&there, bytes).unwrap();
            fs::set_permissions(&there, Permissions::from_mode(0o644)).unwrap();
            if is_snapshot {
                fs::hard_link(&there, temp.path().join("snapshot")).unwrap();
            }
            let mut held = Lock::take(temp.path()).unwrap().unwrap();
            held.sign(temp.path()).unwrap();
            assert!(Lock::take(temp.path()).unwrap().is_none(), "it is held");
            assert_eq!(fs::read_to_string(&there).unwrap(), bytes);
            assert_eq!(fs::metadata(&there).unwrap().mode() & 0o777, 0o644);
        }
        // One of our own is signed, and closed.
        let temp = tempfile::tempdir().unwrap();
        fs::write(path(temp.path()), "12\n").unwrap();
        fs::set_permissions(path(temp.path()), Permissions::from_mode(0o644)).unwrap();
        Lock::take(temp.path()).unwrap().unwrap().sign(temp.path()).unwrap();
        assert_eq!(fs::read_to_string(path(temp.path())).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::metadata(path(temp.path())).unwrap().mode() & 0o777, 0o600);
    }
}
