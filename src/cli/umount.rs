//! `reelfs umount`: takes a mount of reelfs off its folder, and waits until its process has ended: then all that was
//! written to it is where it belongs, and the same source can be mounted again.
//! Never here: the ways off a mount point (see `fuse::mount_point`).

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::status::ask;
use crate::error::{Error, Kind, Result};
use crate::fuse::mount_point;

/// A library commits what was written, a store gets what was not put yet: longer than the slowest of them should take.
const END_MAX: Duration = Duration::from_mins(1);
/// How often it is looked whether the process has ended.
const END_LOOK: Duration = Duration::from_millis(20);

/// Unmount a drive or a library, and return when its process has ended. `fusermount3 -u` and, as root, `umount` do the same
/// without waiting.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The folder it is mounted on.
    #[arg(required = true)]
    mountpoint: PathBuf,
    /// Take it off at once, also while files on it are open: programs that have them open read on, and the process ends
    /// with the last of them. Not waited for.
    #[arg(short, long)]
    lazy: bool,
}

/// Unmounts.
pub fn run(args: &UmountArgs) -> Result<()> {
    let shown = args.mountpoint.display();
    // Asked first: afterwards nothing is there to be asked. A mount that is dead does not answer, and need not end.
    let pid = ask(Some(&args.mountpoint)).ok().and_then(|mounts| mounts.first().map(|mount| mount.pid));
    mount_point::take_off(&args.mountpoint, args.lazy)?;
    let Some(pid) = pid.filter(|_| !args.lazy) else { return Ok(()) };
    let give_up_at = Instant::now() + END_MAX;
    while is_running(pid) {
        if Instant::now() > give_up_at {
            let message = format!("{shown}: unmounted, but process {pid} has not ended for {} s", END_MAX.as_secs());
            return Err(Error::new(Kind::TimedOut, message));
        }
        thread::sleep(END_LOOK);
    }
    Ok(())
}

/// Whether the process lives; one that has ended, and that its parent has not looked after yet, does not.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn umount_knows_a_process_that_has_ended() {
        assert!(is_running(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let give_up_at = Instant::now() + END_MAX;
        while is_running(child.id()) {
            assert!(Instant::now() < give_up_at, "a zombie counts as running");
            thread::sleep(END_LOOK);
        }
        child.wait().unwrap();
    }
}
