//! The command line: what was typed, what is said back, the exit code. One file for each command.
//! Never here: work; a command checks its options and calls the floors below.

mod cache;
mod cache_dir;
mod cache_keep;
mod cache_report;
mod caches;
mod completions;
mod demo;
mod exit;
mod filter_options;
mod library;
mod look;
mod man;
mod mount;
mod mount_helper;
mod options;
mod progress;
mod refresh;
mod settings;
mod sources;
mod status;
mod status_report;
mod top;
mod umount;
mod values;
mod web_options;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use log::LevelFilter;

use crate::error::{Error, Kind, Result};
use crate::fuse::{probe, reaper};
use crate::service::background::{self, Word};
use crate::service::log::{self as service_log, LogTo, printable};
use exit::Outcome;
use mount::{Told, Typist};
use options::Env;
use settings::Settings;

/// The command that mounts.
const MOUNT: &str = "mount";

/// Mounts far video as a drive: opens and seeks at once, caches by chunk, never shows a wrong byte.
#[derive(Debug, Parser)]
#[command(name = "reelfs", version, arg_required_else_help = true, after_help = exit::TABLE)]
struct Cli {
    #[command(flatten)]
    talk: Talk,
    #[command(subcommand)]
    command: Command,
}

/// How much is said on the way.
#[derive(Debug, Args)]
struct Talk {
    /// Say more on stderr: -v what is done, -vv each step, -vvv everything. `RUST_LOG` chooses by module instead.
    #[arg(short, long, action = clap::ArgAction::Count, global = true, env = "REELFS_VERBOSE")]
    verbose: u8,
    /// Say nothing on stderr but why the program failed: for scripts. Wins over -v.
    #[arg(short, long, global = true, env = "REELFS_QUIET", value_parser = BoolishValueParser::new())]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
enum Command {
    Mount(mount::MountArgs),
    #[command(visible_alias = "unmount")]
    Umount(umount::UmountArgs),
    Demo(demo::DemoArgs),
    Init(library::init::InitArgs),
    Put(library::put::PutArgs),
    Get(library::get::GetArgs),
    Ls(library::ls::LsArgs),
    Tree(look::tree::TreeArgs),
    Size(look::size::SizeArgs),
    Cat(look::cat::CatArgs),
    Check(look::check::CheckArgs),
    Stat(library::stat::StatArgs),
    Rm(library::rm::RmArgs),
    Mv(library::mv::MvArgs),
    Tag(library::tag::TagArgs),
    Purge(library::purge::PurgeArgs),
    Verify(library::verify::VerifyArgs),
    Gc(library::gc::GcArgs),
    Copy(library::copy::CopyArgs),
    Recut(library::recut::RecutArgs),
    Backup(library::backup::BackupArgs),
    Cache(cache::CacheArgs),
    Status(status::StatusArgs),
    Refresh(refresh::RefreshArgs),
    Top(top::TopArgs),
    /// List what can be mounted, and how it is written.
    Sources,
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// What the program runs for itself. A command line of its own: help, completions, manual pages and "did you mean" know
/// nothing of it.
#[derive(Debug, Parser)]
#[command(name = "reelfs")]
struct Inner {
    #[command(subcommand)]
    command: InnerCommand,
}

#[derive(Debug, Subcommand)]
enum InnerCommand {
    /// Run by a mount itself, see `fuse::reaper`.
    #[command(name = reaper::COMMAND)]
    UnmountWhenOrphaned { mountpoint: PathBuf },
    /// Run by a mount itself, see `fuse::probe`.
    #[command(name = probe::COMMAND)]
    ProbeMount { mountpoint: PathBuf },
    /// Run by `mount --background`, see `service::background`.
    #[command(name = background::COMMAND)]
    ServeInBackground { mountpoint: PathBuf },
}

impl Inner {
    /// Whether the program has called itself.
    fn is_meant(typed: &[OsString]) -> bool {
        let first = typed.get(1).and_then(|word| word.to_str());
        first.is_some_and(|word| Self::command().get_subcommands().any(|command| command.get_name() == word))
    }
}

/// The whole program: reads the command line, does what it says, and says in one line on stderr why it could not.
pub fn run() -> ExitCode {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let code = if mount_helper::is_meant(&typed) {
        run_for_mount(&typed)
    } else if Inner::is_meant(&typed) {
        run_inner(&typed)
    } else {
        run_typed(&typed, None)
    };
    // Warnings that were counted and not said yet.
    log::logger().flush();
    code
}

/// As the program calls itself.
fn run_inner(typed: &[OsString]) -> ExitCode {
    let done = match Inner::try_parse_from(typed).map(|inner| inner.command) {
        Err(error) => return refuse(&error),
        Ok(InnerCommand::UnmountWhenOrphaned { mountpoint }) => reaper::unmount_when(io::stdin(), &mountpoint),
        Ok(InnerCommand::ProbeMount { mountpoint }) => probe::ask(&mountpoint),
        Ok(InnerCommand::ServeInBackground { .. }) => return serve_in_background(),
    };
    done.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// As mount(8) calls us.
fn run_for_mount(asked: &[OsString]) -> ExitCode {
    let mut command = Cli::command();
    command.build();
    let done = match mount_helper::as_typed(asked, &command) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(typed)) => run_typed(&typed, Some(mount_helper::variables(&|name| std::env::var_os(name)))),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    };
    if done == ExitCode::SUCCESS { done } else { ExitCode::from(mount_helper::FAILED) }
}

/// `for_mount`: mount(8) asks, which says nothing where all is well; with these variables for the mount in the background.
fn run_typed(typed: &[OsString], for_mount: Option<Vec<(&str, OsString)>>) -> ExitCode {
    let typist = if for_mount.is_some() { Typist::Program } else { Typist::Person };
    let parsed = match Parsed::parse(typed, typist) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&error),
    };
    let done = parsed.start_log(false).and_then(|_| match parsed.cli.command {
        Command::Mount(args) if args.is_background() => {
            let is_quiet = parsed.cli.talk.quiet || for_mount.is_some();
            let line = background::start(typed, args.mountpoint(), for_mount.unwrap_or_default())?;
            if !is_quiet {
                say(&line);
            }
            Ok(ExitCode::SUCCESS)
        }
        command => dispatch(command, &parsed.cli.talk),
    });
    match done {
        Ok(code) => code,
        // Nobody wants the answer any longer: the reader of our output went away.
        Err(error) if error.kind() == Kind::Cancelled => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says why, and tells it by the exit code, too.
fn failed(error: &Error) -> ExitCode {
    complain(error);
    Outcome::of(error).into()
}

fn dispatch(command: Command, talk: &Talk) -> Result<ExitCode> {
    match command {
        Command::Mount(args) => mount::run(args, Told::Here { is_quiet: talk.quiet }),
        Command::Umount(args) => umount::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Cache(args) => return cache::run(args, talk.quiet, &mut io::stdout().lock()),
        Command::Init(args) => library::init::run(args, &mut io::stdout().lock()),
        Command::Put(args) => return library::put::run(args, talk.quiet, &mut io::stdout().lock()),
        Command::Get(args) => return library::get::run(args, talk.quiet, &mut io::stdout().lock()),
        Command::Ls(args) => library::ls::run(args, &mut io::stdout().lock()),
        Command::Tree(args) => look::tree::run(args, &mut io::stdout().lock()),
        Command::Size(args) => look::size::run(args, &mut io::stdout().lock()),
        Command::Check(args) => return look::check::run(args, talk.quiet, &mut io::stdout().lock()),
        Command::Cat(args) => look::cat::run(args, &mut io::stdout().lock()),
        Command::Stat(args) => library::stat::run(args, &mut io::stdout().lock()),
        Command::Rm(args) => return library::rm::run(args),
        Command::Mv(args) => library::mv::run(args),
        Command::Tag(args) => return library::tag::run(args, &mut io::stdout().lock()),
        Command::Purge(args) => return library::purge::run(args, &mut io::stdout().lock()),
        Command::Verify(args) => return library::verify::run(args, talk.quiet, &mut io::stdout().lock()),
        Command::Gc(args) => library::gc::run(args, &mut io::stdout().lock()),
        Command::Copy(args) => return library::copy::run(args, talk.quiet, &mut io::stdout().lock()),
        Command::Recut(args) => return library::recut::run(&args, talk.quiet, &mut io::stdout().lock()),
        Command::Backup(args) => return library::backup::run(&args, talk.quiet, &mut io::stdout().lock()),
        Command::Status(args) => status::run(&args, &mut io::stdout().lock()),
        Command::Refresh(args) => refresh::run(&args, &mut io::stdout().lock()),
        Command::Top(args) => top::run(&args),
        Command::Sources => sources::run(&mut io::stdout().lock()),
        Command::Completions(args) => completions::run(&args, Cli::command(), &mut io::stdout().lock()),
        Command::Man(args) => man::run(&args, Cli::command()),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// The second process of `mount --background`: what was typed comes through its stdin, and its word goes to stdout.
fn serve_in_background() -> ExitCode {
    let mut word = Word::new(io::stdout());
    let served = background::typed(io::stdin().lock()).and_then(|typed| {
        let parsed = Parsed::parse(&typed, Typist::Program).map_err(|error| misuse(clap_line(&error)))?;
        let log = parsed.start_log(true)?;
        match parsed.cli.command {
            Command::Mount(args) => mount::run(args, Told::Starter { word: &mut word, log: &log }),
            _ => Err(misuse("only mounts go to the background")),
        }
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            word.failed(&error);
            Outcome::of(&error).into()
        }
    }
}

/// What was typed, with the settings of a file below it.
struct Parsed {
    cli: Cli,
    warnings: Vec<String>,
}

impl Parsed {
    fn parse(typed: &[OsString], typist: Typist) -> std::result::Result<Self, clap::Error> {
        let env: Env = &|name| std::env::var_os(name);
        let matches = Cli::command().try_get_matches_from(typed)?;
        let named = matches.subcommand_matches(MOUNT).and_then(mount::settings_named);
        let settings = named
            .map(|name| Settings::read(name, &Cli::command(), env))
            .transpose()
            .map_err(|error| clap::Error::raw(ErrorKind::InvalidValue, error))?;
        let matches = match &settings {
            Some(settings) => settings.under(Cli::command(), MOUNT).try_get_matches_from(typed)?,
            None => matches,
        };
        let mut cli = Cli::from_arg_matches(&matches)?;
        let mut warnings = Vec::from_iter(settings.as_ref().and_then(Settings::warning));
        if let (Command::Mount(args), Some(matches)) = (&mut cli.command, matches.subcommand_matches(MOUNT)) {
            args.settle(mount::Typed::of(matches), mount::source_elsewhere(env, settings.as_ref()))
                .map_err(|missing| clap::Error::raw(ErrorKind::MissingRequiredArgument, missing))?;
            let useless = args
                .check_options(matches, settings.as_ref(), typist)
                .map_err(|told| clap::Error::raw(ErrorKind::ArgumentConflict, told))?;
            warnings.extend(useless);
        }
        Ok(Self { cli, warnings })
    }

    /// Says where it goes to.
    fn start_log(&self, is_background: bool) -> Result<LogTo> {
        let file = match &self.cli.command {
            // Before it is in the background, it has a terminal.
            Command::Mount(args) if is_background || !args.is_background() => args.log_file(),
            _ => None,
        };
        let to = match file {
            Some(file) => LogTo::File(file.to_owned()),
            None if is_background => LogTo::System,
            None => LogTo::Stderr,
        };
        service_log::start(log_builder(&self.cli.talk), &to)?;
        // What goes to the background was warned of before.
        for warning in self.warnings.iter().filter(|_| !is_background) {
            log::warn!("{warning}");
        }
        Ok(to)
    }
}

/// The one line a failure gets.
fn complain(error: &Error) {
    say(&error.to_string());
}

/// One line on stderr. Where stderr is gone, nobody is left to tell.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "reelfs: {}", printable(message));
}

/// Help and version as clap writes them; of a mistake what is wrong and what would do.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
        }
        _ => {
            let lines: Vec<_> = clap_lines(error).iter().map(|line| printable(line)).collect();
            let _ = writeln!(io::stderr(), "reelfs: {}", lines.join("\n"));
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

/// clap's words on a mistake, each on a line of its own as clap has them, and where to look.
fn clap_lines(error: &clap::Error) -> Vec<String> {
    let mut lines = clap_told(error);
    if let Some(last) = lines.last_mut() {
        last.push_str(" (see --help)");
    }
    lines
}

/// The same on one line, for a place that has only one.
fn clap_line(error: &clap::Error) -> String {
    clap_told(error).iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// What is wrong and its tips, without the usage that follows.
fn clap_told(error: &clap::Error) -> Vec<String> {
    let rendered = error.render().to_string();
    let lines = rendered.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let told = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    told.map(|line| line.strip_prefix("error: ").unwrap_or(line).to_owned()).collect()
}

/// The error of an answer that could not be written; `reelfs cache status | head` isn't a failure.
fn written(error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(Kind::Cancelled, "nobody reads any longer");
    }
    Error::io("writing the answer", error)
}

/// Flags win over `RUST_LOG`, as the command line wins over the environment everywhere.
fn log_builder(talk: &Talk) -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    match levels(talk, std::env::var("RUST_LOG").is_ok()) {
        // A refused certificate is told by our own error, with what to do; the verifier's line would say it a second time.
        Some((ours, others)) => builder
            .filter_level(others)
            .filter_module("reelfs", ours)
            .filter_module("rustls_platform_verifier", LevelFilter::Off),
        None => builder.parse_default_env(),
    };
    builder
}

/// What is logged of ours and of the crates we stand on; nothing when `RUST_LOG` decides.
fn levels(talk: &Talk, is_filter_set: bool) -> Option<(LevelFilter, LevelFilter)> {
    match (talk.quiet, talk.verbose) {
        (true, _) => Some((LevelFilter::Off, LevelFilter::Off)),
        (false, 0) if is_filter_set => None,
        (false, 0) => Some((LevelFilter::Warn, LevelFilter::Error)),
        (false, 1) => Some((LevelFilter::Info, LevelFilter::Error)),
        (false, 2) => Some((LevelFilter::Debug, LevelFilter::Warn)),
        (false, _) => Some((LevelFilter::Trace, LevelFilter::Debug)),
    }
}

/// An error of two options that clap lets through; it has seen each alone.
fn misuse(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_keeps_the_lines_that_clap_gives_it() {
        for (typed, lines) in [
            (
                vec!["reelfs", "mount", "a", "b", "--cache-size", "big"],
                "invalid value 'big' for '--cache-size <SIZE>': `big` is not a size: write a number and a unit, \
                 like 2MiB, 500MB or 10G (see --help)",
            ),
            (
                vec!["reelfs", "mount", "a", "b", "--fill", "all"],
                "invalid value 'all' for '--fill <FILL>'\n  [possible values: playing, never] (see --help)",
            ),
            (
                vec!["reelfs", "mount", "a", "b", "--cash-size=1G"],
                "unexpected argument '--cash-size' found\n  tip: a similar argument exists: '--cache-size' (see --help)",
            ),
            (
                vec!["reelfs", "mount"],
                "the following required arguments were not provided: <SOURCE> <MOUNTPOINT> (see --help)",
            ),
        ] {
            let typed: Vec<OsString> = typed.into_iter().map(OsString::from).collect();
            let error = Parsed::parse(&typed, Typist::Person).map(|_| ()).unwrap_err();
            assert_eq!(clap_lines(&error).join("\n"), lines);
            assert!(!clap_line(&error).contains('\n'));
        }
    }

    #[test]
    fn what_the_program_runs_for_itself_is_known_to_nobody_else() {
        for (name, inner) in [(probe::COMMAND, true), (background::COMMAND, true), ("mount", false)] {
            let typed: Vec<OsString> = ["reelfs", name, "--", "/x"].into_iter().map(OsString::from).collect();
            assert_eq!(Inner::is_meant(&typed), inner, "{name}");
        }
        let mut command = Cli::command();
        let mut shown = command.render_long_help().to_string();
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "reelfs", &mut script);
            shown += &String::from_utf8(script).unwrap();
        }
        // What is typed by mistake is compared with all commands, hidden or not.
        for near in ["unmount-when", "probe-moun", "serve-in-backgroun"] {
            shown += &Cli::try_parse_from(["reelfs", near]).unwrap_err().to_string();
        }
        for inner in [reaper::COMMAND, probe::COMMAND, background::COMMAND] {
            assert!(!shown.contains(inner), "{inner} is shown");
        }
    }

    #[test]
    fn nothing_printed_moves_the_cursor() {
        assert_eq!(printable("a\nb\tc\n"), "a b c");
        assert_eq!(printable("\u{1b}[2Jfilm\u{9b}"), "\\u{1b}[2Jfilm\\u{9b}");
        assert_eq!(printable("фильм 1"), "фильм 1");
    }

    #[test]
    fn flags_decide_before_the_environment() {
        let levels = |quiet, verbose, is_set| levels(&Talk { verbose, quiet }, is_set).map(|(ours, _)| ours);
        assert_eq!(levels(false, 0, true), None);
        assert_eq!(levels(false, 0, false), Some(LevelFilter::Warn));
        assert_eq!(levels(true, 0, true), Some(LevelFilter::Off));
        assert_eq!(levels(false, 1, true), Some(LevelFilter::Info));
        assert_eq!(levels(false, 9, false), Some(LevelFilter::Trace));
    }

    #[test]
    fn every_option_of_the_contract_has_a_variable_and_a_text() {
        let command = Cli::command();
        let mount = command.find_subcommand("mount").unwrap();
        for name in [
            "cache-dir",
            "cache-size",
            "min-free",
            "chunk-size",
            "lookahead-chunks",
            "fill",
            "connections",
            "ssh-command",
            "chunk-timeout",
            "retries",
            "whole-file-max",
            "dir-ttl",
            "uid",
            "gid",
            "umask",
            "allow-other",
            "group-read",
            "threads",
            "metrics-listen",
        ] {
            let option = mount.get_arguments().find(|option| option.get_long() == Some(name)).unwrap();
            let variable = format!("REELFS_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(option.get_env().unwrap().to_str(), Some(variable.as_str()));
            assert!(option.get_help().unwrap().to_string().len() > 40, "{name}");
        }
    }
}
