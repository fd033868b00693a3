//! One conversation with a server: an `ssh` process, many requests under way in it, each reply given to whoever asked.
//! Never here: which conversation is used, and what is read for.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::address::Address;
use super::ssh;
use super::wire::{self, Attributes, LENGTH_BYTES, PACKET_BYTES_MAX, Reply, Request, Status};
use crate::error::{Error, Kind, Result};

/// A far server behind two others needs a dozen round trips; one that has not let us in by then will not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// What is kept of what `ssh` says: its last words tell why it ended.
const SAID_BYTES_MAX: usize = 4 << 10;
/// Its last words may come a moment after the end of its output.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// Requests are written together up to this length: a window's.
const WRITE_BYTES: usize = 4 << 10;
/// Bytes asked for at once, of a server that carries out requests in order: those take 64 KiB and more.
const READ_BYTES_IN_ORDER: u32 = 64 << 10;
/// Of another one: what every server must be able to send.
const READ_BYTES: u32 = 32 << 10;
/// Files held open for the next read: that of a player and its neighbours.
const KEPT_MAX: usize = 4;

/// Ends when dropped, and its `ssh` with it.
pub(super) struct Session {
    link: Arc<Link>,
    /// Whether a file's time that is asked for behind its bytes is told after them.
    pub is_in_order: bool,
    /// Asked for at once.
    pub read_bytes: u32,
    // Files that are open, least recently used first. Taken alone.
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    path: String,
    handle: Arc<Handle>,
    used: Instant,
}

/// What the conversation's two ends share.
struct Link {
    // Taken alone, for a look or a line in the books.
    state: Mutex<State>,
    ended: Notify,
}

struct State {
    // Why there is no conversation any more.
    why: Option<Error>,
    // Never long: each body has a window's requests under way at most, and all of them are small.
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiting: HashMap<u32, Waiting>,
    next_id: u32,
    weight_bytes: u64,
    heard: Instant,
    // Since when there is a reply to come, if there is one.
    awaited: Instant,
}

struct Waiting {
    tell: oneshot::Sender<Answered>,
    weight_bytes: u64,
    /// Of a file that is closed, nobody waits.
    is_close: bool,
}

/// A reply; of a handle the kind that closes itself, wherever it is lost.
enum Answered {
    Handle(Handle),
    Other(Reply),
}

/// A file or folder that is open at the server, until dropped.
pub(super) struct Handle {
    link: Arc<Link>,
    name: Bytes,
}

/// A reply that is on its way. Dropped, it is not waited for; it comes all the same.
pub(super) struct Answer {
    link: Arc<Link>,
    receiver: oneshot::Receiver<Answered>,
}

impl Session {
    /// Starts `program` and waits until the server speaks.
    pub async fn connect(program: &[String], address: &Address) -> Result<Self> {
        let spawned = ssh::command(program, address).spawn();
        let child = spawned.map_err(|error| {
            let name = program.first().map_or("ssh", String::as_str);
            Error::new(Kind::Invalid, format!("{address}: `{name}` can't be started: {error}"))
        })?;
        let mut group = Group(child);
        let pipes = (group.0.stdin.take(), group.0.stdout.take(), group.0.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Error::new(Kind::Local, format!("{address}: ssh was started without pipes")));
        };
        let mut incoming = Incoming { stdout, said: Said::listen(stderr), address: address.clone(), is_in: false };
        let greeted = tokio::time::timeout(CONNECT_TIMEOUT, greet(&mut stdin, &mut incoming)).await;
        let in_time = || Error::new(Kind::TimedOut, format!("{address}: no connection in time"));
        let is_in_order = match greeted.unwrap_or_else(|_| Err(in_time())) {
            Ok(is_in_order) => is_in_order,
            Err(error) => {
                group.end().await;
                return Err(error);
            }
        };
        let (requests, queue) = mpsc::unbounded_channel();
        let now = Instant::now();
        let state = State {
            why: None,
            requests,
            waiting: HashMap::new(),
            next_id: 0,
            weight_bytes: 0,
            heard: now,
            awaited: now,
        };
        let link = Arc::new(Link { state: Mutex::new(state), ended: Notify::new() });
        let teller = tokio::spawn(tell(stdin, queue));
        tokio::spawn(converse(group, teller, incoming, Arc::clone(&link)));
        let read_bytes = if is_in_order { READ_BYTES_IN_ORDER } else { READ_BYTES };
        Ok(Self { link, is_in_order, read_bytes, kept: Mutex::default() })
    }

    /// Sends a request behind all others.
    pub fn ask(&self, request: Request<'_>) -> Answer {
        self.link.ask(request)
    }

    /// Opens the file at `path` anew; it is kept for reads to come.
    pub async fn open(&self, path: &str, what: &str) -> Result<Arc<Handle>> {
        let handle = Arc::new(self.ask(Request::Open(path.as_bytes())).handle(what).await?);
        self.forget(path);
        let mut kept = self.kept.lock();
        let gone = (kept.len() >= KEPT_MAX).then(|| kept.remove(0));
        kept.push(Kept { path: path.to_owned(), handle: Arc::clone(&handle), used: Instant::now() });
        drop(kept);
        drop(gone);
        Ok(handle)
    }

    /// The file that was opened at `path`, and may be another one than is there now.
    pub fn kept(&self, path: &str) -> Option<Arc<Handle>> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|kept| kept.path == path)?;
        let found = kept.remove(at);
        let handle = Arc::clone(&found.handle);
        kept.push(Kept { used: Instant::now(), ..found });
        Some(handle)
    }

    /// Closes the file that was opened at `path`, as soon as nobody reads it.
    pub fn forget(&self, path: &str) {
        let gone: Vec<_> = self.kept.lock().extract_if(.., |kept| kept.path == path).collect();
        drop(gone);
    }

    /// Whether a file is open at `path`.
    pub fn keeps(&self, path: &str) -> bool {
        self.kept.lock().iter().any(|kept| kept.path == path)
    }

    /// Closes files that nobody has read for so long: on the server they may be deleted, and take up its disk.
    pub fn close_unused(&self, longest: Duration) {
        let gone: Vec<_> = self.kept.lock().extract_if(.., |kept| kept.used.elapsed() >= longest).collect();
        drop(gone);
    }

    /// Bytes that are on their way, wanted or not.
    pub fn weight_bytes(&self) -> u64 {
        self.link.state.lock().weight_bytes
    }

    pub fn has_ended(&self) -> bool {
        self.link.state.lock().why.is_some()
    }

    /// Since the last reply came, if there is one to come.
    pub fn silent_for(&self) -> Option<Duration> {
        let state = self.link.state.lock();
        (!state.waiting.is_empty()).then(|| state.heard.max(state.awaited).elapsed())
    }

    /// Since anything came at all.
    pub fn unheard_for(&self) -> Duration {
        self.link.state.lock().heard.elapsed()
    }

    /// Whoever waits for a reply gets the error instead.
    pub fn end(&self, why: Error) {
        self.link.end(why);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.link.end(closed());
    }
}

impl Link {
    fn ask(self: &Arc<Self>, request: Request<'_>) -> Answer {
        let (tell, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        // Ended: `tell` is dropped, and the answer says why.
        if state.why.is_none() {
            let (now, is_close) = (Instant::now(), matches!(request, Request::Close(_)));
            // Silence counts from here.
            if state.waiting.is_empty() {
                state.awaited = now;
            }
            // To close a file is no reason to trust a connection that nobody uses.
            if !is_close && state.waiting.values().all(|waiting| waiting.is_close) {
                state.heard = now;
            }
            let id = state.next_id;
            state.next_id = id.wrapping_add(1);
            let weight_bytes = request.weight_bytes();
            state.weight_bytes += weight_bytes;
            state.waiting.insert(id, Waiting { tell, weight_bytes, is_close });
            // It is read as long as there is no reason not to.
            let _ = state.requests.send(request.encode(id));
        }
        drop(state);
        Answer { link: Arc::clone(self), receiver }
    }

    fn heard(self: &Arc<Self>, id: u32, reply: Reply) {
        let waiting = {
            let mut state = self.state.lock();
            state.heard = Instant::now();
            let waiting = state.waiting.remove(&id);
            state.weight_bytes -= waiting.as_ref().map_or(0, |waiting| waiting.weight_bytes);
            waiting
        };
        let answered = match reply {
            Reply::Handle(name) => Answered::Handle(Handle { link: Arc::clone(self), name }),
            other => Answered::Other(other),
        };
        // Unless nobody waits any longer: of a closed file, nobody ever does.
        if let Some(waiting) = waiting {
            let _ = waiting.tell.send(answered);
        }
    }

    fn end(&self, why: Error) {
        let waiting = {
            let mut state = self.state.lock();
            state.why.get_or_insert(why);
            state.weight_bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        // Their askers wake, and find out why.
        drop(waiting);
        self.ended.notify_one();
    }

    fn why(&self) -> Error {
        let why = self.state.lock().why.clone();
        why.unwrap_or_else(|| Error::new(Kind::Unreachable, "the connection was lost"))
    }
}

impl Handle {
    /// As requests name it.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The reply says nothing that could be used.
        drop(self.link.ask(Request::Close(&self.name)));
    }
}

impl Answer {
    async fn answered(self) -> Result<Answered> {
        self.receiver.await.map_err(|_| self.link.why())
    }

    async fn handle(self, what: &str) -> Result<Handle> {
        match self.answered().await? {
            Answered::Handle(handle) => Ok(handle),
            Answered::Other(Reply::Status(status)) => Err(refused(what, &status)),
            Answered::Other(_) => Err(nonsense(what)),
        }
    }

    /// Of a request for a folder.
    pub async fn folder(self, what: &str) -> Result<Handle> {
        self.handle(what).await
    }

    /// Of a request for bytes; none: the file ends before.
    pub async fn data(self, what: &str) -> Result<Bytes> {
        match self.answered().await? {
            Answered::Other(Reply::Data(bytes)) => Ok(bytes),
            Answered::Other(Reply::Status(status)) if status.code == Status::END => Ok(Bytes::new()),
            Answered::Other(Reply::Status(status)) => Err(refused(what, &status)),
            _ => Err(nonsense(what)),
        }
    }

    /// Of a request for attributes.
    pub async fn attributes(self, what: &str) -> Result<Attributes> {
        match self.answered().await? {
            Answered::Other(Reply::Attributes(attributes)) => Ok(attributes),
            Answered::Other(Reply::Status(status)) => Err(refused(what, &status)),
            _ => Err(nonsense(what)),
        }
    }

    /// Of a request for a folder's next names; `None`: there are no more.
    pub async fn names(self, what: &str) -> Result<Option<Vec<wire::Name>>> {
        match self.answered().await? {
            Answered::Other(Reply::Names(names)) => Ok(Some(names)),
            Answered::Other(Reply::Status(status)) if status.code == Status::END => Ok(None),
            Answered::Other(Reply::Status(status)) => Err(refused(what, &status)),
            _ => Err(nonsense(what)),
        }
    }
}

/// A status that is no success, as the error it means.
fn refused(what: &str, status: &Status) -> Error {
    let (kind, meaning) = match status.code {
        Status::NO_SUCH_FILE => (Kind::Missing, "not there"),
        Status::PERMISSION_DENIED => (Kind::Denied, "the server denies it"),
        // Whatever else its system met: a disk's error, too many open files.
        Status::FAILURE => (Kind::Busy, "the server fails"),
        _ => (Kind::Unsupported, "the server can't do it"),
    };
    match status.message.trim() {
        "" => Error::new(kind, format!("{what}: {meaning}")),
        message => Error::new(kind, format!("{what}: {meaning} ({message})")),
    }
}

fn nonsense(what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{what}: the server answers something else"))
}

/// The server's side of the conversation, and what `ssh` says to a person.
struct Incoming {
    stdout: ChildStdout,
    said: Said,
    address: Address,
    /// The server has spoken.
    is_in: bool,
}

impl Incoming {
    /// The next packet, without its length.
    async fn receive(&mut self) -> Result<Bytes> {
        let mut length = [0; LENGTH_BYTES];
        if self.stdout.read_exact(&mut length).await.is_err() {
            return Err(self.ended().await);
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > PACKET_BYTES_MAX {
            return Err(self.not_sftp());
        }
        let mut packet = vec![0; length];
        match self.stdout.read_exact(&mut packet).await {
            Ok(_) => Ok(packet.into()),
            Err(_) => Err(self.ended().await),
        }
    }

    async fn ended(&mut self) -> Error {
        let said = self.said.last_words().await;
        if self.is_in { ssh::lost(&self.address, &said) } else { ssh::ended(&self.address, &said) }
    }

    fn not_sftp(&self) -> Error {
        let what = "what comes is not SFTP: does a login script there print something?";
        Error::new(Kind::Unsupported, format!("{}: {what}", self.address))
    }
}

/// What `ssh` says to a person, as it comes.
struct Said {
    // Taken alone, for a line.
    text: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Said {
    fn listen(mut stderr: ChildStderr) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let heard = Arc::clone(&text);
        let listener = tokio::spawn(async move {
            let mut piece = [0; 512];
            while let Ok(bytes @ 1..) = stderr.read(&mut piece).await {
                let mut heard = heard.lock();
                heard.extend(&piece[..bytes]);
                let excess = heard.len().saturating_sub(SAID_BYTES_MAX);
                heard.drain(..excess);
            }
        });
        Self { text, listener }
    }

    async fn last_words(&mut self) -> String {
        // Somebody whom `ssh` started may hold the other end for longer.
        let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, &mut self.listener).await;
        String::from_utf8_lossy(&self.text.lock()).into_owned()
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Both first words; whether the server carries out requests in their order.
async fn greet(stdin: &mut ChildStdin, incoming: &mut Incoming) -> Result<bool> {
    // An `ssh` that has ended says why elsewhere.
    let _ = stdin.write_all(&wire::hello()).await;
    let first = incoming.receive().await?;
    let is_in_order = wire::is_in_order(first).ok_or_else(|| incoming.not_sftp())?;
    incoming.is_in = true;
    // On the way in it may have complained of a key that did not matter; that is not why it ends one day.
    incoming.said.text.lock().clear();
    Ok(is_in_order)
}

/// Gives replies to those who asked, until there are no more.
async fn hear(incoming: &mut Incoming, link: &Arc<Link>) -> Error {
    loop {
        match incoming.receive().await.map(Reply::decode) {
            Ok(Some((id, reply))) => link.heard(id, reply),
            Ok(None) => return incoming.not_sftp(),
            Err(why) => return why,
        }
    }
}

/// Writes requests as they come; several in one go, as each go is a packet on the way.
async fn tell(mut stdin: ChildStdin, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(mut requests) = queue.recv().await {
        while requests.len() < WRITE_BYTES
            && let Ok(next) = queue.try_recv()
        {
            requests.extend(next);
        }
        if stdin.write_all(&requests).await.is_err() {
            // `ssh` has ended; who hears it finds out why.
            return;
        }
    }
}

/// The whole of a conversation, to its end.
async fn converse(group: Group, teller: JoinHandle<()>, mut incoming: Incoming, link: Arc<Link>) {
    let why = match select(pin!(hear(&mut incoming, &link)), pin!(link.ended.notified())).await {
        Either::Left((why, _)) => why,
        Either::Right(_) => closed(),
    };
    link.end(why);
    teller.abort();
    group.end().await;
}

fn closed() -> Error {
    Error::new(Kind::Unreachable, "the connection was closed")
}

/// An `ssh` and whatever it has started, a `ProxyCommand` say: a group of processes of their own. Killed when dropped.
struct Group(Child);

impl Group {
    async fn end(mut self) {
        // It may have ended by itself. Waited for in any case: nothing is left of it.
        self.kill();
        let _ = self.0.wait().await;
    }

    fn kill(&self) {
        // None when it has been waited for: then the number may be that of somebody else.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[tokio::test]
    async fn what_ssh_has_started_ends_with_it() {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut group = Group(command.spawn().unwrap());
        let mut stdout = group.0.stdout.take().unwrap();
        group.end().await;
        // Ends when nobody holds its other end any longer.
        let read = tokio::time::timeout(Duration::from_secs(30), stdout.read_u8()).await;
        assert!(read.is_ok_and(|read| read.is_err()));
    }
}
