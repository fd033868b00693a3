//! A mount as a service: behind its starter's back, with a log where services have one, and in step with systemd.
//! Never here: mounting, and what systemd's unit files say (see `systemd/`).

pub mod background;
pub mod log;
pub mod notify;
pub mod watchdog;
