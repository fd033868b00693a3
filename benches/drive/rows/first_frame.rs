//! Row 7: from a click to the first frame, in a real player, of a film whose index is at its end.
//! Never here: anything but that frame.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use reelfs::demo::Content;

use crate::Result;
use crate::bench::Bench;
use crate::machine::{self, drop_caches};
use crate::mounts::{Mount, Program};
use crate::origins::{self, HOME_LINK};
use crate::players;
use crate::table::{Cost, Line, Target, Unit};

const NAME: &str = "film.mp4";
/// Between mounting and the click.
const PAUSE: Duration = Duration::from_secs(1);

/// Row 7.
pub fn first_frame(bench: &mut Bench) -> Result<()> {
    const SIDES: [Program; 4] = [Program::Ours, Program::Mpv, Program::Native, Program::Rclone];
    let film = film(bench)?;
    let server = origins::double(HOME_LINK, vec![(NAME.into(), Content::Disk(film.clone()))])?;
    let mut times: [Vec<f64>; 4] = Default::default();
    let mut costs: [Cost; 4] = Default::default();
    for number in 1..=bench.settings.repeat {
        for program in bench.turns(&SIDES, number) {
            let at = SIDES.iter().position(|side| *side == program).unwrap_or_default();
            let who = if program == Program::Mpv { "bare URL" } else { program.name() };
            let (time, ()) = bench.sample(who, number, Unit::Seconds, || {
                let mount = match program {
                    Program::Ours | Program::Rclone => Some(Mount::fresh(bench, program, &server.url(), &[])?),
                    _ => None,
                };
                drop_caches()?;
                // Else it is the player's own libraries that are waited for.
                players::mpv_first_frame(&film.to_string_lossy())?;
                let Some(mount) = mount else {
                    let film =
                        if program == Program::Mpv { server.url_of(NAME) } else { film.to_string_lossy().into() };
                    return Ok((players::mpv_first_frame(&film)?.as_secs_f64(), ()));
                };
                thread::sleep(PAUSE);
                let before = mount.usage()?;
                let time = players::mpv_first_frame(&mount.file(NAME).to_string_lossy())?;
                mount.add_cost(&mut costs[at], before)?;
                Ok((time.as_secs_f64(), ()))
            })?;
            times[at].push(time);
        }
    }
    let [ours, bare, native, rclone] = &times;
    let what = "mpv's first frame, moov last, 40 ms, 100 Mbit/s";
    let line =
        |name: &str, theirs: &[f64], cost: &Cost| Line::new(7, what, Unit::Seconds, ours).against(name, theirs, cost);
    bench.add(
        line("bare URL", bare, &Cost::default())
            .target(Target::RatioAtMost(0.75))
            .cost(&costs[0])
            .note("from mpv's start to its end after one frame, --vo=null; the program itself is in the page cache"),
    );
    bench.add(line("local file", native, &Cost::default()));
    if !rclone.is_empty() {
        bench.add(line("rclone", rclone, &costs[3]));
    }
    Ok(())
}

/// A minute at 10 Mbit/s, its `moov` last as ffmpeg writes it. Made once, and kept beside the build.
fn film(bench: &Bench) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder)?;
    let film = folder.join("bench-10-mbit-1.mp4");
    if film.exists() {
        return Ok(film);
    }
    bench.say("making a film of a minute at 10 Mbit/s …")?;
    let part = folder.join(format!("bench-part-{}.mp4", std::process::id()));
    let mut command = Command::new(machine::program("ffmpeg").ok_or("ffmpeg is not installed")?);
    command.args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25:duration=60"]);
    command.args(["-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000:duration=60"]);
    // Filled up to the rate: what the picture is like does not matter here.
    command.args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "50", "-b:v", "10M"]);
    command.args(["-minrate", "10M", "-maxrate", "10M", "-bufsize", "10M", "-x264-params", "nal-hrd=cbr:filler=1"]);
    let output = command.args(["-c:a", "aac"]).arg(&part).output()?;
    if !output.status.success() {
        return Err(format!("ffmpeg: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    fs::rename(part, &film)?;
    Ok(film)
}
