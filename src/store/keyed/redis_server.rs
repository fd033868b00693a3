//! A home on a Redis server. Its keys have no order of their own: a sorted set beside them lists them, written in the same
//! transaction.
//! Never here: what is in it, and which keys are listed (see `redis_names`). How lasting a write is, the server's own settings say.

use std::ops::Bound;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind};

use super::redis_line::Line;
use super::{Key, Keyed, Limits, Look, Step, Swap, There, VALUE_BYTES_MAX, missing, timeout};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// The sorted set of all keys.
pub(super) const INDEX: &str = ".reelfs/index";
/// A server that has not taken the connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections kept for whoever comes next; more are closed after use.
const IDLE_MAX: usize = 16;

/// Others may write the same values between the look and the write this often.
const SWAPS_MAX: u32 = 8;

/// Over a network, two writes of a file gain from being under way together.
const LIMITS: Limits = Limits { writes_at_once: 2, ..super::LIMITS };

/// Keys of one database that begin with a prefix.
pub(super) struct RedisServer {
    info: ConnectionInfo,
    /// Empty, or with a `/` at its end.
    prefix: String,
    described: String,
    /// Open and idle. Held for a look only.
    idle: Mutex<Vec<Line>>,
    answer_timeout: Duration,
    /// The index lists what others have put, as far as it can.
    pub(super) knows_others: AtomicBool,
}

impl RedisServer {
    /// Asks nothing yet.
    pub fn new(info: ConnectionInfo, prefix: String, described: String, answer_timeout: Duration) -> Result<Self> {
        if !matches!(info.addr(), ConnectionAddr::Tcp(..)) {
            let message = format!("{described}: only a plain connection over TCP is built in: kv+redis://HOST/0");
            return Err(Error::new(Kind::Invalid, message));
        }
        let (idle, knows_others) = (Mutex::default(), AtomicBool::default());
        Ok(Self { info, prefix, described, idle, answer_timeout, knows_others })
    }

    /// Does `work`, which moves so many bytes of `what`, on a connection of its own.
    pub(super) fn ask<T>(&self, what: &str, bytes: u64, work: impl Fn(&mut Line) -> RedisResult<T>) -> Result<T> {
        let idle = self.idle.lock().pop();
        let was_idle = idle.is_some();
        let answer = self.ask_on(idle, bytes, &work);
        match answer {
            // It was closed while nobody used it: that tells nothing of the server.
            Err(error) if was_idle && error.is_connection_dropped() => self.ask_on(None, bytes, &work),
            other => other,
        }
        .map_err(|error| self.failed(&error, what, bytes))
    }

    fn ask_on<T>(&self, idle: Option<Line>, bytes: u64, work: impl Fn(&mut Line) -> RedisResult<T>) -> RedisResult<T> {
        let mut connection = match idle {
            Some(connection) => connection,
            None => Line::open(&self.info, CONNECT_TIMEOUT)?,
        };
        connection.allow(timeout(self.answer_timeout, bytes))?;
        let answer = work(&mut connection);
        // One that failed half-way would answer the next question with the rest of this one.
        let is_sound =
            answer.as_ref().err().is_none_or(|error| !error.is_io_error() && !error.is_unrecoverable_error());
        let mut idle = self.idle.lock();
        if is_sound && connection.is_sound() && idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        drop(idle);
        answer
    }

    pub(super) fn described(&self) -> &str {
        &self.described
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn add_put(&self, pipe: &mut Pipeline, key: &str, value: &[u8]) {
        pipe.cmd("SET").arg(self.key(key)).arg(value).ignore();
        pipe.cmd("ZADD").arg(self.key(INDEX)).arg(0).arg(key).ignore();
    }

    fn add_delete(&self, pipe: &mut Pipeline, keys: &[String]) {
        pipe.cmd("DEL").arg(keys.iter().map(|key| self.key(key)).collect::<Vec<_>>()).ignore();
        pipe.cmd("ZREM").arg(self.key(INDEX)).arg(keys).ignore();
    }

    /// Nothing if one of the values changed between the look and the write: then none of them was touched.
    fn try_swap(&self, connection: &mut Line, swaps: &[Swap]) -> RedisResult<Option<Vec<bool>>> {
        let mut look = redis::pipe();
        look.cmd("WATCH").arg(swaps.iter().map(|swap| self.key(&swap.key)).collect::<Vec<_>>()).ignore();
        for swap in swaps {
            let (key, range) = (self.key(&swap.key), swap.seen.range);
            look.cmd("GETRANGE").arg(&key).arg(range.start).arg(range.end.saturating_sub(1)).cmd("EXISTS").arg(&key);
        }
        let found: Vec<redis::Value> = look.query(connection)?;
        let mut write = redis::pipe();
        write.atomic();
        let mut done = Vec::new();
        for (swap, found) in swaps.iter().zip(found.chunks_exact(2)) {
            let now: Vec<u8> = redis::from_redis_value_ref(&found[0])?;
            let is_there: bool = redis::from_redis_value_ref(&found[1])?;
            let step = swap.step(is_there.then_some(&now));
            match &swap.value {
                _ if step != Step::Write => {}
                Some(value) => self.add_put(&mut write, &swap.key, value),
                None => self.add_delete(&mut write, std::slice::from_ref(&swap.key)),
            }
            done.push(step != Step::Leave);
        }
        // Also where it is empty: it ends the watch.
        write.cmd("PING").ignore();
        Ok(write.query::<Option<()>>(connection)?.map(|()| done))
    }

    fn failed(&self, error: &RedisError, what: &str, bytes: u64) -> Error {
        let kind = match error.kind() {
            _ if error.is_timeout() => Kind::TimedOut,
            _ if error.is_io_error() || error.is_connection_dropped() => Kind::Unreachable,
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => Kind::Denied,
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::ReadOnly,
            ) => Kind::Busy,
            _ => match error.code() {
                Some("OOM") => Kind::Full,
                Some("NOAUTH" | "WRONGPASS") => Kind::Denied,
                // It cannot write its own disk, for now.
                Some("MISCONF" | "BUSY") => Kind::Busy,
                _ => Kind::Unsupported,
            },
        };
        let why = match kind {
            // The system's own word for it is "Resource temporarily unavailable".
            Kind::TimedOut => format!("no answer within {} s", timeout(self.answer_timeout, bytes).as_secs_f64()),
            _ => error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        };
        Error::new(kind, format!("{}: {}: {why}", self.described, what.escape_debug()))
    }
}

/// As a bound of a sorted set: before it are all keys with this prefix, and behind it the next ones. No UTF-8 holds this byte.
pub(super) fn behind(prefix: &str) -> Vec<u8> {
    [b"(", prefix.as_bytes(), &[0xff]].concat()
}

/// For messages: one key, or the first of several.
fn named<'a>(mut keys: impl ExactSizeIterator<Item = &'a String>) -> String {
    match (keys.next(), keys.len()) {
        (None, _) => String::new(),
        (Some(key), 0) => key.clone(),
        (Some(key), more) => format!("{key} and {more} more"),
    }
}

impl Keyed for RedisServer {
    fn describe(&self) -> &str {
        &self.described
    }

    fn limits(&self) -> &Limits {
        &LIMITS
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (key_there, bytes) = (self.key(key), range.len().min(VALUE_BYTES_MAX));
        let value: Vec<u8> = self.ask(key, bytes, |connection| {
            redis::cmd("GETRANGE").arg(&key_there).arg(range.start).arg(range.end - 1).query(connection)
        })?;
        if !value.is_empty() {
            return Ok(value.into());
        }
        // No value, and none that reaches so far, look the same. Asked for together: one may be written in between.
        let mut both = redis::pipe();
        both.atomic().cmd("GETRANGE").arg(&key_there).arg(range.start).arg(range.end - 1).cmd("EXISTS").arg(&key_there);
        let (value, is_there): (Vec<u8>, bool) = self.ask(key, bytes, |connection| both.query(connection))?;
        if is_there { Ok(value.into()) } else { Err(missing(&self.described, key)) }
    }

    fn look(&self, key: &str) -> Result<Look> {
        let there = self.key(key);
        let mut both = redis::pipe();
        both.atomic().cmd("STRLEN").arg(&there).cmd("EXISTS").arg(&there);
        let (size_bytes, is_there): (u64, bool) = self.ask(key, 0, |connection| both.query(connection))?;
        if is_there { Ok(Look { size_bytes, modified: None, etag: None }) } else { Err(missing(&self.described, key)) }
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for (key, value) in entries {
            self.add_put(&mut pipe, key, value);
        }
        let bytes = entries.iter().map(|(_, value)| value.len() as u64).sum();
        self.ask(&named(entries.iter().map(|(key, _)| key)), bytes, |connection| pipe.query(connection))
    }

    fn there(&self, keys: &[String]) -> Result<Vec<There>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.know_others()?;
        let mut pipe = redis::pipe();
        for key in keys {
            let (first, last) = (format!("[{key}/"), behind(&format!("{key}/")));
            pipe.cmd("EXISTS").arg(self.key(key));
            pipe.cmd("ZRANGEBYLEX").arg(self.key(INDEX)).arg(first).arg(last).arg("LIMIT").arg(0).arg(1);
        }
        let found: Vec<(bool, Vec<String>)> = self.ask(&named(keys.iter()), 0, |connection| {
            let found: Vec<redis::Value> = pipe.query(connection)?;
            let both = |both: &[redis::Value]| {
                Ok((redis::from_redis_value_ref(&both[0])?, redis::from_redis_value_ref(&both[1])?))
            };
            found.chunks_exact(2).map(both).collect()
        })?;
        let there = |(is_value, below): (bool, Vec<String>)| match () {
            () if is_value => There::Value,
            () if below.is_empty() => There::Nothing,
            () => There::Folder,
        };
        Ok(found.into_iter().map(there).collect())
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.atomic();
        self.add_delete(&mut pipe, keys);
        self.ask(&named(keys.iter()), 0, |connection| pipe.query(connection))
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<bool>> {
        if swaps.is_empty() {
            return Ok(Vec::new());
        }
        let written = swaps.iter().filter_map(|swap| swap.value.as_ref()).map(|value| value.len() as u64);
        let looked_at = swaps.iter().map(|swap| swap.seen.range.len().min(VALUE_BYTES_MAX));
        let bytes = written.chain(looked_at).sum();
        for _ in 0..SWAPS_MAX {
            let what = named(swaps.iter().map(|swap| &swap.key));
            let swapped = self.ask(&what, bytes, |connection| {
                let swapped = self.try_swap(connection, swaps);
                // What is watched on this connection would undo the next one's work.
                if !matches!(swapped, Ok(Some(_))) {
                    redis::cmd("UNWATCH").exec(connection)?;
                }
                swapped
            })?;
            if let Some(done) = swapped {
                return Ok(done);
            }
        }
        Err(Error::new(Kind::Busy, format!("{}: what is to be replaced changes all the time", self.described)))
    }

    fn find_others(&self) -> Result<()> {
        self.walk()
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.names(prefix, from, limit)
    }
}
