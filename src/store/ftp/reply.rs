//! What an FTP server says on its control connection: replies, and what stands in them. Pure.
//! Never here: sockets, and listings (see `line`).

use std::time::SystemTime;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::error::{Error, Kind};

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Three digits.
    pub code: u16,
    /// Its lines, the codes of the first and the last taken off.
    pub lines: Vec<String>,
}

/// What a server can do beyond the first standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// MLST and MLSD: names with exact sizes and times.
    pub facts: bool,
    /// It says what its names are encoded in when told so.
    pub utf8: bool,
}

impl Reply {
    /// From its lines, without their ends. `None`: there are more to come, or it is none.
    pub fn parse(lines: &[String]) -> Option<Self> {
        let first = lines.first()?;
        let digits = first.get(..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
        let is_end = |line: &str| line.starts_with(digits) && line.as_bytes().get(3).is_none_or(|byte| *byte == b' ');
        let last = lines.last()?;
        // More lines follow a dash, up to one with the same code and none.
        let has_more = first.as_bytes().get(3) == Some(&b'-');
        if !is_end(last) || has_more != (lines.len() > 1) {
            return None;
        }
        let text = |line: &String| {
            let coded = line.strip_prefix(digits).and_then(|rest| rest.strip_prefix([' ', '-']));
            coded.unwrap_or(line).to_owned()
        };
        Some(Self { code: digits.parse().ok()?, lines: lines.iter().map(text).collect() })
    }

    /// Whether it says that what was asked for has been done, or goes on, or needs more.
    pub fn is_success(&self) -> bool {
        (100..400).contains(&self.code)
    }

    /// A refusal, as the error it means.
    pub fn refusal(&self, what: &str) -> Error {
        let text = self.lines.last().map_or("", |line| line.trim());
        let says = |word: &str| text.to_ascii_lowercase().contains(word);
        let kind = match self.code {
            425 | 426 => Kind::Unreachable,
            430 | 530 | 532 | 553 => Kind::Denied,
            550 if says("denied") || says("permission") || says("not allowed") => Kind::Denied,
            550 => Kind::Missing,
            400..500 => Kind::Busy,
            _ => Kind::Unsupported,
        };
        let hint = if self.code == 530 { ": are user and password right?" } else { "" };
        Error::new(kind, format!("{what}: the server answers {} {text}{hint}", self.code))
    }

    /// Of FEAT.
    pub fn features(&self) -> Features {
        let has = |name: &str| {
            let first_word = |line: &String| line.split_whitespace().next().map(str::to_ascii_uppercase);
            self.lines.iter().filter_map(first_word).any(|word| word == name)
        };
        Features { facts: has("MLST"), utf8: has("UTF8") }
    }

    /// Of PWD: the path between the quotes, in which two of them stand for one.
    pub fn folder(&self) -> Option<String> {
        let text = self.lines.first()?;
        let (start, end) = (text.find('"')?, text.rfind('"')?);
        text.get(start + 1..end).map(|path| path.replace("\"\"", "\"")).filter(|path| path.starts_with('/'))
    }

    /// Of EPSV (`(|||6446|)`) and PASV (`(127,0,0,1,25,46)`): the port. The address that PASV tells is often one of a
    /// house behind a router, and could be that of somebody else: the server's own is used.
    pub fn port(&self) -> Option<u16> {
        let text = self.lines.last()?;
        if self.code == 229 {
            let inner = text.get(text.find('(')? + 1..text.rfind(')')?)?;
            let delimiter = inner.chars().next()?;
            return inner.split(delimiter).nth(3)?.parse().ok();
        }
        let start = text.find(|char: char| char.is_ascii_digit())?;
        let numbers = text.get(start..)?.split(|char: char| !char.is_ascii_digit() && char != ',').next()?;
        let mut numbers = numbers.split(',').skip(4).map(str::parse::<u8>);
        let (Some(Ok(high)), Some(Ok(low))) = (numbers.next(), numbers.next()) else { return None };
        Some(u16::from_be_bytes([high, low]))
    }

    /// Of SIZE.
    pub fn size_bytes(&self) -> Option<u64> {
        self.lines.last()?.trim().parse().ok()
    }

    /// Of MDTM.
    pub fn modified(&self) -> Option<SystemTime> {
        time(self.lines.last()?.trim())
    }
}

/// `20061231235959`, perhaps with a fraction: in UTC.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() != 14 || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| whole.get(from..to)?.parse::<i8>().ok();
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let year = whole.get(..4)?.parse().ok()?;
    let time = DateTime::new(year, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?.min(59), nanos)
        .ok()?;
    Some(SystemTime::from(time.to_zoned(TimeZone::UTC).ok()?.timestamp()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reply(text: &str) -> Option<Reply> {
        Reply::parse(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn replies_end_where_the_standard_says() {
        assert_eq!(reply("220 Hi").unwrap(), Reply { code: 220, lines: vec!["Hi".into()] });
        assert_eq!(reply("220").unwrap().code, 220);
        let many = "211-Features:\n MLST type*;size*;\n 211 is no end\n UTF8\n211 End";
        assert_eq!(reply(many).unwrap().features(), Features { facts: true, utf8: true });
        for part in ["211-Features:", "211-Features:\n MLST", "211-Features:\n211-more", "220 One\n220 Two"] {
            assert_eq!(reply(part), None, "{part}");
        }
        for bad in ["", "Hi", "22", "2é0 x", "SSH-2.0-OpenSSH_9.2"] {
            assert_eq!(reply(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_stands_in_a_reply() {
        assert_eq!(reply("257 \"/a \"\"b\"\" c\" is here").unwrap().folder().unwrap(), "/a \"b\" c");
        assert_eq!(reply("257 C:\\").unwrap().folder(), None);
        assert_eq!(reply("229 Entering Extended Passive Mode (|||6446|)").unwrap().port(), Some(6446));
        assert_eq!(reply("227 Entering Passive Mode (10,0,0,1,25,46).").unwrap().port(), Some(25 * 256 + 46));
        assert_eq!(reply("227 Passive 10,0,0,1,25,46").unwrap().port(), Some(25 * 256 + 46));
        for bad in ["229 (|||x|)", "229 none", "229 )(", "227 (1,2,3)", "227 (1,2,3,4,5,600)", "227 none"] {
            assert_eq!(reply(bad).unwrap().port(), None, "{bad}");
        }
        assert_eq!(reply("213 4096").unwrap().size_bytes(), Some(4096));
        let at = |seconds, nanos| Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(reply("213 19700102000001").unwrap().modified(), at(86_401, 0));
        assert_eq!(time("19700101000000.25"), at(0, 250_000_000));
        for bad in ["", "1970", "1970010100000x", "19701301000000", "19700101000000.é", "+9700101000000"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        for (text, kind) in [
            ("421 Too many connections", Kind::Busy),
            ("425 No data connection", Kind::Unreachable),
            ("451 Local error", Kind::Busy),
            ("502 No such command", Kind::Unsupported),
            ("530 Login incorrect.", Kind::Denied),
            ("550 No such file", Kind::Missing),
            ("550 Permission denied.", Kind::Denied),
        ] {
            assert_eq!(reply(text).unwrap().refusal("x").kind(), kind, "{text}");
        }
    }
}
