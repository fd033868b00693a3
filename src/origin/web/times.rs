//! The times that index pages tell of files, where a server's answers to GET and HEAD tell no version at all: then the
//! time on the page is what tells two states of a file apart.
//! Never here: pages.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use lru::LruCache;
use parking_lot::Mutex;

use crate::store::{Listed, ListedKind, join};

/// Times kept, about 150 bytes each. The page of a file that is not among them is asked for again.
const TIMES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// What pages told last, by path. Empty as long as answers tell versions of themselves.
pub(super) struct Times {
    is_needed: AtomicBool,
    // Taken alone, for one look or one page.
    times: Mutex<LruCache<Box<str>, SystemTime>>,
}

impl Times {
    pub fn new() -> Self {
        Self { is_needed: AtomicBool::new(false), times: Mutex::new(LruCache::new(TIMES_MAX)) }
    }

    /// From now on, what pages tell is kept.
    pub fn need(&self) {
        self.is_needed.store(true, Ordering::Relaxed);
    }

    /// The time a page told of `path` last.
    pub fn of(&self, path: &str) -> Option<SystemTime> {
        self.times.lock().get(path).copied()
    }

    /// A page of `folder` holds these `names`. Files without a time are no longer known.
    pub fn learn(&self, folder: &str, names: &[Listed]) {
        if !self.is_needed.load(Ordering::Relaxed) {
            return;
        }
        let mut times = self.times.lock();
        for listed in names.iter().filter(|listed| listed.kind != ListedKind::Folder) {
            let path = join(folder, &listed.name);
            match listed.modified {
                Some(time) => drop(times.put(path.into(), time)),
                None => drop(times.pop(path.as_str())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use url::Url;

    use super::super::Web;
    use crate::cancel::Cancel;
    use crate::error::Kind;
    use crate::origin::{End, Origin as _, Patience};
    use crate::range::ByteRange;

    use super::*;

    const NAMES: [&str; 2] = ["a.mkv", "b.mkv"];

    /// A server whose answers tell nothing of a version, but for the time on its index page, which is this minute.
    fn serve(minute: &Arc<Mutex<u32>>) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}/films/", listener.local_addr().unwrap())).unwrap();
        let minute = Arc::clone(minute);
        thread::spawn(move || {
            for mut socket in listener.incoming().map_while(Result::ok) {
                let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                let row =
                    |name: &str| format!("<a href=\"{name}\">{name}</a> 2026-11-21 07:{:02}  10\n", *minute.lock());
                let range = head.iter().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
                let (status, headers, body) = if head[0].contains("/films/ ") {
                    let page = format!("<title>Index of /films/</title>{}", NAMES.map(row).concat());
                    ("200 OK", "Content-Type: text/html\r\n".to_owned(), page)
                } else if let Some((first, last)) = range {
                    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                    let range = format!("Content-Range: bytes {first}-{last}/10\r\n");
                    ("206 Partial Content", range, "0123456789"[first..=last].to_owned())
                } else {
                    ("200 OK", String::new(), "0123456789".to_owned())
                };
                let length = body.len();
                let body = if head[0].starts_with("HEAD") { "" } else { &body };
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}");
                let _ = write!(socket, "{head}\r\n\r\n{body}");
            }
        });
        url
    }

    /// A film that was replaced by one of the same size is another one, though no answer about it says so.
    #[test]
    fn versions_rest_on_the_listed_time_where_answers_tell_none() {
        let minute = Arc::new(Mutex::new(26));
        let web = Web::new(&serve(&minute), 0).unwrap();
        let patience = Patience { stall: Duration::from_secs(5), cancel: Cancel::new() };
        let range = ByteRange::new(0, 5);
        let old = web.stat("a.mkv", &patience).unwrap();
        assert_eq!((old.size_bytes, old.version.is_size_alone()), (10, false));
        assert_eq!(web.begin("b.mkv", End::First(5), &patience).unwrap().unwrap().stat.version, old.version);
        assert!(web.read("a.mkv", &old, range, &patience).is_ok());
        assert_eq!(
            web.list_whole("", &patience).unwrap()[0].modified,
            old.modified,
            "shown with the time it is known by"
        );

        *minute.lock() = 27;
        let changed = web.read("a.mkv", &old, range, &patience).err().unwrap();
        assert_eq!(changed.kind(), Kind::Changed, "not even before the folder is listed again");
        web.list_whole("", &patience).unwrap();
        let new = web.stat("a.mkv", &patience).unwrap();
        assert!(new.version != old.version && new.modified > old.modified);
        assert!(web.read("a.mkv", &new, range, &patience).is_ok());
    }
}
