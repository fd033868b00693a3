//! Where the log goes: to the terminal or systemd, to a file, or to the system's own log.
//! A file is opened anew when it is asked for, as after its rotation; what is said again and again is counted.
//! Never here: how much is said.

mod repeats;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use env_logger::{Builder, Target};
use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;
use repeats::{Counted, Repeats, Said, WINDOW};

use crate::error::{Error, Result};
use crate::modes::Modes;

/// Where the system's log listens, systemd's or another.
const SYSTEM_LOG: &str = "/dev/log";

/// There if it is systemd's.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// What we are called there.
const NAME: &str = "reelfs";

/// "System daemons", of syslog's kinds of programs.
const FACILITY: u8 = 3;

/// Where to say things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// The terminal, or whoever reads it. systemd gets each line's level as it wants it.
    Stderr,
    /// The end of this file.
    File(PathBuf),
    /// The system's log: nobody reads the stderr of a mount in the background.
    System,
}

impl fmt::Display for LogTo {
    /// For people who look for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
            Self::System if UnixDatagram::unbound().and_then(|socket| socket.connect(SYSTEM_LOG)).is_err() => {
                f.write_str("nowhere, no system's log is there; --log-file keeps one")
            }
            Self::System if Path::new(JOURNAL).exists() => write!(f, "journalctl -t {NAME}"),
            Self::System => write!(f, "the system's log, as {NAME}"),
        }
    }
}

/// Starts the log that `builder` describes. A panic is logged, too, where stderr goes nowhere.
pub fn start(mut builder: Builder, to: &LogTo) -> Result<()> {
    match to {
        LogTo::Stderr => {
            if is_journal(&std::env::var("JOURNAL_STREAM").unwrap_or_default(), "/proc/self/fd/2".as_ref()) {
                builder.format(|line, record| writeln!(line, "<{}>{}", severity(record.level()), told(record)));
            }
        }
        LogTo::File(path) => {
            let log = Arc::new(LogFile::open(path)?);
            // The first one stays, as below.
            let log = Arc::clone(LOG_FILE.get_or_init(|| log));
            builder.target(Target::Pipe(Box::new(SharedLogFile(log))));
        }
        LogTo::System => {
            let pid = std::process::id();
            builder.format(move |line, record| {
                let priority = FACILITY * 8 + severity(record.level());
                write!(line, "<{priority}>{NAME}[{pid}]: {}", told(record))
            });
            builder.target(Target::Pipe(Box::new(SystemLog::default())));
        }
    }
    let logger = builder.build();
    let level = logger.filter();
    // The first logger stays; only a test that runs commands in one process starts a second.
    let logger = Bounded::new(Printable(logger));
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
    if *to != LogTo::Stderr {
        std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    }
    Ok(())
}

/// A log names what is read: it is its owner's alone. What one that is there gives to a group stays.
fn open(path: &Path) -> io::Result<File> {
    let file = Modes::OWNER.options().append(true).create(true).open(path)?;
    Modes::of(path).mend_file(&file);
    Ok(file)
}

/// The file that is logged to, if one is: for `reopen`.
static LOG_FILE: OnceLock<Arc<LogFile>> = OnceLock::new();

/// Goes on with the log in a new file, where the old one was renamed or removed; the log of a terminal or of the system is
/// left alone. If there can be no new file, the old one is written on.
pub fn reopen() {
    if let Some(log) = LOG_FILE.get()
        && let Err(error) = log.reopen()
    {
        log::error!("{error}: the log goes on where it was");
    }
}

/// A log in a file.
#[derive(Debug)]
struct LogFile {
    // Absolute: the program may change its working directory.
    path: PathBuf,
    // Held while a line is written.
    file: Mutex<File>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| Error::io(path.display(), &error))?;
        Ok(Self { file: Mutex::new(Self::file(&path)?), path })
    }

    fn reopen(&self) -> Result<()> {
        let file = Self::file(&self.path)?;
        *self.file.lock() = file;
        Ok(())
    }

    fn file(path: &Path) -> Result<File> {
        open(path).map_err(|error| Error::io(path.display(), &error))
    }
}

/// For the logger.
struct SharedLogFile(Arc<LogFile>);

impl Write for SharedLogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.file.lock().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.file.lock().flush()
    }
}

/// The log with a bound on what an outage says: see `repeats`.
struct Bounded<L> {
    shared: Arc<Shared<L>>,
}

struct Shared<L> {
    log: L,
    // Taken alone; nothing is logged under it.
    repeats: Mutex<Repeats>,
}

impl<L: Log + 'static> Bounded<L> {
    fn new(log: L) -> Self {
        Self { shared: Arc::new(Shared { log, repeats: Mutex::default() }) }
    }
}

impl<L: Log> Shared<L> {
    fn tell(&self, counted: &[Counted]) {
        for counted in counted {
            let mut record = Record::builder();
            record.level(counted.level).target(&counted.target);
            self.log.log(&record.args(format_args!("{}", counted.line())).build());
        }
    }
}

impl<L: Log + 'static> Log for Bounded<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.shared.log.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.level() > Level::Warn {
            return self.shared.log.log(record);
        }
        let place = (record.file().unwrap_or_default(), record.line().unwrap_or_default());
        let said = Said { level: record.level(), target: record.target(), place, text: &record.args().to_string() };
        let verdict = self.shared.repeats.lock().hear(&said, Instant::now());
        self.shared.tell(&verdict.over);
        if verdict.is_said {
            self.shared.log.log(record);
        }
        if verdict.is_first_unsaid {
            // What is counted is told when its time is up, also if nothing else is ever logged.
            let shared = Arc::clone(&self.shared);
            let telling = move || {
                loop {
                    thread::sleep(WINDOW);
                    let mut repeats = shared.repeats.lock();
                    let over = repeats.take_over(Instant::now());
                    let is_idle = repeats.is_idle();
                    drop(repeats);
                    shared.tell(&over);
                    if is_idle {
                        return;
                    }
                }
            };
            // Without the thread the next line of the log tells it.
            let _ = thread::Builder::new().name("log-repeats".into()).spawn(telling);
        }
    }

    fn flush(&self) {
        let over = self.shared.repeats.lock().take_all();
        self.shared.tell(&over);
        self.shared.log.flush();
    }
}

/// The log, wherever it goes, with each message on one line that can do nothing to a terminal.
struct Printable<L>(L);

impl<L: Log> Log for Printable<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = printable(&record.args().to_string());
            let mut told = Record::builder();
            told.metadata(record.metadata().clone()).module_path(record.module_path());
            told.file(record.file()).line(record.line());
            self.0.log(&told.args(format_args!("{text}")).build());
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// `text` on one line that can do nothing to a terminal: names come from far servers. Blanks instead of line ends, and
/// other control characters written out.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for char in text.trim_end().chars() {
        match char {
            '\n' | '\r' | '\t' => line.push(' '),
            control if control.is_control() => line.extend(control.escape_unicode()),
            other => line.push(other),
        }
    }
    line
}

/// The time and the level are told apart from it.
fn told(record: &Record) -> String {
    format!("{}: {}", record.target(), record.args())
}

/// Of syslog's severities the ones that mean our levels.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether `stderr` is the stream to systemd's journal that `JOURNAL_STREAM` names, by device and inode; a program may
/// have inherited the variable and write somewhere else.
fn is_journal(named: &str, stderr: &Path) -> bool {
    std::fs::metadata(stderr).is_ok_and(|it| named == format!("{}:{}", it.dev(), it.ino()))
}

/// One datagram for each line. What the log can't take at once is lost: a drive must not wait for it.
#[derive(Debug, Default)]
struct SystemLog(Option<UnixDatagram>);

impl SystemLog {
    fn connect() -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(SYSTEM_LOG)?;
        Ok(socket)
    }

    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let socket = self.0.take().map_or_else(Self::connect, Ok)?;
        // Connected anew for the next line if it failed: the log may have been restarted.
        socket.send(line)?;
        self.0 = Some(socket);
        Ok(())
    }
}

impl Write for SystemLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Once more over a new connection, if there was one; then the line is lost.
        if self.0.is_none() || self.send(line).is_err() {
            let _ = self.send(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = std::fs::metadata(file.path()).unwrap();
        let named = format!("{}:{}", metadata.dev(), metadata.ino());
        assert!(is_journal(&named, file.path()));
        assert!(!is_journal("1:2", file.path()) && !is_journal("", file.path()));
        assert!(!is_journal(&named, Path::new("/no/such")));
    }

    #[test]
    fn what_is_logged_does_nothing_to_a_terminal() {
        let log = Printable(Heard::default());
        log.log(&Record::builder().level(Level::Warn).args(format_args!("\u{1b}[2Jfilm\nreelfs: all is well")).build());
        assert_eq!(*log.0.0.lock(), ["WARN \\u{1b}[2Jfilm reelfs: all is well"]);
    }

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl Log for Heard {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &Record<'_>) {
            self.0.lock().push(format!("{} {}", record.level(), record.args()));
        }
        fn flush(&self) {}
    }

    #[test]
    fn equal_warnings_are_one_with_a_count() {
        let heard = Heard::default();
        let log = Bounded::new(heard.clone());
        let warn = |text: &str| log.log(&Record::builder().level(Level::Warn).args(format_args!("{text}")).build());
        (0..6).for_each(|_| warn("the server is away"));
        warn("the disk is full");
        log.log(&Record::builder().level(Level::Info).args(format_args!("the server is away")).build());
        log.flush();
        assert_eq!(
            *heard.0.lock(),
            [
                "WARN the server is away",
                "WARN the disk is full",
                "INFO the server is away",
                "WARN the server is away (said 6 times)",
            ]
        );
    }

    #[test]
    fn a_log_goes_on_in_a_new_file_when_the_old_one_was_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let log = Arc::new(LogFile::open(&path).unwrap());
        let mut writer = SharedLogFile(Arc::clone(&log));
        writer.write_all(b"before\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        writer.write_all(b"still there\n").unwrap();
        log.reopen().unwrap();
        writer.write_all(b"after\n").unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("before\nstill there\n", "after\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o077, 0, "the log is its owner's alone");
    }

    #[test]
    fn where_to_look() {
        assert_eq!(LogTo::File("/var/log/reelfs".into()).to_string(), "/var/log/reelfs");
        assert!(!LogTo::System.to_string().is_empty());
    }
}
