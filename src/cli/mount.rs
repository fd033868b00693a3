//! `reelfs mount`: checks, mounts, waits for the end, unmounts.
//! Never here: what a mount is made of.

use std::ffi::OsString;
use std::fs;
use std::io::Stdout;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use crossbeam_channel::Receiver;

use super::options::{Env, MountOptions};
use super::settings::Settings;
use super::{filter_options, web_options};
use super::{misuse, say};
use crate::assemble;
use crate::config::Config;
use crate::control::{self, Answer, Request};
use crate::error::{Error, Kind, Result};
use crate::fuse::mount_point;
use crate::fuse::probe::Probe;
use crate::fuse::reaper::Reaper;
use crate::fuse::signals::{self, End};
use crate::library;
use crate::lock;
use crate::metrics::Metrics;
use crate::origin::source::Source;
use crate::service::background::Word;
use crate::service::log::{self, LogTo};
use crate::service::notify;
use crate::service::watchdog::Watchdog;

/// A drive that was just mounted answers in milliseconds; a machine may be busy.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Mount a far folder of video as a read-only drive, or a library of your own as one that can be written to, until Ctrl-C
/// or `reelfs umount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// What to show: a folder or file of this machine (a path, file://), or of a server (http://, https://, s3://, webdav://,
    /// sftp://, ftp://; `reelfs sources` has them all), or a library of your own (`library:/path`), read-write. A URL with a
    /// password is better given as `REELFS_SOURCE` or in a file: everyone on the machine may read what was typed.
    #[arg(env = SOURCE_VARIABLE, hide_env_values = true)]
    source: Option<String>,
    /// Where to show it: an empty folder.
    #[arg(env = "REELFS_MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    start: StartOptions,
    #[command(flatten)]
    options: MountOptions,
}

/// How it is started.
#[derive(Debug, Args)]
#[command(next_help_heading = "Starting")]
struct StartOptions {
    /// A file of settings: `cache-size = "20GiB"`, keys named like the options, with `source` and `mountpoint`. NAME is a
    /// path, or stands for `~/.config/reelfs/NAME.toml`, else `/etc/reelfs/NAME.toml`. What is typed comes first, then the
    /// environment, then the file.
    #[arg(long, value_name = "NAME", env = "REELFS_CONFIG")]
    config: Option<OsString>,
    /// Return when the drive answers, and leave it mounted, or say why it can't be. It says where its log is.
    #[arg(long)]
    background: bool,
    /// Append the log to this file. Default: stderr, and in the background the system's log (`journalctl -t reelfs`).
    #[arg(long, value_name = "FILE", env = "REELFS_LOG_FILE")]
    log_file: Option<PathBuf>,
}

/// Where a source is given that nobody else is to read.
const SOURCE_VARIABLE: &str = "REELFS_SOURCE";

/// The source that is known without one being typed.
pub fn source_elsewhere(env: Env, settings: Option<&Settings>) -> Option<String> {
    let variable = env(SOURCE_VARIABLE).and_then(|source| source.into_string().ok());
    variable.or_else(|| settings?.get("source").map(str::to_owned))
}

/// The file of settings that was asked for.
pub fn settings_named(matches: &ArgMatches) -> Option<&OsString> {
    matches.get_one("config")
}

/// Which places were typed, and not known from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Typed {
    source: bool,
    mountpoint: bool,
}

impl Typed {
    /// As clap saw them on the command line.
    pub fn of(matches: &ArgMatches) -> Self {
        let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        Self { source: is_typed("source"), mountpoint: is_typed("mountpoint") }
    }
}

/// Who wrote the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typist {
    /// A person, who learns at once what is of no use.
    Person,
    /// mount(8), from a line of /etc/fstab that has to go on working; or this program, which has checked it before.
    Program,
}

/// Where an option was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Typed,
    Environment,
    Settings,
}

/// Where the option with this id was given, if it was: the place whose value counts.
fn given_in(id: &str, matches: &ArgMatches, settings: Option<&Settings>) -> Option<Given> {
    match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Some(Given::Typed),
        Some(ValueSource::EnvVariable) => Some(Given::Environment),
        _ => settings?.get(id).map(|_| Given::Settings),
    }
}

impl MountArgs {
    /// Whether it is to go to the background.
    pub fn is_background(&self) -> bool {
        self.start.background
    }

    /// Where its log is wanted.
    pub fn log_file(&self) -> Option<&Path> {
        self.start.log_file.as_deref()
    }

    /// Where it is to be, once it was settled.
    pub fn mountpoint(&self) -> &Path {
        self.mountpoint.as_deref().unwrap_or(Path::new(""))
    }

    /// Refuses options that mean nothing to the source where a person typed them. The others were written for other mounts, too,
    /// or before the source was this one: they are returned, each with a line for the log.
    pub fn check_options(
        &self,
        matches: &ArgMatches,
        settings: Option<&Settings>,
        typist: Typist,
    ) -> std::result::Result<Vec<String>, String> {
        let source = self.source.as_deref().unwrap_or_default();
        let mut warnings = Vec::new();
        for (ids, why) in meaningless(source) {
            let given = |place| ids.iter().filter(move |id| given_in(id, matches, settings) == Some(place));
            let named = |place, name: &dyn Fn(&str) -> String| given(place).map(|id| name(id)).collect::<Vec<_>>();
            let option = |id: &str| format!("--{}", id.replace('_', "-"));
            let typed = named(Given::Typed, &option);
            if !typed.is_empty() && typist == Typist::Person {
                let mean = if typed.len() == 1 { "means" } else { "mean" };
                return Err(format!("{} {mean} nothing here: {why}: leave it out", typed.join(", ")));
            }
            for (options, place) in [
                (typed, ""),
                (named(Given::Environment, &|id| format!("REELFS_{}", id.to_uppercase())), " in the environment"),
                (named(Given::Settings, &|id| id.replace('_', "-")), " in the file of settings"),
            ] {
                if !options.is_empty() {
                    let does = if options.len() == 1 { "does" } else { "do" };
                    warnings.push(format!("{}{place} {does} nothing here: {why}", options.join(", ")));
                }
            }
        }
        Ok(warnings)
    }

    /// Sees to it that both places are known, or says which is not. The only one typed is the mount point, if `elsewhere`
    /// (the environment, a file) knows a source.
    pub fn settle(&mut self, typed: Typed, elsewhere: Option<String>) -> std::result::Result<(), String> {
        if typed.source
            && !typed.mountpoint
            && let Some(source) = elsewhere
        {
            self.mountpoint = self.source.replace(source).map(PathBuf::from);
        }
        let missing = [(self.source.is_none(), "<SOURCE>"), (self.mountpoint.is_none(), "<MOUNTPOINT>")];
        let missing: Vec<_> = missing.iter().filter(|(is_missing, _)| *is_missing).map(|(_, name)| *name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("the following required arguments were not provided: {}", missing.join(" ")))
    }
}

/// Options that mean nothing to a library on this machine: nothing of it is cached or fetched, and its files have owners,
/// modes and times of their own. Not `--cache-dir`: who gives it for every mount harms nobody.
const FAR_ONLY: [&str; 14] = [
    "cache_size",
    "min_free",
    "chunk_size",
    "lookahead_chunks",
    "fill",
    "connections",
    "chunk_timeout",
    "retries",
    "bandwidth_limit",
    "dir_ttl",
    "uid",
    "gid",
    "umask",
    "passthrough",
];
const OWN_ONLY: [&str; 1] = ["backup_daily"];
const BUCKETS_ONLY: [&str; 3] = ["s3_endpoint", "s3_region", "s3_path_style"];
const SFTP_ONLY: [&str; 1] = ["ssh_command"];
const LINKED_ONLY: [&str; 1] = ["links"];
/// Schemes of what is asked over HTTP.
const OVER_HTTP: [&str; 9] = ["http", "https", "webdav", "webdavs", "s3", "kv+s3", "kv+cloudflare-kv", "gs", "azblob"];

/// Ids of the options that mean nothing to `source`, and why.
fn meaningless(source: &str) -> Vec<(&'static [&'static str], &'static str)> {
    let scheme = source.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let mut all: Vec<(&[&str], &str)> = Vec::new();
    if library::local_dir(source).is_some() {
        all.push((
            &FAR_ONLY,
            "a library on this machine is not cached, and its files have owners and modes of their own",
        ));
    }
    if library::local_dir(source).is_some() {
        all.push((&filter_options::IDS, "a library on this machine is shown whole"));
    }
    if library::local_dir(source).is_none() {
        all.push((&OWN_ONLY, "the source is no library on this machine (library:/path)"));
    }
    if !matches!(scheme.as_str(), "s3" | "kv+s3") {
        all.push((&BUCKETS_ONLY, "the source is no bucket (s3://, kv+s3://)"));
    }
    if !OVER_HTTP.contains(&scheme.as_str()) {
        all.push((&web_options::IDS, "the source is not asked over HTTP (http://, https://, webdav://, s3://)"));
    }
    if library::local_dir(source).is_some() || !matches!(scheme.as_str(), "" | "file" | "sftp") {
        all.push((&LINKED_ONLY, "only folders of this machine and over SFTP have links that can be followed"));
    }
    if scheme != "sftp" {
        all.push((&SFTP_ONLY, "the source is not read over SFTP (sftp://)"));
    }
    all
}

/// Who is told that the drive is there.
pub enum Told<'a> {
    /// Whoever sits at the terminal, and systemd.
    Here {
        /// Nothing but errors is said.
        is_quiet: bool,
    },
    /// The program that started us in the background, which waits for it.
    Starter {
        /// To be said.
        word: &'a mut Word<Stdout>,
        /// Where more will be.
        log: &'a LogTo,
    },
}

/// Runs the mount until its end. `Invalid`: what was typed or set is wrong, and stays so. Everything found out by looking at
/// the machine and the source has another kind.
pub fn run(args: MountArgs, told: Told) -> Result<()> {
    let (Some(source), Some(mountpoint)) = (args.source, args.mountpoint) else {
        return Err(misuse("a mount needs a SOURCE and a MOUNTPOINT"));
    };
    let typed = mountpoint.display().to_string();
    let mut config = args.options.into_config(source, mountpoint, &|name| std::env::var_os(name))?;
    config.mountpoint = mount_point::prepare(&config.mountpoint, config.fuse.allow_other).map_err(found_out)?;
    check_apart(&config)?;
    mount(config, &typed, told).map_err(found_out)
}

/// Mounts on the place that was `typed`, and waits for the end.
fn mount(mut config: Config, typed: &str, mut told: Told) -> Result<()> {
    // The program may change its working directory.
    config.cache.dir = real(&config.cache.dir);

    let (ends, ended) = signals::channel();
    let mut reaper = Reaper::start(&config.mountpoint)
        .inspect_err(|error| ::log::warn!("{error}: after a crash, unmount with `fusermount3 -u {typed}`"));
    if let Some(dir) = library::local_dir(&config.source) {
        // The program may change its working directory.
        let dir = real(dir);
        let mounted = assemble::mount_volume(&config, &dir, ends.clone())
            .map_err(|error| held_by(error, &config.source, &dir))?;
        if let Ok(reaper) = &mut reaper {
            reaper.mounted();
        }
        // Nothing is remembered that could be asked anew.
        signals::listen(ends, log::reopen)?;
        tell_metrics(mounted.metrics_address());
        let shown = if mounted.is_read_only() { " (read-only)" } else { "" };
        let watchdog = told.tell(&format!("{}{shown}", config.source), typed, &config.mountpoint)?;
        wait(&ended, typed)?;
        drop(watchdog);
        mounted.unmount()?;
        drop(reaper);
        return Ok(());
    }
    let mounted = assemble::mount(&config, Arc::new(Metrics::default()), ends.clone())
        .map_err(|error| held_by(error, &library::place::shown(&config.source), &config.cache.dir))?;
    if let Ok(reaper) = &mut reaper {
        reaper.mounted();
    }
    // Only from here on: until the drive is there, Ctrl-C may simply kill us, and the reaper tidies up.
    let drive = Arc::downgrade(mounted.drive());
    signals::listen(ends, move || {
        log::reopen();
        match drive.upgrade().map(|drive| drive.refresh("")) {
            Some(Err(error)) => ::log::warn!("{error}"),
            _ => ::log::info!("everything is asked for anew"),
        }
    })?;
    tell_metrics(mounted.metrics_address());
    if let Some(absence) = mounted.absence() {
        ::log::warn!("{absence}; the drive shows what it knew, and goes on when the source is back");
    }
    let watchdog = told.tell(mounted.source(), typed, &config.mountpoint)?;
    wait(&ended, typed)?;
    drop(watchdog);
    mounted.unmount()?;
    drop(reaper);
    Ok(())
}

/// The error of something that may be otherwise at the next try: a disk that is not there yet leaves its mount point, and what
/// lies below. A service is started again, as exit code 2 (see `exit`) would prevent for good.
fn found_out(error: Error) -> Error {
    if error.kind() == Kind::Invalid { Error::new(Kind::Local, error.to_string()) } else { error }
}

fn tell_metrics(address: Option<SocketAddr>) {
    if let Some(address) = address {
        ::log::info!("figures for Prometheus are at http://{address}/metrics");
    }
}

/// A cache or a library that another process holds: where that process has it mounted is what a person wants to know.
fn held_by(error: Error, source: &str, dir: &Path) -> Error {
    if error.kind() != Kind::Busy {
        return error;
    }
    let Some(pid) = lock::holder_pid(dir) else { return error };
    let mounts = control::ask_all(&Request::Status).into_iter().filter_map(|answer| match answer {
        Answer::Status(snapshot) => Some(*snapshot),
        _ => None,
    });
    let Some(mount) = mounts.into_iter().find(|mount| mount.pid == pid) else { return error };
    let (at, how) = (
        mount.mountpoint.display(),
        if library::local_dir(source).is_some() { "or mount with --read-only" } else { "or use another --cache-dir" },
    );
    let message = format!(
        "{source} is mounted already, on {at} (process {pid}): use it there, `reelfs umount {at}` first, {how}"
    );
    Error::new(Kind::Busy, message)
}

/// Until somebody ends the mount on `typed`.
fn wait(ended: &Receiver<End>, typed: &str) -> Result<()> {
    let end = ended.recv().map_err(|_| Error::new(Kind::Local, "the drive went away without a word"))?;
    match end {
        End::Signal(signal) => ::log::info!("signal {signal}: unmounting {typed}"),
        End::Unmounted => ::log::info!("{typed} was unmounted"),
    }
    notify::stopping();
    Ok(())
}

impl Told<'_> {
    /// Tells everyone who waits for the drive on `mountpoint`, after asking it once; shown are `source` and `typed`.
    /// Returns what beats for systemd.
    fn tell(&mut self, source: &str, typed: &str, mountpoint: &Path) -> Result<Option<Watchdog>> {
        let mut probe = Probe::new(mountpoint);
        match self {
            Told::Starter { word, log } => {
                probe.ask(ANSWER_MAX)?;
                // What we were started in must not be held.
                std::env::set_current_dir("/").map_err(|error| Error::io("/", &error))?;
                let pid = std::process::id();
                word.done(&format!("{source} is on {typed} (process {pid}; log: {log}; reelfs umount {typed})"))?;
                Ok(None)
            }
            Told::Here { is_quiet } => {
                let mut watchdog = None;
                if notify::is_awaited() {
                    probe.ask(ANSWER_MAX)?;
                    notify::ready(&format!("{source} is on {typed}"));
                    let period = notify::watchdog();
                    watchdog = period.map(|period| Watchdog::start(probe, period, notify::alive)).transpose()?;
                }
                if !*is_quiet {
                    let how = if notify::is_awaited() { "" } else { " (Ctrl-C to unmount)" };
                    say(&format!("{source} is on {typed}{how}"));
                }
                Ok(watchdog)
            }
        }
    }
}

/// A drive that is read through itself waits for itself, for ever.
fn check_apart(config: &Config) -> Result<()> {
    let mountpoint = &config.mountpoint;
    if real(&config.cache.dir).starts_with(mountpoint) {
        return Err(misuse(format!(
            "the cache directory {} is inside the mount point: choose another --cache-dir",
            config.cache.dir.display()
        )));
    }
    let source = match (library::local_dir(&config.source), Source::parse(&config.source)?) {
        (Some(dir), _) => dir.to_owned(),
        (None, Source::Folder(source)) => source,
        _ => return Ok(()),
    };
    // A source that isn't there has its own error, later.
    let Ok(source) = fs::canonicalize(source) else { return Ok(()) };
    if mountpoint.starts_with(&source) || source.starts_with(mountpoint) {
        return Err(misuse(format!(
            "the mount point {} and the source {} lie in each other: choose a folder elsewhere",
            mountpoint.display(),
            source.display()
        )));
    }
    Ok(())
}

/// `path` absolute and without links, as far as it exists; the rest as written.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors()
        .find_map(|existing| {
            let rest = path.strip_prefix(existing).ok()?;
            fs::canonicalize(existing).ok().map(|existing| existing.join(rest))
        })
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: MountArgs,
    }

    #[test]
    fn what_is_typed_fills_what_is_not_known() {
        let settled = |typed: &[&str], elsewhere: Option<&str>, below: Option<&str>| {
            let mut args = Line::try_parse_from([&["mount"], typed].concat()).unwrap().args;
            let typed = Typed { source: args.source.is_some(), mountpoint: args.mountpoint.is_some() };
            // As clap has it from the environment or a file.
            args.source = args.source.or(elsewhere.map(str::to_owned));
            args.mountpoint = args.mountpoint.or(below.map(PathBuf::from));
            args.settle(typed, elsewhere.map(str::to_owned))?;
            Ok::<_, String>((args.source.unwrap(), args.mountpoint.unwrap().display().to_string()))
        };
        let places = |source: &str, mountpoint: &str| Ok((source.to_owned(), mountpoint.to_owned()));
        assert_eq!(settled(&["a", "b"], None, None), places("a", "b"));
        assert_eq!(settled(&["a", "b"], Some("x"), Some("y")), places("a", "b"));
        assert_eq!(settled(&[], Some("x"), Some("y")), places("x", "y"));
        assert_eq!(settled(&["b"], Some("x"), None), places("x", "b"));
        assert_eq!(settled(&["b"], Some("x"), Some("y")), places("x", "b"));
        for (typed, elsewhere, told) in [
            (&["a"][..], None, ": <MOUNTPOINT>"),
            (&[], None, ": <SOURCE> <MOUNTPOINT>"),
            (&[], Some("x"), ": <MOUNTPOINT>"),
        ] {
            let said = settled(typed, elsewhere, None).unwrap_err();
            assert!(said.ends_with(told), "{said}");
        }
    }

    #[test]
    fn options_that_mean_nothing_to_a_source_are_refused() {
        use clap::CommandFactory as _;
        let check = |typed: &[&str]| {
            let matches = Line::command().try_get_matches_from([&["mount"], typed].concat()).unwrap();
            let args = Line::try_parse_from([&["mount"], typed].concat()).unwrap().args;
            args.check_options(&matches, None, Typist::Person).map(|warnings| assert!(warnings.is_empty()))
        };
        for (typed, told) in [
            (
                &["library:/l", "m", "--cache-size=1G", "--uid=7"][..],
                "--cache-size, --uid mean nothing here: a library",
            ),
            (&["library:/l", "m", "--passthrough=off"], "--passthrough means nothing"),
            (
                &["http://host/", "m", "--s3-endpoint=http://nas:9000"],
                "--s3-endpoint means nothing here: the source is no",
            ),
            (&["s3://films", "m", "--ssh-command=ssh -v"], "--ssh-command means nothing"),
        ] {
            let said = check(typed).unwrap_err();
            assert!(said.contains(told), "{typed:?}: {said}");
        }
        for typed in [
            &["library:/l", "m", "--threads=2", "--allow-other", "--read-only", "--metrics-listen=9100"][..],
            &["http://host/", "m", "--cache-size=1G", "--uid=7", "--read-only"],
            &["kv+s3://films", "m", "--s3-endpoint=http://nas:9000", "--s3-region=x"],
            &["sftp://nas/films", "m", "--ssh-command=ssh -v"],
        ] {
            check(typed).unwrap();
        }
        // Each is an option there is.
        let command = Line::command();
        for id in FAR_ONLY.iter().chain(&BUCKETS_ONLY).chain(&SFTP_ONLY).chain(&LINKED_ONLY).chain(&filter_options::IDS)
        {
            let arg = command.get_arguments().find(|arg| arg.get_id() == *id).unwrap();
            assert_eq!(arg.get_long(), Some(&*id.replace('_', "-")), "{id}");
            assert_eq!(arg.get_env().unwrap().to_str(), Some(&*format!("REELFS_{}", id.to_uppercase())), "{id}");
        }
    }

    #[test]
    fn options_that_mean_nothing_are_only_warned_of_where_mount_calls_or_a_file_has_them() {
        use clap::CommandFactory as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("films.toml");
        fs::write(&file, "cache-size = '1GiB'\nuid = 7\nthreads = 2\n").unwrap();
        let settings = Settings::read(file.as_os_str(), &super::super::Cli::command(), &|_| None).unwrap();
        let check = |typed: &[&str], settings, typist| {
            let matches = Line::command().try_get_matches_from([&["mount"], typed].concat()).unwrap();
            let args = Line::try_parse_from([&["mount"], typed].concat()).unwrap().args;
            args.check_options(&matches, settings, typist)
        };
        let far = "a library on this machine is not cached, and its files have owners and modes of their own";
        let by_mount = check(&["library:/l", "m", "--cache-size=1G", "--s3-region=x"], None, Typist::Program);
        let bucket = "--s3-region does nothing here: the source is no bucket (s3://, kv+s3://)";
        assert_eq!(by_mount.unwrap(), [format!("--cache-size does nothing here: {far}"), bucket.to_owned()]);
        let told = format!("cache-size, uid in the file of settings do nothing here: {far}");
        assert_eq!(check(&["library:/l", "m"], Some(&settings), Typist::Person).unwrap(), [told]);
        // What is typed comes before the file.
        assert!(check(&["library:/l", "m", "--uid=8"], Some(&settings), Typist::Person).is_err());
        assert!(check(&["http://host/", "m"], Some(&settings), Typist::Person).unwrap().is_empty());
    }

    #[test]
    fn links_are_followed_as_far_as_a_path_exists() {
        let folder = tempfile::tempdir().unwrap();
        let real_folder = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        std::os::unix::fs::symlink("mnt", folder.path().join("link")).unwrap();
        assert_eq!(real(&folder.path().join("link/a/b")), real_folder.join("mnt/a/b"));
        assert_eq!(real(&folder.path().join("link")), real_folder.join("mnt"));
        assert_eq!(real(Path::new("/no/such")), PathBuf::from("/no/such"));
    }
}
