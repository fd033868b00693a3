//! Row 10: an evening's film at 80 % of what the link can carry, with seeks. Ten minutes are played in one: ten times
//! the rate over a link that is ten times as wide as a home's, the distance as it is.
//! Never here: real players.

use std::fs::File;
use std::time::Duration;

use reelfs::config::{CHUNK_SIZE_BYTES, LOOKAHEAD_CHUNKS, parse_size};
use reelfs::demo::Content;
use reelfs::range::ByteRange;

use crate::Result;
use crate::bench::Bench;
use crate::machine::drop_caches;
use crate::mounts::{Mount, Program, WITHOUT_FILL};
use crate::origins::{self, HOME_LINK};
use crate::players::{self, Played, Stream};
use crate::stats::{float, largest, mebibytes, median, seconds};
use crate::table::{Cost, Line, Target, Unit};

const NAME: &str = "evening.mkv";
/// 80 % of 100 Mbit/s.
const RATE: u64 = 10_000_000;
const TIME: Duration = Duration::from_mins(1);
const SEEKS: usize = 10;
const SEEKS_SEED: u64 = 10;
/// Eighty minutes at that rate, so that a seek hardly ever lands on what was seen; and no more than is filled in.
const FILE_BYTES: u64 = 4_800_000_000;
const FILE: Content = Content::Generated { size_bytes: FILE_BYTES, seed: 10 };

/// What one side's evenings were like, one value for each repeat.
#[derive(Default)]
struct Evenings {
    start_seconds: Vec<f64>,
    stalls: Vec<f64>,
    stalled_seconds: Vec<f64>,
    early_seconds: Vec<f64>,
    seek_trips: Vec<f64>,
    slowest_seek_trips: Vec<f64>,
    waste_mib: Vec<f64>,
    cost: Cost,
}

impl Evenings {
    fn add(&mut self, played: &Played, sent: u64) {
        let trips = |time: &Duration| time.as_secs_f64() / HOME_LINK.round_trip.as_secs_f64();
        let seeks: Vec<_> = played.waits[1..].iter().map(trips).collect();
        let read: u64 = played.read.iter().map(ByteRange::len).sum();
        self.start_seconds.push(played.waits[0].as_secs_f64());
        self.stalls.push(float(played.stalls.len() as u64));
        self.stalled_seconds.push(seconds(&played.stalls));
        self.early_seconds.push(seconds(&played.early_stalls));
        self.seek_trips.push(median(&seeks));
        self.slowest_seek_trips.push(largest(&seeks));
        self.waste_mib.push(mebibytes(sent.saturating_sub(read)));
    }
}

/// Row 10.
pub fn film(bench: &mut Bench) -> Result<()> {
    // As it comes; without fill, whose bytes are no waste if the film is ever seen to its end; no drive at all, which
    // tells what the link and a busy machine do to anybody; and rclone.
    let variants: [(&str, Program, &[&str]); 4] = [
        ("", Program::Ours, &[]),
        (" without fill", Program::Ours, WITHOUT_FILL),
        (" streamed", Program::Client, &[]),
        ("", Program::Rclone, &[]),
    ];
    let mut evenings: [Evenings; 4] = Default::default();
    for number in 1..=bench.settings.repeat {
        let legs = players::legs(SEEKS_SEED + number as u64, SEEKS, TIME, FILE_BYTES, RATE);
        for ((name, program, options), evenings) in variants.into_iter().zip(&mut evenings) {
            if !bench.has(program) {
                continue;
            }
            let who = format!("{}{name}, stalled", program.name());
            bench.sample(&who, number, Unit::Seconds, || {
                let server = origins::double(HOME_LINK, vec![(NAME.into(), FILE)])?;
                let mount = match program {
                    Program::Client => None,
                    _ => Some(Mount::fresh(bench, program, &server.url(), options)?),
                };
                drop_caches()?;
                let sent = server.total().body_bytes;
                let before = mount.as_ref().map(Mount::usage).transpose()?;
                let played = match &mount {
                    Some(mount) => players::play(|| Ok(File::open(mount.file(NAME))?), &legs, RATE)?,
                    None => players::play(|| Ok(Stream::new(server.address(), NAME, FILE_BYTES)), &legs, RATE)?,
                };
                // What is under way when it is closed is waste, too.
                let sent = origins::bytes_sent(&server) - sent;
                if let (Some(mount), Some(before)) = (&mount, before) {
                    mount.add_cost(&mut evenings.cost, before)?;
                }
                evenings.add(&played, sent);
                Ok((seconds(&played.stalls), ()))
            })?;
        }
    }
    let [ours, calm, stream, rclone] = evenings;
    let chunk = bench.settings.chunk_size.as_deref().map_or(Ok(CHUNK_SIZE_BYTES), parse_size)?;
    let window = mebibytes(chunk * u64::from(LOOKAHEAD_CHUNKS));
    let mut add = |what: &str, unit, of: fn(&Evenings) -> &Vec<f64>, most: Option<f64>| {
        let line = Line::new(10, what, unit, of(&ours)).against("streamed URL", of(&stream), &Cost::default());
        bench.add(match most {
            Some(most) => line.target(Target::AtMost(most)),
            None => line,
        });
        let line = Line::new(10, format!("{what}, without fill"), unit, of(&calm));
        bench.add(line.against("rclone", of(&rclone), &Cost::default()));
    };
    add("a film at 80 % of 100 Mbit/s: start", Unit::Seconds, |side| &side.start_seconds, Some(2.0));
    add("stalls after a leg's first second", Unit::Count, |side| &side.stalls, Some(0.0));
    add("time stalled so", Unit::Seconds, |side| &side.stalled_seconds, Some(0.0));
    add("time stalled within it", Unit::Seconds, |side| &side.early_seconds, None);
    add("seek, in round trips, median", Unit::Count, |side| &side.seek_trips, None);
    add("seek, in round trips, slowest", Unit::Count, |side| &side.slowest_seek_trips, Some(3.0));
    add("fetched and not seen", Unit::Mebibytes, |side| &side.waste_mib, None);
    let per_leg =
        |side: &Evenings| side.waste_mib.iter().map(|waste| waste / float(SEEKS as u64 + 1)).collect::<Vec<_>>();
    bench.add(
        Line::new(10, "the same for each seek and for the end", Unit::Mebibytes, &per_leg(&calm))
            .against("rclone", &per_leg(&rclone), &rclone.cost)
            .target(Target::AtMost(window))
            .cost(&calm.cost)
            .note(format!("the lookahead window is {LOOKAHEAD_CHUNKS} chunks, {window:.0} MiB"))
            .note("ten minutes in one: 10 MB/s over 12.5 MB/s and 40 ms for 60 s; seeks at random moments to random places"),
    );
    Ok(())
}
