//! The mount's side: listens on its socket, takes one request from each connection, sends what `answers` says.
//! Never here: what is answered.
//!
//! One thread for each connection, few of them, and none waits for ever: whoever asks too slowly, or does not take the
//! answer, is let go. The drive's own threads take no part.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use socket2::SockRef;

use super::answers::{self, Tell};
use super::place::{Folder, socket_name};
use super::seats::Seats;
use super::{Answer, Mount, Request};
use crate::error::{Error, Kind, Result};

/// A person's commands and a few programs that watch; more are told to come back.
const CONNECTIONS_MAX: usize = 16;
/// A few hundred paths.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Whoever connects says what it wants at once.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// A line of an answer that is not taken in this time has no reader.
const WRITE_WAIT: Duration = Duration::from_secs(5);

/// The socket of a running mount. Dropping it takes it away.
pub struct Control {
    shared: Arc<Shared>,
    listener: UnixListener,
    accepting: Option<JoinHandle<()>>,
    folder: Folder,
    name: String,
    // The socket's file: another one by this name is a newer mount's.
    inode: u64,
}

/// Answers one request; `answers` in a mount.
type Answering = dyn Fn(&Request, Tell) -> Result<Answer> + Send + Sync;

struct Shared {
    answering: Box<Answering>,
    seats: Arc<Seats>,
}

impl Control {
    /// Listens for `mount` from now on. What a mount that was killed has left by this name is replaced.
    pub fn start(mount: Arc<Mount>) -> Result<Self> {
        let folder = Folder::for_new_socket(&|name| std::env::var_os(name))?;
        let name = socket_name(&mount.mountpoint);
        Self::start_in(folder, name, Box::new(move |request, tell| answers::answer(&mount, request, tell)))
    }

    fn start_in(folder: Folder, name: String, answering: Box<Answering>) -> Result<Self> {
        let failed = |error: io::Error| Error::io("the control socket", &error);
        let listener = listen(&folder, &name).map_err(failed)?;
        let inode = fs::symlink_metadata(folder.file(&name)).map_err(failed)?.ino();
        let shared = Arc::new(Shared { answering, seats: Seats::new(CONNECTIONS_MAX) });
        let accepting = {
            let (listener, shared) = (listener.try_clone().map_err(failed)?, Arc::clone(&shared));
            let thread = thread::Builder::new().name("control".into());
            thread.spawn(move || accept_all(&listener, shared)).map_err(failed)?
        };
        Ok(Self { shared, listener, accepting: Some(accepting), folder, name, inode })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.seats.end();
        // Wakes the accepting thread.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let path = self.folder.file(&self.name);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&path);
        }
        self.shared.seats.wait_until_free();
    }
}

/// Under a name of its own first, then moved over whatever has the right one: there is no moment without a socket, and
/// nothing that was put there is followed.
fn listen(folder: &Folder, name: &str) -> io::Result<UnixListener> {
    let (new, path) = (folder.file(&format!("{name}.new")), folder.file(name));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    // Who may talk is decided by who they are; this keeps others from even connecting.
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, &path)?;
    Ok(listener)
}

fn accept_all(listener: &UnixListener, shared: Arc<Shared>) {
    let accept = || listener.accept().map(|(stream, _)| stream);
    let refuse = |stream| {
        // Nothing was sent to it before, so it has room for this.
        let _ = send(&stream, &failure(&Error::new(Kind::Busy, "too many are asking this mount: try again")));
    };
    let seats = Arc::clone(&shared.seats);
    seats.accept_all("control-conn", accept, refuse, move |stream| {
        let answer = shared.answer(stream).unwrap_or_else(|error| failure(&error));
        // An error is the end of a connection, which is the other side's to notice.
        let _ = send(stream, &answer);
    });
}

impl Shared {
    /// Takes the request in, and says all but the last line of the answer.
    fn answer(&self, stream: &UnixStream) -> Result<Answer> {
        // In this order, so that whoever is refused has said all it wanted, and hears why.
        let request = read_request(stream);
        check_peer(stream)?;
        let request = request?;
        let mut tell = |progress| {
            if self.seats.is_ending() {
                return Err(Error::new(Kind::Cancelled, "the drive is being unmounted"));
            }
            send(stream, &Answer::Progress(progress)).map_err(|_| Error::new(Kind::Cancelled, "whoever asked has gone"))
        };
        panic::catch_unwind(AssertUnwindSafe(|| (self.answering)(&request, &mut tell)))
            .unwrap_or_else(|_| Err(Error::new(Kind::Local, "the request failed inside reelfs: its log says more")))
    }
}

/// The mount belongs to the user who made it; root may do everything anyway.
fn check_peer(stream: &UnixStream) -> Result<()> {
    let peer = socket_peercred(stream).map_err(|error| Error::io("the control socket", &error.into()))?;
    if peer.uid.is_root() || peer.uid == geteuid() {
        return Ok(());
    }
    Err(Error::new(Kind::Denied, "this mount answers only the user who made it, and root"))
}

/// One line.
fn read_request(mut stream: &UnixStream) -> Result<Request> {
    let failed = |error: io::Error| Error::io("reading the request", &error);
    let deadline = Instant::now() + REQUEST_WAIT;
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    while !line.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || line.len() > REQUEST_BYTES_MAX {
            return Err(Error::new(Kind::Invalid, "a request is one line, and comes at once"));
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        match stream.read(&mut piece).map_err(failed)? {
            0 => return Err(Error::new(Kind::Cancelled, "nothing was asked")),
            len => line.extend_from_slice(&piece[..len]),
        }
    }
    // What follows it, nobody asked for.
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(line).map_err(|error| {
        let message =
            format!("this mount does not know the request ({error}): mount again with this version of reelfs");
        Error::new(Kind::Unsupported, message)
    })
}

fn send(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(WRITE_WAIT))?;
    stream.write_all(&line)
}

fn failure(error: &Error) -> Answer {
    Answer::Failed { kind: error.kind(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tempfile::TempDir;

    use super::super::Progress;
    use super::*;

    const NAME: &str = "0123456789abcdef.sock";

    fn start(base: &TempDir, answering: Box<Answering>) -> Control {
        let folder = Folder::open(base.path(), &|_| true).unwrap();
        Control::start_in(folder, NAME.into(), answering).unwrap()
    }

    /// Says this many times how it goes, then that it is done.
    fn job(times: u64) -> Box<Answering> {
        Box::new(move |_, tell| {
            for done_bytes in 0..times {
                tell(Progress { path: "a".into(), done_bytes, total_bytes: times }.into())?;
            }
            Ok(Answer::Done { message: "done".into() })
        })
    }

    fn connect(base: &Path) -> UnixStream {
        UnixStream::connect(base.join(NAME)).unwrap()
    }

    /// The lines that come back.
    fn said(mut stream: UnixStream, line: &str) -> Vec<String> {
        // A side that has said enough may have closed.
        let _ = stream.write_all(line.as_bytes());
        BufReader::new(stream).lines().map_while(std::result::Result::ok).collect()
    }

    const ASK: &str = "{\"request\":\"status\"}\n";

    #[test]
    fn a_request_is_a_line_and_its_answer_ends_with_the_last() {
        let base = tempfile::tempdir().unwrap();
        let _control = start(&base, job(2));
        let lines = said(connect(base.path()), ASK);
        let answers: Vec<Answer> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [Answer::Progress(first), Answer::Progress(_), Answer::Done { message }] = &answers[..] else {
            panic!("{lines:?}")
        };
        assert_eq!((first.progress.total_bytes, message.as_str()), (2, "done"));
        assert!(answers.iter().map(Answer::is_last).eq([false, false, true]));
    }

    #[test]
    fn what_is_no_request_is_refused_and_harms_nobody() {
        let base = tempfile::tempdir().unwrap();
        let _control = start(&base, job(0));
        for line in
            ["\n", "{}\n", "{\"request\":\"make_coffee\"}\n", "\u{0}\u{1}\n", &"x".repeat(REQUEST_BYTES_MAX + 4096)]
        {
            let lines = said(connect(base.path()), line);
            assert!(lines.is_empty() || lines[0].contains("\"answer\":\"failed\""), "{lines:?}");
        }
        // One that says nothing and one that goes away take nobody's place.
        let silent = connect(base.path());
        drop(connect(base.path()));
        assert_eq!(said(connect(base.path()), ASK).len(), 1);
        drop(silent);
    }

    #[test]
    fn a_panic_is_an_answer() {
        let base = tempfile::tempdir().unwrap();
        let _control = start(&base, Box::new(|_, _| panic!("of a test")));
        assert!(said(connect(base.path()), ASK)[0].contains("inside reelfs"));
    }

    #[test]
    fn a_job_ends_when_nobody_listens() {
        let base = tempfile::tempdir().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let (ended, has_ended) = crossbeam_channel::bounded(1);
        let counted = Arc::clone(&told);
        let endless: Box<Answering> = Box::new(move |_, tell| {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = tell(Progress { path: String::new(), done_bytes: 0, total_bytes: 0 }.into()) {
                    let _ = ended.send(error.kind());
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let control = start(&base, endless);
        let mut stream = connect(base.path());
        stream.write_all(ASK.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        drop(stream);
        assert_eq!(has_ended.recv_timeout(Duration::from_secs(30)), Ok(Kind::Cancelled));
        // And when the mount ends.
        let mut stream = connect(base.path());
        stream.write_all(ASK.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        drop(control);
        assert_eq!(has_ended.recv_timeout(Duration::from_secs(30)), Ok(Kind::Cancelled));
    }

    #[test]
    fn no_more_than_so_many_at_once() {
        let base = tempfile::tempdir().unwrap();
        let control = start(&base, job(0));
        let mut waiting: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect(base.path())).collect();
        let begun = Instant::now();
        while control.shared.seats.taken() < CONNECTIONS_MAX {
            assert!(begun.elapsed() < Duration::from_secs(30));
            thread::sleep(Duration::from_millis(5));
        }
        // Unless the machine is so busy that those who wait have been let go.
        let refused = said(connect(base.path()), "");
        assert!(refused[0].contains("\"busy\"") || begun.elapsed() > REQUEST_WAIT, "{refused:?}");
        waiting.pop();
        let begun = Instant::now();
        while !said(connect(base.path()), ASK)[0].contains("done") {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
    }

    #[test]
    fn what_a_killed_mount_left_is_replaced_and_a_newer_ones_is_left() {
        let base = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(base.path().join(NAME)).unwrap());
        let old = start(&base, job(0));
        assert_eq!(said(connect(base.path()), ASK).len(), 1);
        let new = start(&base, job(1));
        drop(old);
        assert_eq!(said(connect(base.path()), ASK).len(), 2);
        drop(new);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_in_its_place_is_followed() {
        let base = tempfile::tempdir().unwrap();
        let other = base.path().join("other");
        fs::write(&other, "kept").unwrap();
        for name in [NAME.to_owned(), format!("{NAME}.new")] {
            std::os::unix::fs::symlink(&other, base.path().join(name)).unwrap();
        }
        let _control = start(&base, job(0));
        assert_eq!(said(connect(base.path()), ASK).len(), 1);
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
    }
}
