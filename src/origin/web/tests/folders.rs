//! Folders of servers whose index is another than usual: JSON that is none, pages by a script, links without a slash.
//! Never here: what one page says; see the parent module.

use super::*;

/// A server that gives `answers(method, path, accept)`.
fn serve_by_accept(
    answers: impl Fn(&str, &str, &str) -> (&'static str, &'static str, &'static str) + Send + 'static,
) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(std::result::Result::ok) {
            let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let accept = head.iter().find_map(|line| line.strip_prefix("accept: ")).unwrap_or_default();
            let mut words = head.first().map_or("", String::as_str).split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (status, headers, body) = answers(method, path, accept);
            let length = body.len();
            let body = if method == "HEAD" { "" } else { body };
            let _ = write!(
                socket,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {headers}Content-Length: {length}\r\n\r\n{body}"
            );
        }
    });
    url
}

#[test]
fn json_that_is_no_index_is_asked_for_as_html() {
    for (json, status) in [
        (
            r#"{"files":[{"base":"a.mkv","relative":"a.mkv","type":"file"}],"directory":"root/","paths":[{"name":"root/","url":"/"}]}"#,
            "200 OK",
        ),
        (r#"["a.mkv","sub"]"#, "200 OK"),
        (r#"{"error":"not acceptable"}"#, "406 Not Acceptable"),
        ("not JSON at all", "200 OK"),
    ] {
        let url = serve_by_accept(move |_, _, accept| {
            if accept.starts_with("application/json") {
                (status, "application/json\r\n", json)
            } else {
                (
                    "200 OK",
                    "text/html\r\n",
                    "<h1>Files within root/</h1><a href=\"/a.mkv\">a.mkv</a><a href=\"/sub/\">sub/</a>",
                )
            }
        });
        assert_eq!(listed(&url, "").unwrap(), ["a.mkv", "sub/"], "{json}");
        assert_eq!(connect(&url, "/?x=1").unwrap(), ["a.mkv", "sub"], "{json}");
    }
}

#[test]
fn a_page_that_a_script_fills_is_asked_for_as_json() {
    for page in ["<title>Files</title><script>draw()</script>", "<title>Index of /</title><script>draw()</script>"] {
        let url = serve_by_accept(move |_, path, _| match path {
            "/?json" | "/?x=1&json" => (
                "200 OK",
                "application/json\r\n",
                r#"{"kind":"Index","paths":[{"path_type":"Dir","name":"sub","mtime":1700000047000,"size":3},
                   {"path_type":"File","name":"a.mkv","mtime":1700000047000,"size":5}]}"#,
            ),
            _ => ("200 OK", "text/html\r\n", page),
        });
        assert_eq!(listed(&url, "").unwrap(), ["a.mkv", "sub/"]);
        let names =
            Web::new(&url.join("/?x=1").unwrap(), 0, &Access::plain()).unwrap().list_whole("", &patience()).unwrap();
        assert_eq!(names[0].kind, ListedKind::File { size_bytes: Some(5) });
        assert_eq!(names[0].modified, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_047)));
    }
    let empty =
        serve(|_, _| ("200 OK", "Content-Type: text/html\r\n", "<title>Index of /</title><script>sort()</script>"));
    assert_eq!(connect(&empty, "/").unwrap(), Vec::<String>::new(), "a script that only sorts");
}

#[test]
fn folders_whose_links_have_no_slash_are_folders() {
    const TOP: &str = "<title>Index of /</title><a href=\"/film.mkv\">film.mkv</a><a href=\"/shown\">shown/</a>\
                       <a href=\"/Season%201\">Season 1</a><a href=\"/index\">index</a><a href=\"/README\">README</a>";
    let url = serve(|_, path| match path {
        "/" => ("200 OK", "Content-Type: text/html\r\n", TOP),
        "/Season%201" => ("301 Moved", "Location: /Season%201/\r\n", ""),
        "/Season%201/" => {
            ("200 OK", "Content-Type: text/html\r\n", "<title>Index of /</title><a href=\"e1.mkv\">e1.mkv</a>")
        }
        // An index without a redirect, and a page that is none.
        "/index" => ("200 OK", "Content-Type: text/html\r\n", "<title>Index of /index</title>"),
        "/README" => ("200 OK", "Content-Type: text/html\r\n", "<p>hello</p>"),
        _ => ("404 Not Found", "", ""),
    });
    assert_eq!(listed(&url, "").unwrap(), ["README", "Season 1/", "film.mkv", "index/", "shown/"]);
    assert_eq!(listed(&url, "Season 1").unwrap(), ["e1.mkv"]);
}

#[test]
fn folders_that_are_there_without_a_slash_alone_are_listed() {
    let url = serve(|_, path| match path {
        "/share" => (
            "200 OK",
            "Content-Type: text/html\r\n",
            "<title>Index of /share</title><a href=\"/share/a.mkv\">a.mkv</a><a href=\"/share/sub\">sub</a>",
        ),
        "/share/sub" => (
            "200 OK",
            "Content-Type: text/html\r\n",
            "<title>Index of /share/sub</title><a href=\"/share/sub/b.mkv\">b</a>",
        ),
        _ => ("404 Not Found", "", ""),
    });
    for top in ["/share", "/share/"] {
        let top = url.join(top).unwrap();
        assert_eq!(listed(&top, "").unwrap(), ["a.mkv", "sub/"]);
        assert_eq!(listed(&top, "sub").unwrap(), ["b.mkv"]);
        assert_eq!(listed(&top, "none").unwrap_err().kind(), Kind::Missing);
    }
}

#[test]
fn names_are_not_asked_about_where_folders_are_marked() {
    let url = serve(|method, path| match (method, path) {
        ("GET", "/") => {
            ("200 OK", "Content-Type: text/html\r\n", "<a href=\"README\">README</a><a href=\"sub/\">sub/</a>")
        }
        _ => ("301 Moved", "Location: /README/\r\n", ""),
    });
    assert_eq!(listed(&url, "").unwrap(), ["README", "sub/"]);
}
