//! Times and sizes as listings print them, in text behind a name. Pure.
//! Never here: markup.
//!
//! A size is taken only if it is exact: digits and nothing else. `1.2M` and `12K` are for people.

use std::time::SystemTime;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;

/// Units that make the digits before them inexact.
const UNITS: [&str; 15] = ["K", "M", "G", "T", "P", "KB", "MB", "GB", "TB", "PB", "KIB", "MIB", "GIB", "TIB", "PIB"];

/// What stands behind one name: `21-Nov-2026 07:26  1500700`, `2026-11-21 07:26  1.4M`, `2026-Nov-21 07:26:02  -`.
/// Without a time there is no size either: bare digits could be anything. Times without an offset are taken as UTC.
pub(super) fn read(text: &str) -> (Option<SystemTime>, Option<u64>) {
    let mut words = text.split_whitespace().skip_while(|word| parse_date(word).is_none());
    let Some(day) = words.next().and_then(parse_date) else { return (None, None) };
    let Some(clock) = words.next().and_then(parse_time) else { return (None, None) };
    let mut words = words.peekable();
    let offset = words.next_if(|word| parse_offset(word).is_some()).and_then(parse_offset).unwrap_or(Offset::UTC);
    let modified = system_time(DateTime::from_parts(day, clock), offset);
    let size_bytes = words.next().and_then(exact_size);
    let has_unit = words.next().is_some_and(|word| UNITS.contains(&word.to_ascii_uppercase().as_str()));
    (modified, size_bytes.filter(|_| !has_unit))
}

/// Digits and nothing else.
pub(super) fn exact_size(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `2026-11-21T07:26:02.63Z` and its like, offset included.
pub(super) fn parse_timestamp(text: &str) -> Option<SystemTime> {
    text.trim().parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// `21-Nov-2026`, `2026-11-21`, `2026-Nov-21`.
fn parse_date(text: &str) -> Option<Date> {
    let mut parts = text.splitn(3, '-');
    let (first, month, last) = (parts.next()?, parts.next()?, parts.next()?);
    let month = month_number(month)?;
    let (year, day) = if first.len() == 4 { (first, last) } else { (last, first) };
    Date::new(number(year, 4)?, month, i8::try_from(number(day, 2)?).ok()?).ok()
}

fn month_number(text: &str) -> Option<i8> {
    const NAMES: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    if let Some(at) = NAMES.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        return i8::try_from(at + 1).ok();
    }
    i8::try_from(number(text, 2)?).ok()
}

/// `07:26`, `07:26:02`, `07:26:02.802530319`; a fraction is not worth keeping.
fn parse_time(text: &str) -> Option<Time> {
    let mut parts = text.splitn(3, ':');
    let (hour, minute) = (parts.next()?, parts.next()?);
    let second = parts.next().map_or("00", |second| second.split('.').next().unwrap_or(second));
    let part = |text| i8::try_from(number(text, 2)?).ok();
    Time::new(part(hour)?, part(minute)?, part(second)?, 0).ok()
}

/// `+0100`; but not a size or a dash.
fn parse_offset(text: &str) -> Option<Offset> {
    let sign = match text.as_bytes() {
        [b'+', _, _, _, _] => 1,
        [b'-', _, _, _, _] => -1,
        _ => return None,
    };
    let (hours, minutes) = (number(text.get(1..3)?, 2)?, number(text.get(3..5)?, 2)?);
    Offset::from_seconds(sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60)).ok()
}

/// Exactly `digits` digits.
fn number(text: &str, digits: usize) -> Option<i16> {
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn system_time(at: DateTime, offset: Offset) -> Option<SystemTime> {
    Some(SystemTime::from(offset.to_timestamp(at).ok()?))
}

#[cfg(test)]
mod tests {
    use jiff::civil::{date, time};

    use super::*;

    fn at(clock: Time, offset: Offset) -> Option<SystemTime> {
        system_time(date(2026, 11, 21).to_datetime(clock), offset)
    }

    #[test]
    fn times_and_exact_sizes() {
        let (minute, second) = (at(time(7, 26, 0, 0), Offset::UTC), at(time(7, 26, 2, 0), Offset::UTC));
        for (text, modified, size) in [
            ("   21-Nov-2026 07:26             1500700 ", minute, Some(1_500_700)),
            ("21-Nov-2026 07:26   -", minute, None),
            ("21-Nov-2026 07:26   294K", minute, None),
            ("2026-11-21 07:26  1.4M  ", minute, None),
            ("2026-11-21 07:26  700   a film", minute, Some(700)),
            ("2026-11-21 07:26  12 KiB", minute, None),
            ("2026-11-21 07:26  12 B", minute, Some(12)),
            ("/ 2026-Nov-21 07:26:02 - \u{a0} Directory", second, None),
            ("2026-11-21 07:26:02.802530319 +0000 UTC", second, None),
            ("2026-11-21 08:26:02 +0100 CET 5", second, None),
            ("2026-11-21 07:26 99999999999999999999999", minute, None),
            ("42", None, None),
            ("2026-13-21 07:26 5", None, None),
            ("2026-11-21 noon 5", None, None),
            ("", None, None),
        ] {
            assert_eq!(read(text), (modified, size), "{text:?}");
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(parse_timestamp(" 2026-11-21T07:26:02Z"), at(time(7, 26, 2, 0), Offset::UTC));
        assert_eq!(parse_timestamp("yesterday"), None);
        assert_eq!(exact_size(" 700 "), Some(700));
        assert_eq!(exact_size("+7"), None);
        assert_eq!(exact_size(""), None);
    }
}
