//! Row 9: reading in order over a link where one connection can't fill the link: long, and thin for each.
//! Never here: seeks.

use std::fs::File;
use std::time::{Duration, Instant};

use reelfs::demo::Content;

use crate::Result;
use crate::bench::Bench;
use crate::machine::drop_caches;
use crate::mounts::{Mount, Program};
use crate::origins::{self, LONG_LINK};
use crate::reading;
use crate::stats::{float, megabytes_per_second};
use crate::table::{Cost, Line, Target, Unit};

const NAME: &str = "long.mkv";
const FILE: Content = Content::Generated { size_bytes: FILE_BYTES, seed: 9 };
const FILE_BYTES: u64 = 200_000_000;
/// Told apart: connections are made, and their number found.
const BEGINNING: Duration = Duration::from_secs(2);
/// rclone's one connection would take five times as long as the link; its rate is known long before.
const OTHERS_MAX: Duration = Duration::from_secs(15);

/// Row 9.
pub fn sequential(bench: &mut Bench) -> Result<()> {
    const SIDES: [Program; 2] = [Program::Ours, Program::Rclone];
    let server = origins::double(LONG_LINK, vec![(NAME.into(), FILE)])?;
    let link_rate = float(LONG_LINK.rate_total.unwrap_or_default()) / 1e6;
    let (mut whole, mut steady): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    let mut costs: [Cost; 2] = Default::default();
    for number in 1..=bench.settings.repeat {
        for program in bench.turns(&SIDES, number) {
            let at = usize::from(program == Program::Rclone);
            let (rate, rest) = bench.sample(program.name(), number, Unit::MegabytesPerSecond, || {
                let mount = Mount::fresh(bench, program, &server.url(), &[])?;
                drop_caches()?;
                let before = mount.usage()?;
                let begun = Instant::now();
                let file = File::open(mount.file(NAME))?;
                let first = reading::until(&file, (0, FILE_BYTES), Some(begun + BEGINNING))?;
                let middle = begun.elapsed();
                let limit = (program != Program::Ours).then(|| begun + OTHERS_MAX);
                let rest = reading::until(&file, (first, FILE_BYTES), limit)?;
                let time = begun.elapsed();
                mount.add_cost(&mut costs[at], before)?;
                Ok((megabytes_per_second(first + rest, time), megabytes_per_second(rest, time.saturating_sub(middle))))
            })?;
            whole[at].push(rate);
            steady[at].push(rest);
        }
    }
    let unit = Unit::MegabytesPerSecond;
    let line = Line::new(9, "200 MB over 200 ms, 20 Mbit/s a connection, 100 in all", unit, &whole[0]);
    let line = line.against("the link", &[link_rate], &Cost::default()).target(Target::RatioAtLeast(0.85));
    // Worth knowing when CPU is compared with other rows.
    bench.add(line.cost(&costs[0]).note("the double sends its bytes in pieces of 2.5 kB at this rate"));
    let line = Line::new(9, "the same without the first 2 s", unit, &steady[0]);
    bench.add(line.against("the link", &[link_rate], &Cost::default()));
    if !whole[1].is_empty() {
        let line = Line::new(9, "the same, whole", unit, &whole[0]).against("rclone", &whole[1], &costs[1]);
        bench.add(line.note(format!("rclone was stopped after {} s", OTHERS_MAX.as_secs())));
    }
    Ok(())
}
