//! Unmounts the drive when the program dies, however it dies: a second, tiny process waits for the end of the first.
//! fuser's own way (`AutoUnmount`) demands `allow_other`, which a user's mount must not need.
//! Never here: the orderly way off; that is the mount's own.
//!
//! A killed program may be unable to end: one of its threads waits in the kernel, where SIGKILL is not heard. The program then
//! keeps `/dev/fuse` open, and each program on the drive waits for ever. Neither a pipe nor a pidfd tells of such a death. So
//! the second process also looks at the first one, and ends the connection of a drive whose program can only die: to be slow,
//! or stopped, is no such evidence.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::mount_point;
use super::mount_table::Mount;
use crate::error::{Error, Result};
use crate::sys;

/// The hidden command of ours that the second process runs.
pub const COMMAND: &str = "unmount-when-orphaned";

/// This very program, also after its file was replaced by a newer one.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// After an orderly end the second process has a look and goes, in milliseconds. If it doesn't, the mount's end must not
/// hang on it.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether it went.
const FAREWELL_TICK: Duration = Duration::from_millis(5);

/// How often the second process looks whether the first one is dying: twice a second costs nothing, and a drive whose program
/// can't end is off within one.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a dead drive stays mounted: a program at work on it then meets an error. Without that, a program that happened to be
/// between two requests would go on in the folder below, and fill the disk that this is on.
const DEAD_FOR: Duration = Duration::from_secs(1);

/// Tells the second process that the drive is mounted; what is said means nothing else.
const MOUNTED: &[u8] = b"mounted\n";

/// Of a `/proc/PID/stat`, counted behind the name: the state, the parent, the flags, the pending signals (proc(5)).
const STATE_FIELD: usize = 0;
const PARENT_FIELD: usize = 1;
const FLAGS_FIELD: usize = 6;
const PENDING_FIELD: usize = 28;
/// `PF_EXITING` (linux/sched.h): the thread is on its way out.
const EXITING: u64 = 0x4;
/// SIGKILL in a set of signals: every thread of a killed process has it pending until the thread dies of it.
const KILLED: u64 = 1 << (libc::SIGKILL - 1);

/// The second process, seen from the first. It learns of our death by the end of its input, which the kernel closes
/// even after SIGKILL, as soon as no thread is left.
#[derive(Debug)]
pub struct Reaper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// Begins to watch over `mountpoint` (absolute, links resolved). Start it before mounting: then there is no moment
    /// at which a death goes unnoticed.
    pub fn start(mountpoint: &Path) -> Result<Self> {
        Self::start_program(Path::new(THIS_PROGRAM), mountpoint)
    }

    /// The same for a program that is not reelfs itself, a test for example; `reelfs` is the file of ours.
    pub fn start_program(reelfs: &Path, mountpoint: &Path) -> Result<Self> {
        let mut command = Command::new(reelfs);
        command.arg(COMMAND).arg("--").arg(mountpoint);
        // It must hold nothing that belongs to others: not the terminal, not the folder we were started in.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        let mut child = sys::outlive_us(&mut command)
            .spawn()
            .map_err(|error| Error::io("starting the process that unmounts after a crash", &error))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// The drive is mounted: from now on its connection can be ended, too.
    pub fn mounted(&mut self) {
        // One that has gone was warned of by whoever ended it; the drive works without.
        if let Some(pipe) = &mut self.pipe
            && let Err(error) = pipe.write_all(MOUNTED)
        {
            log::debug!("the process that unmounts after a crash does not listen: {error}");
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let begun = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begun.elapsed() > FAREWELL_MAX {
                log::warn!("process {} still watches over the mount point", self.child.id());
                return;
            }
            thread::sleep(FAREWELL_TICK);
        }
    }
}

/// The first process, seen from the second.
struct Parent {
    // Its `/proc/PID/stat`: bound to this very process, whoever gets its number later. None where that can't be read.
    stat: Option<File>,
}

/// The kernel's connection of the drive.
struct Connection {
    mount: Mount,
    // Ends it, whatever is mounted by then; bound to this very connection. It is its user's, and not there where fusectl is not
    // mounted.
    abort: Option<File>,
}

impl Parent {
    fn of_this_process() -> Self {
        // The number as /proc counts it: in a PID namespace, getppid(2) may count otherwise.
        let number = || parent_in(&fs::read_to_string("/proc/self/stat").ok()?);
        let Some(parent) = number() else { return Self { stat: None } };
        let stat = File::open(format!("/proc/{parent}/stat")).ok();
        // It may have died, and another process got its number, before the file was opened.
        Self { stat: stat.filter(|_| number() == Some(parent)) }
    }

    fn is_dying(&self) -> bool {
        let Some(stat) = &self.stat else { return false };
        // Numbers, and a name of 16 bytes.
        let mut text = [0; 1024];
        match stat.read_at(&mut text, 0) {
            Ok(len) => is_dying(&String::from_utf8_lossy(&text[..len])),
            // It is gone; the end of the pipe says so, too. Any other error tells nothing of it.
            Err(error) => error.raw_os_error() == Some(libc::ESRCH) || error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The number of a process's parent; `None` where /proc knows none. `stat` is the process's `/proc/PID/stat`.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(PARENT_FIELD)?.parse().ok().filter(|parent| *parent != 0)
}

/// Whether a process can only die: its first thread is dead, or dies, or was killed. `stat` is its `/proc/PID/stat`.
fn is_dying(stat: &str) -> bool {
    // The name may hold blanks and brackets.
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<_> = fields.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let is_dead = matches!(fields.get(STATE_FIELD), Some(&("Z" | "X")));
    is_dead || number(FLAGS_FIELD) & EXITING != 0 || number(PENDING_FIELD) & KILLED != 0
}

impl Connection {
    /// Of what is mounted on `mountpoint`, if that is ours.
    fn of(mountpoint: &Path) -> Result<Option<Self>> {
        let Some(mount) = mount_point::mounted(mountpoint)?.filter(Mount::is_ours) else { return Ok(None) };
        let minor = mount.device.rsplit(':').next().unwrap_or_default();
        let abort = File::options().write(true).open(format!("/sys/fs/fuse/connections/{minor}/abort")).ok();
        Ok(Some(Self { mount, abort }))
    }

    /// Ends it: whoever waits for the drive gets an error. Returns whether that could be done.
    fn abort(&self) -> bool {
        self.abort.as_ref().is_some_and(|mut abort| abort.write_all(b"1").is_ok())
    }

    /// The same by way of the mount point; for root.
    fn abort_mounted(&self, mountpoint: &Path) -> Result<()> {
        if mount_point::mounted(mountpoint)?.as_ref() == Some(&self.mount) {
            // It is taken off, or said to be busy: the connection has ended either way.
            let _ = sys::abort_mount(mountpoint);
        }
        Ok(())
    }
}

/// The second process: waits until `orphaned` ends, or its parent is dying, then takes a dead mount of ours off `mountpoint`. A
/// mount that is alive, newer or another program's is left alone.
pub fn unmount_when(orphaned: impl io::Read + Send + 'static, mountpoint: &Path) -> Result<()> {
    let parent = Parent::of_this_process();
    let (tell, told) = bounded(1);
    let listening = thread::Builder::new().name("parent".into()).spawn(move || {
        for _ in BufReader::new(orphaned).lines().map_while(io::Result::ok) {
            if tell.send(()).is_err() {
                return;
            }
        }
    });
    listening.map_err(|error| Error::io("waiting for the mount's end", &error))?;
    let mut connection = None;
    let is_dying = loop {
        match told.recv_timeout(LOOK_EVERY) {
            Ok(()) => connection = Connection::of(mountpoint)?,
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) if parent.is_dying() => break true,
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    // Its files may be closed one after the other: the drive must not be asked before it is dead.
    if let Some(connection) = connection
        && !connection.abort()
        && is_dying
    {
        connection.abort_mounted(mountpoint)?;
    }
    if mount_point::is_dead_mount_of_ours(mountpoint)? {
        thread::sleep(DEAD_FOR);
        // A new run may have taken it off meanwhile.
        if mount_point::is_dead_mount_of_ours(mountpoint)? {
            mount_point::unmount(mountpoint, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str, flags: u64, pending: u64) -> String {
        format!(
            "71 (a) b (c) {state} 1 71 71 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 9 0 1 2 3 4 5 6 7 8 9 {pending} 0 4096 0 0 17"
        )
    }

    #[test]
    fn a_process_that_was_killed_is_dying_whatever_its_threads_wait_for() {
        for (state, flags, pending) in [
            ("Z", 0x40_0004, 0),
            ("X", 0, 0),
            ("D", 0x40_0000, KILLED),
            ("D", 0x40_0000 | EXITING, 0),
            ("S", 0, KILLED),
        ] {
            assert!(is_dying(&stat(state, flags, pending)), "{state} {flags:x} {pending:x}");
        }
    }

    #[test]
    fn a_process_that_is_stopped_or_waits_is_not_dying() {
        let (stopped, ended) = (1 << (libc::SIGSTOP - 1), 1 << (libc::SIGTERM - 1));
        for (state, flags, pending) in
            [("S", 0x40_0100, 0), ("R", 0, 0), ("D", 0, 0), ("T", 0, 0), ("t", 0, stopped), ("D", 0, ended)]
        {
            assert!(!is_dying(&stat(state, flags, pending)), "{state} {flags:x} {pending:x}");
        }
        assert!(!is_dying("") && !is_dying("71 (a) S"));
    }

    #[test]
    fn this_process_is_not_dying_and_its_stat_is_read_as_it_is() {
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<_> = own.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        // As `ps` counts: state is the third field of all, flags the ninth, pending signals the 31st.
        assert!(!is_dying(&own) && fields.len() > PENDING_FIELD && "RSD".contains(fields[STATE_FIELD]));
        assert!(!Parent::of_this_process().is_dying());
    }

    #[test]
    fn parent_is_the_one_that_proc_counts() {
        assert_eq!(parent_in(&stat("S", 0, 0)), Some(1));
        assert_eq!(parent_in("1 (init) S 0 1"), None);
        assert_eq!(parent_in("1 (init) S"), None);
        assert!(Parent::of_this_process().stat.is_some());
    }

    #[test]
    fn a_process_whose_stat_cannot_be_read_is_not_dying() {
        // To read a folder is an error, too.
        assert!(!Parent { stat: Some(File::open("/proc").unwrap()) }.is_dying());
    }

    #[test]
    fn a_process_that_is_gone_is_dying() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let parent = Parent { stat: Some(File::open(format!("/proc/{}/stat", child.id())).unwrap()) };
        assert!(!parent.is_dying());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(parent.is_dying());
    }
}
