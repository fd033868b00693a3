//! `reelfs verify`: hashes every chunk of a library, and repairs what another library still has.
//! Never here: where a home keeps its chunks.

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{Interrupted, LibraryOptions, counted, line};
use crate::cli::progress::Shown;
use crate::config::format_size;
use crate::control::Progress;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::catalog::Salvaged;
use crate::library::place::{self, Access};
use crate::library::{Content, Damage, Finding, Library, Proof};

/// Findings repaired in one go: each is told as it is found, and held until then.
const FINDINGS_MAX: usize = 100_000;

/// Hash every chunk. Tells missing, damaged and orphaned ones apart, and fails if any byte of a file is lost.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The library.
    library: String,
    /// Put back what is missing or damaged from this library, where it has the same bytes.
    #[arg(long, value_name = "LIBRARY")]
    repair_from: Option<String>,
    /// First make a new catalog of what can be read of a damaged one, and say what is lost. The old one stays beside it.
    #[arg(long)]
    salvage: bool,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Hashes, and says what is wrong. Fails if anything is that was not repaired.
pub fn run(args: VerifyArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let interrupted = Interrupted::listen()?;
    if args.salvage {
        told_salvaged(&place::salvage(&args.library, &|| !interrupted.is_set())?, out)?;
    }
    let places = args.options.places()?;
    // One that somebody writes to, a mount for example, is looked at beside it; then nothing is put aside.
    let opened = match place::open(&args.library, &places, Access::Write) {
        Err(error) if error.kind() == Kind::Busy && args.repair_from.is_none() => {
            place::open(&args.library, &places, Access::Look)?
        }
        opened => opened?,
    };
    let library = &*opened.whole()?;
    let other = args.repair_from.map(|text| place::open(&text, &places, Access::Look)).transpose()?;
    let mut shown = Shown::new(is_quiet);
    let (mut findings, mut damaged, mut orphans, mut told) = (Vec::new(), 0_u64, (0, 0), Ok(()));
    let verified = library.verify(
        &mut |verified| {
            let (done_bytes, total_bytes) = (verified.bytes, 0);
            shown.show(&Progress { path: counted(verified.chunks, "chunk"), done_bytes, total_bytes });
            !interrupted.is_set()
        },
        &mut |finding| {
            if told.is_ok() {
                told = line(out, &said(&finding));
            }
            if finding.what == Damage::Orphaned {
                orphans = (orphans.0 + 1, orphans.1 + finding.range.len());
            } else {
                damaged += 1;
                if findings.len() < FINDINGS_MAX {
                    findings.push(finding);
                }
            }
        },
    )?;
    shown.clear();
    told?;
    let mut left = damaged;
    if let Some(other) = &other {
        // Equal chunks of several files may be one and the same.
        let mut repaired = HashSet::new();
        for finding in &findings {
            let bytes = (&finding.place, finding.sha256);
            let done = if repaired.contains(&bytes) { Ok(()) } else { repair(library, &*other.library, finding) };
            match done {
                Ok(()) => {
                    repaired.insert(bytes);
                    line(out, &format!("repaired: {}", place_of(finding)))?;
                    left -= 1;
                }
                Err(error) => line(out, &format!("not repaired: {}: {error}", place_of(finding)))?,
            }
        }
        library.flush()?;
    }
    line(out, &format!("{}, {} hashed", counted(verified.chunks, "chunk"), format_size(verified.bytes)))?;
    if orphans.0 > 0 {
        line(out, &format!("{}, {}: `reelfs gc` removes them", counted(orphans.0, "orphan"), format_size(orphans.1)))?;
    }
    if interrupted.is_set() {
        line(out, "broken off: not all was looked at")?;
        return Ok(ExitCode::FAILURE);
    }
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    line(out, &format!("{left} missing or damaged; `--repair-from` another library puts back what that one has"))?;
    Ok(ExitCode::FAILURE)
}

fn told_salvaged(salvaged: &Salvaged, out: &mut dyn Write) -> Result<()> {
    for name in &salvaged.lost {
        line(out, &format!("lost: `{name}`"))?;
    }
    let (files, lost) = (counted(salvaged.files, "file"), salvaged.lost_count);
    let nameless = salvaged.nameless;
    line(out, &format!("{files} saved, {nameless} of them without a name in lost+found; {lost} known to be lost"))
}

fn said(finding: &Finding) -> String {
    let what = match finding.what {
        Damage::Missing => "missing",
        Damage::Damaged => "damaged",
        Damage::Orphaned => "orphaned",
    };
    format!("{what}: {}", place_of(finding))
}

fn place_of(finding: &Finding) -> String {
    match (&finding.path, finding.chunk) {
        (Some(path), Some(chunk)) => format!("`{path}`, chunk {chunk} ({})", finding.place),
        (Some(path), None) => format!("`{path}` ({})", finding.place),
        (None, _) => finding.place.clone(),
    }
}

/// Looks for the same bytes in the other library: under the same path, at the same place or as one of its chunks.
fn repair(library: &dyn Library, other: &dyn Library, finding: &Finding) -> Result<()> {
    let missing = |what: &str| Error::new(Kind::Missing, what);
    let path = finding.path.as_deref().ok_or_else(|| missing("no file names it"))?;
    let wanted = finding.sha256.ok_or_else(|| missing("nobody knows what its bytes were"))?;
    let manifest = other.manifest(path)?;
    let same = manifest.chunks().iter().position(|chunk| chunk.proof == Proof::Sha256(wanted));
    let bytes = if let Some(n) = same {
        other.chunk(path, &manifest, n)?.to_vec()
    } else if finding.range.end > manifest.size_bytes() {
        return Err(missing("the other library has another file there"));
    } else if let Content::Inline(bytes) = manifest.content() {
        bytes[finding.range.start as usize..finding.range.end as usize].to_vec()
    } else {
        let mut bytes = Vec::new();
        for n in manifest.covering(finding.range) {
            let range = manifest.chunks()[n].range;
            let both = range.intersect(finding.range);
            let chunk = other.chunk(path, &manifest, n)?;
            bytes.extend_from_slice(&chunk[(both.start - range.start) as usize..(both.end - range.start) as usize]);
        }
        bytes
    };
    if Digest::of(&bytes) != wanted {
        return Err(missing("the other library has other bytes there"));
    }
    library.repair(finding, &bytes)
}
