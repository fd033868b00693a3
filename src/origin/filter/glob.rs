//! A pattern for paths, as rsync and rclone write them: what it matches, and which folders it can match something in.
//! Never here: which of several patterns decides.
//!
//! `*` and `?` stop at a slash, `**` does not; `[a-z]` and `[!a-z]` are one character, `{a,b}` is either; `{{a|b}}` holds a
//! regular expression; `\` takes the next character as it is. A slash in front ties a pattern to the top; any other may begin
//! in any folder. A slash at the end means a folder with all that is in it.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

/// Memory that one pattern may take when it is compiled: a thousand times what a usual one takes.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// Longest pattern: a path has no more.
const PATTERN_BYTES_MAX: usize = 4096;

/// A pattern, compiled.
#[derive(Debug)]
pub(super) struct Glob {
    regex: Regex,
    /// It matches all that begins as it does: `folder/**`.
    is_open: bool,
    /// It matches every file, whatever its folder: `*`.
    is_all: bool,
    /// Folders that something can match in.
    within: Within,
}

/// Folders that something may match in.
#[derive(Debug)]
enum Within {
    /// Nothing can be said: any of them.
    Any,
    /// Those whose whole path one of these matches.
    Some(Vec<Regex>),
}

impl Glob {
    /// Reads a pattern; the error says what is wrong with it, where, and what to write.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Err("the pattern is empty: write one, like `*.mkv`".into());
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes: no path is"));
        }
        let is_anchored = pattern.starts_with('/');
        let mut reading = Reading::new(pattern);
        reading.read()?;
        if pattern.ends_with('/') && !reading.is_escaped_at_end {
            // The slash itself is part of it already.
            reading.out.push_str(".*");
            reading.cut();
            reading.is_open = true;
        }
        let Reading { out, is_open, cuts, is_hard, .. } = reading;
        let start = if is_anchored { r"\A" } else { r"(?:\A|/)" };
        let within = if is_anchored && !is_hard {
            let regexes: Result<Vec<_>, _> = cuts.iter().map(|cut| compile(&format!(r"\A{cut}\z"))).collect();
            Within::Some(regexes?)
        } else {
            Within::Any
        };
        Ok(Self { regex: compile(&format!(r"{start}{out}\z"))?, is_open, is_all: pattern == "*", within })
    }

    /// Whether a file of this path is meant.
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }

    /// Whether everything below a folder is meant, for sure.
    pub fn matches_all_in(&self, folder: &str) -> bool {
        self.is_all || self.is_open && self.regex.is_match(&format!("{folder}/"))
    }

    /// Whether anything below a folder may be meant.
    pub fn may_match_in(&self, folder: &str) -> bool {
        match &self.within {
            Within::Any => true,
            Within::Some(regexes) => regexes.iter().any(|regex| regex.is_match(folder)),
        }
    }
}

fn compile(regex: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(regex).dot_matches_new_line(true).size_limit(COMPILED_BYTES_MAX).build();
    // The library's own words take several lines, and tell of an expression that nobody wrote.
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern is too large: write a shorter one".to_owned(),
        _ => "the pattern can't be read: look at what stands in `[]` or `{{}}`".to_owned(),
    })
}

/// A pattern on its way to a regular expression.
struct Reading<'a> {
    text: &'a str,
    /// Slashes in front of it.
    skipped: usize,
    chars: std::iter::Peekable<std::str::CharIndices<'a>>,
    out: String,
    /// Braces that are open, with where each stands.
    braces: Vec<usize>,
    /// The last thing was `**`.
    is_open: bool,
    is_escaped_at_end: bool,
    /// Expressions for the folders on the way, complete but for their anchors.
    cuts: Vec<String>,
    /// Which folders are on the way can't be told.
    is_hard: bool,
}

impl<'a> Reading<'a> {
    fn new(pattern: &'a str) -> Self {
        let text = pattern.trim_start_matches('/');
        Self {
            text,
            skipped: pattern.len() - text.len(),
            chars: text.char_indices().peekable(),
            out: String::new(),
            braces: Vec::new(),
            is_open: false,
            is_escaped_at_end: false,
            cuts: Vec::new(),
            is_hard: false,
        }
    }

    fn read(&mut self) -> Result<(), String> {
        while let Some((at, c)) = self.chars.next() {
            self.is_escaped_at_end = false;
            self.is_open = false;
            match c {
                '*' => self.stars(at)?,
                '?' => self.out.push_str("[^/]"),
                '[' => self.class(at)?,
                ']' => return Err(self.wrong(at, "closes no `[`", r"\]")),
                '{' if self.next_is('{') => self.expression(at)?,
                '{' => {
                    self.braces.push(at);
                    self.out.push_str("(?:");
                }
                '}' if self.braces.pop().is_some() => self.out.push(')'),
                '}' => return Err(self.wrong(at, "closes no `{`", r"\}")),
                ',' if !self.braces.is_empty() => self.out.push('|'),
                '\\' => {
                    let Some((_, escaped)) = self.chars.next() else {
                        return Err(self.wrong(at, "has nothing behind it", r"\\"));
                    };
                    self.push(escaped);
                    self.is_escaped_at_end = true;
                }
                '/' => self.slash(),
                _ => self.push(c),
            }
        }
        match self.braces.pop() {
            Some(at) => Err(self.wrong(at, "is not closed", r"\{")),
            None => Ok(()),
        }
    }

    fn next_is(&mut self, wanted: char) -> bool {
        self.chars.peek().is_some_and(|(_, c)| *c == wanted)
    }

    /// A character that stands for itself.
    fn push(&mut self, c: char) {
        self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }

    fn slash(&mut self) {
        while self.next_is('/') {
            self.chars.next();
        }
        self.cut();
        self.out.push('/');
    }

    /// What was read so far is a folder on the way.
    fn cut(&mut self) {
        if self.braces.is_empty() {
            self.cuts.push(self.out.clone());
        } else {
            self.is_hard = true;
        }
    }

    fn stars(&mut self, at: usize) -> Result<(), String> {
        let mut count = 1;
        while self.next_is('*') {
            self.chars.next();
            count += 1;
        }
        match count {
            1 => self.out.push_str("[^/]*"),
            2 => {
                self.out.push_str(".*");
                self.cut();
                self.is_open = self.braces.is_empty();
            }
            _ => return Err(format!("{count} stars at character {}: write `*` or `**`", self.number(at))),
        }
        Ok(())
    }

    /// `[a-z]`, `[!a-z]`, `[^a-z]`, `[[:digit:]]`: never a slash.
    fn class(&mut self, at: usize) -> Result<(), String> {
        let rest = &self.text[at + 1..];
        let negated = rest.starts_with(['!', '^']);
        let mut inner = String::new();
        let mut chars = rest.char_indices().skip(usize::from(negated)).peekable();
        let first = usize::from(negated);
        let end = loop {
            let Some((offset, c)) = chars.next() else { return Err(self.wrong(at, "is not closed", r"\[")) };
            match c {
                ']' if offset > first => break offset,
                '[' if rest[offset..].starts_with("[:") => {
                    let Some(length) = rest[offset..].find(":]") else {
                        return Err(self.wrong(at, "is not closed", r"\["));
                    };
                    inner.push_str(&rest[offset..offset + length + 2]);
                    while chars.next_if(|(next, _)| *next < offset + length + 2).is_some() {}
                }
                // Between two characters: from one to the other. In front or at the end: itself.
                '-' if offset > first && !rest[offset + 1..].starts_with(']') => inner.push('-'),
                '\\' => {
                    let Some((_, escaped)) = chars.next() else {
                        return Err(self.wrong(at, "is not closed", r"\["));
                    };
                    push_in_class(&mut inner, escaped);
                }
                _ => push_in_class(&mut inner, c),
            }
        };
        let not = if negated { "^" } else { "" };
        // Writing to a String can't fail.
        let _ = write!(self.out, "[[{not}{inner}]&&[^/]]");
        let behind = at + 1 + end;
        while self.chars.next_if(|(next, _)| *next <= behind).is_some() {}
        Ok(())
    }

    /// `{{…}}`: up to the last of the braces that close it.
    fn expression(&mut self, at: usize) -> Result<(), String> {
        let rest = &self.text[at + 2..];
        let Some(length) = rest.find("}}") else { return Err(self.wrong(at, "is not closed with `}}`", r"\{")) };
        let more = rest[length + 2..].bytes().take_while(|byte| *byte == b'}').count();
        let end = length + more;
        // By itself first, so that it can't close what it did not open.
        compile(&rest[..end])?;
        let _ = write!(self.out, "(?:{})", &rest[..end]);
        self.is_hard = true;
        let behind = at + 2 + end + 2;
        while self.chars.next_if(|(next, _)| *next < behind).is_some() {}
        Ok(())
    }

    /// Where a person counts it.
    fn number(&self, at: usize) -> usize {
        self.skipped + self.text[..at].chars().count() + 1
    }

    fn wrong(&self, at: usize, what: &str, instead: &str) -> String {
        let c = self.text[at..].chars().next().unwrap_or_default();
        format!("the `{c}` at character {} {what}: write `{instead}` if it stands for itself", self.number(at))
    }
}

fn push_in_class(inner: &mut String, c: char) {
    inner.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_rsync_and_rclone_have_it() {
        for (pattern, matched, others) in [
            ("*.mkv", &["a.mkv", "f/a.mkv", "f/g/.mkv", "ä\n.mkv"][..], &["a.mkv/b", "a.MKV", "mkv", "a.mkv~"][..]),
            ("/*.mkv", &["a.mkv"], &["f/a.mkv"]),
            ("film", &["film", "a/film"], &["afilm", "film/a", "a/film/b"]),
            ("a?c", &["abc", "f/aéc"], &["ac", "a/c", "abbc"]),
            ("a*c", &["ac", "abbc"], &["a/c"]),
            ("a**c", &["ac", "abc", "a/b/c", "x/a/c"], &["xa/c"]),
            ("f/*.mkv", &["f/a.mkv", "g/f/a.mkv"], &["f/g/a.mkv", "gf/a.mkv"]),
            ("/f/*.mkv", &["f/a.mkv"], &["g/f/a.mkv"]),
            ("Extras/", &["Extras/a", "f/Extras/g/a"], &["Extras", "Extras2/a", "f/Extras"]),
            ("/Extras/", &["Extras/a"], &["f/Extras/a", "Extras"]),
            ("f/**", &["f/a", "f/g/a", "x/f/a"], &["f", "xf/a"]),
            ("/", &["a", "f/a"], &[]),
            ("**", &["a", "f/a"], &[]),
            ("*.{mkv,mp{4,3}}", &["a.mkv", "f/a.mp4", "a.mp3"], &["a.mp", "a.mkv,mp4"]),
            ("a{,b}c", &["ac", "abc"], &["a,c", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "-x"]),
            ("[!a-c]x", &["dx", "-x"], &["ax", "/x", "f/x"]),
            ("[^a-c]x", &["dx"], &["ax"]),
            ("[]a]x", &["]x", "ax"], &["bx"]),
            ("[a-]x[-b]", &["ax-", "-xb"], &["bxa"]),
            ("[[:digit:]]x", &["1x"], &["ax", ":x", "dx"]),
            (r"[\]&~^[]x", &["]x", "&x", "~x", "^x", "[x"], &["ax", r"\x"]),
            (r"\*\[a\]\{b\}", &["*[a]{b}", "f/*[a]{b}"], &["x[a]{b}"]),
            ("a.b+c(d)|e$^", &["a.b+c(d)|e$^"], &["axb+c(d)|e$^", "a.bbc(d)|e$^"]),
            ("a,b", &["a,b"], &["a", "b"]),
            (r"S{{0[1-3]|1\d}}.mkv", &["S01.mkv", "f/S19.mkv"], &["S04.mkv", "S1d.mkv"]),
            (r"{{a{2,3}}}b", &["aab", "aaab"], &["ab", "aab}"]),
            ("f//g///a", &["f/g/a"], &["f//g///a"]),
            ("//f/a", &["f/a"], &["x/f/a"]),
        ] {
            let glob = Glob::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            for path in matched {
                assert!(glob.matches(path), "{pattern} matches {path}");
            }
            for path in others {
                assert!(!glob.matches(path), "{pattern} does not match {path}");
            }
        }
    }

    #[test]
    fn folders_that_may_hold_a_match_are_told_from_others() {
        for (pattern, may, never) in [
            ("/f/g/*.mkv", &["f", "f/g"][..], &["g", "f/h", "f/g/h", "ff"][..]),
            ("/f/**", &["f", "f/g", "f/g/h"], &["g", "ff"]),
            ("/f/", &["f", "f/g"], &["g", "ff"]),
            ("/f*/a", &["f", "fx"], &["g", "f/a", "f/g"]),
            ("/f**a", &["f", "fx", "fx/g"], &["g", "gf"]),
            ("/a.mkv", &[], &["f"]),
            ("/", &["f", "f/g"], &[]),
            ("/f/**/g/a", &["f", "f/h", "f/h/g"], &["g"]),
            // Of these, nothing can be said.
            ("*.mkv", &["f", "f/g"], &[]),
            ("f/a", &["f", "g"], &[]),
            ("/{f,g/h}/a", &["f", "g", "x"], &[]),
            ("/{{f}}/a", &["f", "x"], &[]),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            for folder in may {
                assert!(glob.may_match_in(folder), "{pattern} may match in {folder}");
            }
            for folder in never {
                assert!(!glob.may_match_in(folder), "{pattern} never in {folder}");
            }
        }
    }

    #[test]
    fn folders_that_are_meant_as_a_whole() {
        for (pattern, wholly, not) in [
            ("Extras/", &["Extras", "f/Extras", "Extras/f"][..], &["Extra", "f"][..]),
            ("/Extras/**", &["Extras", "Extras/f"], &["f/Extras"]),
            ("*", &["f", "f/g"], &[]),
            ("**", &["f"], &[]),
            ("*/", &["f", "f/g"], &[]),
            ("f*", &[], &["f", "fx"]),
            ("/*", &[], &["f"]),
            ("{f,g**}", &[], &["f", "g"]),
            ("f/**/", &["f/g"], &["f"]),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            for folder in wholly {
                assert!(glob.matches_all_in(folder), "{pattern}: {folder}");
            }
            for folder in not {
                assert!(!glob.matches_all_in(folder), "{pattern}: not {folder}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_the_fix() {
        for (pattern, told) in [
            ("", "is empty"),
            ("a[bc", "the `[` at character 2 is not closed: write `\\[`"),
            ("/a[bc", "at character 3"),
            ("ä[]", "at character 2 is not closed"),
            ("[[:digit]", "is not closed"),
            ("a]", "the `]` at character 2 closes no `[`: write `\\]`"),
            ("{a,b", "the `{` at character 1 is not closed"),
            ("a}", "the `}` at character 2 closes no `{`"),
            ("***", "3 stars at character 1: write `*` or `**`"),
            ("a\\", "has nothing behind it"),
            ("{{a", "is not closed with `}}`"),
            ("{{a)|(b}}", "can't be read"),
            ("{{(a}}", "can't be read"),
            ("[z-a]", "can't be read"),
            ("{{(a{1000}){1000}}}", "too large"),
        ] {
            let said = Glob::parse(pattern).unwrap_err();
            assert!(said.contains(told) && !said.contains('\n'), "{pattern:?}: {said}");
        }
        assert!(Glob::parse(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
    }
}
