//! Folders as programs page through them: a hundred thousand names, complete and stable from any place; and sizes that
//! have to be asked for.
//! Never here: index pages as servers write them; see `listings`.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Act, Content, RequestInfo, Server, ServerConfig};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

use super::compare::made;
use super::mount::Mount;
use super::needs::{FUSE, Test};

const NAMES: usize = 100_000;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("folders::a_hundred_thousand_names_page_by_page", &[FUSE], a_hundred_thousand_names_page_by_page),
        Test::new("folders::sizes_are_asked_for_side_by_side", &[FUSE], sizes_are_asked_for_side_by_side),
        Test::new("folders::deep_and_awkward_names", &[FUSE], deep_and_awkward_names),
    ]
}

/// Names and where the next page after each would begin, from where `folder` stands, `most` of them.
fn page(folder: &rustix::fd::OwnedFd, most: usize) -> Vec<(CString, u64)> {
    // A page for three or four names.
    let mut buffer = [MaybeUninit::uninit(); 256];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut names = Vec::new();
    while names.len() < most
        && let Some(entry) = entries.next()
    {
        let entry = entry.unwrap();
        names.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
    }
    names
}

fn a_hundred_thousand_names_page_by_page() {
    let files = (0..NAMES).map(|number| (format!("film number {number:06}.mkv"), made(1, 1000))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "1"]);
    let folder = rustix::fs::open(mount.point(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let all = page(&folder, usize::MAX);
    let names: HashSet<_> = all.iter().map(|(name, _)| name).collect();
    assert_eq!((all.len(), names.len()), (NAMES + 2, NAMES + 2), "names missing, or twice");
    assert_eq!((all[0].0.as_c_str(), all[1].0.as_c_str()), (c".", c".."));
    // The folder changes under whoever has it open: what it has begun to read stays as it was.
    assert!(server.remove("film number 000000.mkv"));
    server.replace("a new film.mkv", made(2, 5));
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..300 {
        let at = random.usize(..NAMES);
        rustix::fs::seek(&folder, SeekFrom::Start(all[at].1)).unwrap();
        let len = random.usize(1..40);
        let expected = &all[at + 1..(at + 1 + len).min(all.len())];
        assert_eq!(page(&folder, len), expected, "after {:?}", all[at]);
    }
    rustix::fs::seek(&folder, SeekFrom::Start(0)).unwrap();
    assert_eq!(page(&folder, 2)[1].0.as_c_str(), c"..");
}

/// An index page as Apache writes it: sizes are rounded, so only the file itself tells.
fn apache_page(count: usize) -> Content {
    let line =
        |number| format!("<a href=\"film{number:03}.mkv\">film{number:03}.mkv</a>       2024-01-01 00:00  1.4M  \n");
    let lines: String = (0..count).map(line).collect();
    let columns = "<a href=\"?C=N;O=D\">Name</a> <a href=\"?C=M;O=A\">Last modified</a> <a href=\"?C=S;O=A\">Size</a>";
    format!(
        "<html><head><title>Index of /films</title></head><body><h1>Index of /films</h1>\n<pre>{columns}<hr>\
             <a href=\"/\">Parent Directory</a>                             -   \n{lines}<hr></pre></body></html>\n"
    )
    .into_bytes()
    .into()
}

fn sizes_are_asked_for_side_by_side() {
    const COUNT: usize = 100;
    const DELAY: Duration = Duration::from_millis(100);
    let mut config = ServerConfig::default().file("films/", apache_page(COUNT));
    for number in 0..COUNT {
        config = config.file(format!("films/film{number:03}.mkv"), made(7, 1_400_000 + number as u64));
    }
    let server = Server::start(config).unwrap();
    let mount = Mount::new(&server.url_of("films/"), &[]);
    // Listing alone asks for none.
    assert_eq!(fs::read_dir(mount.point()).unwrap().count(), COUNT);
    let heads = || (0..COUNT).map(|number| server.counts(&format!("films/film{number:03}.mkv")).heads);
    assert_eq!(heads().sum::<u64>(), 0);
    server.set_weather(|request: &RequestInfo| if request.is_head { Act::Delay(DELAY) } else { Act::Serve });
    // One stat costs one question.
    assert_eq!(fs::metadata(mount.file("film050.mkv")).unwrap().len(), 1_400_050);
    assert_eq!(heads().sum::<u64>(), 1);
    let begun = Instant::now();
    for number in 0..COUNT {
        assert_eq!(fs::metadata(mount.file(&format!("film{number:03}.mkv"))).unwrap().len(), 1_400_000 + number as u64);
    }
    let took = begun.elapsed();
    println!("ls -l of {COUNT} files whose sizes take {DELAY:?} each: {took:.1?}");
    assert!(heads().all(|heads| heads == 1), "{:?}", heads().collect::<Vec<_>>());
    assert!(took < DELAY * COUNT as u32 / 3, "one by one: {took:?}");
    // Many askers of the same names at once cause no more questions.
    let point = Arc::new(mount.point());
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let point = Arc::clone(&point);
            thread::spawn(move || fs::read_dir(&*point).unwrap().all(|name| name.unwrap().metadata().is_ok()))
        })
        .collect();
    assert!(askers.into_iter().all(|asker| asker.join().unwrap()));
    assert!(heads().all(|heads| heads == 1));
}

fn deep_and_awkward_names() {
    let long = format!("{}.mkv", "x".repeat(251));
    let paths = ["a/b c/d&e/größe?.mkv", "a/b c/100%.mkv", &long, "日本語/🎬.mkv", "a.mkv"];
    let config = paths.iter().fold(ServerConfig::default(), |config, path| config.file(*path, made(9, 10_000)));
    let server = Server::start(config).unwrap();
    let mount = Mount::new(&server.url(), &[]);
    for path in paths {
        super::compare::check(9, 0, &fs::read(mount.file(path)).unwrap());
    }
    assert_eq!(fs::metadata(mount.file("none")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(fs::metadata(mount.file("a.mkv/b")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    assert_eq!(fs::read_dir(mount.file("a.mkv")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    let parent = fs::metadata(mount.file("a/b c/..")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::ino(&parent),
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(mount.file("a")).unwrap())
    );
}
