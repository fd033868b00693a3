//! The connections to one FTP server: few, as such servers count them, and each used by one reader at a time.
//! Never here: commands.

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

/// A server that took no more may take one more by now: other programs come and go.
const GROW_AGAIN: Duration = Duration::from_mins(1);

/// At most `most` connections, idle ones last used last.
pub(super) struct Pool {
    address: Address,
    /// As many as we ever want.
    most: usize,
    // Taken alone.
    state: Mutex<State>,
    // A connection, or room for one.
    freed: Notify,
}

struct State {
    idle: Vec<(Control, Instant)>,
    /// In use, or on the way.
    used: usize,
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

impl Pool {
    pub fn new(address: Address, most: usize) -> Arc<Self> {
        let state = Mutex::new(State { idle: Vec::new(), used: 0, most, changed: None });
        Arc::new(Self { address, most, state, freed: Notify::new() })
    }

    /// A connection for the caller alone, as soon as there is one.
    pub async fn lease(self: &Arc<Self>) -> Result<Lease> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let taken = {
                let mut state = self.state.lock();
                // Closed by the server, or out of step. That can be seen without waiting.
                let is_old = |control: &Control, since: Instant| since.elapsed() > IDLE_MAX || !control.is_quiet();
                let old = state.idle.extract_if(.., |(control, since)| is_old(control, *since)).collect::<Vec<_>>();
                let idle = state.idle.pop();
                if idle.is_none() {
                    state.grow(self.most);
                }
                let is_seated = idle.is_some() || state.used < state.most;
                state.used += usize::from(is_seated);
                is_seated.then_some((idle, old))
            };
            let Some((idle, _old)) = taken else {
                freed.await;
                continue;
            };
            let seat = Seat(Arc::clone(self));
            if let Some((control, _)) = idle {
                return Ok(Lease { seat, control });
            }
            match Control::open(&self.address).await {
                Ok(control) => return Ok(Lease { seat, control }),
                Err(error) if error.kind() == Kind::Busy && self.make_do(&error) => {}
                Err(error) => return Err(error),
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

    /// The server takes no more connections: those that there are will do. Whether there are any.
    fn make_do(&self, error: &Error) -> bool {
        let mut state = self.state.lock();
        // The one that was refused is among those in use.
        let others = state.used - 1;
        if others > 0 {
            (state.most, state.changed) = (others, Some(Instant::now()));
            log::info!("{error}; going on with {others} connections");
        }
        others > 0
    }
}

impl State {
    /// All are in use: one more is tried, if the last time is long ago.
    fn grow(&mut self, most: usize) {
        let is_long_ago = self.changed.is_some_and(|at| at.elapsed() >= GROW_AGAIN);
        if self.used >= self.most && self.most < most && is_long_ago {
            (self.most, self.changed) = (self.most + 1, Some(Instant::now()));
        }
    }
}

impl Lease {
    /// The connection is ready for the next command.
    pub fn give_back(self) {
        let Self { seat, control } = self;
        seat.0.state.lock().idle.push((control, Instant::now()));
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
        self.0.freed.notify_one();
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

    #[test]
    fn one_more_connection_is_tried_a_minute_after_one_was_refused() {
        let now = Instant::now();
        let long_ago = now.checked_sub(GROW_AGAIN).unwrap();
        for (used, changed, most) in [(2, Some(long_ago), 3), (1, Some(long_ago), 2), (2, Some(now), 2), (2, None, 2)] {
            let mut state = State { idle: Vec::new(), used, most: 2, changed };
            state.grow(4);
            assert_eq!(state.most, most, "{used} {changed:?}");
            state.grow(4);
            assert_eq!(state.most, most, "one at a time");
        }
        let mut full = State { idle: Vec::new(), used: 4, most: 4, changed: Some(long_ago) };
        full.grow(4);
        assert_eq!(full.most, 4);
    }
}
