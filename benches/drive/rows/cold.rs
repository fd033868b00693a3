//! Rows 4 and 8: bytes nobody has read yet, from an origin on this machine; how fast they come, and how many.
//! Never here: far links.

use std::fs::File;
use std::rc::Rc;

use reelfs::demo::Link;

use crate::Result;
use crate::bench::{BIG, BIG_SEED, BUCKET, Bench};
use crate::machine::{self, drop_caches};
use crate::mounts::{Mount, Place, Program, index_bytes};
use crate::origins::{self, Daemon};
use crate::players;
use crate::reading::{self, LOOK_BYTES};
use crate::stats::{float, mebibytes, megabytes_per_second};
use crate::table::{Cost, Line, Target, Unit};

/// Random reads of row 8.
const LOOKS: usize = 50;
const LOOKS_SEED: u64 = 8;

/// Row 4.
pub fn sequential(bench: &mut Bench) -> Result<()> {
    const SIDES: [Program; 4] = [Program::Ours, Program::Curl, Program::Rclone, Program::MountS3];
    let size = bench.settings.size_bytes;
    let file = bench.big_file()?.to_owned();
    let folder = file.parent().ok_or("the big file lies in a folder")?;
    let nginx = Daemon::nginx(bench, folder)?;
    let buckets = folder.parent().ok_or("so does its folder")?;
    let s3 = if bench.has(Program::MountS3) && bench.has(Program::Rclone) {
        Some(Daemon::rclone_s3(bench, buckets)?)
    } else {
        None
    };
    let mut speeds: [Vec<f64>; 4] = Default::default();
    let mut costs: [Cost; 4] = Default::default();
    let mut index = Vec::new();
    for number in 1..=bench.settings.repeat {
        for program in bench.turns(&SIDES, number) {
            let at = SIDES.iter().position(|side| *side == program).unwrap_or_default();
            let (speed, ()) = bench.sample(program.name(), number, Unit::MegabytesPerSecond, || {
                let mount = match (program, &s3) {
                    (Program::Curl, _) => None,
                    (Program::MountS3, Some(s3)) => Some(Mount::mount_s3(&Place::new(bench)?, &s3.url(), BUCKET)?),
                    (Program::MountS3, None) => {
                        return Err("it reads buckets, and there is no rclone to serve one".into());
                    }
                    _ => Some(Mount::fresh(bench, program, &nginx.url(), &[])?),
                };
                // Cold is the mount. The origin's own disk is not what is measured.
                drop_caches()?;
                machine::warm(&file)?;
                let Some(mount) = mount else {
                    let time = players::curl(&format!("{}{BIG}", nginx.url()), None)?;
                    return Ok((megabytes_per_second(size, time), ()));
                };
                let before = mount.usage()?;
                let time = reading::sequential(&mount.file(BIG), size)?;
                if program == Program::Ours {
                    // What is done behind the reader's back is paid for, too.
                    mount.wait_cached(BIG, size)?;
                }
                mount.add_cost(&mut costs[at], before)?;
                reading::check(&mount.file(BIG), BIG_SEED, size)?;
                let place = Rc::clone(&mount.place);
                mount.end();
                if program == Program::Ours {
                    index.push(mebibytes(index_bytes(&place.cache())?));
                }
                Ok((megabytes_per_second(size, time), ()))
            })?;
            speeds[at].push(speed);
        }
    }
    let [ours, curl, rclone, mount_s3] = &speeds;
    let what = format!("cold sequential {} MiB, loopback nginx", size >> 20);
    let line = |name: &str, theirs: &[f64], cost: &Cost| {
        Line::new(4, what.clone(), Unit::MegabytesPerSecond, ours).against(name, theirs, cost)
    };
    bench.add(line("curl", curl, &Cost::default()).target(Target::RatioAtLeast(0.4)).cost(&costs[0]));
    if !rclone.is_empty() {
        bench.add(line("rclone", rclone, &costs[2]).target(Target::RatioAtLeast(2.5)));
    }
    if !mount_s3.is_empty() {
        bench.add(line("mount-s3", mount_s3, &costs[3]).note("mount-s3 reads from `rclone serve s3`, not from nginx"));
    }
    bench.add(Line::new(4, "the index after that", Unit::Mebibytes, &index));
    Ok(())
}

/// Row 8.
pub fn bytes_fetched(bench: &mut Bench) -> Result<()> {
    const SIDES: [Program; 2] = [Program::Ours, Program::Rclone];
    let size = bench.settings.size_bytes;
    let server = origins::double(Link::default(), vec![(BIG.into(), bench.big_content())])?;
    let (mut fetched, mut requests): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    let mut costs: [Cost; 2] = Default::default();
    let mut read_bytes = 0;
    for number in 1..=bench.settings.repeat {
        // At any byte, as players seek.
        let offsets = reading::random_offsets(LOOKS_SEED + number as u64, LOOKS, (0, size), 1);
        read_bytes = offsets.len() as u64 * LOOK_BYTES;
        for program in bench.turns(&SIDES, number) {
            let at = usize::from(program == Program::Rclone);
            let (times, asked) = bench.sample(program.name(), number, Unit::Times, || {
                let mount = Mount::fresh(bench, program, &server.url(), &[])?;
                drop_caches()?;
                let file = File::open(mount.file(BIG))?;
                let (sent, asked) = (origins::bytes_sent(&server), server.total().requests);
                let before = mount.usage()?;
                reading::looks(&file, &offsets)?;
                let sent = origins::bytes_sent(&server) - sent;
                mount.add_cost(&mut costs[at], before)?;
                Ok((float(sent) / float(read_bytes), float(server.total().requests - asked)))
            })?;
            fetched[at].push(times);
            requests[at].push(asked);
        }
    }
    let mut line = Line::new(8, "bytes fetched for 50 reads of 64 KiB, per byte read", Unit::Times, &fetched[0])
        .against("rclone", &fetched[1], &costs[1])
        .target(Target::AtMost(2.0))
        .cost(&costs[0])
        .note(format!("{:.1} MiB read at any byte offset; what opening fetched is not counted", mebibytes(read_bytes)));
    if let Some(factor) = &line.theirs.as_ref().map(|theirs| crate::stats::median(&theirs.samples)) {
        line = line.note(format!("rclone fetched {:.0} MB", factor * float(read_bytes) / 1e6));
    }
    bench.add(line);
    bench.add(Line::new(8, "requests for them", Unit::Count, &requests[0]).against(
        "rclone",
        &requests[1],
        &Cost::default(),
    ));
    Ok(())
}
