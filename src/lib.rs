//! reelfs: a drive for video that lives somewhere else. A film opens in any player at once, seeks at once, plays from a
//! cache that never outgrows its limit, and no byte that fails its hash is ever shown.
//!
//! # The walk of a read
//!
//! ```text
//!  player ──read──▶ fuse ──▶ drive ──▶ read ──▶ cache ── hit ──▶ bytes
//!                                       │          └── miss ──▶ fetch ──▶ origin ──▶ store (disk, HTTP, …)
//!                                       └─ notes ─▶ lookahead, fill ──▶ fetch (slower lanes)
//! ```
//!
//! 0. The first open of a far film asks for its first and last bytes; the answer tells the version, and comes before the
//!    read that wants them. The container's head says where the index is, and that is fetched, too (`drive/contact.rs`,
//!    `read/opening.rs`).
//! 1. [`fuse::adapter`] unpacks the request and calls [`drive::Drive::read`] on one of the kernel's session threads.
//! 2. If every byte is in the cache and *trusted* (this process has hashed it, and nobody changed the file since), one
//!    `pread` and one `fstat` answer on that thread.
//! 3. Else [`read`] makes a *pending read*, which owes one reply by a deadline, and returns the thread to the kernel.
//! 4. It asks [`cache`] for the *coverage* of the range: trusted bytes are copied, *unchecked* chunks (recorded by an
//!    earlier run) are hashed by two threads of their own, *gaps* are demanded of [`fetch`].
//! 5. [`fetch`] joins the *flights* under way and starts what is missing. A worker asks the [`origin`] for exactly one
//!    version, lands pieces as they come, hashes them, and answers each reader when its own bytes are there. A request
//!    that is *late*, as the origin's last answers tell, is overtaken by a second one: 5 % more, and none while it errs.
//!    One that fails is made again as [`retry`] says: for a reader, until his deadline. None is made while the origin is
//!    away, as its *breaker* knows; guesses keep to what the origin takes at once, as its refusals tell.
//! 6. A landed chunk goes to the cache's *writer* (room first, then bytes) and *recorder* (sync first, then rows). While
//!    the disk is stuck it is let go, *resident* in its flight for a while, and offered again.
//! 7. A file that is whole and trusted when it is opened is *lent* to the kernel, pinned: its reads never come here.
//! 8. Meanwhile the handle's *pattern* says what will be read next and its *pace* how soon, and a thread fetches ahead:
//!    half a minute of a film, half of that in the *urgent* lane, over as many connections as help; where one fills the
//!    link, one behind the other, so that what comes first is there first.
//!
//! # The words
//!
//! *source*: what the user typed. *origin*: the code that lists and reads it. *version*: what tells two states of a
//! file apart. *entry*: one cached version of one file. *chunk*: a byte range of an entry, fetched, hashed, recorded
//! and evicted as one; a row of the index. *slot*: a multiple of the chunk size; a chunk never crosses one. *block*: 64
//! KiB, the grain of a probe. *covering query*: which recorded chunks cover these bytes, and where the gaps are.
//! *flight*: one fetch under way. *lane*: demand, urgent, lookahead, fill. *probe*: a first, lone or near-the-end read.
//! *opening*: what players open a film with: its head, its tail, its container's index; it outlives the middle of
//! films. *pin*: a person's wish that a file is never evicted. *warm*: fetched before anyone reads it. *scan*: files
//! opened one behind the other, whatever their names, of which little is read: of each as little as will do. *staged*:
//! written, and not in the library before it is closed. *growing*: longer than it was, and beginning with the same bytes.
//!
//! *library*: a place of our own where files are put. *home*: where it keeps its bytes. *manifest*: what one file is made
//! of. *blob*: immutable bytes named by their SHA-256. *draft*: a file on its way in. *orphan*: bytes that no file names.
//!
//! # The walk of a put
//!
//! [`library::writer`] cuts a stream: what is small stays whole, what is larger becomes chunks, hashed as they pass. A
//! *draft* of the home writes them, syncs them, and only then gives the file its name, in one step. On this machine that is
//! a row of [`library::catalog`] over [`library::blobs`]; in a store it is the manifest's key. [`volume`] does the same for
//! a mount: what a program changes is copied into scratch files, chunk by chunk, until `fsync` or `close` commits it. Long
//! writes are answered while the disk still has them, and hashed on the way.
//!
//! Small files by new names go together (`cli/library/put/batch.rs`, `library/keyed/together.rs`): a store takes a batch as
//! one request or transaction, or syncs it once, tags before names. Nothing is counted or said before that.
//!
//! A store may hold files of other programs: manifests without hashes, and values that are files by themselves
//! (`library/keyed/raw.rs`). Every change asks `KeyedLibrary::load`, which does not know the latter, so that none harms them.
//! `put --plain` writes such a manifest itself (`library/keyed/plain.rs`), without a step that replaces the one before.
//!
//! A backup ([`library::backup`]) copies the catalog as it is at one moment, and then the blobs that it names, which no process
//! removes meanwhile.
//!
//! # The rooms, lowest floor first
//!
//! A room uses rooms on floors below its own, and nothing else (`tests/tidy.rs` holds it to that).
//!
//! | room | what it is for |
//! |---|---|
//! | [`error`] [`refusal`] [`range`] [`digest`] [`config`] [`metrics`] [`timing`] [`problems`] [`retry`] [`cancel`] [`modes`] [`lock`] [`media`] [`sqlite`] [`sys`] | pure or tiny; used by all |
//! | [`store`] | keyed bytes: on a disk; on the web, over `WebDAV`, in buckets (`OpenDAL`; all in `store/remote`); over SFTP and FTP; values under keys (`store/keyed`) |
//! | [`demo`] | a film and a far server to show it from; also the tests' origin, with any weather |
//! | [`library`] | files that are put: manifests, chunks, tags; on this machine (`local`), and in a store (`keyed`) |
//! | [`cache`] | the index, the bytes, trust, room, the last known tree |
//! | [`origin`] | list, stat, read: what the drive sees of a source |
//! | [`fetch`] | flights, lanes, hedges, checks |
//! | [`read`] | pending reads, patterns, pace, lookahead, fill |
//! | [`drive`] | the filesystem without a kernel: names, inodes, handles; files written to a library that is far |
//! | [`volume`] | the same, read-write, over a library on this machine |
//! | [`fuse`] | the kernel's adapters, mount points, signals, the reaper, the probe |
//! | [`control`] | the socket of a running mount: what it is asked, and what it says |
//! | [`assemble`] | config → running parts; names the concrete types |
//! | [`service`] | a mount in the background, its log, its word to systemd |
//! | [`cli`] | one file for each command |
//!
//! # What must always be true
//!
//! 1. **No wrong byte**: bytes of one version, or an error. An inode number, too, means one version for its whole life, or of a
//!    file that only grows the versions that begin with it (`fetch/growth.rs`).
//! 2. **Data before reference**: a row is committed after its bytes are synced. A kill at any point leaves orphans only.
//! 3. **One flight for each byte**, however many readers; one that fails or panics answers all of them.
//! 4. **A slow origin slows only who needs it**: no session thread ever waits for it.
//! 5. **Every wait has an end**: `read::deadlines` for readers, `fetch::worker` for flights, `retry` for asking again,
//!    `origin::breaker` for asking at all, `cache::queue` for the cache's own disk.
//! 6. **The budget is hard**: room is made before bytes are written.
//! 7. **Memory is bounded**: `fetch::memory` for flights, LRUs for trust, listings and stats; each limit has a name. Names
//!    come in pages; a folder too large for memory is read from the index, and of a walk through it the last files stay known.
//! 8. **Unreachable is not deleted**: what folders held and files were is written down (`cache/tree.rs`), and shown when
//!    nobody answers. It goes when the origin itself says so.
//! 9. **Killed at any point, nothing hangs**: no thread waits in the kernel for a lock that a request to the drive may hold
//!    (`fuse/session.rs`), and the reaper ends the connection of a drive that can't end by itself (`fuse/reaper.rs`).
//! 10. **Trust belongs to a file as it was**: device, inode, change time (`cache/stamp.rs`). A cached file that another
//!     program changed, or that had to be made again, holds nothing trusted (`cache/refit.rs`).
//!
//! # What is not here
//!
//! No async above `store` (`store/driver` is the border). No retries below `fetch` and `drive`. No time of day in a
//! decision, but for two: how old a listing of an earlier run is, and whether a file was changed so lately that it may grow. No second copy of the truth: the index says what is on
//! disk, and what is held in memory beside it can be thrown away at any time.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("offsets are u64 and lengths usize: reelfs needs a 64-bit target");

pub mod assemble;
pub mod cache;
pub mod cancel;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod digest;
pub mod drive;
pub mod error;
pub mod fetch;
pub mod fuse;
pub mod library;
pub mod lock;
pub mod media;
pub mod metrics;
pub mod modes;
pub mod origin;
pub mod problems;
pub mod range;
pub mod read;
pub mod refusal;
pub mod retry;
pub mod service;
pub mod sqlite;
pub mod store;
pub mod sys;
pub mod timing;
pub mod volume;
