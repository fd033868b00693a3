//! One line of an FTP listing: MLSD's, which a standard describes, and LIST's, which nothing does. Pure.
//! Never here: connections.

use std::time::SystemTime;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::reply::time;

/// A name as one line tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub name: &'a str,
    pub kind: LineKind,
    pub size_bytes: Option<u64>,
    pub modified: Option<SystemTime>,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    Folder,
    File,
    /// Of something; what it leads to is not told.
    Link,
    /// The folder itself and the one above, a pipe, a device.
    Other,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// `type=file;size=7;modify=20061231235959; a film.mkv`
pub(super) fn facts(line: &str) -> Option<Line<'_>> {
    // The name may have anything in it.
    let (facts, name) = line.split_once(' ')?;
    let mut found = Line { name, kind: LineKind::Other, size_bytes: None, modified: None };
    for (fact, value) in facts.split(';').filter_map(|fact| fact.split_once('=')) {
        match fact.to_ascii_lowercase().as_str() {
            "type" => {
                let value = value.to_ascii_lowercase();
                found.kind = match value.as_str() {
                    "file" => LineKind::File,
                    "dir" => LineKind::Folder,
                    other if other.starts_with("os.unix=") && other.contains("link") => LineKind::Link,
                    _ => LineKind::Other,
                };
            }
            "size" => found.size_bytes = value.parse().ok(),
            "modify" => found.modified = time(value),
            _ => {}
        }
    }
    Some(found)
}

/// As `ls -l` prints it, or DOS's `dir`; times are taken for UTC. `now` tells the year where the line does not.
pub(super) fn listing(line: &str, now: SystemTime) -> Option<Line<'_>> {
    let mut rest = line;
    // One blank ends a field; a name may begin with the next.
    let mut word = || {
        let trimmed = rest.trim_start_matches(' ');
        let (word, after) = trimmed.split_once(' ')?;
        rest = after;
        Some(word)
    };
    let first = word()?;
    let kind = match first.as_bytes().first()? {
        b'-' => LineKind::File,
        b'd' => LineKind::Folder,
        b'l' => LineKind::Link,
        b'0'..=b'9' => return dos(line),
        b'b' | b'c' | b'p' | b's' => LineKind::Other,
        _ => return None,
    };
    // Links to it, owner and group, of which some may be left out; then size, month, day, year or time.
    let mut size = word()?;
    let month = loop {
        let next = word()?;
        if let Some(month) = MONTHS.iter().position(|month| next.eq_ignore_ascii_case(month)) {
            break month as i8 + 1;
        }
        size = next;
    };
    let (day, year) = (word()?.parse().ok()?, word()?);
    let name = if kind == LineKind::Link { rest.split_once(" -> ").map_or(rest, |(name, _)| name) } else { rest };
    let size_bytes = size.parse().ok();
    Some(Line { name, kind, size_bytes, modified: date(year, month, day, now) })
}

/// `01-31-20  03:04PM       <DIR>          films`
fn dos(line: &str) -> Option<Line<'_>> {
    let (_, rest) = line.trim_start().split_once(' ')?;
    let (_, rest) = rest.trim_start().split_once(' ')?;
    let (size, name) = rest.trim_start().split_once(' ')?;
    let (kind, name) = match size {
        "<DIR>" => (LineKind::Folder, name.trim_start()),
        _ => (LineKind::File, name),
    };
    let size_bytes = size.parse().ok();
    (size_bytes.is_some() || kind == LineKind::Folder).then_some(Line { name, kind, size_bytes, modified: None })
}

/// `2006`, or `23:59` within the last year.
fn date(year: &str, month: i8, day: i8, now: SystemTime) -> Option<SystemTime> {
    let time_of = |year, time| {
        let date = Date::new(year, month, day).ok()?;
        let zoned = DateTime::from_parts(date, time).to_zoned(TimeZone::UTC).ok()?;
        Some(SystemTime::from(zoned.timestamp()))
    };
    let Some((hour, minute)) = year.split_once(':') else { return time_of(year.parse().ok()?, Time::midnight()) };
    let time = Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()?;
    let this_year = jiff::Timestamp::try_from(now).ok()?.to_zoned(TimeZone::UTC).year();
    // A day ahead is another time zone.
    let latest = now + std::time::Duration::from_hours(24);
    time_of(this_year, time).filter(|told| *told <= latest).or_else(|| time_of(this_year - 1, time))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn day(days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * days)
    }

    #[test]
    fn facts_are_exact() {
        let line = facts("Type=file;Size=7;Modify=19700102000000;UNIX.mode=0644;  a; film = x.mkv ").unwrap();
        let expected =
            Line { name: " a; film = x.mkv ", kind: LineKind::File, size_bytes: Some(7), modified: Some(day(1)) };
        assert_eq!(line, expected);
        let kind = |line| facts(line).unwrap().kind;
        assert_eq!(kind("type=dir; x"), LineKind::Folder);
        assert_eq!(kind("type=OS.unix=slink:/target; x"), LineKind::Link);
        assert_eq!(kind("type=OS.unix=symlink; x"), LineKind::Link);
        assert_eq!(kind("type=cdir; ."), LineKind::Other);
        assert_eq!(kind(" x"), LineKind::Other, "no facts at all");
        assert_eq!(facts("nonsense"), None);
    }

    #[test]
    fn lists_are_read_as_servers_print_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 40);
        let line = |text| listing(text, now);
        let file = |name, size, modified| Some(Line { name, kind: LineKind::File, size_bytes: Some(size), modified });
        assert_eq!(
            line("-rw-r--r--    1 1000     1000          700 Jan 02 00:00 a film.mkv"),
            file("a film.mkv", 700, Some(day(1)))
        );
        assert_eq!(
            line("-rw-r--r-- 1 me users 5 Jan  3  1970  spaces around "),
            file(" spaces around ", 5, Some(day(2)))
        );
        assert_eq!(line("-rw-r--r-- 1 me 5 Jan  3  1970 no group"), file("no group", 5, Some(day(2))));
        // As if it were to come, it was in the year before.
        let before = line("-rw-r--r-- 1 me users 5 Dec 31 00:00 x").unwrap().modified;
        assert_eq!(before, Some(SystemTime::UNIX_EPOCH - Duration::from_hours(24)));
        assert_eq!(line("drwxr-xr-x 2 me users 4096 Jan 3 1970 films").unwrap().kind, LineKind::Folder);
        let linked = line("lrwxrwxrwx 1 me users 9 Jan 3 1970 link -> a -> b").unwrap();
        assert_eq!((linked.name, linked.kind), ("link", LineKind::Link));
        assert_eq!(line("prw-r--r-- 1 me users 0 Jan 3 1970 pipe").unwrap().kind, LineKind::Other);
        let folder = Line { name: "my films", kind: LineKind::Folder, size_bytes: None, modified: None };
        assert_eq!(line("01-31-20  03:04PM       <DIR>          my films"), Some(folder));
        assert_eq!(line("01-31-20  03:04PM             1234 film.mkv"), file("film.mkv", 1234, None));
        for bad in ["", "total 8", "-rw-r--r--", "-rw-r--r-- 1 2 3 4 5 6 7 8 9", "drwx Jan", "01-31-20 x", "é"] {
            assert_eq!(line(bad), None, "{bad}");
        }
    }
}
