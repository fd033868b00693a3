//! Exit codes: what a script can tell apart without reading a message. The README and `reelfs --help` hold the same table.
//! Never here: the messages.

use std::process::ExitCode;

use crate::error::{Error, Kind};

/// The table, as `reelfs --help` and the manual page show it.
pub const TABLE: &str = "\
Exit codes:
  0   done
  1   failed: the message says what, and why
  2   the command line, a variable of the environment or a file of settings is wrong: nothing was done
  3   damaged: a check found bytes that are not what was written
  4   busy: another process holds the cache, the library or the mount point, or the server asks to wait; try again later
  32  the mount failed (only where mount(8) calls, from /etc/fstab)";

/// Two outcomes of one command: the later one counts if it is worse. The order of the variants is the order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All was done.
    Done,
    /// Some of it could not be done for now.
    Busy,
    /// Some of it was asked for wrongly.
    Misused,
    /// Some of it failed.
    Failed,
    /// Damage was found.
    Damaged,
}

impl Outcome {
    /// Of a command, or a part of it, that ended with `error`. `Invalid` is misuse: a mount gives what it finds out about the
    /// machine and the source another kind, as the units of systemd do not start again after misuse.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Invalid => Self::Misused,
            Kind::Corrupt => Self::Damaged,
            Kind::Busy => Self::Busy,
            _ => Self::Failed,
        }
    }

    /// With what else came of the command.
    pub fn and(&mut self, other: Self) {
        *self = other.max(*self);
    }

    /// The number of the table.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Misused => 2,
            Self::Damaged => 3,
            Self::Busy => 4,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        outcome.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_damaged_from_busy_from_misused() {
        let code = |kind| Outcome::of(&Error::new(kind, "x")).code();
        let codes = [Kind::Local, Kind::Invalid, Kind::Corrupt, Kind::Busy].map(code);
        assert_eq!(codes, [1, 2, 3, 4]);
        for code in codes {
            assert!(TABLE.contains(&format!("\n  {code}   ")), "{code} is in the table");
        }
    }

    #[test]
    fn exit_code_is_that_of_the_worst_part() {
        let mut outcome = Outcome::Done;
        for (part, whole) in
            [(Outcome::Busy, Outcome::Busy), (Outcome::Damaged, Outcome::Damaged), (Outcome::Busy, Outcome::Damaged)]
        {
            outcome.and(part);
            assert_eq!(outcome, whole);
        }
    }
}
