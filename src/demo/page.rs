//! A folder's index page as nginx's autoindex writes it, byte for byte: what real servers send is what the drive is
//! tested on. Pure.
//! Never here: which files there are.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// nginx cuts names longer than this in what it shows; the link is always whole.
const NAME_CHARS_SHOWN: usize = 50;

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Without a `/`, also for a folder.
    pub(super) name: &'a str,
    /// Exact; nothing for a folder.
    pub(super) size_bytes: Option<u64>,
    pub(super) modified: SystemTime,
}

/// A path for a URL: each name percent-encoded, `/` kept.
pub(super) fn encode_path(path: &str) -> String {
    path.split('/').map(|name| utf8_percent_encode(name, NAME).to_string()).collect::<Vec<_>>().join("/")
}

/// The page of the folder at `path` (`films/`, or empty for the root). Folders come first, as nginx sorts them.
pub(super) fn index_page(path: &str, lines: &[Line]) -> String {
    let title = escape(path);
    let mut page = format!(
        "<html>\r\n<head><title>Index of /{title}</title></head>\r\n<body>\r\n<h1>Index of /{title}</h1><hr><pre><a href=\"../\">../</a>\r\n"
    );
    let (folders, files): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.size_bytes.is_none());
    for line in folders.into_iter().chain(files) {
        push_line(&mut page, line);
    }
    page.push_str("</pre><hr></body>\r\n</html>\r\n");
    page
}

fn push_line(page: &mut String, line: &Line) {
    let slash = if line.size_bytes.is_none() { "/" } else { "" };
    let name_chars = line.name.chars().count();
    let shown = if name_chars > NAME_CHARS_SHOWN {
        let cut: String = line.name.chars().take(NAME_CHARS_SHOWN - 3).collect();
        format!("{}..&gt;", escape(&cut))
    } else {
        // A folder whose name fills the column is shown without its slash.
        let slash = if name_chars < NAME_CHARS_SHOWN { slash } else { "" };
        format!("{}{slash}", escape(line.name))
    };
    let padding = NAME_CHARS_SHOWN.saturating_sub(name_chars + slash.len());
    let date = Timestamp::try_from(line.modified).unwrap_or_default().strftime("%d-%b-%Y %H:%M");
    let size = line.size_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
    let name = utf8_percent_encode(line.name, NAME);
    // Writing to a String can't fail.
    let _ = write!(page, "<a href=\"{name}{slash}\">{shown}</a>{:padding$} {date} {size:>19}\r\n", "");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_nginx_writes_it() {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_hours(19_723 * 24);
        let long = format!("{}.mp4", "l".repeat(60));
        let full = "d".repeat(50);
        let lines = [
            Line { name: "a b & ü.mp4", size_bytes: Some(3_696_332), modified },
            Line { name: &long, size_bytes: Some(0), modified },
            Line { name: &full, size_bytes: None, modified },
            Line { name: "series", size_bytes: None, modified },
        ];
        let expected = [
            "<html>",
            "<head><title>Index of /films/</title></head>",
            "<body>",
            "<h1>Index of /films/</h1><hr><pre><a href=\"../\">../</a>",
            &format!("<a href=\"{full}/\">{full}</a> 01-Jan-2024 00:00                   -"),
            "<a href=\"series/\">series/</a>                                            01-Jan-2024 00:00                   -",
            "<a href=\"a%20b%20%26%20%C3%BC.mp4\">a b &amp; ü.mp4</a>                                        01-Jan-2024 00:00             3696332",
            &format!("<a href=\"{long}\">{}..&gt;</a> 01-Jan-2024 00:00                   0", "l".repeat(47)),
            "</pre><hr></body>",
            "</html>",
            "",
        ];
        assert_eq!(index_page("films/", &lines), expected.join("\r\n"));
    }

    #[test]
    fn paths_keep_their_slashes() {
        assert_eq!(encode_path("a b/#1?.mp4"), "a%20b/%231%3F.mp4");
    }
}
