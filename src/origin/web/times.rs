//! The times that index pages tell of files, where a server's answers to GET and HEAD tell no version at all: then the
//! time on the page is what tells two states of a file apart.
//! Never here: pages.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use lru::LruCache;
use parking_lot::Mutex;

use crate::store::{Listed, ListedKind};

/// Times kept, about 150 bytes each. The page of a file that is not among them is asked for again.
const TIMES_MAX: usize = 65_536;

/// What whole pages told last, by folder. Empty as long as answers tell versions of themselves.
pub(super) struct Times {
    is_needed: AtomicBool,
    // Taken alone, for one look or one folder.
    folders: Mutex<Folders>,
}

/// Invariant: `count` is the number of times in all folders together, at most `TIMES_MAX`.
struct Folders {
    by_path: LruCache<Box<str>, FolderTimes>,
    count: usize,
}

/// The times of one folder's files, by name; a file without a time is not among them.
pub(super) type FolderTimes = HashMap<Box<str>, SystemTime>;

impl Times {
    pub fn new() -> Self {
        let folders = Folders { by_path: LruCache::unbounded(), count: 0 };
        Self { is_needed: AtomicBool::new(false), folders: Mutex::new(folders) }
    }

    /// From now on, what pages tell is kept.
    pub fn need(&self) {
        self.is_needed.store(true, Ordering::Relaxed);
    }

    /// Whether what pages tell is kept.
    pub fn is_needed(&self) -> bool {
        self.is_needed.load(Ordering::Relaxed)
    }

    /// The time that the last whole page of its folder told of `path`.
    pub fn of(&self, path: &str) -> Option<SystemTime> {
        let (folder, name) = split(path);
        self.folders.lock().by_path.get(folder)?.get(name).copied()
    }

    /// A whole page of `folder` told these `times`. Files that are not among them are no longer known.
    pub fn learn(&self, folder: &str, times: FolderTimes) {
        self.folders.lock().put(folder, times);
    }

    /// The page of `folder` tells nothing any longer.
    pub fn forget(&self, folder: &str) {
        self.folders.lock().forget(folder);
    }
}

impl Folders {
    fn put(&mut self, folder: &str, times: FolderTimes) {
        self.forget(folder);
        if times.is_empty() || times.len() > TIMES_MAX {
            return;
        }
        self.count += times.len();
        self.by_path.put(folder.into(), times);
        while self.count > TIMES_MAX
            && let Some((_, oldest)) = self.by_path.pop_lru()
        {
            self.count -= oldest.len();
        }
    }

    fn forget(&mut self, folder: &str) {
        if let Some(times) = self.by_path.pop(folder) {
            self.count -= times.len();
        }
    }
}

/// Adds the times of one page's `names` to `times`. Of a name that comes twice, the first counts.
pub(super) fn collect(times: &mut FolderTimes, names: &[Listed]) {
    for listed in names.iter().filter(|listed| listed.kind != ListedKind::Folder) {
        if let Some(time) = listed.modified
            && times.len() <= TIMES_MAX
        {
            times.entry(listed.name.clone()).or_insert(time);
        }
    }
}

/// The folder of `path`, and its name there.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
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
    use crate::origin::{Origin as _, Patience, Section};
    use crate::range::ByteRange;

    use super::*;
    use crate::store::remote::access::Access;

    const NAMES: [&str; 2] = ["a.mkv", "b.mkv"];

    /// A page that lists nothing any longer.
    const EMPTY: u32 = 60;
    /// No page any longer.
    const GONE: u32 = 61;
    /// A page without an index.
    const BLANK: u32 = 62;

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
                    let minute = *minute.lock();
                    let rows = if minute == EMPTY { String::new() } else { NAMES.map(row).concat() };
                    let page =
                        if minute == BLANK { String::new() } else { format!("<title>Index of /films/</title>{rows}") };
                    let status = if minute == GONE { "403 Forbidden" } else { "200 OK" };
                    (status, "Content-Type: text/html\r\n".to_owned(), page)
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
        let web = Web::new(&serve(&minute), 0, &Access::plain()).unwrap();
        let patience = Patience { stall: Duration::from_secs(5), cancel: Cancel::new() };
        let range = ByteRange::new(0, 5);
        let old = web.stat("a.mkv", &patience).unwrap();
        assert_eq!((old.size_bytes, old.version.is_size_alone()), (10, false));
        assert_eq!(web.begin("b.mkv", Section::First(5), &patience).unwrap().unwrap().stat.version, old.version);
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

    /// An index that is gone proves nothing of what it told before.
    #[test]
    fn listed_time_proves_no_version_once_the_index_is_gone() {
        for (what, state) in [("forbidden", GONE), ("no index", BLANK), ("the film left out", EMPTY)] {
            let minute = Arc::new(Mutex::new(26));
            let web = Web::new(&serve(&minute), 0, &Access::plain()).unwrap();
            let patience = Patience { stall: Duration::from_secs(5), cancel: Cancel::new() };
            let range = ByteRange::new(0, 5);
            let old = web.stat("a.mkv", &patience).unwrap();
            assert!(web.read("a.mkv", &old, range, &patience).is_ok(), "{what}");

            *minute.lock() = state;
            let changed = web.read("a.mkv", &old, range, &patience).err().unwrap();
            assert_eq!(changed.kind(), Kind::Changed, "{what}");
            let now = web.stat("a.mkv", &patience).unwrap();
            assert!(now.version != old.version && now.modified.is_none(), "{what}: {now:?}");
            // Others of the folder, too: though nothing was asked about them.
            let beside = web.stat("b.mkv", &patience).unwrap();
            assert_eq!(beside.modified, None, "{what}");
        }
    }

    /// The first bytes of a film that was replaced since its folder was listed are not the old version's.
    #[test]
    fn listed_time_of_first_bytes_is_asked_for_after_they_began() {
        let minute = Arc::new(Mutex::new(26));
        let web = Web::new(&serve(&minute), 0, &Access::plain()).unwrap();
        let patience = Patience { stall: Duration::from_secs(5), cancel: Cancel::new() };
        web.stat("a.mkv", &patience).unwrap();
        *minute.lock() = 27;
        assert!(web.begin("b.mkv", Section::First(5), &patience).unwrap().is_none(), "old time, new bytes");
        let new = web.stat("b.mkv", &patience).unwrap();
        assert_eq!(web.begin("b.mkv", Section::First(5), &patience).unwrap().unwrap().stat, new);
    }

    #[test]
    fn folders_are_forgotten_oldest_first_and_counted() {
        let times = Times::new();
        let of = |count: usize| -> FolderTimes {
            (0..count).map(|at| (at.to_string().into(), SystemTime::UNIX_EPOCH)).collect()
        };
        times.learn("old", of(2));
        times.learn("new", of(TIMES_MAX - 2));
        assert!(times.of("old/1").is_some() && times.of("new/1").is_some());
        times.learn("", of(1));
        assert!(times.of("old/1").is_some() != times.of("new/1").is_some() && times.of("0").is_some());
        times.learn("huge", of(TIMES_MAX + 1));
        assert_eq!((times.of("huge/0"), times.of("0").is_some()), (None, true));
        times.learn("", FolderTimes::new());
        assert_eq!(times.of("0"), None);
    }
}
