//! `reelfs check`: whether two places hold the same files: by size, by size and time, or byte by byte.
//! Never here: how either is asked.

use std::cmp::Ordering;
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use super::{LookOptions, Place};
use crate::cli::complain;
use crate::cli::exit::Outcome;
use crate::cli::library::{counted, line};
use crate::cli::progress::Shown;
use crate::control::Progress;
use crate::error::{Error, Kind, Result};
use crate::origin::{Listed, ListedKind};
use crate::range::ByteRange;
use crate::store::join;

/// Times that differ by less are the same: many places tell them to the second, some round.
const TIME_GRAIN: Duration = Duration::from_secs(2);
/// Pieces of one side that wait for the other's.
const PIECES_AHEAD_MAX: usize = 4;

/// Compare two sources or libraries, without a mount: each difference is a line, `+` for what is only in the first, `-` for what
/// is only in the second, `*` for what differs. The exit code is 0 where there is none, else 1.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A source or a library, or a folder of it (see `reelfs sources`).
    #[arg(value_name = "SOURCE")]
    source: String,
    /// What it is compared with.
    #[arg(value_name = "OTHER")]
    other: String,
    /// What makes two files of one name the same: their size; their size and the time of their last change; or all their bytes,
    /// which are read on both sides.
    #[arg(long, value_enum, default_value = "size")]
    by: By,
    /// What is only in OTHER is no difference.
    #[arg(long)]
    one_way: bool,
    /// Tell of what is the same, too, with `=`.
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    options: LookOptions,
}

/// How files are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Size,
    Time,
    Content,
}

struct Check<'a> {
    places: [&'a Place; 2],
    by: By,
    is_one_way: bool,
    tells_all: bool,
    out: &'a mut dyn Write,
    shown: Shown,
    done_bytes: u64,
    same: u64,
    different: u64,
    unread: u64,
}

/// Compares.
pub fn run(args: CheckArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let options = args.options.into_places()?;
    let places = [options.open(&args.source)?, options.open(&args.other)?];
    let [source, other] = &places;
    let (by, shown) = (args.by, Shown::new(is_quiet));
    let mut check = Check {
        places: [source, other],
        by,
        is_one_way: args.one_way,
        tells_all: args.all,
        out,
        shown,
        done_bytes: 0,
        same: 0,
        different: 0,
        unread: 0,
    };
    match (source.as_file(&args.source)?, other.as_file(&args.other)?) {
        (None, None) => check.folders("", [source.list("")?, other.list("")?])?,
        (Some(path), Some(other_path)) => {
            let difference = check.difference([&path, &other_path], [None, None])?;
            check.tell(&path, difference.as_deref())?;
        }
        _ => return Err(Error::new(Kind::Invalid, "a file and a folder can't be compared: name two of one kind")),
    }
    check.shown.clear();
    let (same, different, unread) = (check.same, check.different, check.unread);
    let unread_told = if unread == 0 { String::new() } else { format!(", {unread} could not be read") };
    line(check.out, &format!("{} the same, {different} different{unread_told}", counted(same, "file")))?;
    Ok(if different + unread == 0 { Outcome::Done } else { Outcome::Failed }.into())
}

impl Check<'_> {
    /// Both are sorted by name.
    fn folders(&mut self, folder: &str, [mine, theirs]: [Vec<Listed>; 2]) -> Result<()> {
        let (mut mine, mut theirs) = (mine.into_iter().peekable(), theirs.into_iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(mine), Some(theirs)) => mine.name.cmp(&theirs.name),
            };
            let pair = [mine.next_if(|_| order.is_le()), theirs.next_if(|_| order.is_ge())];
            match pair {
                [Some(mine), Some(theirs)] => self.pair(&join(folder, &mine.name), [&mine, &theirs])?,
                [Some(mine), None] => self.only(0, &join(folder, &mine.name), &mine)?,
                [None, Some(theirs)] if !self.is_one_way => self.only(1, &join(folder, &theirs.name), &theirs)?,
                [None, _] => {}
            }
        }
    }

    fn pair(&mut self, path: &str, [mine, theirs]: [&Listed; 2]) -> Result<()> {
        match (mine.kind, theirs.kind) {
            (ListedKind::Folder, ListedKind::Folder) => {
                let lists = [self.places[0].list(path)?, self.places[1].list(path)?];
                self.folders(path, lists)
            }
            (ListedKind::File { .. }, ListedKind::File { .. }) => {
                match self.difference([path, path], [Some(mine), Some(theirs)]) {
                    Ok(difference) => self.tell(path, difference.as_deref()),
                    // One that can't be read does not keep the others from being compared.
                    Err(error) => {
                        self.unread += 1;
                        self.shown.clear();
                        complain(&error);
                        Ok(())
                    }
                }
            }
            _ => self.tell(path, Some("a folder on one side, a file on the other")),
        }
    }

    /// Files that one side alone has.
    fn only(&mut self, side: usize, path: &str, listed: &Listed) -> Result<()> {
        if listed.kind == ListedKind::Folder {
            let names = self.places[side].list(path)?;
            return names.iter().try_for_each(|listed| self.only(side, &join(path, &listed.name), listed));
        }
        self.different += 1;
        self.shown.clear();
        line(self.out, &format!("{} {path}", ["+", "-"][side]))
    }

    fn tell(&mut self, path: &str, difference: Option<&str>) -> Result<()> {
        if let Some(how) = difference {
            self.different += 1;
            self.shown.clear();
            return line(self.out, &format!("* {path}: {how}"));
        }
        self.same += 1;
        if self.tells_all { line(self.out, &format!("= {path}")) } else { Ok(()) }
    }

    /// In what two files differ, if they do. What their listings do not tell is asked for.
    fn difference(&mut self, paths: [&str; 2], listed: [Option<&Listed>; 2]) -> Result<Option<String>> {
        let [mine, theirs] = [0, 1].map(|side| self.told(side, paths[side], listed[side]));
        let ((my_size, my_time), (their_size, their_time)) = (mine?, theirs?);
        if my_size != their_size {
            return Ok(Some(format!("{my_size} bytes, and {their_size} there")));
        }
        match self.by {
            By::Size => Ok(None),
            By::Time => Ok(times_differ(my_time, their_time).then(|| "changed at another time".to_owned())),
            By::Content => {
                let at = self.first_difference(paths, my_size)?;
                Ok(at.map(|at| format!("differs from byte {at} on")))
            }
        }
    }

    fn told(&self, side: usize, path: &str, listed: Option<&Listed>) -> Result<(u64, Option<SystemTime>)> {
        match listed {
            Some(Listed { kind: ListedKind::File { size_bytes: Some(size_bytes) }, modified, .. })
                if self.by != By::Time || modified.is_some() =>
            {
                Ok((*size_bytes, *modified))
            }
            _ => self.places[side].stat(path),
        }
    }

    /// Reads both at once, piece by piece.
    fn first_difference(&mut self, paths: [&str; 2], size_bytes: u64) -> Result<Option<u64>> {
        let [mine, theirs] = self.places;
        let total_bytes = self.done_bytes + size_bytes;
        thread::scope(|scope| {
            let (send, receive) = sync_channel(PIECES_AHEAD_MAX);
            scope.spawn(move || read_to(theirs, paths[1], &send));
            let mut other = Pieces { receive, left: Vec::new() };
            let (mut at, mut found) = (0_u64, None);
            let read = mine.read(paths[0], ByteRange::new(0, size_bytes), &mut |bytes| {
                let differs = other.differs_from(bytes)?;
                if let Some(differs) = differs {
                    found = Some(at + differs);
                    return Err(Error::new(Kind::Cancelled, "a difference is found"));
                }
                at += bytes.len() as u64;
                self.done_bytes += bytes.len() as u64;
                let path = paths[0].to_owned();
                self.shown.show(&Progress { path, done_bytes: self.done_bytes, total_bytes });
                Ok(())
            });
            // The other side ends when nobody takes its pieces any longer.
            drop(other);
            match (found, read) {
                (Some(at), _) => Ok(Some(at)),
                (None, read) => read.map(|()| (at < size_bytes).then_some(at)),
            }
        })
    }
}

/// Whether two times can't be of one change. One that is not told says nothing.
fn times_differ(mine: Option<SystemTime>, theirs: Option<SystemTime>) -> bool {
    let (Some(mine), Some(theirs)) = (mine, theirs) else { return false };
    mine.duration_since(theirs).unwrap_or_else(|later| later.duration()) >= TIME_GRAIN
}

/// Sends all of a file on, and then how that ended.
fn read_to(place: &Place, path: &str, send: &SyncSender<Result<Vec<u8>>>) {
    let gone = || Error::new(Kind::Cancelled, "nobody takes it any longer");
    let read =
        place.read(path, ByteRange::new(0, u64::MAX), &mut |bytes| send.send(Ok(bytes.to_vec())).map_err(|_| gone()));
    if let Err(error) = read {
        // Whoever took them may have gone.
        let _ = send.send(Err(error));
    }
}

/// The other side's bytes, as they come.
struct Pieces {
    receive: Receiver<Result<Vec<u8>>>,
    left: Vec<u8>,
}

impl Pieces {
    /// Where these bytes and the next ones of the other side differ, counted from the first of them.
    fn differs_from(&mut self, bytes: &[u8]) -> Result<Option<u64>> {
        let mut at = 0;
        while at < bytes.len() {
            if self.left.is_empty() {
                match self.receive.recv() {
                    Ok(piece) => self.left = piece?,
                    // It ended before.
                    Err(_) => return Ok(Some(at as u64)),
                }
            }
            let count = self.left.len().min(bytes.len() - at);
            if let Some(off) = (0..count).find(|off| self.left[*off] != bytes[at + off]) {
                return Ok(Some((at + off) as u64));
            }
            self.left.drain(..count);
            at += count;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_compared_however_they_are_cut() {
        let compare = |mine: &[&[u8]], theirs: &[&[u8]]| {
            let (send, receive) = sync_channel(9);
            for piece in theirs {
                send.send(Ok(piece.to_vec())).unwrap();
            }
            drop(send);
            let mut other = Pieces { receive, left: Vec::new() };
            mine.iter().map(|piece| other.differs_from(piece).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(compare(&[b"abc", b"def"], &[b"a", b"bcde", b"f"]), [None, None]);
        assert_eq!(compare(&[b"abc", b"def"], &[b"abcdE", b"f"]), [None, Some(1)]);
        assert_eq!(compare(&[b"abc"], &[b"ab"]), [Some(2)]);
    }

    #[test]
    fn times_are_as_coarse_as_they_are_told() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert!(!times_differ(at(10.0), at(11.9)) && !times_differ(at(11.9), at(10.0)) && !times_differ(None, at(1.0)));
        assert!(times_differ(at(10.0), at(12.0)) && times_differ(at(100.0), at(10.0)));
    }
}
