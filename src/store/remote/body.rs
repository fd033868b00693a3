//! The bytes of one ranged answer as they arrive, counted.
//! Never here: whether the answer is the right one; that is settled before there is a body.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use opendal::{Buffer, BufferStream, Operator};

use super::answer::Asked;
use super::connections::Connections;
use super::{Remote, fault};
use crate::error::{Error, Kind, Result};
use crate::store::driver::Driver;
use crate::store::{Body, Patience};

/// Bytes of an answer that have not arrived yet.
pub(super) struct Missing(pub u64);

impl Missing {
    /// So many have; more than are missing are an error.
    pub fn arrived(&mut self, url: &str, bytes: usize) -> Result<()> {
        let left = self.0.checked_sub(bytes as u64);
        let too_many = || Error::new(Kind::Unsupported, format!("{url}: the server sends more bytes than asked"));
        self.0 = left.ok_or_else(too_many)?;
        Ok(())
    }

    /// No more will come.
    pub fn check_end(&self, url: &str) -> Result<()> {
        match self.0 {
            0 => Ok(()),
            missing => Err(Error::new(Kind::Unreachable, format!("{url}: ended {missing} bytes too early"))),
        }
    }
}

/// The rest of an answer whose head was checked.
pub(super) struct AnswerBody {
    driver: Arc<Driver>,
    connections: Arc<Connections>,
    patience: Patience,
    /// Without credentials; for messages.
    url: String,
    response: reqwest::Response,
    missing: Missing,
}

impl AnswerBody {
    /// The body of `response`, of which `range_bytes` are due.
    pub fn new(
        remote: &Remote,
        patience: &Patience,
        url: String,
        response: reqwest::Response,
        range_bytes: u64,
    ) -> Self {
        let (driver, connections) = (Arc::clone(&remote.driver), Arc::clone(remote.connections()));
        Self { driver, connections, patience: patience.clone(), url, response, missing: Missing(range_bytes) }
    }
}

impl Body for AnswerBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        let (url, response) = (&self.url, &mut self.response);
        let next = async {
            // An empty piece says nothing.
            loop {
                match response.chunk().await.map_err(|error| fault::from_reqwest(url, &error))? {
                    Some(piece) if piece.is_empty() => {}
                    other => return Ok(other),
                }
            }
        };
        let piece = self.driver.wait(&self.patience, url, next)?;
        self.connections.heard();
        match &piece {
            Some(piece) => self.missing.arrived(url, piece.len())?,
            None => self.missing.check_end(url)?,
        }
        Ok(piece)
    }
}

/// An answer that comes through `OpenDAL`.
///
/// Invariant: bytes handed out + held in `piece` + `missing` = bytes asked for.
pub(super) struct RemoteBody {
    driver: Arc<Driver>,
    connections: Arc<Connections>,
    patience: Patience,
    /// Without credentials; for messages.
    url: String,
    stream: BufferStream,
    /// What came last and may be in several parts.
    piece: Buffer,
    missing: Missing,
}

impl RemoteBody {
    /// Sends the request that `operator` makes of it, and waits for the answer's head: what is wrong with that is known
    /// before any byte.
    pub fn open(
        remote: &Remote,
        operator: &Operator,
        path: &str,
        asked: Asked,
        patience: &Patience,
    ) -> Result<Box<dyn Body>> {
        let Asked { url, range, expected } = asked;
        let open = async {
            let mut reader = operator.reader_with(path);
            if let Some(etag) = expected.version.as_etag() {
                reader = reader.if_match(etag);
            }
            let mut stream = reader.await?.into_stream(range.start..range.end).await?;
            stream.metadata().await?;
            Ok(stream)
        };
        let open = async { open.await.map_err(|error: opendal::Error| fault::from_opendal(&url, &error)) };
        let stream = remote.driver.wait(patience, &url, open)?;
        let (driver, connections) = (Arc::clone(&remote.driver), Arc::clone(remote.connections()));
        let (patience, missing) = (patience.clone(), Missing(range.len()));
        Ok(Box::new(Self { driver, connections, patience, url, stream, piece: Buffer::new(), missing }))
    }
}

impl Body for RemoteBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            // By name: a buffer is a stream, too.
            if let Some(bytes) = Iterator::next(&mut self.piece) {
                if bytes.is_empty() {
                    continue;
                }
                return Ok(Some(bytes));
            }
            let url = &self.url;
            let stream = &mut self.stream;
            let next = async { stream.next().await.transpose().map_err(|error| fault::from_opendal(url, &error)) };
            match self.driver.wait(&self.patience, url, next)? {
                Some(piece) => {
                    self.connections.heard();
                    self.missing.arrived(url, piece.len())?;
                    self.piece = piece;
                }
                None => return self.missing.check_end(url).map(|()| None),
            }
        }
    }
}
