//! `--tag-by PATTERN`: tags that are made of a file's path, size and type.
//! Never here: which tags may be (see `check_tags`).

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::library::content_type;

/// What a pattern may hold, for messages.
const FIELDS: &str = "{folder}, {folder:N}, {name}, {ending}, {type}, {kind}, {size}";
/// Files of up to so many bytes have this `{size}`; larger ones the last.
const SIZES: [(u64, &str); 7] = [
    (1 << 20, "1MiB"),
    (10 << 20, "10MiB"),
    (100 << 20, "100MiB"),
    (1 << 30, "1GiB"),
    (10 << 30, "10GiB"),
    (100 << 30, "100GiB"),
    (u64::MAX, "huge"),
];

/// A pattern, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Folder,
    FolderAt(usize),
    Name,
    Ending,
    Type,
    Kind,
    Size,
}

impl Pattern {
    /// `Invalid` if it names a field that is none, or none at all.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| Error::new(Kind::Invalid, what);
        let (mut parts, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let literal = ["{{", "}}"].into_iter().find(|braces| rest.starts_with(braces));
            if let Some(braces) = literal {
                parts.push(Part::Text(braces[1..].to_owned()));
                rest = &rest[2..];
            } else if let Some(after) = rest.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or_else(|| wrong("a `{` without its `}`".into()))?;
                let field = Field::parse(name).ok_or_else(|| wrong(format!("there is no {{{name}}}, but {FIELDS}")))?;
                parts.push(Part::Field(field));
                rest = after;
            } else if rest.starts_with('}') {
                return Err(wrong("a `}` without its `{`; `}}` stands for itself".into()));
            } else {
                let end = rest.find(['{', '}']).unwrap_or(rest.len());
                parts.push(Part::Text(rest[..end].to_owned()));
                rest = &rest[end..];
            }
        }
        if parts.iter().any(|part| matches!(part, Part::Field(_))) {
            return Ok(Self(parts));
        }
        Err(wrong(format!("it holds none of {FIELDS}: that is --tag")))
    }

    /// The tag of the file at `path` of the library; none where the file has nothing of what a field stands for.
    pub fn tag(&self, path: &str, size_bytes: u64, content_type: Option<&str>) -> Option<String> {
        let mut tag = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => tag.push_str(text),
                Part::Field(field) => {
                    tag.push_str(&field.of(path, size_bytes, content_type).filter(|text| !text.is_empty())?);
                }
            }
        }
        Some(tag)
    }
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "folder" => Self::Folder,
            "name" => Self::Name,
            "ending" => Self::Ending,
            "type" => Self::Type,
            "kind" => Self::Kind,
            "size" => Self::Size,
            _ => {
                let n = name.strip_prefix("folder:")?.parse().ok()?;
                Self::FolderAt(usize::checked_sub(n, 1)?)
            }
        })
    }

    fn of(self, path: &str, size_bytes: u64, content_type: Option<&str>) -> Option<String> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let ending = || Path::new(name).extension().and_then(|ending| ending.to_str());
        let content_type = || content_type.map(str::to_owned).or_else(|| content_type::of_name(name));
        match self {
            Self::Folder => Some(folder.to_owned()),
            Self::FolderAt(n) => folder.split('/').nth(n).map(str::to_owned),
            Self::Name => Some(name.strip_suffix(ending().unwrap_or_default())?.trim_end_matches('.').to_owned()),
            Self::Ending => ending().map(str::to_lowercase),
            Self::Type => content_type(),
            Self::Kind => content_type()?.split('/').next().map(str::to_owned),
            Self::Size => SIZES.iter().find(|(bytes, _)| size_bytes <= *bytes).map(|(_, name)| (*name).to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(pattern: &str, path: &str) -> Option<String> {
        Pattern::parse(pattern).unwrap().tag(path, 3 << 20, None)
    }

    #[test]
    fn tags_are_made_of_path_size_and_type() {
        let path = "series/Dark {2017}/Season 1/Geheimnisse é.MKV";
        for (pattern, expected) in [
            ("{folder}", "series/Dark {2017}/Season 1"),
            ("{folder:2}", "Dark {2017}"),
            ("in {folder:1}/{folder:3}!", "in series/Season 1!"),
            ("{name}.{ending}", "Geheimnisse é.mkv"),
            ("type={type}", "type=video/x-matroska"),
            ("{{{kind}}}", "{video}"),
            ("up to {size}", "up to 10MiB"),
        ] {
            assert_eq!(tag(pattern, path).as_deref(), Some(expected), "{pattern}");
        }
        let pattern = Pattern::parse("{type} {size}").unwrap();
        for (size_bytes, size) in [(0, "1MiB"), (1 << 20, "1MiB"), ((1 << 20) + 1, "10MiB"), (u64::MAX, "huge")] {
            assert_eq!(pattern.tag("a", size_bytes, Some("a/b")).unwrap(), format!("a/b {size}"));
        }
    }

    #[test]
    fn what_a_file_has_not_makes_no_tag() {
        for (pattern, path) in [
            ("{folder}", "film.mkv"),
            ("{folder:1}", "film.mkv"),
            ("{folder:3}", "a/b/film.mkv"),
            ("x{ending}", "film"),
            ("x{ending}", "film."),
            ("x{ending}", ".hidden"),
            ("{type}", "film.unheard-of"),
            ("{kind}", "mkv"),
        ] {
            assert_eq!(tag(pattern, path), None, "{pattern} {path}");
        }
        assert_eq!(tag("{name}", ".hidden").as_deref(), Some(".hidden"));
        assert_eq!(tag("{name}", "a.b.").as_deref(), Some("a.b"));
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for (text, what) in [
            ("plain", "--tag"),
            ("", "--tag"),
            ("{{folder}}", "--tag"),
            ("{year}", "{year}"),
            ("{folder:0}", "{folder:0}"),
            ("{folder:x}", "{folder:x}"),
            ("{folder", "`{` without"),
            ("folder}", "`}` without"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.kind() == Kind::Invalid && error.to_string().contains(what), "{text}: {error}");
        }
    }
}
