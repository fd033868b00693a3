//! `reelfs demo`: a film that ships with the program, behind a simulated far link, on a drive of its own.
//! Never here: the server, the film and the tour (see `crate::demo`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::say;
use crate::assemble;
use crate::config::{CHUNK_TIMEOUT_SECONDS, CONNECTIONS, DIR_TTL_SECONDS, LOOKAHEAD_CHUNKS, RETRIES, THREADS};
use crate::config::{
    CacheConfig, Config, DriveConfig, FetchConfig, Fill, FilterConfig, FuseConfig, Passthrough, PlacesConfig,
    ReadConfig,
};
use crate::demo::{FILM, FILM_NAME, Link, Server, ServerConfig, tour, watch};
use crate::error::{Error, Kind, Result};
use crate::fuse::reaper::Reaper;
use crate::fuse::{mount_point, signals};
use crate::metrics::Metrics;
use crate::sys;

/// A server on the next continent, over a home's line: 40 ms there and back, 100 Mbit/s.
const LINK: Link =
    Link { round_trip: Duration::from_millis(40), rate_per_connection: None, rate_total: Some(100_000_000 / 8) };
/// The film is short: smaller chunks show more of what happens.
const CHUNK_SIZE_BYTES: u64 = 256 << 10;
/// Ten times the film.
const CACHE_SIZE_BYTES: u64 = 40 << 20;

/// Show how it works: a small film from an embedded far server, mounted, with what happens as it is read.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where to show it: an empty folder. Default: a new temporary one.
    dir: Option<PathBuf>,
    /// Take a short tour (read, seek, read again), then end.
    #[arg(long)]
    once: bool,
}

/// Runs the demo until Ctrl-C, or for one tour.
pub fn run(args: &DemoArgs) -> Result<()> {
    let scratch = Scratch::new()?;
    let wanted = args.dir.clone().map_or_else(|| scratch.folder("drive"), Ok)?;
    let mountpoint = mount_point::prepare(&wanted, false)?;
    let server = Server::start(ServerConfig { link: LINK, ..ServerConfig::default() }.file(FILM_NAME, FILM))
        .map_err(|error| Error::io("starting the far server", &error))?;
    let metrics = Arc::new(Metrics::default());
    let (ends, ended) = signals::channel();
    let mut reaper = Reaper::start(&mountpoint).inspect_err(|error| log::warn!("{error}"));
    let config = config(server.url(), mountpoint.clone(), scratch.0.join("cache"));
    let mounted = assemble::mount(&config, Arc::clone(&metrics), ends.clone())?;
    if let Ok(reaper) = &mut reaper {
        reaper.mounted();
    }
    // Nothing changes at this origin.
    signals::listen(ends, || ())?;
    let shown = if args.once {
        tour::tour(&mountpoint, FILM_NAME, FILM, &metrics, &mut io::stdout())
    } else {
        show(&mountpoint, &metrics, &ended)
    };
    mounted.unmount()?;
    drop(reaper);
    shown
}

fn show(mountpoint: &Path, metrics: &Arc<Metrics>, ended: &crossbeam_channel::Receiver<signals::End>) -> Result<()> {
    let film = mountpoint.join(FILM_NAME);
    say(&format!("a film behind {} ms and 100 Mbit/s is on {}", LINK.round_trip.as_millis(), mountpoint.display()));
    say(&format!("open it in any player, for example:  mpv {}", film.display()));
    say("what is read is shown here; Ctrl-C ends it");
    let watch = watch::Watch::start(Arc::clone(metrics), watch::TICK, io::stdout())
        .map_err(|error| Error::io("starting the display", &error))?;
    let end = ended.recv().map_err(|_| Error::new(Kind::Local, "the drive went away without a word"));
    drop(watch);
    end.map(drop)
}

fn config(source: String, mountpoint: PathBuf, cache_dir: PathBuf) -> Config {
    let (uid, gid) = sys::invoking_user();
    Config {
        source,
        places: PlacesConfig::default(),
        filter: FilterConfig::default(),
        mountpoint,
        // What a read costs is what the demo is about: none goes past the drive.
        fuse: FuseConfig {
            allow_other: false,
            threads: THREADS as usize,
            passthrough: Passthrough::Off,
            is_read_only: true,
        },
        cache: CacheConfig {
            dir: cache_dir,
            size_bytes: CACHE_SIZE_BYTES,
            min_free_bytes: 0,
            chunk_size_bytes: CHUNK_SIZE_BYTES,
        },
        fetch: FetchConfig {
            connections: CONNECTIONS as usize,
            chunk_timeout: Duration::from_secs_f64(CHUNK_TIMEOUT_SECONDS),
            retries: RETRIES,
            bandwidth_limit: None,
        },
        read: ReadConfig { lookahead_chunks: LOOKAHEAD_CHUNKS, fill: Fill::Playing, checks_whole: false },
        drive: DriveConfig { dir_ttl: Duration::from_secs_f64(DIR_TTL_SECONDS), uid, gid, umask: 0o022 },
        is_group_read: false,
        is_backed_up_daily: false,
        metrics_listen: None,
    }
}

/// A folder of the demo's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("reelfs-demo-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| Error::io(path.display(), &error))?;
        Ok(Self(path))
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path).map_err(|error| Error::io(path.display(), &error))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The drive first, as an empty folder: what is still mounted there must not be deleted through.
        let _ = fs::remove_dir(self.0.join("drive"));
        if !self.0.join("drive").exists() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
