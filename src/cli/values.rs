//! Values of options as people write them: lengths of time, users, groups.
//! Never here: sizes, rates and addresses, which settings of other kinds have, too (`config`).

use std::time::Duration;

use jiff::SignedDuration;
use nix::unistd::{Group, User};

use crate::error::{Error, Kind, Result};

/// A day: whatever is longer is a slip of the keyboard.
const SECONDS_MAX: f64 = 86_400.0;

/// `10`, `0.5` (seconds), `500ms`, `5m`, `1h 30m`; nothing to a day.
pub fn parse_seconds(text: &str) -> Result<Duration> {
    let trimmed = text.trim();
    let with_units = || trimmed.parse::<SignedDuration>().ok().map(|duration| duration.as_secs_f64());
    let seconds = trimmed.parse().ok().or_else(with_units).filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        let told = format!("`{text}` is not a time: write seconds, like 10 or 0.5, or 500ms, 5m, 1h 30m, up to a day");
        Error::new(Kind::Invalid, told)
    })
}

/// As above, but not nothing: what may take no time at all can't be done.
pub fn parse_timeout(text: &str) -> Result<Duration> {
    let timeout = parse_seconds(text)?;
    if timeout.is_zero() {
        Err(Error::new(Kind::Invalid, "a timeout must be longer than 0 seconds"))
    } else {
        Ok(timeout)
    }
}

/// A number, or the name of a user of this machine.
pub fn parse_user(text: &str) -> Result<u32> {
    named(text, "user", |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// A number, or the name of a group of this machine.
pub fn parse_group(text: &str) -> Result<u32> {
    named(text, "group", |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

fn named(text: &str, what: &str, find: impl FnOnce(&str) -> nix::Result<Option<u32>>) -> Result<u32> {
    // The parser of numbers would take a sign, too.
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| Error::new(Kind::Invalid, format!("`{text}` is no number of a {what}")));
    }
    match find(text) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => {
            let told = format!("`{text}` is no {what} of this machine: give a name or a number, as `id` tells them");
            Err(Error::new(Kind::Invalid, told))
        }
        Err(error) => Err(Error::new(Kind::Invalid, format!("the {what} `{text}` can't be looked up: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, millis) in [
            ("10", 10_000),
            ("0.5", 500),
            (" 0 ", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(parse_seconds(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "-1", "-5m", "NaN", "inf", "86401", "25h", "5 parsecs", "m", "1h-30m", "5m ago", "1:30"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
        assert!(parse_timeout("0").is_err() && parse_timeout("0s").is_err() && parse_timeout("1ms").is_ok());
    }

    #[test]
    fn users_and_groups_by_number_and_name() {
        assert_eq!((parse_user("0").unwrap(), parse_user("root").unwrap()), (0, 0));
        assert_eq!((parse_group("1000").unwrap(), parse_group("root").unwrap()), (1000, 0));
        for text in ["", "-1", "+1", "4294967296", "no such name", "root ", "0x0"] {
            assert!(parse_user(text).is_err() && parse_group(text).is_err(), "{text}");
        }
    }
}
