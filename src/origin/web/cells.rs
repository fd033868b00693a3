//! Times and sizes as listings print them, in text behind a name. Pure.
//! Never here: markup.
//!
//! A size is taken only if it is surely exact and whole: digits alone in their cell, or with a word for bytes. `1.2M`, `12 K`,
//! `700 Mo`, `1 234`, `1,234` and what may have been cut are for people; the server is asked for such a file's size.

use std::time::SystemTime;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;

/// Stands between the cells of a table's row; other text does not hold it.
pub(super) const CELL: char = '\t';

/// Words for bytes, in lower case: digits before them are exact.
const BYTE_WORDS: [&str; 3] = ["b", "byte", "bytes"];

/// What stands behind one name: `21-Nov-2026 07:26  1500700`, `2026-11-21 07:26  1.4M`, `2026-Nov-21 07:26:02  -`.
/// Without a time there is no size either: bare digits could be anything. Times without an offset are taken as UTC. Where
/// the text `is_cut`, so may be the last number in it.
pub(super) fn read(text: &str, is_cut: bool) -> (Option<SystemTime>, Option<u64>) {
    let cells = text.split(CELL).enumerate();
    let words = cells.flat_map(|(cell, text)| text.split_whitespace().map(move |word| (cell, word)));
    let mut words = words.skip_while(|(_, word)| parse_date(word).is_none()).peekable();
    let Some(day) = words.next().and_then(|(_, word)| parse_date(word)) else { return (None, None) };
    let Some(clock) = words.next().and_then(|(_, word)| parse_time(word)) else { return (None, None) };
    let half = words.next_if(|(_, word)| parse_half(word).is_some()).and_then(|(_, word)| parse_half(word));
    let offset = words.next_if(|(_, word)| parse_offset(word).is_some()).and_then(|(_, word)| parse_offset(word));
    let rest: Vec<_> = words.collect();
    if is_cut && rest.is_empty() {
        return (None, None);
    }
    let clock = match half {
        Some(half) => half.of_day(clock),
        None => Some(clock),
    };
    let modified = clock.and_then(|clock| system_time(DateTime::from_parts(day, clock), offset.unwrap_or(Offset::UTC)));
    (modified, modified.and_then(|_| size_of(&rest)).filter(|_| !is_cut))
}

/// The exact size that the words behind a time tell, each with the number of its cell.
fn size_of(words: &[(usize, &str)]) -> Option<u64> {
    let ((cell, first), rest) = words.split_first()?;
    let size_bytes = exact_size(first)?;
    let rest = match rest.split_first() {
        Some(((_, word), rest)) if BYTE_WORDS.contains(&word.to_lowercase().as_str()) => rest,
        _ => rest,
    };
    let is_alone = match rest.first() {
        // Part of the number, or its unit; a word of few letters is one in some language even in a cell of its own.
        Some((other, word)) => other != cell && word.chars().count() > UNIT_CHARS_MAX,
        None => true,
    };
    // Of several numbers, nobody knows which one is the size.
    let is_only = !rest.iter().any(|(_, word)| word.starts_with(|first: char| first.is_numeric()));
    (is_alone && is_only).then_some(size_bytes)
}

/// Longest abbreviation of a unit, in characters: `KiB`, `Mbyte`.
const UNIT_CHARS_MAX: usize = 5;
/// Most digits of a size that fits in 64 bits.
const SIZE_DIGITS_MAX: usize = 20;

/// Digits and nothing else.
pub(super) fn exact_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_number = text.len() <= SIZE_DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// A half of the day, where a clock has twelve hours.
#[derive(Clone, Copy)]
enum Half {
    Morning,
    Afternoon,
}

impl Half {
    fn of_day(self, clock: Time) -> Option<Time> {
        let hour = match (self, clock.hour()) {
            (_, 13..) => return None,
            (Self::Morning, hour) => hour % 12,
            (Self::Afternoon, hour) => hour % 12 + 12,
        };
        Time::new(hour, clock.minute(), clock.second(), 0).ok()
    }
}

/// `AM`, `PM`.
fn parse_half(text: &str) -> Option<Half> {
    match text.to_ascii_uppercase().as_str() {
        "AM" => Some(Half::Morning),
        "PM" => Some(Half::Afternoon),
        _ => None,
    }
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
            ("2026-11-21 07:26  700   a film", minute, None),
            ("2026-11-21 07:26\t700\tdescription", minute, Some(700)),
            ("2026-11-21 07:26\t700\tMo", minute, None),
            ("2026-11-21 07:26\t 700 \tvideo/mp4", minute, Some(700)),
            ("2026-11-21 07:26\t700\t12 downloads", minute, None),
            ("2026-11-21 07:26\t3\t1500700", minute, None),
            ("2026-11-21 07:26\t12\tKiB", minute, None),
            ("2026-11-21 07:26  12 KiB", minute, None),
            ("2026-11-21 07:26  12 B", minute, Some(12)),
            ("2026-11-21 07:26  12 bytes", minute, Some(12)),
            ("2026-11-21 07:26  12 k", minute, None),
            ("2026-11-21 07:26  700 Mo", minute, None),
            ("2026-11-21 07:26  700 \u{41c}\u{411}", minute, None),
            ("2026-11-21 07:26  1 500 700", minute, None),
            ("2026-11-21 07:26  1\u{a0}500\u{a0}700", minute, None),
            ("2026-11-21 07:26  1\u{202f}234\u{2009}kB", minute, None),
            ("2026-11-21 07:26  1 234 B", minute, None),
            ("2026-11-21 07:26  1,234", minute, None),
            ("2026-11-21 07:26  1.234", minute, None),
            ("2026-11-21 07:26  1'234", minute, None),
            ("2026-11-21 07:26  1e6", minute, None),
            ("2026-11-21 \u{661}", None, None),
            ("2026-11-21 07:26 AM 5", minute, Some(5)),
            ("2026-11-21 12:26 AM 5", at(time(0, 26, 0, 0), Offset::UTC), Some(5)),
            ("2026-11-21 07:26 PM 5", at(time(19, 26, 0, 0), Offset::UTC), Some(5)),
            ("2026-11-21 13:26 PM 5", None, None),
            ("/ 2026-Nov-21 07:26:02 - \u{a0} Directory", second, None),
            ("2026-11-21 07:26:02.802530319 +0000 UTC", second, None),
            ("2026-11-21 08:26:02 +0100 CET 5", second, None),
            ("2026-11-21 07:26 99999999999999999999999", minute, None),
            ("42", None, None),
            ("2026-13-21 07:26 5", None, None),
            ("2026-11-21 noon 5", None, None),
            ("", None, None),
        ] {
            assert_eq!(read(text, false), (modified, size), "{text:?}");
        }
    }

    #[test]
    fn the_last_number_of_a_text_that_was_cut_is_not_exact() {
        let minute = at(time(7, 26, 0, 0), Offset::UTC);
        for (text, modified) in [
            ("2026-11-21 07:26  150", minute),
            ("2026-11-21 07:26", None),
            ("2026-11-21 07:26 +0100", None),
            ("", None),
        ] {
            assert_eq!(read(text, true), (modified, None), "{text:?}");
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(parse_timestamp(" 2026-11-21T07:26:02Z"), at(time(7, 26, 2, 0), Offset::UTC));
        assert_eq!(parse_timestamp("yesterday"), None);
        assert_eq!(exact_size(" 700 "), Some(700));
        assert_eq!(exact_size("+7"), None);
        assert_eq!(exact_size(&"0".repeat(1000)), None);
        assert_eq!(exact_size(""), None);
    }
}
