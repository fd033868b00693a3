//! The rows of the table: what each is called, what it cannot do without, and where it is measured.
//! Never here: measuring.

mod cached;
mod cold;
mod crowd;
mod far;
mod film;
mod first_frame;
pub mod hits;
mod long;

use crate::Result;
use crate::bench::Bench;
use crate::mounts::Program;

/// One row.
pub struct Row {
    pub number: u8,
    pub title: &'static str,
    /// Programs without which there is nothing to measure.
    pub needs: &'static [&'static str],
    /// Whose column stays empty if they are missing.
    pub programs: &'static [Program],
    pub needs_root: bool,
    pub run: fn(&mut Bench) -> Result<()>,
}

const FUSE: &[&str] = &["fusermount3"];
const NGINX: &[&str] = &["fusermount3", "nginx"];
const PLAYER: &[&str] = &["fusermount3", "ffmpeg", "mpv"];

pub const ALL: &[Row] = &[
    row(1, "wholly cached, sequential, page cache dropped and hot", NGINX, &[], cached::sequential),
    row(2, "wholly cached, 64 KiB at random", NGINX, &[], cached::random),
    row(3, "wholly cached, sequential, without passthrough", NGINX, &[Program::Rclone], cached::without_passthrough),
    row(
        4,
        "cold sequential from loopback nginx",
        NGINX,
        &[Program::Curl, Program::Rclone, Program::MountS3],
        cold::sequential,
    ),
    row(5, "cold open and first 64 KiB, 40 ms, 100 Mbit/s", FUSE, &[Program::Curl, Program::Rclone], far::open),
    row(6, "cold seeks of 64 KiB, 40 ms, 100 Mbit/s", FUSE, &[Program::Rclone], far::seeks),
    row(
        7,
        "first frame in mpv, moov at the end, 40 ms, 100 Mbit/s",
        PLAYER,
        &[Program::Rclone],
        first_frame::first_frame,
    ),
    row(8, "bytes fetched for 50 random reads of 64 KiB", FUSE, &[Program::Rclone], cold::bytes_fetched),
    row(
        9,
        "sequential over 200 ms, 20 Mbit/s a connection, 100 Mbit/s in all",
        FUSE,
        &[Program::Rclone],
        long::sequential,
    ),
    row(10, "a film at 80 % of the link's rate with 10 seeks", FUSE, &[Program::Rclone], film::film),
    row(11, "100 players at once, cached half and half", FUSE, &[], crowd::players),
    Row {
        needs_root: false,
        ..row(12, "instructions, index lookups and allocations of a hit of 128 KiB", &[], &[], hits::hits)
    },
];

const fn row(
    number: u8,
    title: &'static str,
    needs: &'static [&'static str],
    programs: &'static [Program],
    run: fn(&mut Bench) -> Result<()>,
) -> Row {
    Row { number, title, needs, programs, needs_root: true, run }
}

pub fn find(number: u8) -> Option<&'static Row> {
    ALL.iter().find(|row| row.number == number)
}
