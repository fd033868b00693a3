//! What a single film behind a link is called: the server's own word, else the link's path, else its query. Pure.
//! Never here: the network.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::store::is_safe_name;

/// Longest ending of a file's name that counts as one, without its dot.
const ENDING_BYTES_MAX: usize = 5;

/// The name of the file at `url`, whose answer has this `Content-Disposition`. `None` if there is none that a drive can show.
pub(super) fn file_name(url: &Url, disposition: Option<&str>) -> Option<String> {
    if let Some(name) = disposition.and_then(of_disposition) {
        return Some(name);
    }
    let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
    let of_path = percent_decode_str(last).decode_utf8().ok().map(String::from).filter(|name| is_safe_name(name));
    if of_path.as_deref().is_some_and(has_ending) {
        return of_path;
    }
    // `data?id=7&path=film.mp4`: media servers go by the ending.
    let of_query = url.query_pairs().find_map(|(_, value)| safe(&value).filter(|name| has_ending(name)));
    of_query.or(of_path)
}

/// The name in `attachment; filename="a.mkv"; filename*=UTF-8''%c3%a4.mkv`; the second form counts more.
fn of_disposition(text: &str) -> Option<String> {
    let mut plain = None;
    for (name, value) in parameters(text) {
        match &*name.to_ascii_lowercase() {
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                let (charset, encoded) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
                let decoded =
                    percent_decode_str(encoded).decode_utf8().ok().filter(|_| charset.eq_ignore_ascii_case("utf-8"));
                if let Some(name) = decoded.and_then(|name| safe(&name)) {
                    return Some(name);
                }
            }
            "filename" => plain = plain.or_else(|| safe(&value)),
            _ => {}
        }
    }
    plain
}

/// The parameters behind the first `;`, values without quotes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let (mut parameters, mut part) = (Vec::new(), String::new());
    let (mut is_quoted, mut is_escaped, mut is_first) = (false, false, true);
    for char in text.chars().chain([';']) {
        match char {
            _ if is_escaped => {
                part.push(char);
                is_escaped = false;
            }
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => {
                if let Some((name, value)) = part.split_once('=').filter(|_| !is_first) {
                    parameters.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                part.clear();
                is_first = false;
            }
            other => part.push(other),
        }
    }
    parameters
}

/// The last component of what may be a path of any system, if it can be shown.
fn safe(text: &str) -> Option<String> {
    let name = text.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    (is_safe_name(name) && !name.contains(char::is_control)).then(|| name.to_owned())
}

/// Whether a name ends as files do: in a dot, and letters and digits of which one is a letter.
fn has_ending(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, ending)| {
        !stem.is_empty()
            && (1..=ENDING_BYTES_MAX).contains(&ending.len())
            && ending.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && ending.bytes().any(|byte| byte.is_ascii_alphabetic())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_film_has_the_name_that_is_told() {
        let name = |url: &str, disposition: Option<&str>| {
            file_name(&Url::parse(&format!("http://host/{url}")).unwrap(), disposition)
        };
        for (url, disposition, expected) in [
            ("s/Tok3n/download", Some("attachment; filename=\"Sintel (2010).mp4\""), "Sintel (2010).mp4"),
            ("x", Some("inline; FileName=a.mkv"), "a.mkv"),
            ("x", Some("attachment; filename=\"a; \\\"b\\\".mkv\"; size=7"), "a; \"b\".mkv"),
            ("x", Some("attachment; filename=\"a.mkv\"; filename*=utf-8''%c3%a4%20b.mkv"), "ä b.mkv"),
            ("x", Some("attachment; filename*=latin1''%e4.mkv; filename=a.mkv"), "a.mkv"),
            ("x", Some("attachment; filename=\"../../etc/a.mkv\""), "a.mkv"),
            ("x", Some("attachment; filename=\"C:\\\\films\\\\a.mkv\""), "a.mkv"),
            ("x.mkv", Some("attachment; filename=\"..\""), "x.mkv"),
            ("x.mkv", Some("attachment"), "x.mkv"),
            ("x.mkv", Some("filename=a.mkv"), "x.mkv"),
            ("a%20film.mkv?file=b.mkv", None, "a film.mkv"),
            ("data?ih=08ad&path=/films/Sintel.mp4", None, "Sintel.mp4"),
            ("get.php?id=42", None, "get.php"),
            ("?file=Sintel.mp4", None, "Sintel.mp4"),
            ("data?id=1.5", None, "data"),
        ] {
            assert_eq!(name(url, disposition).as_deref(), Some(expected), "{url} {disposition:?}");
        }
        assert_eq!(name("", None), None);
        assert_eq!(name("a%2Fb", None), None);
    }
}
