//! `reelfs verify`: hashes every chunk of a library, and repairs what another library still has.
//! Never here: where a home keeps its chunks.

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{Interrupted, LibraryOptions, counted, line};
use crate::cli::exit::Outcome;
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
    let mut lost = 0;
    if args.salvage {
        let salvaged = place::salvage(&args.library, &|| !interrupted.is_set()).map_err(broken_off)?;
        told_salvaged(&salvaged, out)?;
        lost = salvaged.lost_count;
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
            // What stands around the bytes of files may be counted in the total, and damage as whole.
            let (done_bytes, total_bytes) = (verified.bytes, verified.total_bytes.max(verified.bytes));
            let total_bytes = if verified.total_bytes == 0 { 0 } else { total_bytes };
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
    let damaged_catalog = library.damaged_catalog();
    if orphans.0 > 0 {
        let (orphans, bytes) = (counted(orphans.0, "orphan"), format_size(orphans.1));
        match &damaged_catalog {
            None => line(out, &format!("{orphans}, {bytes}: `reelfs gc` removes them"))?,
            Some(catalog) => line(
                out,
                &format!(
                    "{orphans}, {bytes}: they may belong to files that {catalog} named. Do not run `reelfs gc` yet"
                ),
            )?,
        }
    }
    if lost > 0 {
        told_how_to_save(lost, damaged_catalog.as_deref(), out)?;
    }
    if interrupted.is_set() {
        line(out, "broken off: not all was looked at")?;
        return Ok(ExitCode::FAILURE);
    }
    if left == 0 {
        return Ok(if lost == 0 { Outcome::Done } else { Outcome::Damaged }.into());
    }
    line(out, &format!("{left} missing or damaged; `--repair-from` another library puts back what that one has"))?;
    Ok(Outcome::Damaged.into())
}

/// A salvage that was stopped has failed: the catalog is as damaged as before.
fn broken_off(error: Error) -> Error {
    if error.kind() == Kind::Cancelled { Error::new(Kind::Local, error.to_string()) } else { error }
}

fn told_salvaged(salvaged: &Salvaged, out: &mut dyn Write) -> Result<()> {
    for name in &salvaged.lost {
        line(out, &format!("lost: `{name}`"))?;
    }
    let (files, lost) = (counted(salvaged.files, "file"), salvaged.lost_count);
    if let Some(backup) = &salvaged.backup {
        let what = "is the catalog now, with more whole files than could be read of the damaged one";
        return line(
            out,
            &format!("{} {what}: {files}. What was put after it was made is not in it", backup.display()),
        );
    }
    let nameless = salvaged.nameless;
    line(out, &format!("{files} saved, {nameless} of them without a name in lost+found; {lost} known to be lost"))
}

/// What a person can still do for files that a salvage could not save; until then their chunks are nobody's.
fn told_how_to_save(lost: u64, damaged_catalog: Option<&str>, out: &mut dyn Write) -> Result<()> {
    let files = counted(lost, "file");
    let catalog = damaged_catalog.unwrap_or("the damaged catalog");
    line(
        out,
        &format!("{files} lost. Do not run `reelfs gc` before they are back: it would remove their chunks for good"),
    )?;
    line(
        out,
        "what may still save them: a copy of `catalog.sqlite` from a backup, put back while nothing is mounted;",
    )?;
    line(
        out,
        "`reelfs copy` from another library; or `reelfs put` of the same files, whose chunks here are not written again",
    )?;
    line(out, &format!("when nothing is missing any longer, move {catalog} away: then `reelfs gc` may run"))
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::cli::library::gc::{self, GcArgs};
    use crate::config::PlacesConfig;
    use crate::library::Meta;
    use crate::library::writer::Writer;

    /// What `verify` says, and how it ends.
    fn verified(library: &str, options: &[&str]) -> (ExitCode, String) {
        let command = VerifyArgs::augment_args(clap::Command::new("verify"));
        let typed = command.get_matches_from([&["verify", library][..], options].concat());
        let args = <VerifyArgs as clap::FromArgMatches>::from_arg_matches(&typed).unwrap();
        let mut said = Vec::new();
        let code = run(args, true, &mut said).unwrap();
        (code, String::from_utf8(said).unwrap())
    }

    fn collected(library: &str) -> Result<String> {
        let command = GcArgs::augment_args(clap::Command::new("gc"));
        let typed = command.get_matches_from(["gc", library, "--grace", "0"]);
        let args = <GcArgs as clap::FromArgMatches>::from_arg_matches(&typed).unwrap();
        let mut said = Vec::new();
        gc::run(args, &mut said)?;
        Ok(String::from_utf8(said).unwrap())
    }

    fn blobs(dir: &Path) -> Vec<std::path::PathBuf> {
        let folders = fs::read_dir(dir.join("blobs")).unwrap().map(|folder| folder.unwrap().path());
        folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|blob| blob.unwrap().path())).collect()
    }

    #[test]
    fn salvage_that_was_stopped_fails() {
        let stopped = broken_off(Error::new(Kind::Cancelled, "broken off: nothing was changed"));
        assert_eq!((stopped.kind(), Outcome::of(&stopped).code()), (Kind::Local, 1));
        assert!(stopped.to_string().contains("broken off: nothing was changed"));
        assert_eq!(broken_off(Error::new(Kind::Busy, "x")).kind(), Kind::Busy);
    }

    #[test]
    fn a_salvage_that_loses_files_fails_and_keeps_gc_from_their_chunks() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("library");
        let text = format!("library:{}", dir.display());
        place::create(&text, &PlacesConfig::default(), (Some(0), Some(4096))).unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let library = place::open(&text, &PlacesConfig::default(), Access::Write).unwrap().library;
            let mut writer = Writer::new(library.draft(name, None).unwrap(), library.cut());
            writer.write(bytes).unwrap();
            writer.finish(Meta::now()).unwrap();
            library.flush().unwrap();
        };
        put("whole", &[1; 4096]);
        let before = blobs(&dir);
        let film = [[2; 4096], [3; 4096]].concat();
        put("lost", &film);
        let gone = blobs(&dir).into_iter().find(|blob| !before.contains(blob)).unwrap();
        fs::remove_file(gone).unwrap();
        let spoil = || {
            let catalog = rusqlite::Connection::open(dir.join("catalog.sqlite")).unwrap();
            catalog.pragma_update(None, "application_id", 1).unwrap();
        };
        spoil();

        let (code, said) = verified(&text, &["--salvage"]);
        assert_eq!(code, Outcome::Damaged.into(), "{said}");
        for part in ["lost: `lost`", "1 file lost. Do not run `reelfs gc`", "`reelfs put`", "catalog.sqlite.damaged"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("`reelfs gc` removes them"), "{said}");
        // Nor later.
        let (code, said) = verified(&text, &[]);
        assert!(code == ExitCode::SUCCESS && said.contains("Do not run `reelfs gc` yet"), "{said}");
        let refused = collected(&text).unwrap_err();
        assert!(refused.kind() == Kind::Invalid && refused.to_string().contains("catalog.sqlite.damaged"), "{refused}");
        assert_eq!(blobs(&dir).len(), 2);
        // Put again it is whole, and the rest may go.
        put("lost", &film);
        fs::remove_file(dir.join("catalog.sqlite.damaged")).unwrap();
        assert!(collected(&text).unwrap().contains("0 orphaned chunks"));
        // A salvage that loses nothing succeeds.
        spoil();
        let (code, said) = verified(&text, &["--salvage"]);
        assert!(code == ExitCode::SUCCESS && !said.contains("Do not run"), "{said}");
    }

    #[test]
    fn verify_tells_how_far_it_is_of_how_much() {
        for home in ["library:", "kv+file://"] {
            let temp = tempfile::tempdir().unwrap();
            let text = format!("{home}{}", temp.path().join("library").display());
            place::create(&text, &PlacesConfig::default(), (Some(1000), Some(4096))).unwrap();
            let library = place::open(&text, &PlacesConfig::default(), Access::Write).unwrap().library;
            for (name, len) in [("small", 500_usize), ("film", 20_000), ("again", 20_000)] {
                let mut writer = Writer::new(library.draft(name, None).unwrap(), library.cut());
                let bytes: Vec<u8> = (0..len).map(|at| (at / 4096) as u8).collect();
                writer.write(&bytes).unwrap();
                writer.finish(Meta::now()).unwrap();
            }
            library.flush().unwrap();
            let mut heard = Vec::new();
            let go_on = &mut |verified: crate::library::Verified| {
                heard.push(verified);
                true
            };
            let verified = library.verify(go_on, &mut |finding| panic!("{finding:?}")).unwrap();
            let total_bytes = verified.total_bytes;
            assert!(
                heard.iter().all(|heard| heard.total_bytes == total_bytes && heard.bytes <= total_bytes),
                "{heard:?}"
            );
            // Heads and manifests of a store stand beside the bytes.
            let around = if home == "library:" { 0 } else { 3 * 2048 };
            assert!(verified.bytes >= 20_500 && total_bytes - verified.bytes <= around, "{home} {verified:?}");
        }
    }
}
