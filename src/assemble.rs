//! From a checked configuration to running parts: the one file that names concrete types.
//! Never here: flags, printing, and any work of the parts themselves.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::cache::{self, Cache};
use crate::config::Config;
use crate::control::{self, Control, Exporter};
use crate::drive::{Drive, Writable};
use crate::error::{Error, Result};
use crate::fetch::Fetcher;
use crate::fuse::session::Session;
use crate::fuse::signals::End;
use crate::library::catalog;
use crate::metrics::Metrics;
use crate::modes::Modes;
use crate::origin::Origin;
use crate::origin::breaker::Breaker;
use crate::origin::filter::{self, Filtered, Rules};
use crate::origin::library::Kept;
use crate::origin::linked::Linked;
use crate::origin::source::Source;
use crate::read::Reader;
use crate::retry::Retry;
use crate::sys;
use crate::volume::Volume;

/// A drive in its place, served by its own threads. Dropping it unmounts, too, and keeps errors to itself.
pub struct Mounted {
    // First, so that nobody is answered any longer when the rest ends.
    told: Told,
    session: Session,
    cache: Arc<Cache>,
    drive: Arc<Drive>,
    absence: Option<Error>,
    source: String,
}

impl Mounted {
    /// The source as it may be shown, without credentials.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where figures are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.told.metrics_address()
    }

    /// Why the source could not be asked, if the drive began with what an earlier run knew of it.
    pub fn absence(&self) -> Option<&Error> {
        self.absence.as_ref()
    }

    /// For whoever wants everything asked for anew.
    pub fn drive(&self) -> &Arc<Drive> {
        &self.drive
    }

    /// Takes the drive off its mount point, if it is still there, and ends its threads. What was fetched is recorded.
    pub fn unmount(self) -> Result<()> {
        self.told.end();
        let unmounted = self.session.unmount();
        self.cache.flush();
        unmounted
    }
}

/// Mounts what `config` describes and returns once the drive answers. `ends` is told `Unmounted` when somebody takes the
/// drive off from outside.
pub fn mount(config: &Config, metrics: Arc<Metrics>, ends: Sender<End>) -> Result<Mounted> {
    // Each file that is open on the drive is open in the cache, too.
    sys::raise_open_files_limit();
    sys::keep_allocator_lean();
    let source = Source::parse(&config.source)?;
    let library = match &source {
        Source::Library(address) => Some(Arc::new(Kept::new(address, &config.places))),
        _ => None,
    };
    let origin = match &library {
        Some(library) => Arc::clone(library) as Arc<dyn Origin>,
        None => Arc::new(Linked::new(source.open(&config.places)?)),
    };
    let filtered = config.filter.is_given().then(|| Rules::new(&config.filter)).transpose()?;
    let filtered = filtered.map(|rules| Arc::new(Filtered::new(Arc::clone(&origin), rules)));
    let origin = filtered.clone().map_or(origin, |filtered| filtered as Arc<dyn Origin>);
    let breaker = Arc::new(Breaker::start(origin, config.fetch.chunk_timeout, Arc::clone(&metrics))?);
    let origin = Arc::clone(&breaker) as Arc<dyn Origin>;
    // One that is taken is told before anything is mounted.
    let metrics_listener = config.metrics_listen.map(Exporter::listen).transpose()?;
    let cache_was_there = config.cache.dir.exists();
    if config.is_group_read && !cache_was_there {
        // The folders above it, too, are made for the group to pass through.
        cache::make_folder(&config.cache.dir, Modes::GROUP_READ)?;
    }
    // However the source was written, what was kept of it is found again.
    let kept_as = source.canonical(&|name| std::env::var_os(name)).located(&config.places.s3);
    let view = filter::view(&config.filter, config.places.links);
    let cache = Arc::new(Cache::open_view(&config.cache, &kept_as, view.as_deref(), Arc::clone(&metrics))?);
    let made = MadeCache((!cache_was_there).then(|| Arc::clone(&cache)));
    open_to_group(&config.cache.dir, config.is_group_read)?;
    let library = library.filter(|_| !config.fuse.is_read_only);
    let writable = library.map(|library| Writable::new(library, &config.cache.dir)).transpose()?;
    let drive = Arc::new(drive(config, &origin, &cache, Arc::clone(&metrics), writable)?);
    // A source nobody knows that can't be listed is a mistake in the command more often than a passing fault: say so
    // before mounting.
    let absence = drive.begin()?;
    filtered.map_or(Ok(()), |filtered| filtered.check_shows())?;
    if let Some(absence) = &absence {
        breaker.found_away(absence);
    }
    origin.warm(Duration::ZERO);
    let ended = move || {
        // Full: the mount is ending already.
        let _ = ends.try_send(End::Unmounted);
    };
    let session = Session::mount(&drive, &config.mountpoint, &config.fuse, ended)?;
    let mount = control::Mount {
        mountpoint: config.mountpoint.clone(),
        served: control::Served::Drive { drive: Arc::clone(&drive), cache: Arc::clone(&cache), metrics },
        since: Instant::now(),
    };
    let told = Told::start(mount, metrics_listener)?;
    made.keep();
    Ok(Mounted { told, session, cache, drive, absence, source: origin.describe().to_owned() })
}

/// The cache that a mount makes: a mount that fails leaves none behind. Declared before the drive, so that the drive, which
/// writes in it, is dropped first.
struct MadeCache(Option<Arc<Cache>>);

impl MadeCache {
    /// The mount is there.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for MadeCache {
    fn drop(&mut self) {
        if let Some(cache) = &self.0 {
            cache.abandon();
        }
    }
}

/// How a mount tells what it does.
struct Told {
    control: Option<Control>,
    exporter: Option<Exporter>,
}

impl Told {
    fn start(mount: control::Mount, metrics_listener: Option<TcpListener>) -> Result<Self> {
        let mount = Arc::new(mount);
        // The films play without it.
        let control = Control::start(Arc::clone(&mount))
            .inspect_err(|error| log::warn!("{error}: `reelfs status` will not see this mount"))
            .ok();
        let exporter = metrics_listener.map(|listener| Exporter::start(listener, mount)).transpose()?;
        Ok(Self { control, exporter })
    }

    /// Ends both.
    fn end(self) {
        drop((self.control, self.exporter));
    }

    /// Where figures are served, if they are.
    fn metrics_address(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(Exporter::address)
    }
}

/// A library in its place, served by its own threads. Dropping it unmounts, too, and keeps errors to itself.
pub struct MountedVolume {
    // First, so that nobody is answered any longer when the rest ends.
    told: Told,
    session: Session,
    volume: Arc<Volume>,
}

impl MountedVolume {
    /// Whether nothing may be changed on it.
    pub fn is_read_only(&self) -> bool {
        self.volume.is_read_only()
    }

    /// Where figures are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.told.metrics_address()
    }

    /// Takes the volume off its mount point, if it is still there. What was written is committed.
    pub fn unmount(self) -> Result<()> {
        self.told.end();
        let unmounted = self.session.unmount();
        let committed = self.volume.wind_down();
        unmounted.and(committed)
    }
}

/// Mounts the library in `dir`, as `config` tells how, and returns once it answers. `ends` is told `Unmounted` when
/// somebody takes it off from outside.
pub fn mount_volume(config: &Config, dir: &Path, ends: Sender<End>) -> Result<MountedVolume> {
    sys::raise_open_files_limit();
    sys::keep_allocator_lean();
    // What `reelfs init --group-read` gave stays.
    if config.is_group_read {
        catalog::set_group_read(dir)?;
    }
    // One that is taken is told before anything is mounted.
    let metrics_listener = config.metrics_listen.map(Exporter::listen).transpose()?;
    let volume = Arc::new(Volume::open(dir, config.fuse.is_read_only)?);
    if config.is_backed_up_daily && !volume.is_read_only() {
        volume.back_up_daily()?;
    }
    let ended = move || {
        // Full: the mount is ending already.
        let _ = ends.try_send(End::Unmounted);
    };
    let session = Session::mount_volume(&volume, &config.source, &config.mountpoint, &config.fuse, ended)?;
    let mount = control::Mount {
        mountpoint: config.mountpoint.clone(),
        served: control::Served::Volume { volume: Arc::clone(&volume), source: config.source.clone() },
        since: Instant::now(),
    };
    let told = Told::start(mount, metrics_listener)?;
    Ok(MountedVolume { told, session, volume })
}

/// A folder of a filesystem without modes stays as it is.
fn open_to_group(dir: &Path, is_read: bool) -> Result<()> {
    match cache::set_group_read(dir, is_read) {
        Err(error) if is_read => Err(Error::io(format!("opening {} to its group", dir.display()), &error)),
        Err(error) => {
            log::debug!("{}: {error}", dir.display());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Everything above the cache and below the kernel.
fn drive(
    config: &Config,
    origin: &Arc<dyn Origin>,
    cache: &Arc<Cache>,
    metrics: Arc<Metrics>,
    writable: Option<Writable>,
) -> Result<Drive> {
    let fetch = &config.fetch;
    let retry = Arc::new(Retry::new(fetch.retries, Arc::clone(&metrics)));
    let fetcher = Fetcher::start(
        Arc::clone(origin),
        Arc::clone(cache),
        fetch,
        config.cache.chunk_size_bytes,
        Arc::clone(&retry),
        Arc::clone(&metrics),
    )?;
    let reader = Reader::start(Arc::clone(cache), fetcher, &config.read, fetch.chunk_timeout, metrics)?;
    Drive::start(Arc::clone(origin), Arc::clone(cache), reader, &config.drive, (fetch.chunk_timeout, retry), writable)
}
