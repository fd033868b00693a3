//! The connections to one FTP server: few, as such servers count them, and each used by one reader at a time.
//! Never here: commands.
//!
//! A new connection is made behind the back of whoever found all in use: a login may take seconds, and the first
//! connection that is free, an old one or the new one, is taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::address::Address;
use super::control::Control;
use crate::error::{Error, Kind, Result};
use crate::store::driver::Driver;

/// Servers close an idle connection after some minutes; one that has been idle longer than this is not trusted.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// A transfer that was closed early is over by then, or its connection is given up.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);
/// A login that has not ended by then never will.
const LOGIN_TIMEOUT: Duration = Duration::from_mins(1);

/// A server that took no more may take one more by now: other programs come and go.
const GROW_AGAIN: Duration = Duration::from_mins(1);

/// At most `most` connections, idle ones last used last.
pub(super) struct Pool {
    address: Address,
    /// As many as we ever want.
    most: usize,
    // Taken alone.
    state: Mutex<State>,
    // A connection, room for one, or one that could not be made.
    changed: Notify,
}

struct State {
    idle: Vec<(Control, Instant)>,
    /// In use.
    used: usize,
    /// On the way.
    dialed: usize,
    /// Callers without a connection.
    waiting: usize,
    /// Connections that could not be made so far, and why the last one could not.
    failures: u64,
    failure: Option<Error>,
    /// As many as the server takes, as far as we know.
    most: usize,
    /// When that last changed.
    changed: Option<Instant>,
}

/// A connection in use; given up when dropped.
pub(super) struct Lease {
    seat: Seat,
    control: Control,
}

/// One of `most`.
struct Seat(Arc<Pool>);

/// A caller who waits for a connection.
struct Waiting<'a>(&'a Pool);

impl Pool {
    pub fn new(address: Address, most: usize) -> Arc<Self> {
        Arc::new(Self { address, most, state: Mutex::new(State::new(most)), changed: Notify::new() })
    }

    /// A connection for the caller alone, as soon as there is one.
    pub async fn lease(self: &Arc<Self>) -> Result<Lease> {
        let failures = {
            let mut state = self.state.lock();
            state.waiting += 1;
            state.failures
        };
        let _waiting = Waiting(self);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let (taken, _old) = {
                let mut state = self.state.lock();
                // Closed by the server, or out of step. That can be seen without waiting.
                let is_old = |control: &Control, since: Instant| since.elapsed() > IDLE_MAX || !control.is_quiet();
                let old = state.idle.extract_if(.., |(control, since)| is_old(control, *since)).collect::<Vec<_>>();
                let idle = state.idle.pop();
                state.used += usize::from(idle.is_some());
                if idle.is_none() {
                    let has_failed = state.failures != failures;
                    if let Some(failure) = state.failure.clone().filter(|_| has_failed && state.has_none()) {
                        return Err(failure);
                    }
                    state.grow(self.most);
                    if state.wants_one_more(has_failed) {
                        state.dialed += 1;
                        self.dial();
                    }
                }
                (idle, old)
            };
            match taken {
                Some((control, _)) => return Ok(Lease { seat: Seat(Arc::clone(self)), control }),
                None => changed.await,
            }
        }
    }

    /// Makes a connection, however long whoever wants one waits for it.
    fn dial(self: &Arc<Self>) {
        let (pool, address) = (Arc::downgrade(self), self.address.clone());
        tokio::spawn(async move {
            let opened = tokio::time::timeout(LOGIN_TIMEOUT, Control::open(&address)).await;
            let opened = opened.unwrap_or_else(|_| {
                let seconds = LOGIN_TIMEOUT.as_secs();
                Err(Error::new(Kind::TimedOut, format!("{address}: no login within {seconds} s")))
            });
            if let Some(pool) = pool.upgrade() {
                pool.opened(opened);
            }
        });
    }

    fn opened(&self, opened: Result<Control>) {
        let mut state = self.state.lock();
        state.dialed -= 1;
        match opened {
            Ok(control) => {
                state.idle.push((control, Instant::now()));
                drop(state);
                self.changed.notify_one();
            }
            Err(error) => {
                state.fail(error);
                drop(state);
                self.changed.notify_waiters();
            }
        }
    }

    /// One connection was lost, or has gone silent: those that nobody uses may be gone, too, and are not tried one by one.
    pub fn doubt(&self, error: &Error) {
        if matches!(error.kind(), Kind::Unreachable | Kind::TimedOut) {
            let idle = std::mem::take(&mut self.state.lock().idle);
            drop(idle);
        }
    }
}

impl State {
    fn new(most: usize) -> Self {
        let (idle, failure, changed) = (Vec::new(), None, None);
        Self { idle, used: 0, dialed: 0, waiting: 0, failures: 0, failure, most, changed }
    }

    /// Whether there is nothing to wait for.
    fn has_none(&self) -> bool {
        self.used + self.dialed + self.idle.len() == 0
    }

    /// Whether one more is made for those who wait. After one `has_failed`, those that there are will do.
    fn wants_one_more(&self, has_failed: bool) -> bool {
        self.dialed < self.waiting && self.used + self.dialed < self.most && (!has_failed || self.has_none())
    }

    /// All are in use: one more is tried, if the last time is long ago.
    fn grow(&mut self, most: usize) {
        let is_long_ago = self.changed.is_some_and(|at| at.elapsed() >= GROW_AGAIN);
        if self.used + self.dialed >= self.most && self.most < most && is_long_ago {
            (self.most, self.changed) = (self.most + 1, Some(Instant::now()));
        }
    }

    /// A connection could not be made. If the server takes no more, those that there are will do.
    fn fail(&mut self, error: Error) {
        let others = self.used + self.idle.len();
        if error.kind() == Kind::Busy && others > 0 {
            (self.most, self.changed) = (others, Some(Instant::now()));
            log::info!("{error}; going on with {others} connections");
        }
        self.failures += 1;
        self.failure = Some(error);
    }
}

impl Lease {
    /// The connection is ready for the next command.
    pub fn give_back(self) {
        let Self { seat, control } = self;
        seat.0.state.lock().idle.push((control, Instant::now()));
        // Tells whoever waits.
        drop(seat);
    }

    /// The same after an error, unless it is one that says nothing of the connection.
    pub fn give_back_after(self, error: &Error) {
        // The server's own answers; after anything else it may be in the middle of one.
        if matches!(error.kind(), Kind::Missing | Kind::Denied | Kind::Changed) {
            self.give_back();
        }
    }

    /// A transfer was closed early: it can be given back as soon as the server has seen that.
    pub fn give_back_settled(mut self, driver: &Driver) {
        driver.start(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE_TIMEOUT, self.control.settle()).await {
                self.give_back();
            }
        });
    }
}

impl std::ops::Deref for Lease {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Control {
        &mut self.control
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.state.lock().used -= 1;
        self.0.changed.notify_one();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_says_more_than_was_asked_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ftp://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    stream.write_all(b"220 Hi\r\n").unwrap();
                    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                        let reply: &[u8] = match line.unwrap().get(..3) {
                            Some("USE") => b"230 In\r\n",
                            Some("SIZ") => b"213 5\r\n",
                            // Twice.
                            Some("MDT") => b"213 19700101000001\r\n226 Done\r\n",
                            Some("TYP") => b"200 Binary\r\n",
                            _ => b"502 No\r\n",
                        };
                        stream.write_all(reply).unwrap();
                    }
                });
            }
        });
        let pool = Pool::new(Address::new(url.parse().unwrap()).unwrap(), 2);
        let mut lease = pool.lease().await.unwrap();
        assert!(lease.is_quiet());
        lease.find("/film.mkv", "film").await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while lease.is_quiet() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!lease.is_quiet());
        lease.give_back();
        assert!(pool.lease().await.unwrap().is_quiet(), "another one");
    }

    /// Logs in the first `logins` connections, and says nothing after its greeting to those that follow; or refuses them.
    fn serve(logins: usize, then: Option<&'static [u8]>) -> Arc<Pool> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ftp://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    if let Some(refusal) = then.filter(|_| number >= logins) {
                        return drop(stream.write_all(refusal));
                    }
                    stream.write_all(b"220 Hi\r\n").unwrap();
                    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                        let reply: &[u8] = match line.unwrap().get(..3) {
                            Some(_) if number >= logins => continue,
                            Some("USE") => b"230 In\r\n",
                            Some("TYP") => b"200 Binary\r\n",
                            _ => b"502 No\r\n",
                        };
                        stream.write_all(reply).unwrap();
                    }
                });
            }
        });
        Pool::new(Address::new(url.parse().unwrap()).unwrap(), 2)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn connection_that_is_free_is_taken_though_another_is_dialed() {
        let pool = serve(1, None);
        let first = pool.lease().await.unwrap();
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.lease().await.map(drop) }
        });
        let deadline = Instant::now() + LONG;
        while pool.state.lock().dialed == 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.give_back();
        tokio::time::timeout(LONG, waiting).await.expect("the login hangs").unwrap().unwrap();
    }

    #[tokio::test]
    async fn connection_that_is_refused_leaves_those_that_are_there() {
        let pool = serve(1, Some(b"421 Too many\r\n"));
        let first = pool.lease().await.unwrap();
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.lease().await.map(drop) }
        });
        let deadline = Instant::now() + LONG;
        while pool.state.lock().most > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.give_back();
        tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
        let none = serve(0, Some(b"421 Too many\r\n"));
        let refused = tokio::time::timeout(LONG, none.lease()).await.unwrap();
        assert_eq!(refused.map(drop).unwrap_err().kind(), Kind::Busy, "there is none to wait for");
    }

    #[test]
    fn one_more_connection_is_tried_a_minute_after_one_was_refused() {
        let now = Instant::now();
        let long_ago = now.checked_sub(GROW_AGAIN).unwrap();
        for (used, changed, most) in [(2, Some(long_ago), 3), (1, Some(long_ago), 2), (2, Some(now), 2), (2, None, 2)] {
            let mut state = State { used, changed, ..State::new(2) };
            state.grow(4);
            assert_eq!(state.most, most, "{used} {changed:?}");
            state.grow(4);
            assert_eq!(state.most, most, "one at a time");
        }
        let mut full = State { used: 4, changed: Some(long_ago), ..State::new(4) };
        full.grow(4);
        assert_eq!(full.most, 4);
    }
}
