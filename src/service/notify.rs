//! What systemd is told of a mount: that it is ready, alive, ending. Nothing, where systemd did not start us.
//! Never here: whether that is so.

use std::time::Duration;

use sd_notify::NotifyState;

/// Where systemd listens, by this variable.
pub const SOCKET: &str = "NOTIFY_SOCKET";

/// Whether somebody waits to hear that the drive is there.
pub fn is_awaited() -> bool {
    std::env::var_os(SOCKET).is_some()
}

/// How often systemd wants to hear that we live, if it does.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|period| is_awaited() && !period.is_zero())
}

/// The drive answers; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The drive still answers.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// The drive is being taken off.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("unmounting")]);
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("systemd does not listen: {error}");
    }
}
