//! The drive measured side by side with the file system below it, `curl`, the bare URL in a player, and other mounts:
//! `cargo bench --bench drive -- --help`. Each row of the table is one promise about speed, memory or bytes.
//! Never here: what a row measures (`rows/`).
//!
//! Cold means a new cache directory, a new mount, and an empty page cache. What is compared is measured in turns, and
//! medians are shown. All network is loopback.

mod allocations;
mod bench;
mod machine;
mod mounts;
mod origins;
mod players;
mod reading;
mod rows;
mod stats;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::{Bench, Settings};
use clap::Parser;
use machine::Machine;
use reelfs::config::parse_size;
use rows::Row;
use table::Line;

/// An error is a sentence: it ends the row it comes from.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows whose figures depend on the chunk size.
const CHUNK_ROWS: [u8; 4] = [4, 6, 8, 10];
const CHUNK_SIZES: [&str; 5] = ["1MiB", "2MiB", "5MiB", "10MiB", "20MiB"];

/// Measures the mounted drive side by side with others, and prints a table.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench drive --")]
#[allow(clippy::struct_excessive_bools, reason = "they are flags")]
struct Args {
    /// Only this row; may be given more than once.
    #[arg(long, value_name = "N")]
    row: Vec<u8>,
    /// Samples of each figure; the table shows medians.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeat: u64,
    /// Of the big file.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    size: u64,
    /// Where caches and files are made, and removed again: a real disk. Default: the system's folder for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keeps everything, each sample included, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only ours, without the others' columns.
    #[arg(long)]
    only_ours: bool,
    /// Rows 4, 6, 8 and 10 for several chunk sizes, ours only.
    #[arg(long)]
    chunk_sizes: bool,
    /// Says which rows there are.
    #[arg(long)]
    list: bool,
    /// Cargo's own: without it this is `cargo test`, which has nothing to do here.
    #[arg(long, hide = true)]
    bench: bool,
    /// Row 12 starts this program anew for it: reads so many times from a cache below `--dir`.
    #[arg(long, hide = true, value_name = "N")]
    hit_reads: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        println!("the drive is measured by `cargo bench --bench drive`");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("drive: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every row could be measured; what it reached is the table's to say.
fn run(args: &Args) -> Result<bool> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    if args.list {
        for row in rows::ALL {
            println!("{:>2}  {}", row.number, row.title);
        }
        return Ok(true);
    }
    if let Some(reads) = args.hit_reads {
        rows::hits::read_hits(&parent, reads)?;
        return Ok(true);
    }
    if let Some(unknown) = args.row.iter().find(|number| rows::find(**number).is_none()) {
        return Err(format!("there is no row {unknown}: see --list").into());
    }
    if args.chunk_sizes { compare_chunk_sizes(args, &parent) } else { measure(args, &parent) }
}

fn measure(args: &Args, parent: &Path) -> Result<bool> {
    let mut bench = Bench::new(settings(args, None), parent)?;
    let machine = describe(&bench);
    let is_complete = run_rows(&mut bench, |row| args.row.is_empty() || args.row.contains(&row.number));
    table::print(&bench.lines);
    write_json(args, &bench.lines, &machine, None)?;
    Ok(is_complete)
}

fn compare_chunk_sizes(args: &Args, parent: &Path) -> Result<bool> {
    let wanted =
        |row: &Row| CHUNK_ROWS.contains(&row.number) && (args.row.is_empty() || args.row.contains(&row.number));
    let mut is_complete = true;
    let mut columns: Vec<Vec<Line>> = Vec::new();
    for size in CHUNK_SIZES {
        eprintln!("chunks of {size}");
        let mut bench = Bench::new(settings(args, Some(size)), parent)?;
        let machine = describe(&bench);
        is_complete &= run_rows(&mut bench, wanted);
        write_json(args, &bench.lines, &machine, Some(size))?;
        let is_interrupted = bench.is_interrupted();
        columns.push(bench.lines);
        if is_interrupted {
            break;
        }
    }
    let head = ["#", "what"].map(str::to_owned).into_iter().chain(CHUNK_SIZES.map(str::to_owned));
    let mut rows = vec![head.take(2 + columns.len()).collect::<Vec<_>>()];
    for line in &columns[0] {
        let same = |lines: &Vec<Line>| {
            let found = lines.iter().find(|other| (other.row, &other.what) == (line.row, &line.what));
            found.map_or_else(|| "–".into(), |line| table::show(&line.ours, line.unit))
        };
        rows.push([line.row.to_string(), line.what.clone()].into_iter().chain(columns.iter().map(same)).collect());
    }
    table::print_cells(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    Ok(is_complete)
}

fn settings(args: &Args, chunk_size: Option<&str>) -> Settings {
    Settings {
        repeat: args.repeat as usize,
        size_bytes: args.size,
        chunk_size: chunk_size.map(str::to_owned),
        only_ours: args.only_ours || chunk_size.is_some(),
    }
}

fn describe(bench: &Bench) -> Machine {
    let machine = Machine::describe(bench.scratch());
    eprintln!(
        "{} cores, {} MiB, Linux {}, {}; {}",
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.filesystem,
        machine.versions.join(", ")
    );
    if machine.is_scratch_in_memory() {
        eprintln!("{} is in memory: nothing there can be cold; give a --dir on a disk", bench.scratch().display());
    }
    machine
}

/// Each row by itself: one that fails says why in the table, and the others go on.
fn run_rows(bench: &mut Bench, is_wanted: impl Fn(&Row) -> bool) -> bool {
    let mut is_complete = true;
    for row in rows::ALL.iter().filter(|row| is_wanted(row)) {
        if bench.is_interrupted() {
            return false;
        }
        bench.begin_row(row.number);
        bench.tell_missing(row.programs);
        if let Some(why) = cannot_run(row) {
            eprintln!("row {}: not run: {why}", row.number);
            bench.add(Line::missing(row.number, row.title, format!("not run: {why}")));
            is_complete = false;
            continue;
        }
        if let Err(error) = (row.run)(bench) {
            eprintln!("row {}: {error}", row.number);
            bench.add(Line::missing(row.number, row.title, format!("failed: {error}")));
            is_complete = false;
        }
    }
    is_complete
}

/// What a row can't do without.
fn cannot_run(row: &Row) -> Option<String> {
    if row.needs_root && !reelfs::sys::is_root() {
        return Some("it mounts and empties the page cache, which takes root".into());
    }
    let missing = row.needs.iter().find(|name| machine::program(name).is_none());
    missing.map(|name| format!("{name} is not installed"))
}

fn write_json(args: &Args, lines: &[Line], machine: &Machine, chunk_size: Option<&str>) -> Result<()> {
    let Some(file) = &args.json else { return Ok(()) };
    let settings = serde_json::json!({ "repeat": args.repeat, "size_bytes": args.size, "chunk_size": chunk_size });
    let file = match chunk_size {
        // One file for each size, beside each other.
        Some(size) => file.with_extension(format!("{size}.json")),
        None => file.clone(),
    };
    std::fs::write(&file, serde_json::to_string_pretty(&table::json(lines, machine, &settings))?)
        .map_err(|error| format!("{}: {error}", file.display()).into())
}
