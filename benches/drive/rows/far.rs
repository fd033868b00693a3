//! Rows 5 and 6: the first bytes of a film, and seeks in it, over a link of 40 ms and 100 Mbit/s; against requests that
//! do nothing else.
//! Never here: long reads.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::range::ByteRange;

use crate::Result;
use crate::bench::{BIG, Bench};
use crate::machine::drop_caches;
use crate::mounts::{Mount, Program, WITHOUT_FILL};
use crate::origins::{self, HOME_LINK};
use crate::players::{self, Client};
use crate::reading::{self, LOOK_BYTES};
use crate::stats::{largest, millis, percentile};
use crate::table::{Cost, Line, Target, Unit};

/// Between mounting and the first click.
const PAUSE: Duration = Duration::from_secs(1);
/// Seeks of row 6, and those of rclone, whose slowest take many seconds.
const SEEKS: usize = 200;
const SEEKS_OF_RCLONE: usize = 30;
const SEEKS_SEED: u64 = 6;
/// Played before the first seek.
const PLAYED_BYTES: u64 = 4 << 20;
/// Seeks go behind what lookahead can have fetched by then.
const SEEKS_FROM: u64 = 64 << 20;

/// Row 5.
pub fn open(bench: &mut Bench) -> Result<()> {
    const SIDES: [Program; 3] = [Program::Ours, Program::Curl, Program::Rclone];
    let server = origins::double(HOME_LINK, vec![(BIG.into(), bench.big_content())])?;
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut costs: [Cost; 3] = Default::default();
    for number in 1..=bench.settings.repeat {
        for program in bench.turns(&SIDES, number) {
            let at = SIDES.iter().position(|side| *side == program).unwrap_or_default();
            let (time, ()) = bench.sample(program.name(), number, Unit::Milliseconds, || {
                if program == Program::Curl {
                    let range = format!("0-{}", LOOK_BYTES - 1);
                    return Ok((millis(players::curl(&server.url_of(BIG), Some(&range))?), ()));
                }
                // Before the mount, as curl, too, finds its own program in memory: what is cold is the film.
                drop_caches()?;
                let mount = Mount::fresh(bench, program, &server.url(), &[])?;
                thread::sleep(PAUSE);
                let (before, path) = (mount.usage()?, mount.file(BIG));
                let mut bytes = vec![0; LOOK_BYTES as usize];
                let begun = Instant::now();
                File::open(path)?.read_exact_at(&mut bytes, 0)?;
                let time = begun.elapsed();
                mount.add_cost(&mut costs[at], before)?;
                Ok((millis(time), ()))
            })?;
            times[at].push(time);
        }
    }
    let what = "open and first 64 KiB, 40 ms, 100 Mbit/s";
    let line = Line::new(5, what, Unit::Milliseconds, &times[0]).against("curl -r", &times[1], &Cost::default());
    bench.add(line.target(Target::RatioAtMost(0.6)).cost(&costs[0]));
    if !times[2].is_empty() {
        bench.add(Line::new(5, what, Unit::Milliseconds, &times[0]).against("rclone", &times[2], &costs[2]));
    }
    Ok(())
}

/// Row 6.
pub fn seeks(bench: &mut Bench) -> Result<()> {
    let size = bench.settings.size_bytes;
    let server = origins::double(HOME_LINK, vec![(BIG.into(), bench.big_content())])?;
    // As it comes; and with nothing else on the link than what the seeks ask for.
    let variants: [(&str, Program, &[&str], usize); 4] = [
        ("", Program::Ours, &[], SEEKS),
        (" (without fill)", Program::Ours, WITHOUT_FILL, SEEKS),
        ("", Program::Client, &[], SEEKS),
        ("", Program::Rclone, &[], SEEKS_OF_RCLONE),
    ];
    // By variant: p50, p99 and the slowest of each repeat.
    let mut times: [[Vec<f64>; 3]; 4] = Default::default();
    let mut costs: [Cost; 4] = Default::default();
    for number in 1..=bench.settings.repeat {
        for (at, (name, program, options, count)) in variants.into_iter().enumerate() {
            if !bench.has(program) {
                continue;
            }
            // The same for all, as far as they go.
            let offsets =
                reading::random_offsets(SEEKS_SEED + number as u64, count, (SEEKS_FROM.min(size / 4), size), 4096);
            let who = format!("{}{name}, p50", program.name());
            let (_, looks) = bench.sample(&who, number, Unit::Milliseconds, || {
                let looks = if program == Program::Client {
                    kept_alive(&server, &offsets)?
                } else {
                    let mount = Mount::fresh(bench, program, &server.url(), options)?;
                    drop_caches()?;
                    let file = File::open(mount.file(BIG))?;
                    reading::until(&file, (0, PLAYED_BYTES.min(size)), None)?;
                    let before = mount.usage()?;
                    let looks = reading::looks(&file, &offsets)?;
                    mount.add_cost(&mut costs[at], before)?;
                    looks
                };
                let looks: Vec<_> = looks.into_iter().map(millis).collect();
                Ok((percentile(&looks, 0.5), looks))
            })?;
            for (samples, value) in
                times[at].iter_mut().zip([percentile(&looks, 0.5), percentile(&looks, 0.99), largest(&looks)])
            {
                samples.push(value);
            }
        }
    }
    let [ours, calm, client, rclone] = &times;
    let unit = Unit::Milliseconds;
    for (rank, (name, most)) in [("p50", 1.1), ("p99", 1.5)].into_iter().enumerate() {
        let line = Line::new(6, format!("seek, 64 KiB, 40 ms, 100 Mbit/s, {name}"), unit, &ours[rank]);
        let line = line.against("kept-alive range", &client[rank], &Cost::default()).target(Target::RatioAtMost(most));
        bench.add(if rank == 0 { line.cost(&costs[0]) } else { line });
        let line = Line::new(6, format!("the same without fill, {name}"), unit, &calm[rank]);
        bench.add(line.against("kept-alive range", &client[rank], &Cost::default()));
    }
    if !rclone[0].is_empty() {
        bench.add(Line::new(6, "seek, p50", unit, &ours[0]).against("rclone", &rclone[0], &costs[3]));
        let note = format!("rclone: {SEEKS_OF_RCLONE} seeks, ours {SEEKS}");
        bench.add(
            Line::new(6, "seek, slowest", unit, &ours[2]).against("rclone", &rclone[2], &Cost::default()).note(note),
        );
    }
    Ok(())
}

/// The same looks as requests one behind the other, on a connection that is open.
fn kept_alive(server: &reelfs::demo::Server, offsets: &[u64]) -> Result<Vec<Duration>> {
    let mut client = Client::connect(server.address(), BIG)?;
    client.get(ByteRange::at(0, LOOK_BYTES))?;
    offsets.iter().map(|offset| client.get(ByteRange::at(*offset, LOOK_BYTES))).collect()
}
