//! What ends a mount: a signal, or somebody unmounting the drive.
//! Never here: the ending itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};

/// One signal and one unmounting can meet; what comes after either says nothing new.
const ENDS_MAX: usize = 2;

/// Ctrl-C and a polite request. The end of the terminal isn't among them: under `nohup` it is ignored and must stay so,
/// and otherwise the reaper tidies up.
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
/// held by an unmounting that hangs.
pub fn listen(ends: Sender<End>) -> Result<()> {
    listen_to(&SIGNALS, ends).map_err(|error| Error::io("waiting for Ctrl-C", &error))
}

fn listen_to(signals: &[i32], ends: Sender<End>) -> io::Result<()> {
    let is_ending = Arc::new(AtomicBool::new(false));
    for &signal in signals {
        // In this order: the first signal finds the flag unset, and sets it.
        flag::register_conditional_default(signal, Arc::clone(&is_ending))?;
        flag::register(signal, Arc::clone(&is_ending))?;
    }
    let mut signals = Signals::new(signals)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let _ = ends.try_send(End::Signal(signal));
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signal_hook::consts::SIGWINCH;
    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn a_signal_and_an_unmounting_are_told() {
        let (sender, receiver) = channel();
        // A signal whose default does nothing, so that the second one kills no test.
        listen_to(&[SIGWINCH], sender.clone()).unwrap();
        raise(SIGWINCH).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(End::Signal(SIGWINCH)));
        sender.try_send(End::Unmounted).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(End::Unmounted));
    }
}
