//! The bytes of one range of a file, as an FTP server sends them.
//! Never here: listings.
//!
//! FTP has no way to ask for bytes of one version, nor for bytes up to some end. So size and time are asked for before the
//! first byte and before the last piece is handed out; and where a range ends, the transfer is closed.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::control::{Found, unreachable};
use super::pool::Lease;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::driver::Driver;
use crate::store::{Body, Patience, Stat};

/// Read at once, as far as it has come.
const PIECE_BYTES: usize = 256 << 10;

/// A transfer under way. Invariant: there is a connection until all is over.
pub(super) struct FtpBody {
    driver: Arc<Driver>,
    patience: Patience,
    transfer: Option<Transfer>,
    failure: Option<Error>,
}

/// The two connections of a transfer, and what is still to come over them.
pub(super) struct Transfer {
    lease: Lease,
    data: TcpStream,
    left: ByteRange,
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
        Ok(Self { lease, data, left: range, path, what, expected })
    }

    /// What has come.
    async fn piece(&mut self) -> Result<Bytes> {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let wanted = usize::try_from(self.left.len()).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut data = (&mut self.data).take(wanted as u64);
        data.read_buf(&mut piece).await.map_err(|error| unreachable(&self.what, &error))?;
        if piece.is_empty() {
            // The server may say why.
            self.lease.finish(&self.what).await?;
            return Err(Error::new(Kind::Unreachable, format!("{}: ends before byte {}", self.what, self.left.end)));
        }
        self.left.start += piece.len() as u64;
        Ok(piece.freeze())
    }

    /// All bytes are here: is the file still the same?
    async fn end(self) -> Result<()> {
        let Self { mut lease, data, path, what, expected, .. } = self;
        drop(data);
        lease.settle().await?;
        check(&mut lease, &path, &what, &expected).await?;
        lease.give_back();
        Ok(())
    }
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
    pub fn new(driver: &Arc<Driver>, patience: &Patience, transfer: Transfer) -> Self {
        Self { driver: Arc::clone(driver), patience: patience.clone(), transfer: Some(transfer), failure: None }
    }
}

impl Body for FtpBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let Some(mut transfer) = self.transfer.take() else { return Ok(None) };
        let what = transfer.what.clone();
        let next = async {
            let piece = transfer.piece().await?;
            if transfer.left.is_empty() {
                transfer.end().await?;
                return Ok((piece, None));
            }
            Ok((piece, Some(transfer)))
        };
        match self.driver.wait(&self.patience, what, next) {
            Ok((piece, transfer)) => {
                self.transfer = transfer;
                Ok(Some(piece))
            }
            // Its connections are gone.
            Err(error) => {
                self.failure = Some(error.clone());
                Err(error)
            }
        }
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
