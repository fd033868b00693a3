//! Everything a mount is told, checked: each default with its unit and its reason, sizes as people write them.
//! Never here: flags (they live in `cli`), and anything that opens a file or a socket.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::error::{Error, Kind, Result};

/// 2 MiB: a second or two of film, so little is wasted on a seek; long enough that a request's round trip is
/// small beside its transfer.
pub const CHUNK_SIZE_BYTES: u64 = 2 << 20;
/// Probes are fetched, recorded and evicted in blocks of 64 KiB: half the kernel's usual readahead.
pub const BLOCK_SIZE_BYTES: u64 = 64 << 10;
/// Lone reads of a scanner are fetched, recorded and evicted in pages of 4 KiB, which is what a disk hands out: whole blocks
/// would cost a scanner twice the 32 KiB that it reads at each header of a film.
pub const LOOK_GRAIN_BYTES: u64 = 4 << 10;
/// What the kernel asks a FUSE drive for at once, unless it was told otherwise (`VM_READAHEAD_PAGES`).
pub const KERNEL_READAHEAD_BYTES: u64 = 128 << 10;
/// 10 GiB: two or three films.
pub const CACHE_SIZE_BYTES: u64 = 10 << 30;
/// Left free for everyone else on the cache's disk.
pub const MIN_FREE_BYTES: u64 = 512 << 20;
/// 20 chunks of 2 MiB are half a minute of a 10 Mbit/s film.
pub const LOOKAHEAD_CHUNKS: u32 = 20;
/// Enough to fill a long link: a quarter is left to demand, and the seven others carry 14 MB/s of a connection's 20 Mbit/s
/// over 200 ms. Few enough that a home server does not mind; fewer are used where more do not help.
pub const CONNECTIONS: u32 = 10;
/// The user's own: with their keys, agent, hosts and jumps.
pub const SSH_COMMAND: &str = "ssh";
/// A player gives up at about this time, too.
pub const CHUNK_TIMEOUT_SECONDS: f64 = 10.0;
/// Asked again this often after a failure that may pass.
pub const RETRIES: u32 = 3;
/// The lowest bandwidth limit: a block a second. A read of the kernel's then takes two of the ten it has.
pub const BANDWIDTH_LIMIT_MIN: u64 = BLOCK_SIZE_BYTES;
/// A listing older than this is shown and refreshed behind.
pub const DIR_TTL_SECONDS: f64 = 60.0;
/// Threads that take requests from the kernel; none of them waits for the origin.
pub const THREADS: u32 = 4;
/// A cache must hold at least this many chunks: below it, lookahead evicts what it fetched before it is read.
pub const CACHE_CHUNKS_MIN: u64 = 16;

/// Whether the rest of a film that is being played is fetched while nothing else wants the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Once a file is really being played.
    Playing,
    /// Only what was asked for, and lookahead.
    Never,
}

/// Whether the kernel reads files that are wholly cached by itself, without asking the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passthrough {
    /// Where the kernel can and the process may.
    Auto,
    /// Every read is asked of the drive.
    Off,
}

/// How the cache is kept. Also what `cache verify` and `cache purge` open it with.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// The cache directory itself, one for each source.
    pub dir: PathBuf,
    /// Chunk bytes on disk never exceed this.
    pub size_bytes: u64,
    /// Nothing is written while the disk has less than this free.
    pub min_free_bytes: u64,
    /// For entries made from now on; an entry keeps the size it began with.
    pub chunk_size_bytes: u64,
}

/// How the origin is asked.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// Most requests under way at once.
    pub connections: usize,
    /// A read ends by then, with its bytes or with an error.
    pub chunk_timeout: Duration,
    /// Times a request that no reader waits for is made again, if its failure may pass. What a reader waits for is asked for
    /// until `chunk_timeout`; with 0 nothing is.
    pub retries: u32,
    /// Bytes a second that may come from the origin, all files together; `None`: any number.
    pub bandwidth_limit: Option<u64>,
}

/// How a player's reads are anticipated.
#[derive(Clone, Debug)]
pub struct ReadConfig {
    /// Most chunks fetched ahead of one sequential reader; 0 turns lookahead off.
    pub lookahead_chunks: u32,
    /// Whether a film being played is fetched whole.
    pub fill: Fill,
    /// Whether what is recorded of a film being played is hashed ahead of its reader: only then is the whole of it
    /// trusted, and the next open may be the kernel's own.
    pub checks_whole: bool,
}

/// How files look on the drive, and how it is mounted.
#[derive(Clone, Debug)]
pub struct DriveConfig {
    /// A listing, and what the kernel was told of it, is fresh this long.
    pub dir_ttl: Duration,
    /// Owner of every file.
    pub uid: u32,
    /// Group of every file.
    pub gid: u32,
    /// Bits taken from 0o777 (folders) and 0o666 (files); where nothing can be changed, no bit to write is left either way.
    pub umask: u32,
}

/// How the kernel is talked to.
#[derive(Clone, Debug)]
pub struct FuseConfig {
    /// Whether other users may enter the drive.
    pub allow_other: bool,
    /// Session threads.
    pub threads: usize,
    /// Who reads what is wholly cached.
    pub passthrough: Passthrough,
    /// Nothing may be changed, also where it could be: on a library of one's own.
    pub is_read_only: bool,
}

/// Where buckets are, if not at Amazon.
#[derive(Clone, Debug, Default)]
pub struct S3Config {
    /// The server's URL, without a slash at its end; `None`: Amazon's.
    pub endpoint: Option<String>,
    /// What requests are signed for; `None`: what most servers take.
    pub region: Option<String>,
    /// At Amazon: the bucket in the path and not in the host's name. Other servers always have it there.
    pub path_style: bool,
}

/// Subtitles, pictures, sound and short films: what a home server sends within a read's deadline, and memory bears twice.
pub const WHOLE_FILE_MAX_BYTES: u64 = 64 << 20;

/// How servers are asked over HTTP: web servers, `WebDAV`, buckets. Its values may be secrets, and are never shown.
#[derive(Clone, Debug, Default)]
pub struct WebConfig {
    /// Sent to the source's own server with every request, and to no other; all of them marked as sensitive.
    pub headers: HeaderMap,
    /// The file that holds the token which logs in, instead of a user and a password.
    pub token_file: Option<PathBuf>,
    /// Certificates that are trusted beside the machine's own, in PEM form.
    pub ca_cert: Option<PathBuf>,
    /// The certificate that we show, in PEM form, with its chain; and its key, `None`: in the same file.
    pub client_cert: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
    /// Any certificate of a server is taken.
    pub is_insecure: bool,
    /// The servers behind one name disagree about `ETag`s: size and time tell the version.
    pub has_unstable_validators: bool,
    /// The URL of the proxy; `None`: as the environment says.
    pub proxy: Option<Secret>,
}

impl WebConfig {
    /// Whether the user said anything.
    pub fn is_given(&self) -> bool {
        let files = [&self.token_file, &self.ca_cert, &self.client_cert, &self.client_key];
        let flags = [self.is_insecure, self.has_unstable_validators];
        !self.headers.is_empty()
            || files.iter().any(|file| file.is_some())
            || flags.contains(&true)
            || self.proxy.is_some()
    }
}

/// Text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What of a source is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    /// In their order: the first that matches a path decides.
    pub rules: Vec<FilterRule>,
    /// Whether what no rule matches is shown. Not where the user said what is to be included.
    pub shows_rest: bool,
    /// Only names that players open, of what the rules let through.
    pub is_media_only: bool,
}

/// One rule of the filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Whether what it matches is shown.
    pub is_included: bool,
    /// As rsync and rclone write it, see `origin/filter/glob.rs`.
    pub pattern: String,
    /// Where the user wrote it, for messages.
    pub place: String,
}

impl FilterConfig {
    /// Whether anything may be left out.
    pub fn is_given(&self) -> bool {
        *self != Self::default()
    }
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { rules: Vec::new(), shows_rest: true, is_media_only: false }
    }
}

/// Which symbolic links of a folder of this machine, or of one over SFTP, are followed. One that leads back to a folder on the
/// way to it never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// All of them, as every file server does: people put them there on purpose.
    #[default]
    Follow,
    /// Those whose target lies inside the source.
    FollowInside,
    /// None: they are not shown.
    Skip,
}

/// How places are reached that are not folders here.
#[derive(Clone, Debug)]
pub struct PlacesConfig {
    /// Buckets.
    pub s3: S3Config,
    /// All that is asked over HTTP.
    pub web: WebConfig,
    /// The program that SFTP is spoken through, and what it is told before anything else.
    pub ssh_command: Vec<String>,
    /// Most connections to a server over SFTP or FTP at once.
    pub connections: usize,
    /// Longest silence of a store, and longest wait for another program that writes to the same one; a request that moves
    /// much is given longer.
    pub answer_timeout: Duration,
    /// Largest file that is read whole, into memory, from a web server that ignores ranges.
    pub whole_file_max_bytes: u64,
    /// Links of folders here and over SFTP.
    pub links: Links,
}

impl Default for PlacesConfig {
    fn default() -> Self {
        let ssh_command = vec![SSH_COMMAND.to_owned()];
        Self {
            s3: S3Config::default(),
            web: WebConfig::default(),
            ssh_command,
            connections: CONNECTIONS as usize,
            answer_timeout: Duration::from_secs_f64(CHUNK_TIMEOUT_SECONDS),
            whole_file_max_bytes: WHOLE_FILE_MAX_BYTES,
            links: Links::default(),
        }
    }
}

/// One mount, wholly described.
#[derive(Clone, Debug)]
pub struct Config {
    /// As the user typed it: a path or a URL.
    pub source: String,
    /// For sources that are such places.
    pub places: PlacesConfig,
    /// What of the source is shown.
    pub filter: FilterConfig,
    /// The folder the drive appears in.
    pub mountpoint: PathBuf,
    /// The kernel's side.
    pub fuse: FuseConfig,
    /// The cache.
    pub cache: CacheConfig,
    /// The origin's side.
    pub fetch: FetchConfig,
    /// The player's side.
    pub read: ReadConfig,
    /// How names and files look.
    pub drive: DriveConfig,
    /// Whether the user's group may read what is kept: the cache, and a library of this machine that is mounted.
    pub is_group_read: bool,
    /// Whether the catalog of a library of this machine is copied once a day.
    pub is_backed_up_daily: bool,
    /// Where Prometheus may ask for figures; nowhere without it.
    pub metrics_listen: Option<SocketAddr>,
}

impl CacheConfig {
    /// What clap can't see: options that only make sense together.
    pub fn check(&self) -> Result<()> {
        let chunk = self.chunk_size_bytes;
        if chunk < BLOCK_SIZE_BYTES || !chunk.is_multiple_of(BLOCK_SIZE_BYTES) || chunk > 64 << 20 {
            return Err(Error::new(
                Kind::Invalid,
                format!("--chunk-size {chunk} must be a multiple of 64KiB, from 64KiB to 64MiB"),
            ));
        }
        let least = chunk * CACHE_CHUNKS_MIN;
        if self.size_bytes < least {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "--cache-size {} is below {CACHE_CHUNKS_MIN} chunks: give at least {}, or a smaller --chunk-size",
                    format_size(self.size_bytes),
                    format_size(least),
                ),
            ));
        }
        Ok(())
    }
}

/// `2MiB`, `500MB`, `10G` (= GiB), `64k` (= KiB), `4096`, `1.5GiB`. Letters' case does not matter.
/// `KB MB GB TB` count in thousands, everything else in 1024s.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(Kind::Invalid, format!("`{text}` is not a size: write a number and a unit, like 2MiB, 500MB or 10G"))
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(bad);
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    #[allow(clippy::cast_precision_loss, reason = "a fraction of a unit is not meant to the byte")]
    let bytes = number * factor as f64;
    if !(0.0..9.0e18).contains(&bytes) {
        return Err(bad());
    }
    #[allow(clippy::cast_sign_loss, reason = "checked to be in range just above")]
    Ok(bytes as u64)
}

/// A rate in bytes a second: `20Mbit/s` (bits, in thousands), `2.5MB/s`, `2MiB/s`, or a bare number of bytes. Without the
/// `/s` it means the same.
pub fn parse_rate(text: &str) -> Result<u64> {
    let bad =
        || Error::new(Kind::Invalid, format!("`{text}` is not a rate: write one like 20Mbit/s, 2.5MB/s or 2MiB/s"));
    let lower = text.trim().to_ascii_lowercase();
    let amount = lower.strip_suffix("/s").unwrap_or(&lower);
    // kbit, Mbit and Gbit count in thousands, as everyone who sells lines does.
    let bytes = match amount.strip_suffix("bit") {
        Some(bits) => {
            let decimal = if bits.ends_with(|last: char| last.is_ascii_alphabetic()) { "b" } else { "" };
            parse_size(&format!("{bits}{decimal}")).map_err(|_| bad())? / 8
        }
        None => parse_size(amount).map_err(|_| bad())?,
    };
    if bytes < BANDWIDTH_LIMIT_MIN {
        return Err(Error::new(
            Kind::Invalid,
            format!("`{text}` is too little: below {}/s no read would end in time", format_size(BANDWIDTH_LIMIT_MIN)),
        ));
    }
    Ok(bytes)
}

/// Headers that reads are made of: one of the user's would tell the server to send something else.
const HEADERS_OF_READS: [&str; 9] = [
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "accept-encoding",
    "content-length",
    "transfer-encoding",
];

/// `NAME: VALUE`. What it says is never repeated in the error: it may be a secret.
pub fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let bad = |why: &str| Error::new(Kind::Invalid, format!("a header {why}: write it like 'X-Api-Key: 1234'"));
    let (name, value) = text.split_once(':').ok_or_else(|| bad("has no colon"))?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad("has a name that is none"))?;
    if HEADERS_OF_READS.contains(&name.as_str()) {
        let message = format!("the header {name} can't be given: reelfs needs it itself to ask for parts of files");
        return Err(Error::new(Kind::Invalid, message));
    }
    let mut value =
        HeaderValue::from_str(value.trim()).map_err(|_| bad(&format!("{name} has a value that is none")))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// `9100` and `:9100` (this machine only), `127.0.0.1:9100`, `[::1]:9100`, `0.0.0.0:9100` (all machines).
pub fn parse_listen(text: &str) -> Result<SocketAddr> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    let local = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    local.ok().or_else(|| text.parse().ok()).ok_or_else(|| {
        let message = format!("`{text}` is not an address to listen on: write a port, like 9100, or 192.168.1.2:9100");
        Error::new(Kind::Invalid, message)
    })
}

/// `1.5 GiB`: for people, in 1024s, one decimal.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("2MiB", 2 << 20),
            ("500MB", 500_000_000),
            ("10G", 10 << 30),
            ("64k", 64 << 10),
            (" 1.5 GiB ", 3 << 29),
            ("4096", 4096),
            ("0", 0),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text).map_err(|e| e.to_string()), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.2.3M",
            "12 parsecs",
            "99999999999999999999",
            "17000000000G",
            "NaN",
            "1e9",
            "9999999.5T",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_as_people_write_them() {
        for (text, bytes) in [
            ("20Mbit/s", 2_500_000),
            ("2.5MB/s", 2_500_000),
            ("2MiB/s", 2 << 20),
            ("2M", 2 << 20),
            ("100000", 100_000),
            ("800 kbit/s", 100_000),
            ("1gbit", 125_000_000),
            ("524288bit/s", 65_536),
        ] {
            assert_eq!(parse_rate(text).map_err(|e| e.to_string()), Ok(bytes), "{text}");
        }
        for text in ["", "0", "fast", "20Mbit/h", "-1MB/s", "bit/s", "1kbit/s", "65535", "20Mbps"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_port_is_this_machines_own() {
        for (text, address) in [
            ("9100", "127.0.0.1:9100"),
            (":0", "127.0.0.1:0"),
            ("0.0.0.0:9100", "0.0.0.0:9100"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), address);
        }
        for text in ["", ":", "65536", "-1", "host:80", "127.0.0.1", "::1", "9100/metrics"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), ((1 << 30) - 1, "1.0 GiB")]
        {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn a_cache_too_small_for_its_chunks_is_refused() {
        let mut cache = CacheConfig {
            dir: PathBuf::new(),
            size_bytes: 32 << 20,
            min_free_bytes: 0,
            chunk_size_bytes: CHUNK_SIZE_BYTES,
        };
        assert!(cache.check().is_ok());
        cache.size_bytes -= 1;
        assert!(cache.check().is_err());
        cache.chunk_size_bytes = 65_537;
        assert!(cache.check().is_err());
    }
}
