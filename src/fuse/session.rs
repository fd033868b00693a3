//! A drive or a volume in its place: mounting, the threads that serve the kernel, and taking it off again.
//! Never here: whether the mount point is fit (see `mount_point`), and what requests mean (see `adapter` and `volume_adapter`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Filesystem, INodeNo, MountOption, Notifier, SessionACL};

use super::adapter::Adapter;
use super::mount_point;
use super::mount_table::{SUBTYPE, escape_fsname};
use super::volume_adapter::VolumeAdapter;
use super::{passthrough, readahead};
use crate::config::{FuseConfig, Passthrough};
use crate::drive::Drive;
use crate::error::{Error, Result};
use crate::volume::Volume;

/// How long the threads may take to end after the drive is off: what is left then ends with the process.
const FAREWELL_MAX: Duration = Duration::from_secs(3);
/// How often it is looked whether they have.
const FAREWELL_TICK: Duration = Duration::from_millis(5);

/// A mounted drive.
#[derive(Debug)]
pub struct Session {
    // Taken when it ends.
    background: Option<BackgroundSession>,
    mountpoint: PathBuf,
}

impl Session {
    /// Mounts `drive` on `mountpoint` (absolute, links resolved) and serves it as `how` tells. `ended` is called when the kernel has let go of it, whoever unmounted it.
    pub fn mount(
        drive: &Arc<Drive>,
        mountpoint: &Path,
        how: &FuseConfig,
        ended: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let lends = match how.passthrough {
            Passthrough::Auto if passthrough::is_privileged() => true,
            Passthrough::Auto => {
                log::info!("passthrough: off, only root may have the kernel read cached files by itself");
                false
            }
            Passthrough::Off => false,
        };
        let adapter = Adapter::new(Arc::clone(drive), lends, ended);
        let notifier = adapter.notifier();
        Self::begin(adapter, mountpoint, (drive.source(), !drive.is_writable()), how, |session| {
            // Once: there is one session.
            let _ = notifier.set(session);
            Ok(())
        })
    }

    /// Mounts `volume`, shown as `source`, in the same way; one that is open for reading only is mounted so.
    pub fn mount_volume(
        volume: &Arc<Volume>,
        source: &str,
        mountpoint: &Path,
        how: &FuseConfig,
        ended: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let adapter = VolumeAdapter::new(Arc::clone(volume), ended);
        Self::begin(adapter, mountpoint, (source, volume.is_read_only()), how, |session| {
            let lost = volume.lost();
            tell_kernel(move || lost.iter().for_each(|node| forget_attributes(&session, node)))
        })
    }

    /// Mounts what `adapter` answers for. `ready` is told how to speak to the kernel, before it asks anything.
    fn begin(
        adapter: impl Filesystem,
        mountpoint: &Path,
        (source, is_read_only): (&str, bool),
        how: &FuseConfig,
        ready: impl FnOnce(Notifier) -> Result<()>,
    ) -> Result<Self> {
        let mut config = fuser::Config::default();
        config.mount_options = vec![
            if is_read_only { MountOption::RO } else { MountOption::RW },
            // The kernel checks the mode bits, so that the adapters need not.
            MountOption::DefaultPermissions,
            MountOption::FSName(escape_fsname(source)),
            // As an option of the kernel's own: fuser passes its `Subtype` only to fusermount3.
            MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
        ];
        config.acl = if how.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(how.threads.max(1));
        // A queue of its own for each thread.
        config.clone_fd = true;
        let cannot = |error: std::io::Error| Error::io(format!("cannot mount on {}", mountpoint.display()), &error);
        let session = fuser::Session::new(adapter, mountpoint, &config).map_err(cannot)?;
        ready(session.notifier())?;
        let background = session.spawn().map_err(cannot)?;
        readahead::raise(mountpoint);
        Ok(Self { background: Some(background), mountpoint: mountpoint.to_owned() })
    }

    /// Takes the drive off, if it is still there; lazily if it is in use. Waits for its threads, but not for ever.
    pub fn unmount(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(background) = self.background.take() else { return Ok(()) };
        let unmounted = if background.guard.is_finished() {
            Ok(())
        } else {
            mount_point::unmount(&self.mountpoint, false)
                .or_else(|_| mount_point::unmount(&self.mountpoint, true))
                // Somebody else may have been faster.
                .or_else(
                    |error| if mount_point::is_dead_mount_of_ours(&self.mountpoint)? { Err(error) } else { Ok(()) },
                )
        };
        let begun = Instant::now();
        while !background.guard.is_finished() && begun.elapsed() < FAREWELL_MAX {
            thread::sleep(FAREWELL_TICK);
        }
        // fuser 0.18 would unmount whatever is mounted there by now, ours or a newer one.
        std::mem::forget(background);
        unmounted
    }
}

/// Runs `work`, which tells the kernel something unasked, on a thread of its own.
///
/// A thread that tells the kernel something must not wait there for a lock that a request to the drive may hold: SIGKILL does not
/// end such a wait, the process would keep `/dev/fuse` open, and every program on the drive would hang for ever. So names are
/// never told (`FUSE_NOTIFY_INVAL_ENTRY` and `_DELETE` take the folder's lock), nor that pages are to go (their locks are held
/// while they are read): names are forgotten by time, pages at the next open.
fn tell_kernel(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = thread::Builder::new().name("tell-kernel".into()).spawn(work);
    started.map(drop).map_err(|error| Error::io("starting a thread", &error))
}

/// Has the kernel ask for a node's attributes anew. A negative offset leaves the pages alone, and so takes no lock but a short one.
fn forget_attributes(session: &Notifier, node: u64) {
    if let Err(error) = session.inval_inode(INodeNo(node), -1, 0) {
        log::debug!("the kernel was not told that the attributes of node {node} have changed: {error}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::warn!("{error}");
        }
    }
}
