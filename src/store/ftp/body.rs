//! The bytes of one range of a file, as an FTP server sends them.
//! Never here: listings.
//!
//! FTP has no way to ask for bytes of one version, nor for bytes up to some end. So size and time are asked for before the
//! first byte and behind the last one, and no byte is handed out before that has proved them all; and where a range ends,
//! the transfer is closed.
//!
//! This has its price: a reader waits for the whole of a range (a chunk, as a rule) rather than for its first bytes, it is
//! held in memory until then, and what has come of one that breaks off, or is called off, has come for nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::control::{Found, unreachable};
use super::pool::{Lease, Pool};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::driver::Driver;
use crate::store::{Body, Patience, Stat};

/// Read at once, as far as it has come, and handed out at once.
const PIECE_BYTES: usize = 256 << 10;
/// The server tells the end of a transfer sooner than this, and than a part of what a silence may last, or never: then its
/// connection is given up, but not the bytes that came.
const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(2);
const FINAL_REPLY_SHARE: u32 = 4;
/// Held at once, until proved: twice a chunk of the usual size. A longer range comes in parts, each a transfer with a
/// proof of its own.
const PART_BYTES_MAX: u64 = 4 << 20;

/// A transfer under way. Invariant: there is a connection until all is over.
pub(super) struct FtpBody {
    driver: Arc<Driver>,
    pool: Arc<Pool>,
    patience: Patience,
    transfer: Option<Transfer>,
    /// Of the expected version, and not handed out yet.
    proved: Bytes,
    failure: Option<Error>,
}

/// The two connections of a transfer, what has come of a part, and what is still to come. `held`, then `left`, then
/// `rest` are without gaps.
pub(super) struct Transfer {
    lease: Lease,
    data: TcpStream,
    /// Of some version.
    held: BytesMut,
    /// Of this part.
    left: ByteRange,
    /// The parts behind it.
    rest: ByteRange,
    path: String,
    /// The source and the file, for messages.
    what: String,
    expected: Stat,
}

impl Transfer {
    /// Asks for the bytes of `range`; that the file is the expected one has been seen just now.
    pub async fn begin(mut lease: Lease, path: &str, what: &str, expected: &Stat, range: ByteRange) -> Result<Self> {
        let data = lease.send(path, range.start, what).await?;
        let (path, what, expected) = (path.to_owned(), what.to_owned(), expected.clone());
        let (left, rest) = part(range);
        Ok(Self { lease, data, held: BytesMut::new(), left, rest, path, what, expected })
    }

    /// Takes what has come.
    async fn take(&mut self) -> Result<()> {
        let wanted = self.left.len().min(PIECE_BYTES as u64);
        self.held.reserve(wanted as usize);
        let mut data = (&mut self.data).take(wanted);
        let read = data.read_buf(&mut self.held).await.map_err(|error| unreachable(&self.what, &error))?;
        if read == 0 {
            // The server may say why.
            self.lease.finish(&self.what).await?;
            return Err(Error::new(Kind::Unreachable, format!("{}: ends before byte {}", self.what, self.left.end)));
        }
        self.left.start += read as u64;
        Ok(())
    }

    /// All bytes of the part are here: is the file still the same? They, and the transfer of the next part.
    async fn end(self, pool: &Arc<Pool>, reply_timeout: Duration) -> Result<(Bytes, Option<Self>)> {
        let Self { mut lease, data, held, rest, path, what, expected, .. } = self;
        drop(data);
        let settled = tokio::time::timeout(reply_timeout, lease.settle()).await;
        if !matches!(settled, Ok(Ok(()))) {
            log::info!("{what}: the server does not tell the end of a transfer; going on over another connection");
            drop(lease);
            lease = pool.lease().await?;
        }
        check(&mut lease, &path, &what, &expected).await?;
        if rest.is_empty() {
            lease.give_back();
            return Ok((held.freeze(), None));
        }
        let next = Self::begin(lease, &path, &what, &expected, rest).await?;
        Ok((held.freeze(), Some(next)))
    }
}

/// What of a range is asked for at once, and what then.
fn part(range: ByteRange) -> (ByteRange, ByteRange) {
    let end = range.start + range.len().min(PART_BYTES_MAX);
    (ByteRange::new(range.start, end), ByteRange::new(end, range.end))
}

/// Whether the file at `path` is still the expected one.
pub(super) async fn check(lease: &mut Lease, path: &str, what: &str, expected: &Stat) -> Result<()> {
    match lease.find(path, what).await? {
        Found::File(now) if now.version == expected.version => Ok(()),
        Found::File(now) => {
            let (was, now) = (&expected.version, now.version);
            Err(Error::new(Kind::Changed, format!("{what}: the file has changed: it was {was} and is {now}")))
        }
        Found::Folder => Err(Error::new(Kind::Changed, format!("{what}: the file has become a folder"))),
    }
}

impl FtpBody {
    pub fn new(driver: &Arc<Driver>, pool: &Arc<Pool>, patience: &Patience, transfer: Transfer) -> Self {
        let (driver, pool, patience) = (Arc::clone(driver), Arc::clone(pool), patience.clone());
        Self { driver, pool, patience, transfer: Some(transfer), proved: Bytes::new(), failure: None }
    }

    /// The whole of a part, proved, and the transfer of the next one. Each wait of it has a patience of its own.
    fn part(&self, mut transfer: Transfer) -> Result<(Bytes, Option<Transfer>)> {
        let what = transfer.what.clone();
        while !transfer.left.is_empty() {
            self.driver.wait(&self.patience, &what, transfer.take())?;
        }
        let reply_timeout = FINAL_REPLY_TIMEOUT.min(self.patience.stall / FINAL_REPLY_SHARE);
        self.driver.wait(&self.patience, &what, transfer.end(&self.pool, reply_timeout))
    }
}

impl Body for FtpBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.proved.is_empty() {
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            let Some(transfer) = self.transfer.take() else { return Ok(None) };
            match self.part(transfer) {
                Ok((proved, next)) => (self.proved, self.transfer) = (proved, next),
                // Its connections are gone.
                Err(error) => {
                    self.pool.doubt(&error);
                    self.failure = Some(error.clone());
                    return Err(error);
                }
            }
        }
        let bytes = self.proved.len().min(PIECE_BYTES);
        Ok(Some(self.proved.split_to(bytes)))
    }
}

impl Drop for FtpBody {
    fn drop(&mut self) {
        if let Some(Transfer { lease, data, .. }) = self.transfer.take() {
            drop(data);
            lease.give_back_settled(&self.driver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_range_is_held_in_parts() {
        let range = |start, end| ByteRange::new(start, end);
        let max = PART_BYTES_MAX;
        assert_eq!(part(range(5, 6)), (range(5, 6), range(6, 6)));
        assert_eq!(part(range(5, 5 + max)), (range(5, 5 + max), range(5 + max, 5 + max)));
        assert_eq!(part(range(5, 6 + max)), (range(5, 5 + max), range(5 + max, 6 + max)));
    }
}
