//! Folders of `WebDAV` servers of every kind. Each server is a thread and a script.

use std::io::Write;

use super::*;
use crate::store::remote::tests::{Server, answer, patience};
use crate::store::whole;

const WHEN: &str = "<D:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified>";
const FOLDER: &str = "<D:resourcetype><D:collection/></D:resourcetype>";

fn response(href: &str, properties: &str) -> String {
    format!(
        "<D:response><D:href>{href}</D:href><D:propstat><D:prop>{properties}</D:prop>\
         <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )
}

fn multistatus(responses: &str) -> Vec<u8> {
    let body = format!(r#"<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{responses}</D:multistatus>"#);
    answer("207 Multi-Status", &format!("Content-Length: {}\r\n", body.len()), body.as_bytes())
}

fn webdav(server: &Server, path: &str) -> WebDav {
    let url = format!("webdav://{}{path}", server.url.host_str().unwrap().to_owned() + &port(server));
    WebDav::new(&Address::new(Url::parse(&url).unwrap()).unwrap(), &Access::plain()).unwrap()
}

fn port(server: &Server) -> String {
    server.url.port().map(|port| format!(":{port}")).unwrap_or_default()
}

/// The names of `/dav/`, where each answer is the same.
fn names(answer: Vec<u8>) -> Result<Vec<Listed>> {
    let server = Server::start(move |_, socket| socket.write_all(&answer).unwrap_or(()));
    whole(|pages| webdav(&server, "/dav/").list("", &patience(), pages))
}

fn shown(names: &[Listed]) -> Vec<(&str, ListedKind)> {
    names.iter().map(|listed| (&*listed.name, listed.kind)).collect()
}

fn file(size_bytes: u64) -> ListedKind {
    ListedKind::File { size_bytes: Some(size_bytes) }
}

#[test]
fn webdav_names_do_not_depend_on_what_stands_in_front_of_their_links() {
    let size = "<D:resourcetype/><D:getcontentlength>7</D:getcontentlength>";
    for front in ["/dav", "http://h/dav", "HTTPS://backend:3000/dav", "/srv/www", "", "//dav", "http://h", "/%64av"] {
        let listed = names(multistatus(&format!(
            "{}{}{}",
            response(&format!("{front}/"), FOLDER),
            response(&format!("{front}/a%20b.mkv"), size),
            response(&format!("{front}/Season 1"), FOLDER),
        )))
        .unwrap();
        assert_eq!(shown(&listed), [("Season 1", ListedKind::Folder), ("a b.mkv", file(7))], "{front}");
    }
}

/// A media server drops its library where a folder seems empty.
#[test]
fn webdav_folder_is_never_empty_because_nothing_matched() {
    let own = response("/dav/", FOLDER);
    assert!(names(multistatus(&own)).unwrap().is_empty(), "a folder that lists itself alone is empty");
    for responses in [
        String::new(),
        own.clone() + &response("/other/a.mkv", ""),
        own.clone() + &response("/dav/a/b.mkv", ""),
        response("/x/", FOLDER),
        response("/x/a.mkv", "") + &response("/y/b.mkv", ""),
    ] {
        let error = names(multistatus(&responses)).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{responses}");
        assert!(error.to_string().contains("/dav/"), "{error}");
    }
    let refused = "<D:response><D:href>/dav/</D:href><D:status>HTTP/1.1 403 Forbidden</D:status></D:response>";
    assert_eq!(names(multistatus(refused)).unwrap_err().kind(), Kind::Denied);
}

#[test]
fn webdav_names_among_odd_links_are_listed() {
    let listed = names(multistatus(&format!(
        "{}{}{}{}{}<D:response><D:href>/dav/gone</D:href><D:status>HTTP/1.1 404 Not Found</D:status></D:response>",
        response("/dav/a.mkv", "<D:getcontentlength>-1</D:getcontentlength>"),
        response("/dav/sub/", WHEN),
        response("/dav/", FOLDER),
        response("/dav/..", FOLDER),
        response("/elsewhere/x", ""),
    )))
    .unwrap();
    assert_eq!(shown(&listed), [("a.mkv", ListedKind::File { size_bytes: None }), ("sub", ListedKind::Folder)]);
}

#[test]
fn webdav_list_without_an_end_is_refused() {
    let server = Server::start(|_, socket| {
        let start = r#"<D:multistatus xmlns:D="DAV:">"#;
        let head = answer("207 Multi-Status", "", start.as_bytes());
        let junk = format!("<D:{0}></D:{0}>", "x".repeat(4 << 10)).repeat(64);
        let _ = socket.write_all(&head);
        while socket.write_all(junk.as_bytes()).is_ok() {}
    });
    let error = whole(|pages| webdav(&server, "/dav/").list("", &patience(), pages)).unwrap_err();
    assert_eq!(error.kind(), Kind::Full);
}

#[test]
fn webdav_links_that_are_left_out_count_towards_the_bound_on_names() {
    let mut pages = |_: Vec<Listed>| Ok(());
    let url = Url::parse("http://h/dav/").unwrap();
    let mut listing = Listing::new(&url, url.to_string(), Paging::new(&mut pages));
    let resource = |href: &str| Resource { href: href.into(), ..Resource::default() };
    listing.add(resource("/dav/")).unwrap();
    let ended =
        (0..2_000_000).find_map(|at| listing.add(resource(if at % 2 == 0 { "/x/y" } else { "/dav/%ff" })).err());
    assert_eq!(ended.unwrap().kind(), Kind::Full);
}

#[test]
fn webdav_refusals_say_what_to_do() {
    let error = |status: &str| names(answer(status, "Content-Length: 0\r\n", b"")).unwrap_err();
    for status in ["405 Method Not Allowed", "501 Not Implemented"] {
        let error = error(status);
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("does not speak WebDAV") && error.to_string().contains(status), "{error}");
    }
    assert_eq!(error("401 Unauthorized").kind(), Kind::Denied);
    assert!(error("401 Unauthorized").to_string().contains("REELFS_USER"), "{}", error("401 Unauthorized"));
    assert_eq!(error("404 Not Found").kind(), Kind::Missing);
    let page = names(answer("200 OK", "Content-Length: 20\r\n", b"<html><p>Hello</html>")).unwrap_err();
    assert!(page.kind() == Kind::Unsupported && page.to_string().contains("WebDAV"), "{page}");
}

/// A server whose answers to GET and HEAD tell no version, only its properties do.
fn mute(etag: &'static str) -> Server {
    speaking("", etag)
}

/// One whose answers to GET and HEAD have these `headers` alone.
fn speaking(headers: &'static str, etag: &'static str) -> Server {
    const FILE: &[u8] = b"0123456789";
    Server::start(move |head, socket| {
        let reply = if head.starts_with("PROPFIND /dav/a.mkv ") {
            multistatus(&response("/dav/a.mkv", &format!("{WHEN}<D:getetag>{etag}</D:getetag>")))
        } else if head.starts_with("HEAD") {
            answer("200 OK", &format!("Content-Length: 10\r\n{headers}"), b"")
        } else {
            let last = if head.contains("bytes=0-0\n") { 0 } else { 4 };
            let headers = format!("Content-Range: bytes 0-{last}/10\r\nContent-Length: {}\r\n{headers}", last + 1);
            answer("206 Partial Content", &headers, &FILE[..=last])
        };
        socket.write_all(&reply).unwrap_or(());
    })
}

#[test]
fn webdav_version_is_found_among_properties_where_answers_tell_none() {
    for (etag, version) in [
        ("\"7-a\"", Version::etag("\"7-a\"")),
        ("7-a", Version::etag("7-a")),
        ("W/\"7\"", Version::size_and_time(10, answer::http_date("Sun, 06 Nov 1994 08:49:37 GMT"))),
    ] {
        let (server, range) = (mute(etag), ByteRange::new(0, 5));
        let place = webdav(&server, "/dav/");
        let stat = place.stat("a.mkv", &patience()).unwrap();
        assert_eq!((stat.size_bytes, &stat.version), (10, &version));
        assert!(stat.modified.is_some());
        assert_eq!(place.begin("a.mkv", Section::First(5), &patience()).unwrap().unwrap().stat, stat);
        assert!(place.read("a.mkv", &stat, range, &patience()).is_ok());
        let older = Stat { version: Version::etag("\"6\""), ..stat };
        let changed = place.read("a.mkv", &older, range, &patience()).err().unwrap();
        assert_eq!(changed.kind(), Kind::Changed);
    }
}

/// A time is kept when a film is replaced, and an `ETag` is not.
#[test]
fn webdav_etag_among_properties_is_the_version_where_answers_tell_a_time() {
    const TIME: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let server = speaking(TIME, "\"7-a\"");
    let place = webdav(&server, "/dav/");
    let stat = place.stat("a.mkv", &patience()).unwrap();
    assert_eq!(stat.version, Version::etag("\"7-a\""));
    assert_eq!(place.begin("a.mkv", Section::First(5), &patience()).unwrap().unwrap().stat, stat);
    assert!(place.read("a.mkv", &stat, ByteRange::new(0, 5), &patience()).is_ok());
    let older = Stat { version: Version::etag("\"6\""), ..stat };
    let changed = place.read("a.mkv", &older, ByteRange::new(0, 5), &patience()).err().unwrap();
    assert_eq!(changed.kind(), Kind::Changed);

    let server = speaking(TIME, "W/\"7\"");
    let place = webdav(&server, "/dav/");
    for _ in 0..3 {
        let stat = place.stat("a.mkv", &patience()).unwrap();
        assert_eq!(stat.version, Version::size_and_time(10, stat.modified));
    }
    let asked = server.heads().iter().filter(|head| head.starts_with("PROPFIND")).count();
    assert_eq!(asked, 1, "not again where there is none");
}

#[test]
fn webdav_place_may_be_one_file() {
    let server = mute("\"1\"");
    let place = webdav(&server, "/dav/a.mkv");
    let listed = whole(|pages| place.list("", &patience(), pages)).unwrap();
    assert_eq!(shown(&listed), [("a.mkv", file(10))]);
    assert_eq!(place.stat("a.mkv", &patience()).unwrap().version, Version::etag("\"1\""));
    assert_eq!(place.stat("b.mkv", &patience()).unwrap_err().kind(), Kind::Missing);
}
