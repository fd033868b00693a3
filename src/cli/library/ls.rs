//! `reelfs ls`: lists names of a library, page by page, however many there are; and of any other source.
//! Never here: how a home finds them.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::{json_time, line, shown_time};
use crate::cli::look::ls as look;
use crate::cli::look::{LookOptions, Place};
use crate::cli::{misuse, say, written};
use crate::config::format_size;
use crate::error::Result;
use crate::library::{Library, Named, NamedKind, PAGE_NAMES, PAGE_NAMES_MAX, Page, Query};

/// List what is in a library, in the order of the paths' bytes, or in any other source, without a mount.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags, as they are typed")]
pub struct LsArgs {
    /// A library or another source, or a folder or a file of it (see `reelfs sources`).
    #[arg(value_name = "SOURCE[/PATH]")]
    library: String,
    /// With sizes and times (UTC).
    #[arg(short, long)]
    long: bool,
    /// Every file below, not only the names in the folder.
    #[arg(short, long)]
    recursive: bool,
    /// Of a library, from this path on (from its top).
    #[arg(long, value_name = "PATH")]
    start: Option<String>,
    /// Of a library, up to, and without, this path.
    #[arg(long, value_name = "PATH")]
    end: Option<String>,
    /// So many names at most, 10,000 at once; then it is said how to go on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PAGE_NAMES_MAX as u64))]
    limit: Option<u64>,
    /// Go on where a listing with --limit ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// First look for what other programs have put since. Only a Redis server has to be told; it may go through all its keys.
    #[arg(long)]
    refresh: bool,
    /// As JSON, for programs: `{"names": […], "cursor": …}`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: LookOptions,
}

/// Lists.
pub fn run(args: LsArgs, out: &mut dyn Write) -> Result<()> {
    let opened = match args.options.open(&args.library)? {
        Place::Library(opened) => opened,
        source @ Place::Source { .. } => {
            if args.start.is_some() || args.end.is_some() || args.cursor.is_some() || args.refresh {
                let described = source.describe();
                return Err(misuse(format!(
                    "{described} is no library: --start, --end, --cursor and --refresh are for those"
                )));
            }
            let mut listing = Listing { out, is_json: args.json, is_long: args.long, count: 0 };
            return of_source(&source, args.recursive, args.limit, &mut listing);
        }
    };
    if args.refresh {
        opened.library.find_others()?;
    }
    let limit = args.limit.map(|limit| limit as usize);
    let mut query = Query {
        folder: opened.path,
        is_recursive: args.recursive,
        start: args.start,
        end: args.end,
        cursor: args.cursor,
        limit: limit.unwrap_or(PAGE_NAMES),
    };
    let mut left = limit;
    let mut listing = Listing { out, is_json: args.json, is_long: args.long, count: 0 };
    // Nothing is said before it is known whether there is anything.
    let mut page = match opened.library.list(&query) {
        Err(error) => Page { names: vec![file_at(&*opened.library, &query.folder).ok_or(error)?], cursor: None },
        Ok(page) => page,
    };
    listing.begin()?;
    loop {
        if let Some(left) = &mut left {
            *left = left.saturating_sub(page.names.len());
        }
        page.names.iter().try_for_each(|named| listing.name(named))?;
        query.cursor = page.cursor;
        if query.cursor.is_none() || left == Some(0) {
            return listing.end(query.cursor.as_deref());
        }
        query.limit = left.unwrap_or(PAGE_NAMES);
        page = opened.library.list(&query)?;
    }
}

/// Lists a source that is no library: `limit` names at most.
fn of_source(source: &Place, is_recursive: bool, limit: Option<u64>, listing: &mut Listing<'_>) -> Result<()> {
    // Nothing is said before it is known whether there is anything.
    source.list("")?;
    listing.begin()?;
    let is_exact = listing.is_long || listing.is_json;
    look::names(source, is_recursive, is_exact, &mut |named| {
        listing.name(named)?;
        Ok(limit.is_none_or(|limit| listing.count < limit))
    })?;
    listing.end(None)
}

/// As `ls` does: a file is listed by itself.
fn file_at(library: &dyn Library, path: &str) -> Option<Named> {
    let manifest = library.manifest(path).ok()?;
    let kind = NamedKind::File { size_bytes: Some(manifest.size_bytes()) };
    Some(Named { path: path.to_owned(), kind, modified: Some(manifest.meta().modified) })
}

struct Listing<'a> {
    out: &'a mut dyn Write,
    is_json: bool,
    is_long: bool,
    count: u64,
}

impl Listing<'_> {
    fn begin(&mut self) -> Result<()> {
        self.raw(if self.is_json { "{\"names\":[" } else { "" })
    }

    fn name(&mut self, named: &Named) -> Result<()> {
        self.count += 1;
        if self.is_json {
            let separator = if self.count == 1 { "\n" } else { ",\n" };
            return self.raw(&format!("{separator}{}", as_json(named)));
        }
        let text = if self.is_long { as_line(named) } else { shown(named) };
        line(self.out, &text)
    }

    fn end(&mut self, cursor: Option<&str>) -> Result<()> {
        if self.is_json {
            return self.raw(&format!("],\n\"cursor\":{}}}\n", json!(cursor)));
        }
        if let Some(cursor) = cursor {
            say(&format!("there is more: go on with --cursor {}", quoted(cursor)));
        }
        Ok(())
    }

    fn raw(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).map_err(|error| written(&error))
    }
}

/// As a shell takes it; what would not survive being shown is escaped, as bash and its like have it.
fn quoted(text: &str) -> String {
    if !text.contains(char::is_control) && text.trim_end() == text {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let escaped = text.bytes().map(|byte| match byte {
        b'\'' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    format!("$'{}'", escaped.collect::<String>())
}

/// A folder ends with `/`.
fn shown(named: &Named) -> String {
    if named.kind == NamedKind::Folder { format!("{}/", named.path) } else { named.path.clone() }
}

fn as_line(named: &Named) -> String {
    let size = match named.kind {
        NamedKind::File { size_bytes: Some(size_bytes) } => format_size(size_bytes),
        NamedKind::File { size_bytes: None } => "?".to_owned(),
        NamedKind::Folder | NamedKind::Other => "-".to_owned(),
    };
    format!("{size:>10}  {:<19}  {}", named.modified.map_or_else(|| "-".to_owned(), shown_time), shown(named))
}

fn as_json(named: &Named) -> serde_json::Value {
    let (kind, size_bytes) = match named.kind {
        NamedKind::Folder => ("folder", None),
        NamedKind::File { size_bytes } => ("file", size_bytes),
        NamedKind::Other => ("other", None),
    };
    json!({ "path": named.path, "kind": kind, "size_bytes": size_bytes, "modified": named.modified.and_then(json_time) })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_cursor_is_taken_as_it_is_shown() {
        assert_eq!(quoted("a b/it's"), r"'a b/it'\''s'");
        let odd = "nl/a\nb é'\u{1b}\\ ";
        let shown = crate::cli::printable(&quoted(odd));
        let echoed = std::process::Command::new("bash").args(["-c", &format!("printf %s {shown}")]).output().unwrap();
        assert_eq!(String::from_utf8(echoed.stdout).unwrap(), odd);
    }

    #[test]
    fn lines_for_people_and_programs() {
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        let file = Named { path: "a/film.mkv".into(), kind: NamedKind::File { size_bytes: Some(3 << 30) }, modified };
        let folder = Named { path: "a".into(), kind: NamedKind::Folder, modified: None };
        assert_eq!(as_line(&file), "   3.0 GiB  2001-09-09 01:46:40  a/film.mkv");
        assert_eq!(as_line(&folder), "         -  -                    a/");
        let expected =
            r#"{"kind":"file","modified":"2001-09-09T01:46:40Z","path":"a/film.mkv","size_bytes":3221225472}"#;
        assert_eq!(as_json(&file).to_string(), expected);
    }
}
