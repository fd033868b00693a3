//! The commands that work on libraries: `init`, `put`, `get`, `ls`, `stat`, `rm`, `mv`, `tag`, `purge`, `verify`, `gc`, `copy`,
//! `backup`, `recut`.
//! What they share stands here. Never here: what a library does about it.

pub mod backup;
pub mod copy;
pub mod gc;
pub mod get;
pub mod init;
pub mod ls;
pub mod mv;
pub mod purge;
pub mod put;
pub mod recut;
pub mod rm;
pub mod stat;
pub mod tag;
pub mod verify;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clap::Args;
use jiff::Timestamp;

use super::exit::Outcome;
use super::options::{Env, S3Options};
use super::values::parse_timeout;
use super::{complain, written};
use crate::cli::web_options::WebOptions;
use crate::config::PlacesConfig;
use crate::error::{Error, Kind, Result};
use crate::library::place::{self, Access, Opened};
use crate::library::{Library, Named, PAGE_NAMES_MAX, Query};

/// How libraries that are far away are reached.
#[derive(Debug, Args)]
pub struct LibraryOptions {
    /// Time of silence, in seconds or as 1m, after which a store counts as stuck; each request is made three times. Default 10.
    #[arg(
        long, value_name = "TIME", env = "REELFS_CHUNK_TIMEOUT", default_value = "10", value_parser = parse_timeout,
        help_heading = "The far side",
    )]
    chunk_timeout: Duration,
    #[command(flatten)]
    web: WebOptions,
    #[command(flatten)]
    s3: S3Options,
}

impl LibraryOptions {
    /// As the rooms below take it.
    pub fn places(self) -> Result<PlacesConfig> {
        let env: Env = &|name| std::env::var_os(name);
        let (s3, web) = (self.s3.into_config(env)?, self.web.into_config()?);
        Ok(PlacesConfig { s3, web, answer_timeout: self.chunk_timeout, ..PlacesConfig::default() })
    }

    fn open(self, text: &str, access: Access) -> Result<Opened> {
        place::open(text, &self.places()?, access)
    }
}

/// Set by the first Ctrl-C, or a polite request to stop: a job ends where it is whole. The second ends the program.
struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order: the first time the flag is not set yet.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
                .map_err(|error| Error::io("listening for signals", &error))?;
        }
        Ok(Self(flag))
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For what ends by an error, and then takes away what is not whole.
    fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::new(Kind::Local, "broken off")) } else { Ok(()) }
    }
}

/// Hands all names that `query` asks for on, page by page.
fn each_name(library: &dyn Library, query: Query, each: &mut dyn FnMut(Named) -> Result<()>) -> Result<()> {
    let mut query = Query { limit: PAGE_NAMES_MAX, ..query };
    loop {
        let page = library.list(&query)?;
        page.names.into_iter().try_for_each(&mut *each)?;
        if page.cursor.is_none() {
            return Ok(());
        }
        query.cursor = page.cursor;
    }
}

/// Whether there is a folder at `path`.
fn is_folder(library: &dyn Library, path: &str) -> bool {
    path.is_empty() || library.list(&Query { folder: path.to_owned(), limit: 1, ..Query::default() }).is_ok()
}

/// The last component.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// To the second, in UTC.
fn shown_time(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "?".to_owned(), |time| time.strftime("%F %T").to_string())
}

/// As programs take it.
fn json_time(time: SystemTime) -> Option<String> {
    Timestamp::try_from(time).ok().map(|time| time.to_string())
}

/// `1 file`, `2 files`.
pub fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

pub fn line(out: &mut dyn Write, text: &str) -> Result<()> {
    writeln!(out, "{}", super::printable(text)).map_err(|error| written(&error))
}

/// Does `what` for each of `paths`; one that is refused does not keep the others from being done.
fn each_path(paths: &[String], what: &mut dyn FnMut(&str) -> Result<()>) -> ExitCode {
    let mut outcome = Outcome::Done;
    for path in paths {
        if let Err(error) = what(path) {
            complain(&error);
            outcome.and(Outcome::of(&error));
        }
    }
    outcome.into()
}
