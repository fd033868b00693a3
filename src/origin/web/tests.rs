//! Index pages as real servers wrote them (`pages/`: nginx 1.22, Apache 2.4, lighttpd 1.4, Caddy 2.6, rclone 1.75, Python
//! 3.11, scripts and styles cut), pages that lie, and garbage.

mod folders;

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::cancel::Cancel;
use crate::store::{ListedKind, is_safe_name};

const HTML: &str = "text/html; charset=utf-8";

fn page_url() -> Url {
    Url::parse("http://host:8080/rec/").unwrap()
}

/// What a page lists, whole and sorted.
#[derive(Debug, PartialEq, Eq)]
struct Index {
    names: Vec<Listed>,
    skipped: usize,
}

fn parse(page: &[u8], content_type: &str, url: &Url) -> Result<Index> {
    let mut told = None;
    let names = crate::store::whole(|pages| {
        // A few bytes at a time: every place a page can be cut at is one some network cuts it at. Large ones take long so.
        let body: Box<dyn io::Read> = if page.len() < 1 << 20 { Box::new(Trickle(page)) } else { Box::new(page) };
        told = Some(super::parse(body, content_type, url, pages)?);
        Ok(())
    })?;
    Ok(Index { names, skipped: told.map_or(0, |told| told.skipped) })
}

/// Bytes that come a few at a time.
struct Trickle<'a>(&'a [u8]);

impl io::Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(7);
        self.0.read(&mut buffer[..len])
    }
}

fn parse_html(html: &str) -> Result<Index> {
    parse(html.as_bytes(), HTML, &page_url())
}

/// Names alone, folders with a `/`, sizes where known.
fn summary(index: &Index) -> Vec<(String, Option<u64>)> {
    let one = |listed: &Listed| match listed.kind {
        ListedKind::Folder => (format!("{}/", listed.name), None),
        ListedKind::File { size_bytes } | ListedKind::Link { size_bytes } => (listed.name.to_string(), size_bytes),
    };
    index.names.iter().map(one).collect()
}

/// How exact a server's sizes are.
#[derive(Clone, Copy)]
enum Sizes {
    Exact,
    /// Only those below this, which are printed without a unit.
    Below(u64),
    None,
}

fn check_recorded(name: &str, page: &[u8], content_type: &str, sizes: Sizes, has_times: bool) {
    let index = parse(page, content_type, &page_url()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(index.skipped, 0, "{name}");
    let long = format!("{}.mkv", "x".repeat(196));
    let files = [
        ("100%.mp4", 700),
        ("<x>;+'\".avi", 5000),
        ("Tom & Jerry.mp4", 200_700),
        ("größe?#1.mkv", 1_234_567),
        (long.as_str(), 2_000_000),
        ("🎬.webm", 12),
    ];
    let mut expected = vec![("deep/".to_owned(), None), ("sub dir/".to_owned(), None)];
    expected.extend(files.map(|(file, size)| {
        let told = match sizes {
            Sizes::Exact => Some(size),
            Sizes::Below(limit) => Some(size).filter(|size| *size < limit),
            Sizes::None => None,
        };
        (file.to_owned(), told)
    }));
    expected.sort_by(|a, b| a.0.trim_end_matches('/').cmp(b.0.trim_end_matches('/')));
    assert_eq!(summary(&index), expected, "{name}");

    let to_the_minute = SystemTime::UNIX_EPOCH + Duration::from_mins(28_582_988);
    for listed in &index.names {
        match listed.modified {
            Some(time) if has_times => {
                let seconds = time.duration_since(to_the_minute).unwrap().as_secs();
                assert!(seconds == 0 || seconds == 9, "{name}: {listed:?}");
            }
            modified => assert_eq!(modified.is_some(), has_times, "{name}: {listed:?}"),
        }
    }
}

#[test]
fn recorded_pages() {
    macro_rules! page {
        ($name:literal, $type:literal, $sizes:expr, $has_times:literal) => {
            check_recorded($name, include_bytes!(concat!("pages/", $name)), $type, $sizes, $has_times);
        };
    }
    page!("nginx.html", "text/html", Sizes::Exact, true);
    page!("nginx-rounded.html", "text/html", Sizes::Below(10_000), true);
    page!("nginx.json", "application/json", Sizes::Exact, true);
    page!("nginx.xml", "text/xml; charset=utf-8", Sizes::Exact, true);
    page!("apache-plain.html", "text/html;charset=ISO-8859-1", Sizes::None, false);
    page!("apache-fancy.html", "text/html;charset=UTF-8", Sizes::Below(973), true);
    page!("apache-table.html", "text/html;charset=UTF-8", Sizes::Below(973), true);
    page!("lighttpd.html", "text/html;charset=utf-8", Sizes::None, true);
    page!("caddy.html", "text/html; charset=utf-8", Sizes::None, true);
    page!("caddy.json", "application/json; charset=utf-8", Sizes::Exact, true);
    page!("rclone.html", "text/html; charset=utf-8", Sizes::Exact, true);
    page!("python.html", "text/html; charset=utf-8", Sizes::None, false);
    // And with nothing announced.
    page!("nginx.json", "", Sizes::Exact, true);
    page!("nginx.xml", "application/octet-stream", Sizes::Exact, true);
    page!("nginx.html", "text/plain", Sizes::Exact, true);
}

#[test]
fn an_empty_folder_is_a_folder() {
    for (page, content_type) in [
        (
            "<html><head><title>Index of /rec/</title></head><body><h1>Index of /rec/</h1><hr><pre><a href=\"../\">../</a></pre>",
            HTML,
        ),
        ("<title>Directory listing for /rec/</title><h1>Directory listing for /rec/</h1><hr><ul></ul><hr>", HTML),
        ("<title>/</title><th><a href=\"?sort=name&order=asc\">Name</a></th>", HTML),
        ("[\n]", "application/json"),
        ("null\n", "application/json"),
        ("<?xml version=\"1.0\"?>\n<list>\n</list>", "text/xml"),
    ] {
        let index = parse(page.as_bytes(), content_type, &page_url());
        assert_eq!(index.ok(), Some(Index { names: Vec::new(), skipped: 0 }), "{page}");
    }
}

#[test]
fn what_lists_nothing_is_no_folder() {
    for (page, content_type) in [
        ("", HTML),
        ("<h1>It works!</h1><a href=\"http://elsewhere/x\">x</a><a href=\"/\">home</a><a href=\"#top\">up</a>", HTML),
        ("{\"error\": \"no\"}", "application/json"),
        ("[1, 2]", "application/json"),
        ("[{\"size\": 1}]", "application/json"),
        ("<rss></rss>", "text/xml"),
        ("hello", "text/plain"),
        ("[]", "video/mp4"),
    ] {
        let error = parse(page.as_bytes(), content_type, &page_url()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{page}");
    }
}

/// Pages that stand in for a folder for a while must not show it as empty.
#[test]
fn page_that_is_no_index_is_no_empty_folder() {
    for page in [
        "<title>Maintenance</title><a href=\"?lang=de\">Deutsch</a> <a href=\"?lang=en\">English</a>",
        "<title>Cookies</title><a href=\"?consent=yes\">Accept</a><a href=\"/rec/?c2=1\">Settings</a>",
        "<title>Sign in</title><form><input type=\"password\"></form><a href=\"?forgot\">Forgotten?</a>",
        "<h1>Back soon</h1><a href=\"../\">Back</a> <a href=\"..\">Home</a> <a href=\"/\">Start</a>",
        "<h1>Back soon</h1><a href=\".\">Again</a> <a href=\"\">Again</a> <a href=\"?\">Again</a> <a href=\"?t=1&sorted=1\">Again</a>",
        "<title>Files</title><div id=\"app\"></div><script>draw()</script><a href=\"?page=2\">2</a>",
        "<a href=\"http://elsewhere/rec/?sort=name\">Name</a><a href=\"/shop/?sort=price\">Price</a>",
        "<p>Parent directory of schools</p><p>..</p>",
    ] {
        let error = parse_html(page).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{page}");
    }
    let down = serve(|_, _| {
        ("200 OK", "Content-Type: text/html\r\n", "<a href=\"?lang=de\">Deutsch</a> <a href=\"../\">x</a>")
    });
    assert_eq!(listed(&down, "films").unwrap_err().kind(), Kind::Unsupported);
}

/// What an empty folder's page has, whichever server wrote it.
#[test]
fn page_of_an_empty_folder_is_told_by_its_title_order_or_parent() {
    for page in [
        "<title>Index of /rec</title><pre><a href=\"?C=N;O=D\">Name</a><hr><a href=\"/\">Parent Directory</a></pre>",
        "<a href=\"?C=N;O=D\">Name</a>",
        "<a href=\"?C=N&amp;O=D\">Name</a>",
        "<a href=\"/rec/?SORT=name\">Name</a>",
        "<a href=\"./?sort=namedirfirst&order=desc&layout=list\">Name</a>",
        "<title>rec</title><a href=\"?layout=grid&order=desc\">Name</a>",
        "<title>/rec/</title><a href=\"../\">..</a>",
        "<a href=\"../\">../</a>",
        "<a href=\"..\"><img src=\"up.png\"> <b>Parent directory/</b></a>",
        "<A HREF=\"/\">[To Parent Directory]</A>",
        "<a href=\"http://host:8080/\">&uarr; Parent Directory</a>",
        "<h1>Index of /rec/</h1><script>sort()</script>",
        "<h2>Directory listing for /rec/</h2><ul></ul>",
    ] {
        let index = parse_html(page);
        assert_eq!(index.ok(), Some(Index { names: Vec::new(), skipped: 0 }), "{page}");
    }
    // At the top of a server there is nothing above.
    let top = Url::parse("http://host/").unwrap();
    assert!(parse(b"<a href=\"../\">../</a>", HTML, &top).is_ok());
    // The recorded pages without their names.
    for (name, page) in [
        ("nginx", include_str!("pages/nginx.html")),
        ("apache", include_str!("pages/apache-fancy.html")),
        ("apache", include_str!("pages/apache-table.html")),
        ("apache", include_str!("pages/apache-plain.html")),
        ("lighttpd", include_str!("pages/lighttpd.html")),
        ("caddy", include_str!("pages/caddy.html")),
        ("rclone", include_str!("pages/rclone.html")),
        ("python", include_str!("pages/python.html")),
    ] {
        let mut links = page.split("<a href=\"");
        let mut empty = links.next().unwrap().to_owned();
        for link in links.filter(|link| ["..", "?", "./?", "/\"", "\""].iter().any(|start| link.starts_with(start))) {
            empty.push_str("<a href=\"");
            empty.push_str(link);
        }
        let index = parse_html(&empty).unwrap_or_else(|error| panic!("{name}: {error}\n{empty}"));
        assert_eq!(summary(&index), [], "{name}");
    }
}

#[test]
fn only_links_into_the_folder_count() {
    let html = "<title>Index of</title>
        <a href=\"?C=N;O=D\">Name</a> <a href=\"/rec/?C=M\">M</a> <a href=\"../\">up</a> <a href=\"/\">root</a> <a href=\".\">self</a>
        <a href=\"/rec/absolute.mkv\">1</a> <a href=\"http://host:8080/rec/whole.mkv\">2</a> <a href='./dot.mkv'>3</a>
        <a href=unquoted.mkv>4</a> <A HREF=\"&#x75;pper.mkv\">5</A> <a class=x href=\"twice.mkv\"><img></a> <a href=\"twice.mkv\">6</a>
        <a href=\"http://other/rec/x.mkv\">x</a> <a href=\"https://host:8080/rec/x.mkv\">x</a> <a href=\"//host/rec/x.mkv\">x</a>
        <a href=\"/other/x.mkv\">x</a> <a href=\"deep/er.mkv\">x</a> <a href=\"../rec2/x.mkv\">x</a> <a href=\"x.mkv?play=1\">x</a>
        <a href=\"x.mkv#t=10\">x</a> <a href=\"javascript:alert(1)\">x</a> <a href=\"mailto:x\">x</a> <a name=\"x\">x</a>
        <!-- <a href=\"comment.mkv\">x</a> --> <script>'<a href=\"script.mkv\">'</script>";
    let index = parse_html(html).unwrap();
    let names: Vec<_> = index.names.iter().map(|listed| &*listed.name).collect();
    assert_eq!(names, ["absolute.mkv", "dot.mkv", "twice.mkv", "unquoted.mkv", "upper.mkv", "whole.mkv"]);
    assert_eq!(index.skipped, 0);
}

#[test]
fn a_base_moves_the_links() {
    let index = parse_html("<base href=\"/rec/\"><a href=\"a.mkv\">a</a><a href=\"rec/b.mkv\">b</a>").unwrap();
    assert_eq!(summary(&index), [("a.mkv".to_owned(), None)]);
    let index =
        parse_html("<base href=\"http://host:8080/\"><a href=\"a.mkv\">a</a><a href=\"rec/b.mkv\">b</a>").unwrap();
    assert_eq!(summary(&index), [("b.mkv".to_owned(), None)]);
}

#[test]
fn unsafe_names_are_skipped_and_counted() {
    let long = "y".repeat(256);
    let html = format!(
        "<title>Index of</title><a href=\"..%2fup.mkv\">1</a><a href=\"a%2Fb.mkv\">2</a><a href=\"nul%00.mkv\">3</a>
         <a href=\"latin%E9.mkv\">4</a><a href=\"{long}\">5</a><a href=\"good.mkv\">6</a><a href=\"%2e%2e\">climbs: outside</a>"
    );
    let index = parse_html(&html).unwrap();
    assert_eq!((summary(&index), index.skipped), (vec![("good.mkv".to_owned(), None)], 5));

    let before = br#"[{"name":"..","type":"file"},{"name":"a/b","type":"file"},{"name":"","type":"file"},{"name":"l"#;
    let after = br#"","type":"file"},{"name":"a\u0000","type":"file"},{"name":"good","type":"file","size":-1},
        {"name":"pipe","type":"other"},{"name":"link","is_symlink":true,"size":9}]"#;
    let json = [before.as_slice(), b"\xE9", after].concat();
    let index = parse(&json, "application/json", &page_url()).unwrap();
    assert_eq!((summary(&index), index.skipped), (vec![("good".to_owned(), None), ("link".to_owned(), None)], 5));

    let xml = b"<list><file size=\"5\">a/b</file><file>..</file><file size=\"x\">good</file><other>x</other></list>";
    let index = parse(xml, "text/xml", &page_url()).unwrap();
    assert_eq!((summary(&index), index.skipped), (vec![("good".to_owned(), None)], 2));
}

/// The name may be told cut short, and look like anything: only the link and the columns count.
#[test]
fn a_name_that_looks_like_a_row_fools_nobody() {
    let html = "<pre><a href=\"a.mkv\">2020-01-01 00:00 5</a>  21-Nov-2026 07:26   7\n<a href=\"b.mkv\">b</a>\n</pre><p>2020-01-01 00:00 5</p>";
    assert_eq!(summary(&parse_html(html).unwrap()), [("a.mkv".to_owned(), Some(7)), ("b.mkv".to_owned(), None)]);
}

#[test]
fn html_sizes_are_taken_only_where_they_are_whole_and_exact() {
    let size = |cells: &str| {
        let html =
            format!("<title>Index of</title><table><tr><td><a href=\"a.mkv\">a.mkv</a></td>{cells}</tr></table>");
        summary(&parse_html(&html).unwrap())[0].1
    };
    let date = "<td>2023-11-14 22:13</td>";
    for (cell, expected) in [
        ("1500700", Some(1_500_700)),
        ("&nbsp;1500700&nbsp;", Some(1_500_700)),
        ("1500700 B", Some(1_500_700)),
        ("<b>1500700</b> <small>bytes</small>", Some(1_500_700)),
        ("1.4M", None),
        ("12<small>K</small>", None),
        ("<span>12</span><span>KB</span>", None),
        ("700 Mo", None),
        ("700 \u{41c}\u{411}", None),
        ("1 500 700", None),
        ("1&nbsp;500&nbsp;700", None),
        ("1&#8239;234 kB", None),
        ("1<wbr>500<wbr>700", None),
        ("1,500,700", None),
        ("1.500.700", None),
    ] {
        assert_eq!(size(&format!("{date}<td>{cell}</td>")), expected, "{cell}");
    }
    assert_eq!(size(&format!("{date}<td>3</td><td>1500700</td>")), None, "downloads or a size?");
    assert_eq!(size(&format!("{date}<td>12</td><td>MiB</td>")), None, "a unit in a cell of its own");
    assert_eq!(size(&format!("{date}<td>12</td><td>video/mp4</td>")), Some(12));
    assert_eq!(size("<td><size>1500700</size></td>"), Some(1_500_700));
    assert_eq!(size("<td><size>1 500 700</size></td>"), None);
    assert_eq!(size("<td><size>12</size><size>34</size></td>"), None);
}

#[test]
fn html_rows_with_wide_padding_keep_their_whole_size() {
    for blanks in (0..600).step_by(7) {
        let pad = " ".repeat(blanks);
        let html = format!("<pre><a href=\"a.mkv\">a.mkv</a>{pad}2023-11-14 22:13{pad}  1500700\n</pre>");
        assert_eq!(summary(&parse_html(&html).unwrap())[0].1, Some(1_500_700), "{blanks} blanks");
    }
}

#[test]
fn html_sizes_cut_by_a_long_row_are_not_exact() {
    for letters in 0..600 {
        let prose = "x".repeat(letters);
        let html = format!("<pre><a href=\"a.mkv\">a.mkv</a> {prose} 2023-11-14 22:13 1500700\n</pre>");
        let size = summary(&parse_html(&html).unwrap())[0].1;
        assert!(matches!(size, None | Some(1_500_700)), "{letters} letters: {size:?}");
    }
}

#[test]
fn json_values_of_any_shape_cost_no_more_than_themselves() {
    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    for odd in [
        "[0,0,[0]]",
        "{\"a\":[1]}",
        "\"5\"",
        "-5",
        "5.5",
        "1e3",
        "null",
        "true",
        "123456789012345678901234567890",
        &deep,
    ] {
        for field in ["size", "mtime", "mod_time", "is_dir", "other"] {
            let json = format!("[{{\"name\":\"a.mkv\",\"{field}\":{odd}}}]");
            let index = parse(json.as_bytes(), "application/json", &page_url());
            let kind = if (field, odd) == ("is_dir", "true") { "a.mkv/" } else { "a.mkv" };
            assert_eq!(index.map(|index| summary(&index)).ok(), Some(vec![(kind.to_owned(), None)]), "{field} {odd}");
        }
    }
}

#[test]
fn json_beyond_its_limits_is_no_index() {
    let long = "x".repeat(2 << 20);
    for value in
        ["[".repeat(100_000), format!("\"{long}\""), format!("\"{}\"", "\\\"".repeat(1 << 20)), "1".repeat(2 << 20)]
    {
        let start = value.get(..9).unwrap_or_default();
        let json = format!("[{{\"name\":\"a\",\"size\":{value}}}]");
        let error = parse(json.as_bytes(), "application/json", &page_url()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{start}");
        let json = format!("[{{\"name\":\"a\",\"{long}\":5}}]");
        assert!(parse(json.as_bytes(), "application/json", &page_url()).is_err(), "{start}");
    }
}

fn large_page(names: usize) -> String {
    let row = |at| {
        let (link, name) =
            (format!("Film%20{at:07}%20%28Director%27s%20cut%29.mkv"), format!("Film {at:07} (Director's cut).mkv"));
        format!("<a href=\"{link}\">{name}</a>             21-Nov-2026 07:26             {at}\n")
    };
    let rows: String = (0..names).rev().map(row).collect();
    format!(
        "<html><head><title>Index of /rec/</title></head><body><pre><a href=\"../\">../</a>\n{rows}</pre></body></html>"
    )
}

#[test]
fn a_hundred_thousand_names_take_no_time() {
    let html = large_page(100_000);
    let started = Instant::now();
    let index = parse_html(&html).unwrap();
    let took = started.elapsed();
    assert_eq!(index.names.len(), 100_000);
    assert_eq!(&*index.names[1].name, "Film 0000001 (Director's cut).mkv");
    assert_eq!(index.names[1].kind, ListedKind::File { size_bytes: Some(1) });
    eprintln!("{} bytes of HTML in {took:?}", html.len());
    assert!(took < Duration::from_secs(20), "{took:?}"); // two hundred times what it takes, for busy machines
}

proptest! {
    #[test]
    fn garbage_never_panics(body: Vec<u8>, content_type in "text/html|application/json|text/xml|.*") {
        let _ = parse(&body, &content_type, &page_url());
    }

    /// Garbage made of the right parts; and whatever comes out is sorted, unique and safe.
    #[test]
    fn scrambled_pages_never_panic(parts in prop::collection::vec(prop_oneof![
        Just("<a href=\"".to_owned()), Just("\">".to_owned()), Just("</a>".to_owned()), Just("<tr>".to_owned()),
        Just("<size>".to_owned()), Just("<time datetime=\"".to_owned()), Just("<base href=\"".to_owned()),
        Just(" 21-Nov-2026 07:26 5 ".to_owned()), Just("2026-11-21 99:99 +9999 5".to_owned()), Just("%2e%2e%2f".to_owned()),
        Just("<list><file size=\"1\">".to_owned()), Just("[{\"name\":\"".to_owned()), Just("\"},".to_owned()), ".{0,8}",
    ], 0..60), kind in "text/html|application/json|text/xml") {
        if let Ok(index) = parse(parts.concat().as_bytes(), &kind, &page_url()) {
            prop_assert!(index.names.windows(2).all(|pair| pair[0].name < pair[1].name));
            prop_assert!(index.names.iter().all(|listed| is_safe_name(&listed.name)));
        }
    }
}

/// A server that gives `answers(method, path)` (status, headers, body) for each request.
fn serve(answers: impl Fn(&str, &str) -> (&'static str, &'static str, &'static str) + Send + 'static) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(std::result::Result::ok) {
            let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let mut words = head.first().map_or("", String::as_str).split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (status, headers, body) = answers(method, path);
            let length = if headers.contains("Content-Length") {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            let body = if method == "HEAD" { "" } else { body };
            let _ = write!(socket, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}{length}\r\n{body}");
        }
    });
    url
}

fn patience() -> Patience {
    Patience { stall: Duration::from_secs(5), cancel: Cancel::new() }
}

fn connect(url: &Url, path: &str) -> Result<Vec<String>> {
    let web = Web::connect(&url.join(path).unwrap(), &patience())?;
    let names = web.list_whole("", &patience())?;
    Ok(names.iter().map(|listed| listed.name.to_string()).collect())
}

const INDEX: &str = "<title>Index of /films/</title><a href=\"a.mkv\">a.mkv</a>";
const ABSOLUTE_INDEX: &str = "<title>Index of /films/</title><a href=\"/films/a.mkv\">a.mkv</a>";

#[test]
fn folders_are_told_from_files() {
    let redirects = serve(|_, path| match path {
        "/films" => ("301 Moved", "Location: /films/\r\n", ""),
        "/films/" => ("200 OK", "Content-Type: text/html\r\n", INDEX),
        _ => ("404 Not Found", "", ""),
    });
    assert_eq!(connect(&redirects, "/films").unwrap(), ["a.mkv"]);
    assert_eq!(connect(&redirects, "/films/").unwrap(), ["a.mkv"]);
    assert_eq!(connect(&redirects, "/none").unwrap_err().kind(), Kind::Missing);

    let answers_both = serve(|_, _| ("200 OK", "Content-Type: text/html\r\n", ABSOLUTE_INDEX));
    assert_eq!(connect(&answers_both, "/films").unwrap(), ["a.mkv"]);

    let only_with_slash = serve(|_, path| match path {
        "/films/" => ("200 OK", "Content-Type: text/html\r\n", INDEX),
        _ => ("404 Not Found", "", ""),
    });
    assert_eq!(connect(&only_with_slash, "/films").unwrap(), ["a.mkv"]);

    let file = serve(|_, _| ("200 OK", "Content-Type: video/mp4\r\n", "film"));
    assert_eq!(connect(&file, "/some/a%20film.mp4?token=1").unwrap(), ["a film.mp4"]);
    let web = Web::connect(&file.join("/some/film.mp4").unwrap(), &patience()).unwrap();
    assert_eq!(web.stat("film.mp4", &patience()).unwrap().size_bytes, 4);
    assert_eq!(web.stat("other.mp4", &patience()).unwrap_err().kind(), Kind::Missing);
    assert_eq!(web.list_whole("sub", &patience()).unwrap_err().kind(), Kind::Missing);

    let page = serve(|_, _| ("200 OK", "Content-Type: text/html\r\n", "<p>hello</p>"));
    assert_eq!(connect(&page, "/film.html").unwrap(), ["film.html"]);
    let error = connect(&page, "/folder/").unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("does not list a folder"), "{error}");
}

#[test]
fn single_film_behind_a_link_has_the_name_its_server_tells() {
    let headers = "Content-Type: video/mp4\r\nContent-Disposition: attachment; filename=\"b c.mkv\"\r\n";
    let named = serve(move |_, _| ("200 OK", headers, "film"));
    for path in ["/s/Tok3n/download", "/?file=x.mp4", "/get.php?id=7"] {
        assert_eq!(connect(&named, path).unwrap(), ["b c.mkv"], "{path}");
    }
    let web = Web::connect(&named.join("/s/Tok3n/download").unwrap(), &patience()).unwrap();
    assert_eq!(web.stat("b c.mkv", &patience()).unwrap().size_bytes, 4);
}

/// What a URL is stays for the mount's life: a server that is away, or busy, for a moment must not settle it.
#[test]
fn single_film_behind_a_link_is_found_once_its_server_answers() {
    const NAMED: &str = "Content-Type: video/mp4\r\nContent-Disposition: attachment; filename=\"b c.mkv\"\r\n";
    for status in ["503 Service Unavailable", "429 Too Many Requests", "500 Internal Server Error"] {
        let is_up = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_up);
        let server =
            serve(move |_, _| if seen.load(Ordering::Relaxed) { ("200 OK", NAMED, "film") } else { (status, "", "") });
        for path in ["/?file=film.mkv", "/films"] {
            is_up.store(false, Ordering::Relaxed);
            let web = Web::new(&server.join(path).unwrap(), WHOLE_FILE_MAX_BYTES, &Access::plain()).unwrap();
            let error = web.list_whole("", &patience()).unwrap_err();
            assert!(error.may_pass(), "{status}: {path}: {error}");
            assert!(web.stat("b c.mkv", &patience()).unwrap_err().may_pass(), "{status}: {path}");
            is_up.store(true, Ordering::Relaxed);
            assert_eq!(&*web.list_whole("", &patience()).unwrap()[0].name, "b c.mkv", "{status}: {path}");
        }
    }
    // Nobody listens yet.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/?file=film.mkv", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let web = Web::new(&url, 0, &Access::plain()).unwrap();
    assert_eq!(web.list_whole("", &patience()).unwrap_err().kind(), Kind::Unreachable);
    assert!(web.root.get().is_none(), "not settled");
}

/// A folder that is known only with a slash, and busy, is not missing.
#[test]
fn folder_that_is_busy_is_not_missing() {
    let busy = serve(|_, path| match path {
        "/films" => ("404 Not Found", "", ""),
        _ => ("503 Service Unavailable", "", ""),
    });
    let error = connect(&busy, "/films").unwrap_err();
    assert!(error.may_pass(), "{error}");
}

#[test]
fn a_login_page_is_neither_folder_nor_film() {
    let portal = serve(|_, path| match path {
        "/login" => ("200 OK", "Content-Type: text/html\r\n", "<a href=\"/terms.pdf\">Terms</a>"),
        "/old/" => ("302 Found", "Location: /mirror/old/\r\n", ""),
        "/mirror/old/" => ("200 OK", "Content-Type: text/html\r\n", INDEX),
        _ => ("302 Found", "Location: /login\r\n", ""),
    });
    for path in ["/", "/films/", "/films", "/film.mkv"] {
        let error = connect(&portal, path).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable, "{path}: {error}");
        assert!(error.to_string().contains("a login page?"), "{error}");
    }
    let web = Web::new(&portal.join("/films/").unwrap(), 0, &Access::plain()).unwrap();
    assert_eq!(web.stat("a.mkv", &patience()).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(connect(&portal, "/old/").unwrap(), ["a.mkv"], "a mirror's folder");
}

#[test]
fn a_source_that_fails_says_what_to_do_in_one_line() {
    let refused = serve(|_, _| ("401 Unauthorized", "", ""));
    let mut url = refused.join("/films/").unwrap();
    url.set_username("alice").unwrap();
    url.set_password(Some("secret")).unwrap();
    let error = Web::connect(&url, &patience()).err().unwrap();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("REELFS_USER") && !error.to_string().contains("secret"), "{error}");
    assert!(!Web::new(&url, 0, &Access::plain()).unwrap().describe().contains("alice"));

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Url::parse(&format!("http://127.0.0.1:{port}/films/")).unwrap();
    let error = Web::connect(&nobody, &patience()).err().unwrap();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().starts_with(nobody.as_str()) && error.to_string().contains("refused"), "{error}");

    let no_host = Url::parse("http://no-such-host.invalid/films/").unwrap();
    let error = Web::connect(&no_host, &patience()).err().unwrap();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

/// The listing of one folder, folders with a `/`.
fn listed(url: &Url, path: &str) -> Result<Vec<String>> {
    let web = Web::new(url, 0, &Access::plain())?;
    let names = web.list_whole(path, &patience())?;
    Ok(names
        .iter()
        .map(|listed| format!("{}{}", listed.name, if listed.kind == ListedKind::Folder { "/" } else { "" }))
        .collect())
}
