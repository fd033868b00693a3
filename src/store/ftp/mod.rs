//! A folder on an FTP server.
//! Never here: HTTP, retries, and where passwords come from.
//!
//! A conversation of our own rather than a crate's: those at hand write passwords into their logs, take lines of any
//! length, part names at semicolons, and connect to whatever address a server names.

pub mod address;
mod body;
mod control;
mod line;
mod pool;
mod reply;

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use self::address::Address;
use self::body::{FtpBody, Transfer, check};
use self::control::{Found, unreachable};
use self::line::{Line, LineKind};
use self::pool::Pool;
use super::driver::Driver;
use super::listing::too_long;
use super::server::called;
use super::{
    Begun, Body, LISTING_NAMES_MAX, List, Listed, ListedKind, Pages, Paging, Patience, Read, Section, Stat,
    is_safe_name,
};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// Home servers let in few at once from one address, and other programs may want in.
pub const CONNECTIONS_MAX: usize = 4;
/// Lines of a listing read at once, under one wait.
const PAGE_LINES: usize = 1_000;
/// Most lines of a listing: its names, and the few that are none (a total, the folder itself, the one above).
const LINES_MAX: usize = LISTING_NAMES_MAX + 3;
/// Longest line: a name and what is told of it.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// Links followed in one folder, each by a question of its own; further ones are left out.
const LINKS_MAX: usize = 200;

/// A folder or a file, read over FTP.
pub struct Ftp {
    driver: Arc<Driver>,
    pool: Arc<Pool>,
    address: Address,
    described: String,
    /// What the address turned out to be; asked once, when first needed, so that a drive can start without its server.
    root: OnceLock<Root>,
}

/// What an address turned out to be.
struct Root {
    /// The folder one logs in to.
    home: String,
    /// Set: one file, under the name its path ends in.
    file_name: Option<Box<str>>,
}

impl Ftp {
    /// The place at `address`, over `connections` at most. Asks nothing yet.
    pub fn new(address: &Address, connections: usize) -> Result<Self> {
        let pool = Pool::new(address.clone(), connections.clamp(1, CONNECTIONS_MAX));
        let (address, described) = (address.clone(), address.to_string());
        Ok(Self { driver: Arc::new(Driver::new()?), pool, address, described, root: OnceLock::new() })
    }

    fn wait<T>(&self, patience: &Patience, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = self.driver.wait(patience, what, work);
        if let Err(error) = &answer {
            self.pool.doubt(error);
        }
        answer
    }

    fn root(&self, patience: &Patience) -> Result<&Root> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let what = &self.described;
        let root = self.wait(patience, what, async {
            let mut lease = self.pool.lease().await?;
            let home = lease.home().to_owned();
            let found = lease.find(&self.address.join(&home, ""), what).await?;
            lease.give_back();
            let name = Some(self.address.name()).filter(|name| is_safe_name(name));
            let file_name = name.filter(|_| matches!(found, Found::File(_))).map(Into::into);
            Ok(Root { home, file_name })
        })?;
        Ok(self.root.get_or_init(|| root))
    }

    /// The path of a key at the server, and how it is called in messages.
    fn path(&self, key: &str, patience: &Patience) -> Result<(String, String)> {
        let what = called(&self.described, key);
        if !key.is_empty() && !key.split('/').all(is_askable) {
            return Err(Error::new(Kind::Invalid, format!("{what}: not a path that can be asked for")));
        }
        let Root { home, file_name } = self.root(patience)?;
        match file_name {
            None => Ok((self.address.join(home, key), what)),
            Some(name) if *key == **name => Ok((self.address.join(home, ""), what)),
            Some(_) => Err(Error::new(Kind::Missing, format!("{what}: not there"))),
        }
    }

    fn find(&self, path: &str, what: &str, patience: &Patience) -> Result<Found> {
        self.wait(patience, what, async {
            let mut lease = self.pool.lease().await?;
            match lease.find(path, what).await {
                Ok(found) => {
                    lease.give_back();
                    Ok(found)
                }
                Err(error) => {
                    lease.give_back_after(&error);
                    Err(error)
                }
            }
        })
    }

    /// Takes the listing of a folder, line by line, and whether its lines are facts.
    fn take_lines(
        &self,
        path: &str,
        what: &str,
        patience: &Patience,
        mut take: impl FnMut(&[u8], bool) -> Result<()>,
    ) -> Result<()> {
        let (mut lease, data, are_facts) = self.wait(patience, what, async {
            let mut lease = self.pool.lease().await?;
            match lease.list(path, what).await {
                Ok((data, are_facts)) => Ok((lease, data, are_facts)),
                Err(error) => {
                    lease.give_back_after(&error);
                    Err(error)
                }
            }
        })?;
        let mut data = BufReader::new(data);
        let mut told = 0;
        loop {
            let mut page = Vec::with_capacity(PAGE_LINES);
            self.wait(patience, what, async {
                while page.len() < PAGE_LINES {
                    let mut line = Vec::new();
                    let read = (&mut data).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
                    match read.map_err(|error| unreachable(what, &error))? as u64 {
                        0 => break,
                        LINE_BYTES_MAX => return Err(Error::new(Kind::Unsupported, format!("{what}: no listing"))),
                        _ => page.push(line),
                    }
                }
                Ok(())
            })?;
            if page.is_empty() {
                break;
            }
            // Those that will be left out count, too: a listing has an end.
            told += page.len();
            if told > LINES_MAX {
                return Err(too_long().context(what));
            }
            for line in page {
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                take(line.strip_suffix(b"\r").unwrap_or(line), are_facts)?;
            }
        }
        drop(data);
        // Only this reply tells a whole listing from one that broke off.
        self.wait(patience, what, async {
            lease.finish(what).await?;
            lease.give_back();
            Ok(())
        })
    }
}

impl Read for Ftp {
    fn stat(&self, key: &str, patience: &Patience) -> Result<Stat> {
        let (path, what) = self.path(key, patience)?;
        match self.find(&path, &what, patience)? {
            Found::File(stat) => Ok(stat),
            Found::Folder => Err(is_folder(&what)),
        }
    }

    fn begin(&self, key: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        // The last bytes can't be asked for before it is known where they are.
        let (wanted, least_bytes) = match section {
            Section::First(bytes) => (ByteRange::new(0, bytes), 1),
            Section::At(range) => (range, range.end),
            Section::Last(_) => return Ok(None),
        };
        let (path, what) = self.path(key, patience)?;
        let transfer = self.wait(patience, &what, async {
            let mut lease = self.pool.lease().await?;
            let stat = match lease.find(&path, &what).await {
                Ok(Found::File(stat)) if stat.size_bytes >= least_bytes => stat,
                // `stat` finds out, and says so.
                Ok(_) => {
                    lease.give_back();
                    return Ok(None);
                }
                Err(error) => {
                    lease.give_back_after(&error);
                    return Err(error);
                }
            };
            let range = wanted.intersect(ByteRange::new(0, stat.size_bytes));
            let transfer = Transfer::begin(lease, &path, &what, &stat, range).await?;
            Ok(Some((stat, range, transfer)))
        })?;
        let Some((stat, range, transfer)) = transfer else { return Ok(None) };
        let body = Box::new(FtpBody::new(&self.driver, &self.pool, patience, transfer));
        Ok(Some(Begun { stat, range, body, cancel: patience.cancel.clone() }))
    }

    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        let (path, what) = self.path(key, patience)?;
        let transfer = self.wait(patience, &what, async {
            let mut lease = self.pool.lease().await?;
            if let Err(error) = check(&mut lease, &path, &what, expected).await {
                lease.give_back_after(&error);
                return Err(error);
            }
            Transfer::begin(lease, &path, &what, expected, range).await
        })?;
        Ok(Box::new(FtpBody::new(&self.driver, &self.pool, patience, transfer)))
    }
}

impl List for Ftp {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let mut paging = Paging::new(pages);
        if let (Some(name), "") = (&self.root(patience)?.file_name, folder) {
            paging.add(Listed::file(name.clone(), &self.stat(name, patience)?))?;
            return paging.finish();
        }
        let (path, what) = self.path(folder, patience)?;
        let (mut links, mut skipped, now) = (Vec::new(), 0, SystemTime::now());
        let mut add = |listed| paging.add(listed).map_err(|error: Error| error.context(&what));
        self.take_lines(&path, &what, patience, |line, are_facts| match told(line, are_facts, now) {
            Told::Name(listed) => add(listed),
            Told::Nothing => Ok(()),
            Told::Link(name) if links.len() < LINKS_MAX => {
                links.push(name);
                Ok(())
            }
            Told::Link(_) | Told::Unsafe => {
                skipped += 1;
                Ok(())
            }
        })?;
        for name in links {
            // One that leads nowhere is left out.
            match self.find(&format!("{}/{name}", path.trim_end_matches('/')), &what, patience) {
                Ok(Found::Folder) => add(Listed { name: name.into(), kind: ListedKind::Folder, modified: None })?,
                Ok(Found::File(stat)) => add(Listed::file(name, &stat))?,
                Err(error) if error.may_pass() || error.kind() == Kind::Cancelled => return Err(error),
                Err(_) => {}
            }
        }
        if skipped > 0 {
            log::warn!("{what}: {skipped} names left out: unsafe, not UTF-8, or links beyond the first {LINKS_MAX}");
        }
        paging.finish()
    }
}

/// What one line of a listing tells.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Name(Listed),
    /// What it leads to must be asked for.
    Link(String),
    /// The folder itself and the one above, a pipe, a total.
    Nothing,
    Unsafe,
}

fn told(line: &[u8], are_facts: bool, now: SystemTime) -> Told {
    if line.is_empty() || (!are_facts && line.starts_with(b"total ")) {
        return Told::Nothing;
    }
    let line = str::from_utf8(line).ok();
    let line = line.and_then(|line| if are_facts { line::facts(line) } else { line::listing(line, now) });
    let Some(Line { name, kind, size_bytes, modified }) = line else { return Told::Unsafe };
    if matches!(name, "." | "..") || kind == LineKind::Other {
        return Told::Nothing;
    }
    if !is_askable(name) {
        return Told::Unsafe;
    }
    let kind = match kind {
        LineKind::Folder => ListedKind::Folder,
        LineKind::File => ListedKind::File { size_bytes },
        LineKind::Link | LineKind::Other => return Told::Link(name.to_owned()),
    };
    Told::Name(Listed { name: name.into(), kind, modified })
}

/// Whether a name can be asked for: a line's end would be that of a command.
fn is_askable(name: &str) -> bool {
    is_safe_name(name) && !name.contains(['\r', '\n'])
}

fn is_folder(what: &str) -> Error {
    Error::new(Kind::Missing, format!("{what} is a folder, not a file"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::cancel::Cancel;

    const FILM: &[u8] = &[7; 100_000];

    /// One connection's conversation: a film of `FILM`, and of its transfers no end is ever told.
    fn converse(mut stream: TcpStream) -> std::io::Result<()> {
        let data = TcpListener::bind("127.0.0.1:0")?;
        let port = data.local_addr()?.port();
        let mut start = 0;
        stream.write_all(b"220 Hi\r\n")?;
        for line in std::io::BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            let reply = match line.get(..4) {
                Some("USER") => "230 In".into(),
                Some("TYPE") => "200 Binary".into(),
                Some("SIZE") => format!("213 {}", FILM.len()),
                Some("MDTM") => "213 19700101000001".into(),
                Some("EPSV") => format!("229 Here (|||{port}|)"),
                Some("REST") => {
                    start = line[5..].parse().unwrap_or(0);
                    "350 From there".into()
                }
                Some("RETR") => "150 It comes".into(),
                _ => "502 No".to_owned(),
            };
            stream.write_all(format!("{reply}\r\n").as_bytes())?;
            if reply.starts_with("150") {
                // Whoever has read enough closes it.
                let _ = data.accept()?.0.write_all(&FILM[start..]);
            }
        }
        Ok(())
    }

    #[test]
    fn final_reply_that_never_comes_costs_no_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ftp://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || converse(stream));
            }
        });
        let ftp = Ftp::new(&Address::new(url.parse().unwrap()).unwrap(), 2).unwrap();
        let patience = Patience { stall: Duration::from_secs(4), cancel: Cancel::new() };
        let stat = ftp.stat("film.mkv", &patience).unwrap();
        for range in [ByteRange::new(0, 50_000), ByteRange::new(40_000, 100_000)] {
            let mut body = ftp.read("film.mkv", &stat, range, &patience).unwrap();
            let mut bytes = Vec::new();
            while let Some(piece) = body.next().unwrap() {
                bytes.extend_from_slice(&piece);
            }
            assert!(bytes == FILM[range.start as usize..range.end as usize], "{range}: {} bytes", bytes.len());
        }
    }

    #[test]
    fn a_line_tells_a_name_that_can_be_asked_for_or_none() {
        let told = |line: &[u8]| told(line, true, SystemTime::UNIX_EPOCH);
        let film = Listed { name: "film.mkv".into(), kind: ListedKind::File { size_bytes: Some(5) }, modified: None };
        assert_eq!(told(b"type=file;size=5; film.mkv"), Told::Name(film));
        assert_eq!(told(b"type=OS.unix=symlink; link"), Told::Link("link".into()));
        for nothing in [&b""[..], b"type=cdir; /films", b"type=dir; .", b"type=OS.unix=pipe; x"] {
            assert_eq!(told(nothing), Told::Nothing);
        }
        for bad in [&b"type=file; \xff.mkv"[..], b"type=file; a/b", b"type=file; a\rDELE b", b"nonsense"] {
            assert_eq!(told(bad), Told::Unsafe);
        }
    }
}
