//! The options of a mount: first as typed, then as meant (`config::Config`).
//! Never here: defaults' values and reasons beyond their text; `config` has them, and a test holds the two together.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use url::Url;

use super::cache_dir;
use super::filter_options::FilterOptions;
use super::values::{parse_group, parse_seconds, parse_timeout, parse_user};
use super::web_options::WebOptions;
use crate::config::{
    CacheConfig, Config, DriveConfig, FetchConfig, Fill, FuseConfig, Links, Passthrough, PlacesConfig, ReadConfig,
    S3Config, parse_listen, parse_rate, parse_size,
};
use crate::error::{Error, Kind, Result};
use crate::fuse::passthrough::is_privileged;
use crate::origin::source::Source;
use crate::sys;

/// No server can be asked to bear more from one viewer.
const CONNECTIONS_MAX: i64 = 64;

/// More only wait for each other: none of them does long work.
const THREADS_MAX: i64 = 64;

/// 8 GiB at the usual chunk size: beyond that it is `--fill` that is wanted.
const LOOKAHEAD_CHUNKS_MAX: i64 = 4096;

/// With back-off, a read that would be asked more often has met its deadline long before.
const RETRIES_MAX: i64 = 20;

/// All permission bits there are for a umask.
const UMASK_MAX: u32 = 0o777;

/// Where AWS's own programs look for a server that is not Amazon's, and for a region, in this order.
const S3_ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
const S3_REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// Asks for a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// All options of a mount, as typed.
#[derive(Debug, Args)]
pub struct MountOptions {
    #[command(flatten)]
    cache: CacheOptions,
    #[command(flatten)]
    read: ReadOptions,
    #[command(flatten)]
    fetch: FetchOptions,
    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    web: WebOptions,
    #[command(flatten)]
    s3: S3Options,
    #[command(flatten)]
    sftp: SftpOptions,
    #[command(flatten)]
    drive: DriveOptions,
    #[command(flatten)]
    watch: WatchOptions,
}

/// Which cache directory. Shared with the `cache` commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheDirOption {
    /// The cache directory itself, taken as given. Default: a folder for each source, so that several mounts live side by
    /// side, below `$CACHE_DIRECTORY` (systemd), else `$XDG_CACHE_HOME/reelfs`, else `~/.cache/reelfs`.
    #[arg(long, value_name = "DIR", env = "REELFS_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
struct CacheOptions {
    #[command(flatten)]
    dir: CacheDirOption,
    /// Most bytes of film kept on disk, never exceeded; at least 16 chunks. 10GiB are two or three films.
    #[arg(long, value_name = "SIZE", env = "REELFS_CACHE_SIZE", default_value = "10GiB", value_parser = parse_size)]
    cache_size: u64,
    /// Bytes left free for others on the cache's disk; below that, films are served and not kept.
    #[arg(long, value_name = "SIZE", env = "REELFS_MIN_FREE", default_value = "512MiB", value_parser = parse_size)]
    min_free: u64,
    /// Bytes fetched, hashed and evicted as one, a multiple of 64KiB up to 64MiB. 2MiB are a second or two of film: little
    /// is lost on a seek, and a round trip is short beside it.
    #[arg(long, value_name = "SIZE", env = "REELFS_CHUNK_SIZE", default_value = "2MiB", value_parser = parse_size)]
    chunk_size: u64,
    /// Let your group read what is kept: folders are 0750 and files 0640 then, of the cache, or of the library that is mounted
    /// from this machine. Default: they are yours alone, 0700 and 0600, whatever the umask.
    #[arg(long, env = "REELFS_GROUP_READ", value_parser = BoolishValueParser::new())]
    group_read: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Reading ahead")]
struct ReadOptions {
    /// Most chunks fetched ahead of a player, 0 for none. 20 of 2MiB are half a minute of a 10 Mbit/s film.
    #[arg(
        long, value_name = "N", env = "REELFS_LOOKAHEAD_CHUNKS", default_value = "20",
        value_parser = clap::value_parser!(u32).range(0..=LOOKAHEAD_CHUNKS_MAX),
    )]
    lookahead_chunks: u32,
    /// Whether the rest of a film that is really being played is fetched while nothing else wants the link; `never` on a
    /// link that is paid by the byte.
    #[arg(long, env = "REELFS_FILL", value_enum, default_value = "playing")]
    fill: FillOption,
}

/// `config::Fill`, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FillOption {
    Playing,
    Never,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The far side")]
struct FetchOptions {
    /// Most requests under way at once, 1 to 64. 10 fill a long link, and a home server does not mind; fewer are used
    /// where more do not help.
    #[arg(
        long, value_name = "N", env = "REELFS_CONNECTIONS", default_value = "10",
        value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX),
    )]
    connections: u32,
    /// Time after which a read ends, with its bytes or with an error: seconds, or 500ms, 1m. Players give up at about 10 s, too.
    #[arg(
        long, value_name = "TIME", env = "REELFS_CHUNK_TIMEOUT", default_value = "10", value_parser = parse_timeout,
    )]
    chunk_timeout: Duration,
    /// Times a request that no reader waits for is made again after a failure that may pass, 0 to 20. What a reader waits for
    /// is asked for again until --chunk-timeout; with 0 nothing is.
    #[arg(
        long, value_name = "N", env = "REELFS_RETRIES", default_value = "3",
        value_parser = clap::value_parser!(u32).range(0..=RETRIES_MAX),
    )]
    retries: u32,
    /// Most that may come from the far side, all films together: 20Mbit/s, 2.5MB/s, 2MiB/s, or bytes a second. What is read
    /// goes before what is only fetched ahead; what is cached is not slowed. Default: no limit.
    #[arg(long, value_name = "RATE", env = "REELFS_BANDWIDTH_LIMIT", value_parser = parse_rate)]
    bandwidth_limit: Option<u64>,
    /// Largest file that is read whole from a web server that ignores Range requests, such as Python's: it comes into memory,
    /// two such files at once, and from there into the cache. A larger one can't be read. 0: none is.
    #[arg(long, value_name = "SIZE", env = "REELFS_WHOLE_FILE_MAX", default_value = "64MiB", value_parser = parse_size)]
    whole_file_max: u64,
}

/// Which server a bucket is at. Shared with the `cache` commands: buckets of one name at two servers have two caches.
#[derive(Debug, Args)]
#[command(next_help_heading = "Buckets (s3://)")]
pub struct S3EndpointOption {
    /// Where buckets are, if not at Amazon: the URL of a server that speaks S3. Default: `AWS_ENDPOINT_URL_S3` or
    /// `AWS_ENDPOINT_URL`.
    #[arg(long, value_name = "URL", env = "REELFS_S3_ENDPOINT")]
    // Parsed by us: clap repeats what it refuses, and there may be keys in it.
    s3_endpoint: Option<String>,
}

impl S3EndpointOption {
    /// The server's URL; `None` for Amazon's.
    pub fn endpoint(self, env: Env) -> Result<Option<String>> {
        if let Some(url) = self.s3_endpoint {
            return parse_endpoint(&url).map(Some);
        }
        let set = S3_ENDPOINT_VARIABLES.iter().find_map(|name| env(name).filter(|value| !value.is_empty()));
        set.map(|url| parse_endpoint(&url.to_string_lossy())).transpose()
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Buckets (s3://)")]
pub struct S3Options {
    #[command(flatten)]
    endpoint: S3EndpointOption,
    /// The region requests are signed for. Default: `AWS_REGION`, else us-east-1.
    #[arg(id = "s3_region", long = "s3-region", value_name = "REGION", env = "REELFS_S3_REGION")]
    region: Option<String>,
    /// At Amazon: put the bucket's name in the path and not in the host's name. Other servers get it so anyway.
    #[arg(id = "s3_path_style", long = "s3-path-style", env = "REELFS_S3_PATH_STYLE", value_parser = BoolishValueParser::new())]
    path_style: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "SFTP (sftp://)")]
struct SftpOptions {
    /// The program that logs in, with options of its own: `ssh -i KEY`, `ssh -F FILE`. Default: your ssh, with your keys,
    /// agent, known hosts and ~/.ssh/config. It must never ask for anything.
    #[arg(long, value_name = "COMMAND", env = "REELFS_SSH_COMMAND", default_value = "ssh")]
    ssh_command: String,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The drive")]
struct DriveOptions {
    /// Which symbolic links of a folder of this machine, or over SFTP, are followed: all, those whose target lies inside the
    /// source, or none. The others are not shown; one that leads back to a folder that it lies in never is.
    #[arg(long, env = "REELFS_LINKS", value_enum, default_value = "follow")]
    links: LinksOption,
    /// How long a listing is fresh, in seconds, or 5m, 1h 30m; 0 to ask every time. An older one is shown, and refreshed behind it.
    #[arg(long, value_name = "TIME", env = "REELFS_DIR_TTL", default_value = "60", value_parser = parse_seconds)]
    dir_ttl: Duration,
    /// Owner of every file, by name or number. Default: the user who mounts, for whom the drive is.
    #[arg(long, value_name = "USER", env = "REELFS_UID", value_parser = parse_user)]
    uid: Option<u32>,
    /// Group of every file, by name or number. Default: the group of the user who mounts, like a file they make.
    #[arg(long, value_name = "GROUP", env = "REELFS_GID", value_parser = parse_group)]
    gid: Option<u32>,
    /// Octal permission bits taken from every file. 022 lets all read, and the owner write where that can be done.
    #[arg(long, value_name = "OCTAL", env = "REELFS_UMASK", default_value = "022", value_parser = parse_umask)]
    umask: u32,
    /// Change nothing, also in a library (`library:/path`, kv+…), which is mounted read-write otherwise. One on this machine may
    /// then be written to by another process. Everything else is read-only anyway.
    #[arg(long, env = "REELFS_READ_ONLY", value_parser = BoolishValueParser::new())]
    read_only: bool,
    /// Let other users enter the drive, a media server for example. Default: only who mounts, as FUSE has it. Needs
    /// `user_allow_other` in /etc/fuse.conf, unless root mounts.
    #[arg(long, env = "REELFS_ALLOW_OTHER", value_parser = BoolishValueParser::new())]
    allow_other: bool,
    /// Threads that take requests from the kernel, 1 to 64. 4 are enough: none of them waits for the far side.
    #[arg(
        long, value_name = "N", env = "REELFS_THREADS", default_value = "4",
        value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX),
    )]
    threads: u32,
    /// Copy the catalog of a library on this machine once a day, into `backups` in its folder; the newest seven stay. What
    /// `reelfs verify --salvage` can't read of a damaged catalog it takes from there.
    #[arg(long, env = "REELFS_BACKUP_DAILY", value_parser = BoolishValueParser::new())]
    backup_daily: bool,
    /// Whether the kernel reads a file that is wholly cached by itself, as fast as the disk. `auto`: where it can (Linux
    /// 6.9) and reelfs may (as root); said in the log.
    #[arg(long, env = "REELFS_PASSTHROUGH", value_enum, default_value = "auto")]
    passthrough: PassthroughOption,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Watching it")]
struct WatchOptions {
    /// Serve figures for Prometheus at this address, as the page /metrics. A bare port, like 9100, listens on this machine only; any other
    /// address is taken as given, and whoever reaches it may read them. Default: no such page.
    #[arg(long, value_name = "ADDR", env = "REELFS_METRICS_LISTEN", value_parser = parse_listen)]
    metrics_listen: Option<SocketAddr>,
}

/// `config::Links`, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LinksOption {
    Follow,
    FollowInside,
    Skip,
}

/// `config::Passthrough`, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PassthroughOption {
    Auto,
    Off,
}

impl MountOptions {
    /// What was typed, as it is meant; `env` tells where caches live by default.
    pub fn into_config(self, source: String, mountpoint: PathBuf, env: Env) -> Result<Config> {
        let Self { cache, read, fetch, filter, web, s3, sftp, drive, watch } = self;
        let (uid, gid) = sys::invoking_user();
        let parsed = Source::parse(&source)?;
        let s3 = s3.into_config(env)?;
        let connections = parsed.connections(fetch.connections as usize);
        let dir = match cache.dir.cache_dir {
            Some(dir) => dir,
            None => cache_dir::of_source(&parsed, &s3, env)?,
        };
        let is_group_read = cache.group_read;
        let cache = CacheConfig {
            dir,
            size_bytes: cache.cache_size,
            min_free_bytes: cache.min_free,
            chunk_size_bytes: cache.chunk_size,
        };
        cache.check()?;
        let filter = filter.into_config()?;
        if filter.is_given() && matches!(parsed, Source::Library(_)) && !drive.read_only {
            let told = "filters show a part of a library, which could then be written to without being seen whole: add --read-only";
            return Err(Error::new(Kind::Invalid, told));
        }
        Ok(Config {
            source,
            filter,
            places: PlacesConfig {
                s3,
                web: web.into_config()?,
                ssh_command: parse_command(&sftp.ssh_command)?,
                connections,
                answer_timeout: fetch.chunk_timeout,
                whole_file_max_bytes: fetch.whole_file_max,
                links: match drive.links {
                    LinksOption::Follow => Links::Follow,
                    LinksOption::FollowInside => Links::FollowInside,
                    LinksOption::Skip => Links::Skip,
                },
            },
            mountpoint,
            fuse: FuseConfig {
                allow_other: drive.allow_other,
                threads: drive.threads as usize,
                passthrough: match drive.passthrough {
                    PassthroughOption::Auto => Passthrough::Auto,
                    PassthroughOption::Off => Passthrough::Off,
                },
                is_read_only: drive.read_only,
            },
            cache,
            fetch: FetchConfig {
                connections,
                chunk_timeout: fetch.chunk_timeout,
                retries: fetch.retries,
                bandwidth_limit: fetch.bandwidth_limit,
            },
            read: ReadConfig {
                lookahead_chunks: read.lookahead_chunks,
                fill: match read.fill {
                    FillOption::Playing => Fill::Playing,
                    FillOption::Never => Fill::Never,
                },
                checks_whole: drive.passthrough == PassthroughOption::Auto && is_privileged(),
            },
            drive: DriveConfig {
                dir_ttl: drive.dir_ttl,
                uid: drive.uid.unwrap_or(uid),
                gid: drive.gid.unwrap_or(gid),
                umask: drive.umask,
            },
            is_group_read,
            is_backed_up_daily: drive.backup_daily,
            metrics_listen: watch.metrics_listen,
        })
    }
}

impl S3Options {
    /// With what the environment says where nothing was typed.
    pub fn into_config(self, env: Env) -> Result<S3Config> {
        let set = |name: &&str| env(name).map(|value| value.to_string_lossy().into_owned());
        let region = self.region.or_else(|| S3_REGION_VARIABLES.iter().find_map(set)).filter(|name| !name.is_empty());
        Ok(S3Config { endpoint: self.endpoint.endpoint(env)?, region, path_style: self.path_style })
    }
}

/// `http://host:9000`, without a slash at its end: one server, one text.
fn parse_endpoint(text: &str) -> Result<String> {
    let bad = |why: &str| Error::new(Kind::Invalid, format!("{why}: give the server's URL, like http://host:9000"));
    let url = Url::parse(text).map_err(|error| bad(&format!("the S3 endpoint can't be read ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("the S3 endpoint is no http:// or https:// URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("the S3 endpoint takes no keys"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Words as a shell would part them.
fn parse_command(text: &str) -> Result<Vec<String>> {
    shlex::split(text).filter(|words| !words.is_empty()).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("`{text}` is no command: write it as in a shell, like `ssh -i KEY`"))
    })
}

/// `022`, `0o22`: octal, as `umask` prints it.
fn parse_umask(text: &str) -> Result<u32> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0o").unwrap_or(digits);
    // The parser of numbers would take a sign, too.
    let is_octal = digits.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(digits, 8).ok().filter(|bits| is_octal && *bits <= UMASK_MAX).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("`{text}` is not a umask: write it in octal, like 022, up to {UMASK_MAX:o}"))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: MountOptions,
    }

    fn meant(typed: &[&str]) -> std::result::Result<Config, String> {
        let line = Line::try_parse_from([&["mount"], typed].concat()).map_err(|error| error.to_string())?;
        let env = |name: &str| (name == "HOME").then(|| "/home/me".into());
        line.options.into_config("/srv/films".into(), "/mnt".into(), &env).map_err(|error| error.to_string())
    }

    #[test]
    fn the_texts_and_the_constants_agree() {
        let config = meant(&[]).unwrap();
        assert_eq!(config.cache.size_bytes, config::CACHE_SIZE_BYTES);
        assert_eq!(config.cache.min_free_bytes, config::MIN_FREE_BYTES);
        assert_eq!(config.cache.chunk_size_bytes, config::CHUNK_SIZE_BYTES);
        assert_eq!(config.read.lookahead_chunks, config::LOOKAHEAD_CHUNKS);
        assert_eq!(config.read.fill, Fill::Playing);
        assert_eq!(config.fetch.connections, config::CONNECTIONS as usize);
        assert_eq!(config.places.connections, PlacesConfig::default().connections);
        assert_eq!(config.places.whole_file_max_bytes, config::WHOLE_FILE_MAX_BYTES);
        assert_eq!((config.places.links, config.filter.is_given()), (Links::Follow, false));
        assert_eq!(config.places.ssh_command, PlacesConfig::default().ssh_command);
        assert_eq!(config.fetch.chunk_timeout, Duration::from_secs_f64(config::CHUNK_TIMEOUT_SECONDS));
        assert_eq!((config.fetch.retries, config.fetch.bandwidth_limit), (config::RETRIES, None));
        assert_eq!(config.drive.dir_ttl, Duration::from_secs_f64(config::DIR_TTL_SECONDS));
        assert_eq!((config.drive.uid, config.drive.gid), sys::invoking_user());
        assert_eq!(config.drive.umask, 0o022);
        assert_eq!(config.fuse.threads, config::THREADS as usize);
        assert!(!config.fuse.allow_other);
        assert_eq!(config.metrics_listen, None);
        assert_eq!((config.fuse.passthrough, config.read.checks_whole), (Passthrough::Auto, is_privileged()));
        assert!(config.cache.dir.starts_with("/home/me/.cache/reelfs"));
        assert_eq!(
            (config.places.s3.endpoint, config.places.s3.region, config.places.s3.path_style),
            (None, None, false)
        );
    }

    #[test]
    fn each_option_reaches_its_place() {
        let config = meant(&[
            "--cache-dir=c",
            "--cache-size=500MB",
            "--min-free=0",
            "--chunk-size=1MiB",
            "--lookahead-chunks=0",
            "--fill=never",
            "--connections=2",
            "--whole-file-max=5MiB",
            "--chunk-timeout=0.5",
            "--retries=0",
            "--bandwidth-limit=20Mbit/s",
            "--dir-ttl=0",
            "--uid=7",
            "--gid=8",
            "--umask=077",
            "--allow-other",
            "--threads=1",
            "--passthrough=off",
            "--s3-endpoint=http://host:9000/",
            "--s3-region=here",
            "--s3-path-style",
            "--metrics-listen=:9100",
            "--ssh-command=ssh -i 'my key'",
            "--links=follow-inside",
            "--media-only",
        ])
        .unwrap();
        assert_eq!(config.places.ssh_command, ["ssh", "-i", "my key"]);
        assert_eq!(config.places.links, Links::FollowInside);
        assert!(config.filter.is_media_only);
        assert_eq!(config.places.connections, 2);
        assert_eq!(config.places.whole_file_max_bytes, 5 << 20);
        assert_eq!(config.cache.dir, PathBuf::from("c"));
        assert_eq!((config.cache.size_bytes, config.cache.min_free_bytes), (500_000_000, 0));
        assert_eq!(config.cache.chunk_size_bytes, 1 << 20);
        assert_eq!((config.read.lookahead_chunks, config.read.fill), (0, Fill::Never));
        assert_eq!((config.fetch.connections, config.fetch.retries), (2, 0));
        assert_eq!(config.fetch.bandwidth_limit, Some(2_500_000));
        assert_eq!(config.fetch.chunk_timeout, Duration::from_millis(500));
        assert_eq!(config.drive.dir_ttl, Duration::ZERO);
        assert_eq!((config.drive.uid, config.drive.gid, config.drive.umask), (7, 8, 0o077));
        assert!(config.fuse.allow_other);
        assert_eq!(config.fuse.threads, 1);
        assert_eq!(config.metrics_listen, Some(([127, 0, 0, 1], 9100).into()));
        assert_eq!((config.fuse.passthrough, config.read.checks_whole), (Passthrough::Off, false));
        assert_eq!(config.places.s3.endpoint.as_deref(), Some("http://host:9000"));
        assert_eq!((config.places.s3.region.as_deref(), config.places.s3.path_style), (Some("here"), true));
    }

    #[test]
    fn buckets_are_where_the_environment_says_unless_told() {
        let set = |name: &str| {
            let value = match name {
                "AWS_ENDPOINT_URL" => "http://both/",
                "AWS_ENDPOINT_URL_S3" => "http://buckets/",
                "AWS_DEFAULT_REGION" => "there",
                _ => return None,
            };
            Some(value.into())
        };
        let meant = |typed: &[&str]| {
            let line = Line::try_parse_from([&["mount", "--cache-dir=c"], typed].concat()).unwrap();
            line.options.into_config("s3://films".into(), "/mnt".into(), &set).unwrap().places.s3
        };
        let found = meant(&[]);
        assert_eq!((found.endpoint.as_deref(), found.region.as_deref()), (Some("http://buckets"), Some("there")));
        let told = meant(&["--s3-endpoint=http://told", "--s3-region=here"]);
        assert_eq!((told.endpoint.as_deref(), told.region.as_deref()), (Some("http://told"), Some("here")));
    }

    #[test]
    fn nonsense_is_refused() {
        for typed in [
            "--cache-size=31MiB",
            "--cache-size=-1",
            "--cache-size=",
            "--chunk-size=1000",
            "--chunk-size=0",
            "--lookahead-chunks=4097",
            "--fill=all",
            "--connections=0",
            "--connections=65",
            "--chunk-timeout=0",
            "--chunk-timeout=86401",
            "--chunk-timeout=NaN",
            "--chunk-timeout=inf",
            "--chunk-timeout=-1",
            "--chunk-timeout=10x",
            "--retries=21",
            "--bandwidth-limit=0",
            "--bandwidth-limit=fast",
            "--dir-ttl=-0.1",
            "--uid=no such user",
            "--gid=-1",
            "--umask=888",
            "--umask=1000",
            "--umask=+22",
            "--umask=",
            "--threads=0",
            "--passthrough=on",
            "--links=outside",
            "--s3-endpoint=host:9000",
            "--s3-endpoint=ftp://host",
            "--s3-endpoint=http://key:secret@host",
            "--metrics-listen=anywhere",
            "--ssh-command=",
            "--ssh-command='",
        ] {
            let Err(error) = meant(&[typed]) else { panic!("{typed}") };
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
