//! A folder on a server that is reached with `ssh`: the user's own, with their keys, agent, configuration and known
//! hosts. We speak SFTP version 3 over its pipes.
//! Never here: HTTP, retries, and passwords.

pub mod address;
mod body;
mod links;
mod pool;
mod session;
mod ssh;
mod wire;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use self::address::Address;
use self::body::{Reading, SftpBody, stat};
use self::links::Way;
use self::pool::{Lease, Pool};
use self::session::Answer;
use self::wire::{Attributes, FileKind, Name, Request};
use super::driver::Driver;
use super::listing::too_long;
use super::loops::Loops;
use super::server::called;
use super::{
    Begun, Body, LISTING_NAMES_MAX, List, Listed, ListedKind, Pages, Paging, Patience, Read, Section, Stat,
    is_safe_name,
};
use crate::config::Links;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// Pages of a listing under way at once; a page holds about a hundred names.
const PAGES_AHEAD: usize = 8;
/// Most names a folder may tell: with its own, and that of the one above.
const NAMES_TOLD_MAX: usize = LISTING_NAMES_MAX + 2;

/// A folder or a file, read over SFTP.
pub struct Sftp {
    driver: Arc<Driver>,
    pool: Arc<Pool>,
    address: Address,
    described: String,
    /// What the address turned out to be; asked once, when first needed, so that a drive can start without its server.
    root: OnceLock<Root>,
    links: Links,
    loops: Loops,
}

/// What an address turned out to be.
enum Root {
    Folder,
    /// One file, under the name its path ends in.
    File(Box<str>),
}

impl Sftp {
    /// The place at `address`, reached by `program` (`ssh` and what else it is to be told) over `connections` at most.
    /// Such `links` are followed. Asks nothing yet.
    pub fn new(address: &Address, program: &[String], connections: usize, links: Links) -> Result<Self> {
        let driver = Arc::new(Driver::new()?);
        let pool = Pool::new(&driver, program.to_owned(), address.clone(), connections.max(1));
        let (address, described) = (address.clone(), address.to_string());
        Ok(Self { driver, pool, address, described, root: OnceLock::new(), links, loops: Loops::default() })
    }

    /// Waits for an answer. If none comes, the connection is not waited for any longer, either.
    fn wait<T>(&self, patience: &Patience, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = self.driver.wait(patience, what, work);
        if answer.as_ref().is_err_and(|error| error.kind() == Kind::TimedOut) {
            self.pool.doubt(patience.stall);
        }
        answer
    }

    async fn lease(&self, path: &str) -> Result<Lease> {
        self.pool.lease(&self.driver, path).await
    }

    fn root(&self, patience: &Patience) -> Result<&Root> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let attributes = self.attributes(&self.address.path, &self.described, patience)?;
        let root = match attributes.kind {
            Some(FileKind::File) if is_safe_name(self.address.name()) => Root::File(self.address.name().into()),
            _ => Root::Folder,
        };
        Ok(self.root.get_or_init(|| root))
    }

    /// The path of a key at the server, and how it is called in messages.
    fn path(&self, key: &str, patience: &Patience) -> Result<(String, String)> {
        let what = called(&self.described, key);
        if !key.is_empty() && !key.split('/').all(is_safe_name) {
            return Err(Error::new(Kind::Invalid, format!("{what}: not a path")));
        }
        match self.root(patience)? {
            Root::Folder => Ok((self.address.join(key), what)),
            Root::File(name) if *key == **name => Ok((self.address.path.clone(), what)),
            Root::File(_) => Err(Error::new(Kind::Missing, format!("{what}: not there"))),
        }
    }

    /// An error if a link leads to `key` that is not followed. Costs a round trip where not all are.
    async fn check_links(&self, lease: &Lease, key: &str, what: &str) -> Result<()> {
        if self.links == Links::Follow || matches!(self.root.get(), Some(Root::File(_))) {
            return Ok(());
        }
        self.check_way(&self.way(lease, key).await, what)
    }

    fn check_way(&self, way: &Way, what: &str) -> Result<()> {
        match way.is_followed(self.links) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(Kind::Missing, format!("{what}: behind a link that is not followed"))),
            Err(why) => Err(Error::new(Kind::Unsupported, format!("{what}: {why}"))),
        }
    }

    /// Of what is at `path`, links followed.
    fn attributes(&self, path: &str, what: &str, patience: &Patience) -> Result<Attributes> {
        self.wait(patience, what, async {
            self.lease(path).await?.ask(Request::Stat(path.as_bytes())).attributes(what).await
        })
    }
}

impl Read for Sftp {
    fn stat(&self, key: &str, patience: &Patience) -> Result<Stat> {
        let (path, what) = self.path(key, patience)?;
        let attributes = self.wait(patience, &what, async {
            let lease = self.lease(&path).await?;
            let attributes = lease.ask(Request::Stat(path.as_bytes()));
            // In the same round trip.
            let checked = self.check_links(&lease, key, &what).await;
            let attributes = attributes.attributes(&what).await?;
            checked.map(|()| attributes)
        })?;
        stat(&attributes, &what)
    }

    fn begin(&self, key: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        // Where a file ends is found out first, and then there is nothing to gain.
        let wanted = match section {
            Section::First(bytes) => ByteRange::new(0, bytes),
            Section::At(range) => range,
            Section::Last(_) => return Ok(None),
        };
        let (path, what) = self.path(key, patience)?;
        let begin = async {
            let lease = self.lease(&path).await?;
            self.check_links(&lease, key, &what).await?;
            // Not one that is open already: what is at this path now is asked for.
            let handle = lease.open(&path, &what).await?;
            let state = lease.ask(Request::StatHandle(handle.name()));
            let reading = Reading::new(lease, handle, what.clone(), wanted);
            Ok((stat(&state.attributes(&what).await?, &what)?, reading))
        };
        let (stat, mut reading) = self.wait(patience, &what, begin)?;
        let range = wanted.intersect(ByteRange::new(0, stat.size_bytes));
        let is_short = range != wanted && matches!(section, Section::At(_));
        if range.is_empty() || is_short {
            return Ok(None);
        }
        reading.cut(range.end);
        let body = self.body(reading, None, &stat, patience);
        Ok(Some(Begun { stat, range, body, cancel: patience.cancel.clone() }))
    }

    fn warm(&self, every: Duration) {
        self.pool.warm(&self.driver, every);
    }

    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        let (path, what) = self.path(key, patience)?;
        let read = async {
            let lease = self.lease(&path).await?;
            if let Some(handle) = lease.kept(&path) {
                let mut reading = Reading::new(lease, handle, what.clone(), range);
                let first = reading.next(&expected.version).await;
                // Opened before its name was given to another file: that one is asked for, below.
                let is_other = first.as_ref().is_err_and(|error| error.kind() == Kind::Changed);
                if !is_other {
                    return Ok((first?, reading));
                }
                reading.forget(&path);
            }
            let lease = self.lease(&path).await?;
            let handle = lease.open(&path, &what).await?;
            let mut reading = Reading::new(lease, handle, what.clone(), range);
            Ok((reading.next(&expected.version).await?, reading))
        };
        let (first, reading) = self.wait(patience, &what, read)?;
        Ok(self.body(reading, first, expected, patience))
    }
}

impl Sftp {
    fn body(&self, reading: Reading, first: Option<Bytes>, expected: &Stat, patience: &Patience) -> Box<dyn Body> {
        Box::new(SftpBody {
            driver: Arc::clone(&self.driver),
            pool: Arc::clone(&self.pool),
            patience: patience.clone(),
            reading,
            expected: expected.version.clone(),
            first,
            failure: None,
        })
    }
}

impl Sftp {
    /// The folders on the way to `key`.
    async fn way(&self, lease: &Lease, key: &str) -> Way {
        let ends = key.match_indices('/').map(|(slash, _)| slash).chain((!key.is_empty()).then_some(key.len()));
        let asked: Vec<_> = std::iter::once(0)
            .chain(ends)
            .map(|end| lease.ask(Request::RealPath(self.address.join(&key[..end]).as_bytes())))
            .collect();
        let mut real = Vec::with_capacity(asked.len());
        for answer in asked {
            match real_path(answer, &self.described).await {
                Some(path) => real.push(path),
                None => return Way::new(key, Vec::new()),
            }
        }
        Way::new(key, real)
    }
}

/// A path with all links resolved, if the server says so.
async fn real_path(answer: Answer, what: &str) -> Option<Bytes> {
    Some(answer.names(what).await.ok()??.into_iter().next()?.name)
}

impl List for Sftp {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let mut paging = Paging::new(pages);
        if let (Root::File(name), "") = (self.root(patience)?, folder) {
            paging.add(Listed::file(name.clone(), &self.stat(name, patience)?))?;
            return paging.finish();
        }
        let (path, what) = self.path(folder, patience)?;
        let (mut told, mut skipped) = (0, 0);
        let open = async {
            let lease = self.lease(&path).await?;
            let handle = lease.ask(Request::OpenFolder(path.as_bytes()));
            // In the same round trip.
            let way = self.way(&lease, folder).await;
            Ok((handle.folder(&what).await?, way, lease))
        };
        let (handle, way, lease) = self.wait(patience, &what, open)?;
        self.check_way(&way, &what)?;
        if way.is_round() {
            return Err(Error::new(Kind::Missing, format!("{what}: a link that leads back to where it is")));
        }
        let mut answers = VecDeque::new();
        loop {
            while answers.len() < PAGES_AHEAD {
                answers.push_back(lease.ask(Request::ReadFolder(handle.name())));
            }
            let Some(page) = answers.pop_front() else { break };
            let Some(page) = self.wait(patience, &what, page.names(&what))? else { break };
            // Those that will be left out count, too: a listing has an end. So does one whose server forgets to say so.
            told += page.len();
            if told > NAMES_TOLD_MAX {
                return Err(too_long().context(&what));
            }
            if page.is_empty() {
                break;
            }
            for (name, attributes) in self.wait(patience, &what, self.follow(&lease, &path, &way, page))? {
                let Some(name) = str::from_utf8(&name).ok().filter(|name| is_safe_name(name)) else {
                    skipped += 1;
                    continue;
                };
                let Some(listed) = listed(name, attributes) else { continue };
                paging.add(listed).map_err(|error| error.context(&what))?;
            }
        }
        if skipped > 0 {
            log::warn!("{what}: {skipped} names left out: not UTF-8, or unsafe");
        }
        paging.finish()
    }
}

impl Sftp {
    /// Names of a folder with what they stand for: links are followed, as by every file server, or as the user wants it. One
    /// that leads nowhere, the folder's names for itself and the one above, and folders that are on the way to this one are
    /// left out.
    async fn follow(
        &self,
        lease: &Lease,
        folder: &str,
        way: &Way,
        names: Vec<Name>,
    ) -> Result<Vec<(Bytes, Attributes)>> {
        let is_left_out = |name: &Name| {
            matches!(&*name.name, b"." | b"..")
                || self.links == Links::Skip && name.attributes.kind == Some(FileKind::Link)
        };
        let cut =
            |name: &[u8]| self.loops.cut(&format!("{}: {folder}/{}", self.described, String::from_utf8_lossy(name)));
        let names = names.into_iter().filter(|name| !is_left_out(name));
        let asked: Vec<_> = names
            .map(|Name { name, attributes }| {
                let is_told = !matches!(attributes.kind, None | Some(FileKind::Link));
                let path = || [folder.as_bytes(), b"/", &name].concat();
                let ask = || (lease.ask(Request::Stat(&path())), lease.ask(Request::RealPath(&path())));
                let target = if is_told { None } else { Some(ask()) };
                (name, attributes, target)
            })
            .collect();
        let mut followed = Vec::with_capacity(asked.len());
        for (name, attributes, target) in asked {
            match target {
                None if attributes.kind == Some(FileKind::Folder) && way.meets(&name) => {
                    cut(&name);
                }
                None => followed.push((name, attributes)),
                Some((target, real)) => match target.attributes(folder).await {
                    Ok(found) => {
                        let is_folder = found.kind == Some(FileKind::Folder);
                        let is_wanted = is_folder || self.links != Links::Follow;
                        let real = if is_wanted { real_path(real, folder).await } else { None };
                        let is_link = attributes.kind == Some(FileKind::Link);
                        if !way.follows(self.links, &name, is_link, real.as_deref()) {
                            continue;
                        }
                        if is_folder && real.is_some_and(|real| way.holds(&real)) {
                            cut(&name);
                        } else {
                            followed.push((name, found));
                        }
                    }
                    Err(error) if error.kind() == Kind::Unreachable => return Err(error),
                    Err(_) => {}
                },
            }
        }
        Ok(followed)
    }
}

/// What is neither file nor folder (a pipe, a device) does not exist here.
fn listed(name: &str, attributes: Attributes) -> Option<Listed> {
    let kind = match attributes.kind {
        Some(FileKind::Folder) => ListedKind::Folder,
        None | Some(FileKind::File) => ListedKind::File { size_bytes: attributes.size_bytes },
        Some(FileKind::Link | FileKind::Other) => return None,
    };
    Some(Listed { name: name.into(), kind, modified: attributes.modified })
}
