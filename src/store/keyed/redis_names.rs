//! Which keys a home on a Redis server lists: those of its index, and those that another program put beside them. The latter
//! are found by one walk over the database (SCAN), and are kept in the index from then on.
//! Never here: values.
//!
//! An entry of the index may outlive its key, as other programs know nothing of the index: it is left out of every listing,
//! and removed by the next walk.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use redis::{ConnectionLike as _, Pipeline, RedisError, RedisResult, Value};

use super::redis_line::Line;
use super::redis_server::{INDEX, RedisServer, behind};
use super::{KEY_BYTES_MAX, Key, at_least};
use crate::error::{Error, Kind, Result};

/// Says that a walk over all keys came to its end. Not in the index itself.
const WALKED: &str = ".reelfs/walked";
/// What is below a folder of this name belongs to a library, and is in that library's own index.
const LIBRARY: &str = ".reelfs";
/// Keys that a walk looks at in one request, or a few more: the server works on nothing else meanwhile.
const WALK_KEYS: usize = 1_000;
/// Requests of one walk: ten billion keys. A server that goes on beyond them walks in a circle.
const WALK_REQUESTS_MAX: u32 = 10_000_000;
/// Entries of the index that are looked at in one request.
const INDEX_KEYS: usize = 1_000;

impl RedisServer {
    /// Keys in order, each with the size of its value; those that hold no string, or are gone, are left out.
    pub(super) fn names(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.know_others()?;
        let mut start = match at_least(prefix, from) {
            Bound::Included(start) if !start.is_empty() => [b"[", start.as_bytes()].concat(),
            Bound::Excluded(start) => [b"(", start.as_bytes()].concat(),
            _ => b"-".to_vec(),
        };
        let end = behind(prefix);
        let what = format!("keys of {prefix}");
        let mut found = Vec::new();
        loop {
            let wanted = limit - found.len();
            let names = self.indexed(&what, &start, &end, wanted)?;
            let is_last = names.len() < wanted;
            if let Some(last) = names.last() {
                start = [b"(", last.as_bytes()].concat();
            }
            found.extend(self.sized(&what, names)?);
            if is_last || found.len() >= limit {
                return Ok(found);
            }
        }
    }

    /// Walks over all keys, and has the index list those that others put. What is gone leaves the index.
    pub(super) fn walk(&self) -> Result<()> {
        let pattern = [&escaped(&self.key(""))[..], "*"].concat();
        let (mut cursor, mut requests) = (0_u64, 0);
        loop {
            let (next, keys): (u64, Vec<Vec<u8>>) = self.ask("all keys", 0, |connection| {
                let mut scan = redis::cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(WALK_KEYS).arg("TYPE").arg("string");
                scan.query(connection)
            })?;
            let names: Vec<_> = keys.iter().filter_map(|key| self.name_of_another(key)).collect();
            if !names.is_empty() {
                self.ask("the index", 0, |connection| {
                    let mut add = redis::cmd("ZADD");
                    add.arg(self.key(INDEX)).arg("NX");
                    for name in &names {
                        add.arg(0).arg(*name);
                    }
                    add.exec(connection)
                })?;
            }
            requests += 1;
            cursor = next;
            if cursor == 0 {
                break;
            }
            if requests >= WALK_REQUESTS_MAX {
                let message = format!("{}: a walk over its keys does not end", self.described());
                return Err(Error::new(Kind::Unsupported, message));
            }
        }
        self.forget_gone()?;
        // Last: what was broken off begins anew.
        self.ask(WALKED, 0, |connection| redis::cmd("SET").arg(self.key(WALKED)).arg(1).exec(connection))
    }

    /// Walks if nobody did so before. What a server refuses (to a reader, or a copy that takes no writes) keeps nobody from
    /// what the index lists.
    pub(super) fn know_others(&self) -> Result<()> {
        if self.knows_others.load(Ordering::Relaxed) {
            return Ok(());
        }
        let is_walked: Result<bool> = self
            .ask(WALKED, 0, |connection| redis::cmd("EXISTS").arg(self.key(WALKED)).query(connection))
            .and_then(|is_walked| if is_walked { Ok(true) } else { self.walk().map(|()| true) });
        match is_walked {
            Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::TimedOut) => return Err(error),
            Err(error) => log::warn!("{error}: files of other programs are listed only where they were found before"),
            Ok(_) => {}
        }
        self.knows_others.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The name of a key that the index may lack: not of a library's own ones, which are written together with their entries.
    fn name_of_another<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let Ok(key) = std::str::from_utf8(key) else {
            log::debug!("{}: a key that is not UTF-8 is no file's: {}", self.described(), key.escape_ascii());
            return None;
        };
        let name = key.strip_prefix(&self.key("")).filter(|name| !name.is_empty() && name.len() <= KEY_BYTES_MAX)?;
        name.split('/').all(|part| part != LIBRARY).then_some(name)
    }

    /// Entries of the index in order.
    fn indexed(&self, what: &str, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<String>> {
        self.ask(what, 0, |connection| {
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(self.key(INDEX)).arg(start).arg(end).arg("LIMIT").arg(0).arg(limit).query(connection)
        })
    }

    /// Those names whose keys hold strings, with how long they are.
    fn sized(&self, what: &str, names: Vec<String>) -> Result<Vec<Key>> {
        let mut lengths = redis::pipe();
        for name in &names {
            lengths.cmd("STRLEN").arg(self.key(name));
        }
        let lengths = self.each(what, &lengths)?;
        // A key that is gone has no length, and neither has an empty value.
        let mut are_there = redis::pipe();
        for (name, _) in names.iter().zip(&lengths).filter(|(_, length)| **length == Some(0)) {
            are_there.cmd("EXISTS").arg(self.key(name));
        }
        let mut are_there = self.each(what, &are_there)?.into_iter();
        let key = |(key, length): (String, Option<u64>)| {
            let size_bytes = length?;
            let is_there = size_bytes > 0 || are_there.next() == Some(Some(1));
            is_there.then_some(Key { key, size_bytes: Some(size_bytes) })
        };
        Ok(names.into_iter().zip(lengths).filter_map(key).collect())
    }

    /// Takes entries out of the index whose keys are gone.
    fn forget_gone(&self) -> Result<()> {
        let mut start = b"-".to_vec();
        loop {
            let names = self.indexed("the index", &start, b"+", INDEX_KEYS)?;
            let Some(last) = names.last() else { return Ok(()) };
            start = [b"(", last.as_bytes()].concat();
            let mut are_there = redis::pipe();
            for name in &names {
                are_there.cmd("EXISTS").arg(self.key(name));
            }
            let are_there = self.each("the index", &are_there)?;
            let gone = names.iter().zip(are_there).filter(|(_, is_there)| *is_there == Some(0)).map(|(name, _)| name);
            let gone: Vec<_> = gone.collect();
            if !gone.is_empty() {
                self.ask("the index", 0, |connection| self.forget(connection, &gone))?;
            }
        }
    }

    /// Nothing is forgotten of keys one of which is written meanwhile: the next walk comes by.
    fn forget(&self, connection: &mut Line, names: &[&String]) -> RedisResult<()> {
        let keys: Vec<_> = names.iter().map(|name| self.key(name)).collect();
        redis::cmd("WATCH").arg(&keys).exec(connection)?;
        let is_any_there: RedisResult<u64> = redis::cmd("EXISTS").arg(&keys).query(connection);
        let mut write = redis::pipe();
        write.atomic();
        if matches!(is_any_there, Ok(0)) {
            write.cmd("ZREM").arg(self.key(INDEX)).arg(names).ignore();
        }
        // Also where it is empty: it ends the watch.
        write.cmd("PING").ignore();
        write.query::<Option<()>>(connection)?;
        is_any_there.map(|_| ())
    }

    /// The numbers that so many questions are answered with; nothing of a key that holds something else than a string.
    fn each(&self, what: &str, questions: &Pipeline) -> Result<Vec<Option<u64>>> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(what, 0, |connection| {
            let answers = connection.req_packed_commands(&questions.get_packed_pipeline(), 0, questions.len())?;
            let number = |answer| match answer {
                Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(None),
                Value::ServerError(error) => Err(RedisError::from(error)),
                answer => redis::from_redis_value(answer).map(Some).map_err(RedisError::from),
            };
            answers.into_iter().map(number).collect()
        })
    }
}

/// As MATCH takes it for itself.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_as_it_is_written() {
        assert_eq!(escaped("films [1998]*/a?\\é/"), "films \\[1998\\]\\*/a\\?\\\\é/");
    }
}
