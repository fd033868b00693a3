//! What all rows share: settings, the scratch folder, the big file, progress, and the lines they add.
//! Never here: what a row measures.

use std::cell::{Cell, OnceCell};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reelfs::demo::{Content, generate};
use tempfile::TempDir;

use crate::Result;
use crate::mounts::Program;
use crate::table::{Line, Unit, show};

/// Names the bytes of the big file.
pub const BIG_SEED: u64 = 0xb16;
/// The big file's name wherever it is served.
pub const BIG: &str = "big.mkv";
/// The folder it lies in, as a server of buckets calls it.
pub const BUCKET: &str = "films";
const MIB: u64 = 1 << 20;

/// What was asked for on the command line.
pub struct Settings {
    pub repeat: usize,
    /// Of the big file.
    pub size_bytes: u64,
    /// Of ours; the default if none.
    pub chunk_size: Option<String>,
    /// Whether the others are left out.
    pub only_ours: bool,
}

/// One run of the bench.
pub struct Bench {
    pub settings: Settings,
    pub lines: Vec<Line>,
    folder: TempDir,
    big: OnceCell<PathBuf>,
    interrupted: Arc<AtomicBool>,
    row: Cell<u8>,
    told_missing: Vec<&'static str>,
}

impl Bench {
    /// With a scratch folder below `parent` that goes when the bench does.
    pub fn new(settings: Settings, parent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("reelfs-bench-").tempdir_in(parent)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        // Everything is tidied up on the way out, so the way out is the usual one.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self {
            settings,
            lines: Vec::new(),
            folder,
            big: OnceCell::new(),
            interrupted,
            row: Cell::new(0),
            told_missing: Vec::new(),
        })
    }

    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    pub fn begin_row(&self, row: u8) {
        self.row.set(row);
    }

    pub fn row(&self) -> u8 {
        self.row.get()
    }

    pub fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Whether somebody pressed Ctrl-C.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Says what is being done; an error if it should not be any more.
    pub fn say(&self, what: &str) -> Result<()> {
        if self.is_interrupted() {
            return Err("interrupted".into());
        }
        eprintln!("row {}: {what}", self.row());
        Ok(())
    }

    /// One sample: says whose it is and which, measures, and says what came of it.
    pub fn sample<T>(
        &self,
        who: &str,
        number: usize,
        unit: Unit,
        measure: impl FnOnce() -> Result<(f64, T)>,
    ) -> Result<(f64, T)> {
        if self.is_interrupted() {
            return Err("interrupted".into());
        }
        eprint!("row {}: {who} {number}/{} … ", self.row(), self.settings.repeat);
        // The line is not whole yet.
        let _ = std::io::stderr().flush();
        let measured = measure();
        match &measured {
            Ok((value, _)) => eprintln!("{}", show(&[*value], unit)),
            Err(_) if self.is_interrupted() => {
                eprintln!();
                return Err("interrupted".into());
            }
            Err(error) => eprintln!("{error}"),
        }
        measured
    }

    /// Of those who are here, who goes first changes with each repeat: nobody always has the warmer disk.
    pub fn turns(&self, all: &[Program], number: usize) -> Vec<Program> {
        let mut here: Vec<_> = all.iter().copied().filter(|program| self.has(*program)).collect();
        let len = here.len().max(1);
        here.rotate_left(number % len);
        here
    }

    /// Whether a side takes part.
    pub fn has(&self, program: Program) -> bool {
        program == Program::Ours || (!self.settings.only_ours && program.is_installed())
    }

    /// Says once of each program that is missing that its column stays empty.
    pub fn tell_missing(&mut self, all: &[Program]) {
        for program in all {
            if !program.is_installed() && !self.told_missing.contains(&program.name()) {
                eprintln!("{} is not installed: its column stays empty", program.name());
                self.told_missing.push(program.name());
            }
        }
    }

    /// The big file, on the disk of the scratch folder, alone in a folder that a server can show.
    pub fn big_file(&self) -> Result<&Path> {
        if let Some(path) = self.big.get() {
            return Ok(path);
        }
        // A server of buckets shows the upper folder, all others the lower one.
        let folder = self.scratch().join("buckets").join(BUCKET);
        fs::create_dir_all(&folder)?;
        let path = folder.join(BIG);
        eprintln!("making a file of {} MiB …", self.settings.size_bytes / MIB);
        write_generated(&path, BIG_SEED, self.settings.size_bytes)?;
        Ok(self.big.get_or_init(|| path))
    }

    /// The same bytes for our double, at no cost of disk.
    pub fn big_content(&self) -> Content {
        Content::Generated { size_bytes: self.settings.size_bytes, seed: BIG_SEED }
    }
}

/// Writes a generated file, and has it on the disk.
fn write_generated(path: &Path, seed: u64, size_bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut piece = vec![0; MIB as usize];
    for at in (0..size_bytes).step_by(MIB as usize) {
        let bytes = &mut piece[..MIB.min(size_bytes - at) as usize];
        generate(seed, at, bytes);
        file.write_all(bytes)?;
    }
    file.sync_all()?;
    Ok(())
}
