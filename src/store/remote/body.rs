//! The bytes of one ranged answer as they arrive, counted.
//! Never here: whether the answer is the right one; that is settled before there is a body.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use opendal::{Buffer, BufferStream};

use super::driver::Driver;
use super::fault;
use crate::error::{Error, Kind, Result};
use crate::store::{Body, Patience};

/// Invariant: bytes handed out + held in `piece` + `missing_bytes` = bytes asked for.
pub(super) struct RemoteBody {
    pub driver: Arc<Driver>,
    pub patience: Patience,
    /// Without credentials; for messages.
    pub url: String,
    pub stream: BufferStream,
    /// What came last and may be in several parts.
    pub piece: Buffer,
    /// Not yet arrived.
    pub missing_bytes: u64,
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
                Some(piece) => self.take_in(piece)?,
                None if self.missing_bytes == 0 => return Ok(None),
                None => {
                    let missing = self.missing_bytes;
                    return Err(Error::new(Kind::Unreachable, format!("{url}: ended {missing} bytes too early")));
                }
            }
        }
    }
}

impl RemoteBody {
    fn take_in(&mut self, piece: Buffer) -> Result<()> {
        let Some(missing) = self.missing_bytes.checked_sub(piece.len() as u64) else {
            return Err(Error::new(Kind::Unsupported, format!("{}: the server sends more bytes than asked", self.url)));
        };
        self.missing_bytes = missing;
        self.piece = piece;
        Ok(())
    }
}
