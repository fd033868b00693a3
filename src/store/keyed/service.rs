//! A home at a service that `OpenDAL` speaks to and that lists in order: buckets, and Cloudflare's key-value store.
//! Never here: who asks, and which service it is (see `address`). Nothing async is seen outside `store`.

use std::ops::Bound;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use opendal::{BytesRange, EntryMode, ErrorKind, HttpTransporter, OperationContext, Operator};

use super::{Key, Keyed, Limits, Look, is_from, missing, timeout};
use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::Patience;
use crate::store::driver::Driver;
use crate::store::remote::{Counted, Transport, from_service};

/// How servers that speak S3 say that there is none.
const NO_SUCH_BUCKET: &str = "NoSuchBucket";

/// Cloudflare answers with no fewer keys; what comes beyond those that are wanted is left.
const PAGE_KEYS_MIN: usize = 10;

/// Keys below a prefix of a service.
pub(super) struct Service {
    driver: Driver,
    operator: Operator,
    /// Empty, or with a `/` at its end.
    prefix: String,
    described: String,
    limits: Limits,
    answer_timeout: Duration,
}

impl Service {
    /// Asked over `transport`; asks nothing yet. `limits` are those below `prefix`.
    pub fn new(
        operator: Operator,
        transport: Transport,
        prefix: String,
        described: String,
        limits: Limits,
        answer_timeout: Duration,
    ) -> Result<Self> {
        let transport = HttpTransporter::new(Counted { transport, url: described.clone(), pages: None });
        let operator = operator.with_context(OperationContext::new().with_http_transport(transport));
        Ok(Self { driver: Driver::new()?, operator, prefix, described, limits, answer_timeout })
    }

    /// Waits for an answer to something that moves so many bytes.
    fn wait<T>(&self, key: &str, bytes: u64, work: impl Future<Output = opendal::Result<T>>) -> Result<T> {
        let shown = self.shown(key);
        let patience = Patience { stall: timeout(self.answer_timeout, bytes), cancel: Cancel::new() };
        self.driver.wait(&patience, &shown, async { work.await.map_err(|error| self.failed(key, &error)) })
    }

    fn failed(&self, key: &str, error: &opendal::Error) -> Error {
        match error.kind() {
            // OpenDAL has no kind for it.
            _ if error.message().contains(NO_SUCH_BUCKET) => {
                Error::new(Kind::Invalid, format!("{}: no such bucket", self.described))
            }
            ErrorKind::NotFound => missing(&self.described, key),
            _ => from_service(&self.shown(key), error),
        }
    }

    fn shown(&self, key: &str) -> String {
        format!("{}: {}", self.described, key.escape_debug())
    }

    fn path(&self, key: &str) -> Result<String> {
        let path = format!("{}{key}", self.prefix);
        // OpenDAL would ask for another one.
        if path.trim() == path {
            return Ok(path);
        }
        let message = format!("{}: a service takes no name with spaces at its ends", self.shown(key));
        Err(Error::new(Kind::Invalid, message))
    }
}

impl Keyed for Service {
    fn describe(&self) -> &str {
        &self.described
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        let path = self.path(key)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let opened = self.wait(key, 0, async {
            let open = async |range: BytesRange| {
                let mut stream = self.operator.reader_with(&path).await?.into_stream(range).await?;
                let size_bytes = stream.metadata().await?.content_length();
                Ok::<_, opendal::Error>((stream, size_bytes))
            };
            let is_beyond = |error: &opendal::Error| error.kind() == ErrorKind::RangeNotSatisfied;
            let mut opened = open((range.start..range.end).into()).await;
            // Cloudflare's refuses, too, what only ends behind the value's end.
            if opened.as_ref().is_err_and(is_beyond) {
                opened = open((range.start..).into()).await;
            }
            match opened {
                // It ends before the range begins.
                Err(error) if is_beyond(&error) => Ok(None),
                other => other.map(Some),
            }
        })?;
        let Some((mut stream, size_bytes)) = opened else { return Ok(Bytes::new()) };
        let wanted = range.end.min(size_bytes).saturating_sub(range.start) as usize;
        let mut bytes = BytesMut::with_capacity(wanted);
        let patience = Patience { stall: self.answer_timeout, cancel: Cancel::new() };
        while bytes.len() < wanted {
            let next = async { stream.next().await.transpose().map_err(|error| self.failed(key, &error)) };
            let Some(piece) = self.driver.wait(&patience, self.shown(key), next)? else {
                let message = format!("{}: ended {} bytes too early", self.shown(key), wanted - bytes.len());
                return Err(Error::new(Kind::Unreachable, message));
            };
            for part in piece {
                bytes.extend_from_slice(&part);
            }
        }
        bytes.truncate(wanted);
        Ok(bytes.freeze())
    }

    fn look(&self, key: &str) -> Result<Look> {
        let path = self.path(key)?;
        let metadata = self.wait(key, 0, self.operator.stat(&path))?;
        let modified = metadata.last_modified().map(SystemTime::from);
        Ok(Look { size_bytes: metadata.content_length(), modified, etag: metadata.etag().map(str::to_owned) })
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        for (key, value) in entries {
            let path = self.path(key)?;
            self.wait(key, value.len() as u64, self.operator.write(&path, value.clone()))?;
        }
        Ok(())
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>>>()?;
        match &paths[..] {
            [] => Ok(()),
            [path] => self.wait(&keys[0], 0, self.operator.delete(path)),
            _ => self.wait(&format!("{} keys", keys.len()), 0, self.operator.delete_iter(paths)),
        }
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        let path = format!("{}{prefix}", self.prefix);
        let path = if path.is_empty() { "/" } else { &path };
        let capability = self.operator.info().capability();
        let start = Some(before(from)).filter(|start| capability.list_with_start_after && !start.is_empty());
        let mut lister = self.wait(prefix, 0, async {
            let mut listing = self.operator.lister_with(path).recursive(true).limit(limit.max(PAGE_KEYS_MIN));
            if let Some(start) = &start {
                listing = listing.start_after(&format!("{}{start}", self.prefix));
            }
            listing.await
        })?;
        let mut keys: Vec<Key> = Vec::new();
        while keys.len() < limit {
            let Some(entry) = self.wait(prefix, 0, async { lister.next().await.transpose() })? else { break };
            let metadata = entry.metadata();
            // Some services list folders, too.
            if metadata.mode() == EntryMode::DIR {
                continue;
            }
            let Some(key) = entry.path().strip_prefix(&self.prefix) else { continue };
            if key.starts_with(prefix) && is_from(key, from) {
                keys.push(Key { key: key.to_owned(), size_bytes: Some(metadata.content_length()) });
            }
        }
        Ok(keys)
    }
}

/// A key that comes before all that are asked for, and hardly any other: services begin behind a key, never with it.
fn before(from: Bound<&str>) -> String {
    match from {
        Bound::Unbounded => String::new(),
        Bound::Excluded(start) => start.to_owned(),
        Bound::Included(start) => {
            let mut chars = start.chars();
            let lower = match chars.next_back() {
                None | Some('\0') => return chars.as_str().to_owned(),
                Some('\u{e000}') => '\u{d7ff}',
                // Neither 0 nor the first one after the surrogates.
                Some(last) => char::from_u32(u32::from(last) - 1).unwrap_or('\0'),
            };
            // Behind which hardly any name goes on.
            format!("{}{lower}{}", chars.as_str(), char::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_a_key_is_close_to_it() {
        for (start, others) in
            [("films/m", ["films/l", "films/lz"]), ("a", ["`", "_z"]), ("\u{e000}", ["\u{d7ff}", "a"])]
        {
            let before = before(Bound::Included(start));
            assert!(*before < *start && others.iter().all(|other| **other < *before), "{start}: {before:?}");
        }
        assert_eq!(before(Bound::Included("")), "");
        assert_eq!(before(Bound::Included("a\0")), "a");
        assert_eq!(before(Bound::Excluded("a")), "a");
    }
}
