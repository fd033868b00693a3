//! Row 11: a hundred players at once, half of them on films that are wholly cached.
//! Never here: far links; it is the drive that is crowded.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

use reelfs::demo::{Content, Link};

use crate::Result;
use crate::bench::Bench;
use crate::machine::drop_caches;
use crate::mounts::{Mount, Place};
use crate::origins;
use crate::players::{self, Leg, Played};
use crate::reading;
use crate::stats::{float, largest, seconds};
use crate::table::{Cost, Line, Target, Unit};

const PLAYERS: usize = 100;
/// 4 Mbit/s.
const RATE: u64 = 500_000;
const TIME: Duration = Duration::from_secs(30);
/// Twice what is played of each: there is always something to fetch ahead.
const FILE_BYTES: u64 = 32 << 20;
const RSS_MIB_MAX: f64 = 200.0;

/// Row 11.
pub fn players(bench: &mut Bench) -> Result<()> {
    let name = |number: usize| format!("film-{number:03}.mkv");
    let file = |number: usize| Content::Generated { size_bytes: FILE_BYTES, seed: number as u64 };
    let server = origins::double(Link::default(), (0..PLAYERS).map(|number| (name(number), file(number))).collect())?;
    let (mut stalls, mut stalled, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut cost = Cost::default();
    for number in 1..=bench.settings.repeat {
        bench.sample("100 players, stalled", number, Unit::Seconds, || {
            let place = Place::new(bench)?;
            let mount = Mount::ours(bench, &place, &server.url(), &[])?;
            for cached in (0..PLAYERS).step_by(2) {
                reading::sequential(&mount.file(&name(cached)), FILE_BYTES)?;
                mount.wait_cached(&name(cached), FILE_BYTES)?;
            }
            mount.end();
            // A new process: it trusts nothing that was cached before it has hashed it.
            let mount = Mount::ours(bench, &place, &server.url(), &[])?;
            drop_caches()?;
            let before = mount.usage()?;
            let paths: Vec<_> = (0..PLAYERS).map(|number| mount.file(&name(number))).collect();
            let played = all_at_once(&paths)?;
            mount.add_cost(&mut cost, before)?;
            let late: Vec<_> = played.iter().flat_map(|played| &played.stalls).copied().collect();
            let late_seconds = seconds(&late);
            stalls.push(float(late.len() as u64));
            stalled.push(late_seconds);
            starts.push(largest(&played.iter().map(|played| played.waits[0].as_secs_f64()).collect::<Vec<_>>()));
            Ok((late_seconds, ()))
        })?;
    }
    bench.add(
        Line::new(11, "100 players of 4 Mbit/s, half of them cached, 30 s: stalls", Unit::Count, &stalls)
            .target(Target::AtMost(0.0))
            .cost(&cost),
    );
    bench.add(Line::new(11, "time stalled", Unit::Seconds, &stalled));
    bench.add(Line::new(11, "slowest start", Unit::Seconds, &starts));
    let line = Line::new(11, "peak RSS", Unit::Mebibytes, &cost.peak_rss_mib);
    bench.add(line.target(Target::AtMost(RSS_MIB_MAX)));
    Ok(())
}

fn all_at_once(paths: &[impl AsRef<Path> + Sync]) -> Result<Vec<Played>> {
    let leg = [Leg { from: 0, time: TIME }];
    let play = |path: &Path| players::play(|| Ok(File::open(path)?), &leg, RATE).map_err(|error| error.to_string());
    let played: std::result::Result<Vec<_>, String> = thread::scope(|scope| {
        let threads: Vec<_> = paths.iter().map(|path| scope.spawn(move || play(path.as_ref()))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a player panicked".to_owned())?).collect()
    });
    Ok(played?)
}
