//! The connections that are open: how many at most, which are held without an answer, and how all of them end.
//! Never here: what is said over them.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

/// Open at once; one more is closed as soon as it is accepted. Each is a thread: enough for fifty films over eight
/// connections each and some that hang, and no danger to a machine's limit of threads.
pub(super) const CONNECTIONS_MAX: usize = 1024;

/// No wait is longer: a day is for ever to a client, and far from the end of a clock's range.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// All connections of one server.
pub(super) struct Connections {
    open_max: usize,
    state: Mutex<State>,
    /// Wakes every wait when the server stops.
    stops: Condvar,
    /// `State::hanging`, for a look without the lock between any two pieces of a body.
    hanging: AtomicBool,
}

#[derive(Default)]
struct State {
    stopping: bool,
    hanging: bool,
    next_id: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    stream: Arc<TcpStream>,
    /// By `set_hanging`: dropped when that ends.
    is_held: bool,
}

impl Connections {
    /// None yet, and at most so many.
    pub(super) fn new(open_max: usize) -> Self {
        let (state, stops, hanging) = Default::default();
        Self { open_max, state, stops, hanging }
    }

    /// Takes a new connection in; `None` (it is closed) when there are too many or the server stops.
    pub(super) fn admit(&self, stream: TcpStream) -> Option<Seat<'_>> {
        let mut state = self.state.lock();
        if state.stopping || state.open.len() >= self.open_max {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        let stream = Arc::new(stream);
        state.open.insert(id, Open { stream: Arc::clone(&stream), is_held: false });
        Some(Seat { connections: self, id, stream })
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.state.lock().open.len()
    }

    /// How many of them `set_hanging` holds.
    pub(super) fn held(&self) -> usize {
        self.state.lock().open.values().filter(|open| open.is_held).count()
    }

    /// While on, nothing is answered; when it ends, what was held is dropped.
    pub(super) fn set_hanging(&self, hanging: bool) {
        let mut state = self.state.lock();
        state.hanging = hanging;
        self.hanging.store(hanging, Ordering::Release);
        if !hanging {
            state.open.values().filter(|open| open.is_held).for_each(Open::shut);
        }
    }

    /// Ends every connection and every wait, for good.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.open.values().for_each(Open::shut);
        self.stops.notify_all();
    }

    /// Whether `stop` was called.
    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    /// Sleeps until then; an error as soon as the server stops.
    pub(super) fn wait_until(&self, moment: Instant) -> io::Result<()> {
        let mut state = self.state.lock();
        while !state.stopping {
            if self.stops.wait_until(&mut state, moment).timed_out() {
                return Ok(());
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Sleeps that long, a day at most; an error as soon as the server stops.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        self.wait_until(Instant::now() + time.min(WAIT_MAX))
    }
}

impl Open {
    /// Wakes whoever reads from it or writes to it. It fails only if the other side was first.
    fn shut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// One open connection; closed when dropped.
pub(super) struct Seat<'a> {
    connections: &'a Connections,
    id: u64,
    stream: Arc<TcpStream>,
}

impl Seat<'_> {
    /// Its socket.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Says nothing until the client, `stop`, or the end of `set_hanging` ends the connection.
    /// All three end a plain read, so that no thread polls.
    fn sit_out(&self) {
        let mut ignored = [0; 1024];
        while (&*self.stream).read(&mut ignored).is_ok_and(|len| len > 0) {}
    }

    /// Never answers; comes back when the connection is over.
    pub(super) fn hang(&self) -> io::Error {
        self.sit_out();
        io::ErrorKind::ConnectionAborted.into()
    }

    /// Passes at once in fair times; while the server hangs, it never answers.
    pub(super) fn pass(&self) -> io::Result<()> {
        if !self.connections.hanging.load(Ordering::Acquire) {
            return Ok(());
        }
        {
            // Marked under the lock that ends the hanging: held before, and dropped; or not held at all.
            let mut state = self.connections.state.lock();
            if !state.hanging {
                return Ok(());
            }
            if let Some(open) = state.open.get_mut(&self.id) {
                open.is_held = true;
            }
        }
        Err(self.hang())
    }

    /// Closing will send RST instead of FIN, and forget what was not yet sent.
    pub(super) fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        // The last but one owner of the socket: it closes as this seat goes.
        self.connections.state.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_so_many_are_taken_and_none_after_the_stop() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let connect = || TcpStream::connect(listener.local_addr()?);
        let connections = Connections::new(1);
        let seat = connections.admit(connect()?);
        assert!(seat.is_some() && connections.admit(connect()?).is_none());
        drop(seat);
        assert!(connections.admit(connect()?).is_some());
        connections.stop();
        assert!(connections.admit(connect()?).is_none());
        assert!(connections.wait(Duration::MAX).is_err());
        Ok(())
    }
}
