//! The filesystem without a kernel: names, attributes, open files, reads. What can be answered at once is returned;
//! what may wait for the origin takes a closure and answers it later, so that no thread of the kernel's ever waits.
//! Never here: FUSE, errno, mount points.

mod changes;
mod contact;
mod files;
mod growth;
mod handles;
mod inodes;
mod jobs;
mod keep;
mod known;
mod listing;
mod memo;
mod names;
mod naming;
mod next;
mod node;
mod status;
mod targets;
mod times;
mod writes;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::config::DriveConfig;
use crate::error::{Error, Kind, Result};
use crate::origin::{Origin, Patience, Stat};
use crate::range::ByteRange;
use crate::read::{Handle, Reader};
use crate::retry::{self, Retry};

use handles::Handles;
use inodes::Inodes;
use jobs::Jobs;
use known::{Files, Folders};
use listing::Listing;
use memo::{Memo, Question};
use writes::Writes;

pub use changes::Changes;
pub use files::Opened;
pub use inodes::ROOT;
pub use keep::{Extent, Tell, Warmed, Warming, shown};
pub use names::{DirEntry, Found};
pub use node::{Node, NodeKind};
pub use writes::Writable;

/// Questions about names asked at once: a folder's worth of sizes in a few round trips.
const NAMES_THREADS: usize = 16;
/// A source that fails as it is mounted is asked again for so long: one that is busy, or starts just now, is there by then,
/// and whoever mistyped its name is told soon.
const FIRST_CONTACT_MAX: Duration = Duration::from_secs(3);
/// All tries but the first two have such a pause between them: fewer fail than say that an origin is away, which nobody
/// wants to hear of a name that was mistyped.
const FIRST_CONTACT_PAUSE: Duration = Duration::from_secs(1);
/// How often a wait before a retry looks whether the drive ends.
const LOOK: Duration = Duration::from_millis(20);
/// What an earlier run knew of a folder is read from the index by these, which never wait for the origin.
const RECALL_THREADS: usize = 2;
/// Files opened at once: each is an entry of the index, made or found, and never waits for the origin.
const OPEN_THREADS: usize = 2;
/// First bytes passed on at once; a third film's open waits for one of them.
const GIVE_THREADS: usize = 2;
/// Next episodes prepared at once: they are in no hurry.
const NEXT_THREADS: usize = 1;
/// Names held in memory of all folders together, in listings: about 100 bytes each.
const LISTED_NAMES_MAX: usize = 200_000;
/// How long the kernel may remember a name. The drive must not tell the kernel of a name that has changed: the kernel then takes
/// the folder's lock, which a program may hold while it waits for the drive, and a thread that waits for that lock keeps a killed
/// drive, and all programs on it, from ending. So names are forgotten by time, and soon: each is asked for again at the cost of
/// a few microseconds, as the answer is known here.
const NAME_TTL_MAX: Duration = Duration::from_secs(1);
/// Stats kept: about 300 bytes each.
const STATS_MAX: usize = 65_536;

/// The drive.
pub struct Drive {
    // First, so that its threads end before what they use does.
    reader: Reader,
    files: Handles<OpenFile>,
    folders: Handles<OpenFolder>,
    inodes: Arc<Inodes>,
    listings: Arc<Memo<Listing>>,
    stats: Arc<Memo<Stat>>,
    // Passes first bytes on to the kernel.
    gives: Jobs,
    // Fetches what the next episodes open with, one after the other.
    nexts: Jobs,
    // Apart from the threads for names, which an origin that hangs can keep busy.
    opens: Jobs,
    // What is written, if anything can be.
    writes: Option<Writes>,
    cache: Arc<Cache>,
    origin: Arc<dyn Origin>,
    // How it is asked about names and first bytes, and the threads that do.
    ask: Ask,
    jobs: Arc<Jobs>,
    config: DriveConfig,
    // Set at the end: questions under way are called off, and what is fetched for nobody who waits.
    cancel: Cancel,
    // Files opened lately. Taken alone.
    run: Mutex<contact::Run>,
    // The last name whose size had to be asked for, to ask for the next ones ahead. Taken alone.
    stat_run: Mutex<names::StatRun>,
}

struct OpenFile {
    node: Arc<Node>,
    handle: Arc<Handle>,
    // The last read that ended at its deadline. Taken alone.
    late: Mutex<Option<Late>>,
    // It may grow, and is not lent.
    is_followed: bool,
}

/// A read that was not answered in time: what it asked for, and when it ended.
struct Late {
    range: ByteRange,
    ended_at: Instant,
    error: Error,
}

struct OpenFolder {
    node: Arc<Node>,
    // As it was when it was opened: offsets into it stay true however the folder changes.
    listing: Listing,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Inode number.
    pub ino: u64,
    /// File or folder.
    pub kind: NodeKind,
    /// Bytes; 0 for a folder, and for a file whose size nobody has asked for yet (`is_complete` is false then).
    pub size_bytes: u64,
    /// Last change; 1970 if the origin does not tell.
    pub modified: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether the size is known; if not, nobody may remember these attributes.
    pub is_complete: bool,
    /// Whether the file may be longer in a moment.
    pub may_grow: bool,
}

/// Size of the drive for `df`: as full as a disc, where nothing can be written to it.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Bytes of the files known so far.
    pub size_bytes: u64,
    /// Names known so far.
    pub names: u64,
    /// Bytes that may still be written: as many as can wait here before they are put; 0 if none.
    pub free_bytes: u64,
}

impl Drive {
    /// Starts the drive's threads. `timeout` bounds each question about names; `retry` decides which are asked again. Without
    /// `writable` nothing can be changed.
    pub fn start(
        origin: Arc<dyn Origin>,
        cache: Arc<Cache>,
        reader: Reader,
        config: &DriveConfig,
        (timeout, retry): (Duration, Arc<Retry>),
        writable: Option<Writable>,
    ) -> Result<Self> {
        let origin = writable.as_ref().map_or(Arc::clone(&origin), |writable| writable.shown_by(origin));
        let writes = writable.map(Writes::start).transpose()?;
        let cancel = Cancel::new();
        let jobs = Arc::new(Jobs::start_for_questions("names", NAMES_THREADS, timeout, &cancel)?);
        let recalls = Arc::new(Jobs::start("recall", RECALL_THREADS)?);
        let opens = Jobs::start("open", OPEN_THREADS)?;
        let gives = Jobs::start("give", GIVE_THREADS)?;
        let nexts = Jobs::start("next", NEXT_THREADS)?;
        let ask = Ask { origin: Arc::clone(&origin), cancel: cancel.clone(), timeout, retry };
        let inodes = Arc::new(Inodes::new());
        let ttl = config.dir_ttl;
        let known = Files { ask: ask.clone(), cache: Arc::clone(&cache) };
        let stats = Memo::new(ttl, (|_| 1, STATS_MAX), (&jobs, &recalls), known)?;
        let folders = Folders {
            ask: ask.clone(),
            cache: Arc::clone(&cache),
            inodes: Arc::clone(&inodes),
            stats: Arc::clone(&stats),
            ttl,
            is_writable: writes.is_some(),
        };
        let listings = Memo::new(ttl, (Listing::weight, LISTED_NAMES_MAX), (&jobs, &recalls), folders)?;
        Ok(Self {
            reader,
            files: Handles::new(),
            folders: Handles::new(),
            inodes,
            listings,
            stats,
            gives,
            nexts,
            opens,
            writes,
            cache,
            origin,
            ask,
            jobs,
            config: config.clone(),
            cancel,
            run: Mutex::default(),
            stat_run: Mutex::default(),
        })
    }

    /// Finds out whether the source is there, before anybody else asks: `df` and the first `ls` know the top folder
    /// already. What kept the origin from answering, if the drive has to start with what an earlier run knew of it; an
    /// error if nothing is known, or the origin itself says that there is nothing.
    pub fn begin(&self) -> Result<Option<Error>> {
        let (ask, cache) = (self.ask.clone(), Arc::clone(&self.cache));
        // With all the time there is: a large folder's page may take a while to begin.
        let patience = Patience { stall: ask.timeout, cancel: self.cancel.child() };
        let first = move |origin: &dyn Origin, top: &str| Listing::gather(origin, top, &patience, &cache);
        self.listings.begin("", Box::new(move |top, _| ask.first(|origin| first(origin, top))))
    }

    /// Everything at `path` (relative to the source; `""`: all) and below it is asked for anew by whoever wants it next, once the
    /// kernel has forgotten it: see [`Drive::name_ttl`]. What was known is shown if the origin takes longer than a moment.
    pub fn refresh(&self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        self.origin.look_anew();
        self.listings.refresh_below(path);
        self.stats.refresh_below(path);
        // What is there by this name, its folder tells.
        self.listings.refresh(inodes::folder_of(path));
        self.cache.expire_listings(path)
    }

    /// The drive is off its mount point: nothing is asked or fetched any longer that no reader waits for.
    pub fn wind_down(&self) {
        self.cancel.cancel();
    }

    /// How long the kernel may remember what a name stands for. That a name is not there it never remembers.
    pub fn name_ttl(&self) -> Duration {
        if self.is_writable() { Duration::ZERO } else { self.config.dir_ttl.min(NAME_TTL_MAX) }
    }

    /// How long it may remember these attributes. A number stands for one version of a file, or for one that grows, but for the same folder whatever
    /// happens in that.
    pub fn attributes_ttl(&self, attributes: &Attributes) -> Duration {
        match attributes.kind {
            _ if !attributes.is_complete => Duration::ZERO,
            // Its reads go past the kernel: no program may be told less than it has read.
            NodeKind::File if attributes.may_grow => Duration::ZERO,
            NodeKind::File | NodeKind::Link => self.config.dir_ttl,
            NodeKind::Folder => self.config.dir_ttl.min(NAME_TTL_MAX),
        }
    }

    /// The source, without credentials.
    pub fn source(&self) -> &str {
        self.origin.describe()
    }

    /// The kernel has let go of `lookups` references to an inode.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// Space for `df`. Never asks the origin.
    pub fn capacity(&self) -> Capacity {
        let top = self.listings.known("");
        let size_bytes = top.as_ref().map_or(0, Listing::size_bytes);
        Capacity {
            size_bytes: size_bytes.max(self.cache.used_bytes()),
            names: top.as_ref().map_or(0, Listing::len),
            free_bytes: self.writes.as_ref().map_or(0, Writes::free_bytes),
        }
    }

    fn node(&self, ino: u64) -> Result<Arc<Node>> {
        self.inodes.get(ino).ok_or_else(|| Error::new(Kind::Changed, format!("inode {ino} is not known any more")))
    }

    fn attributes(&self, node: &Node) -> Attributes {
        let size = node.size_bytes();
        let full = match node.kind {
            NodeKind::Folder => 0o777,
            NodeKind::File => 0o666,
            NodeKind::Link => 0,
        };
        let full = if self.is_writable() { full } else { full & 0o555 };
        // Everywhere, what a link leads to has modes, and the link has none.
        let mode = if node.kind == NodeKind::Link { 0o777 } else { full & !(self.config.umask as u16) };
        Attributes {
            ino: node.ino,
            kind: node.kind,
            size_bytes: if node.kind == NodeKind::Folder { 0 } else { size.unwrap_or(0) },
            modified: node.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            mode,
            uid: self.config.uid,
            gid: self.config.gid,
            is_complete: node.kind != NodeKind::File || size.is_some(),
            may_grow: self.may_grow(node),
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// How the origin is asked about names: within the timeout, again if that may help.
#[derive(Clone)]
struct Ask {
    origin: Arc<dyn Origin>,
    cancel: Cancel,
    timeout: Duration,
    retry: Arc<Retry>,
}

impl Ask {
    /// Asks until there is an answer that does not pass, or the time is over. Where an answer is known from earlier, an
    /// origin that fails is asked a few times only: nobody waits for what can be shown at once.
    fn of<V>(&self, question: &Question<'_>, ask: impl Fn(&dyn Origin, &Patience) -> Result<V>) -> Result<V> {
        let deadline = Instant::now() + self.timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut attempt = 0;
        self.retry.asked();
        loop {
            let asked_at = Instant::now();
            let stall = retry::stall(left(), self.timeout, self.origin.silent_for());
            let patience = Patience { stall, cancel: question.cancel.child() };
            let error = match ask(&*self.origin, &patience) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let Some(since) = retry::silent_since(&error, asked_at, Instant::now(), self.timeout) {
                self.origin.doubt(since);
            }
            let wait = if question.is_known {
                self.retry.wait(attempt, &error, left())?
            } else {
                self.retry.wait_awaited(attempt, &error, left())?
            };
            sleep(wait, &error, question.cancel)?;
            attempt += 1;
        }
    }

    /// The same for the first question of a mount, which has a short time for retries, however long each try lasts.
    fn first<V>(&self, question: impl Fn(&dyn Origin) -> Result<V>) -> Result<V> {
        let deadline = Instant::now() + FIRST_CONTACT_MAX.min(self.timeout);
        let (mut attempt, mut told) = (0, None);
        loop {
            let error = match question(&*self.origin) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let pause = if attempt == 0 { Duration::ZERO } else { FIRST_CONTACT_PAUSE };
            let wait = self.retry.wait_awaited(attempt, &error, left).map(|wait| wait.max(pause));
            let wait = wait.ok().filter(|wait| *wait < left);
            // That it is not asked any more says less than why.
            let why = if error.kind() == Kind::Away { told.take().unwrap_or(error) } else { error };
            let Some(wait) = wait else { return Err(why) };
            log::info!("{why}; asking again in {wait:.1?}");
            sleep(wait, &why, &self.cancel)?;
            told = Some(why);
            attempt += 1;
        }
    }
}

/// Ends early with `error` when `cancel` is set.
fn sleep(wait: Duration, error: &Error, cancel: &Cancel) -> Result<()> {
    let until = Instant::now() + wait;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if cancel.is_cancelled() {
            break;
        }
        std::thread::sleep(left.min(LOOK));
    }
    if cancel.is_cancelled() { Err(error.clone()) } else { Ok(()) }
}
