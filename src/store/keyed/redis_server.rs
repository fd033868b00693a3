//! A home on a Redis server. Its keys have no order of their own: a sorted set beside them lists them, written in the same
//! transaction.
//! Never here: what is in it. How lasting a write is, the server's own settings say.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{Client, Connection, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::{ANSWER_TIMEOUT, Key, Keyed, Limits, at_least, missing, timeout};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// The sorted set of all keys.
const INDEX: &str = ".reelfs/index";
/// A server that has not taken the connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections kept for whoever comes next; more are closed after use.
const IDLE_MAX: usize = 16;

/// Over a network, two writes of a file gain from being under way together.
const LIMITS: Limits = Limits { writes_at_once: 2, ..super::LIMITS };

/// Keys of one database that begin with a prefix.
pub(super) struct RedisServer {
    client: Client,
    /// Empty, or with a `/` at its end.
    prefix: String,
    described: String,
    /// Open and idle. Held for a look only.
    idle: Mutex<Vec<Connection>>,
}

impl RedisServer {
    /// Asks nothing yet.
    pub fn new(info: ConnectionInfo, prefix: String, described: String) -> Result<Self> {
        let client = Client::open(info).map_err(|error| Error::new(Kind::Invalid, format!("{described}: {error}")))?;
        Ok(Self { client, prefix, described, idle: Mutex::default() })
    }

    /// Does `work`, which moves so many bytes, on a connection of its own.
    fn ask<T>(&self, bytes: u64, work: impl Fn(&mut Connection) -> RedisResult<T>) -> Result<T> {
        let idle = self.idle.lock().pop();
        let was_idle = idle.is_some();
        let answer = self.ask_on(idle, bytes, &work);
        match answer {
            // It was closed while nobody used it: that tells nothing of the server.
            Err(error) if was_idle && error.is_connection_dropped() => self.ask_on(None, bytes, &work),
            other => other,
        }
        .map_err(|error| self.failed(&error))
    }

    fn ask_on<T>(
        &self,
        idle: Option<Connection>,
        bytes: u64,
        work: impl Fn(&mut Connection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.client.get_connection_with_timeout(CONNECT_TIMEOUT)?,
        };
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.set_write_timeout(Some(timeout(bytes)))?;
        let answer = work(&mut connection);
        // One that failed half-way would answer the next question with the rest of this one.
        let is_sound =
            answer.as_ref().err().is_none_or(|error| !error.is_io_error() && !error.is_unrecoverable_error());
        let mut idle = self.idle.lock();
        if is_sound && idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        drop(idle);
        answer
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn failed(&self, error: &RedisError) -> Error {
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
        let what = error.to_string();
        Error::new(kind, format!("{}: {}", self.described, what.split_whitespace().collect::<Vec<_>>().join(" ")))
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
        let key_there = self.key(key);
        let value: Vec<u8> = self.ask(0, |connection| {
            redis::cmd("GETRANGE").arg(&key_there).arg(range.start).arg(range.end - 1).query(connection)
        })?;
        // No value, and none that reaches so far, look the same.
        if value.is_empty() && !self.ask(0, |connection| redis::cmd("EXISTS").arg(&key_there).query(connection))? {
            return Err(missing(&self.described, key));
        }
        Ok(value.into())
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for (key, value) in entries {
            pipe.cmd("SET").arg(self.key(key)).arg(&value[..]).ignore();
            pipe.cmd("ZADD").arg(self.key(INDEX)).arg(0).arg(key).ignore();
        }
        let bytes = entries.iter().map(|(_, value)| value.len() as u64).sum();
        self.ask(bytes, |connection| pipe.query(connection))
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let there: Vec<_> = keys.iter().map(|key| self.key(key)).collect();
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("DEL").arg(there).ignore();
        pipe.cmd("ZREM").arg(self.key(INDEX)).arg(keys).ignore();
        self.ask(0, |connection| pipe.query(connection))
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        let start = match at_least(prefix, from) {
            Bound::Included(start) if !start.is_empty() => [b"[", start.as_bytes()].concat(),
            Bound::Excluded(start) => [b"(", start.as_bytes()].concat(),
            _ => b"-".to_vec(),
        };
        // No UTF-8 holds this byte.
        let end = [b"(", prefix.as_bytes(), &[0xff]].concat();
        let keys: Vec<String> = self.ask(0, |connection| {
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(self.key(INDEX)).arg(&start).arg(&end).arg("LIMIT").arg(0).arg(limit).query(connection)
        })?;
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("STRLEN").arg(self.key(key));
        }
        let sizes: Vec<u64> =
            if keys.is_empty() { Vec::new() } else { self.ask(0, |connection| pipe.query(connection))? };
        Ok(keys.into_iter().zip(sizes).map(|(key, size)| Key { key, size_bytes: Some(size) }).collect())
    }
}
