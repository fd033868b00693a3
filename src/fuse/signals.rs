//! What a mount is told from outside: to end, by a signal or by somebody unmounting the drive; and to ask for everything
//! anew.
//! Never here: the ending and the asking themselves.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};

/// One signal and one unmounting can meet; what comes after either says nothing new.
const ENDS_MAX: usize = 2;

/// Ctrl-C and a polite request.
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// Why a mount ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// This signal came.
    Signal(i32),
    /// The drive was unmounted from outside.
    Unmounted,
}

/// Where ends are told, and where the mount waits for one. Tell with `try_send`: when the channel is full, the mount is
/// ending already.
pub fn channel() -> (Sender<End>, Receiver<End>) {
    crossbeam_channel::bounded(ENDS_MAX)
}

/// From now on signals are told to `ends` instead of killing the program: once. A second one kills it, so that nobody is
/// held by an unmounting that hangs. SIGHUP calls `refresh`, as daemons do it; but where it says that the terminal has
/// gone which the program was started in, it ends the mount like Ctrl-C, unless `nohup` was asked to see to that.
pub fn listen(ends: Sender<End>, refresh: impl Fn() + Send + 'static) -> Result<()> {
    let outlives_terminal = is_ignored(SIGHUP) || !has_terminal();
    let hung_up = move |ends: &Sender<End>| {
        if outlives_terminal || has_terminal() {
            refresh();
        } else {
            let _ = ends.try_send(End::Signal(SIGHUP));
        }
    };
    listen_to(&SIGNALS, SIGHUP, ends, hung_up).map_err(|error| Error::io("waiting for Ctrl-C", &error))
}

fn listen_to(
    ending: &[i32],
    refreshing: i32,
    ends: Sender<End>,
    hung_up: impl Fn(&Sender<End>) + Send + 'static,
) -> io::Result<()> {
    let is_ending = Arc::new(AtomicBool::new(false));
    for &signal in ending {
        // In this order: the first signal finds the flag unset, and sets it.
        flag::register_conditional_default(signal, Arc::clone(&is_ending))?;
        flag::register(signal, Arc::clone(&is_ending))?;
    }
    let mut signals = Signals::new(ending.iter().chain([&refreshing]))?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == refreshing {
                hung_up(&ends);
            } else {
                let _ = ends.try_send(End::Signal(signal));
            }
        }
    })?;
    Ok(())
}

/// Whether the program has a terminal it can be controlled from.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

/// Whether a `/proc/PID/status` says that a signal is ignored.
fn ignores(status: &str, signal: i32) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signal_hook::consts::{SIGURG, SIGWINCH};
    use signal_hook::low_level::raise;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_signal_and_an_unmounting_are_told() {
        let (sender, receiver) = channel();
        let (refresh, refreshed) = crossbeam_channel::bounded(1);
        let hung_up = move |_: &Sender<End>| {
            let _ = refresh.send(());
        };
        // Signals whose default does nothing, so that the second one kills no test.
        listen_to(&[SIGWINCH], SIGURG, sender.clone(), hung_up).unwrap();
        raise(SIGURG).unwrap();
        refreshed.recv_timeout(LONG).unwrap();
        raise(SIGWINCH).unwrap();
        assert_eq!(receiver.recv_timeout(LONG), Ok(End::Signal(SIGWINCH)));
        sender.try_send(End::Unmounted).unwrap();
        assert_eq!(receiver.recv_timeout(LONG), Ok(End::Unmounted));
    }

    #[test]
    fn what_nohup_does_is_seen() {
        let status = |set| format!("SigBlk:\t0000000000000001\nSigIgn:\t{set}\n");
        assert!(ignores(&status("0000000000001001"), SIGHUP));
        assert!(!ignores(&status("0000000000001000"), SIGHUP) && !ignores("", SIGHUP));
    }
}
