//! Who asks: curl, a client on a kept-alive connection, mpv, and a player in outline that reads at a film's rate.
//! Never here: origins and mounts.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reelfs::range::{ByteRange, RangeSet};

use crate::Result;
use crate::machine;
use crate::stats::float;

/// Longest answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Taken from a socket at once.
const RECEIVE_BYTES: usize = 16 << 10;

/// Fetches a URL, or a range of it, with curl, which throws it away; its own account of the time, connecting included.
pub fn curl(url: &str, range: Option<&str>) -> Result<Duration> {
    let mut command = Command::new(machine::program("curl").ok_or("curl is not installed")?);
    command.args(["--silent", "--show-error", "--fail", "--output", "/dev/null", "--write-out", "%{time_total}"]);
    command.args(range.into_iter().flat_map(|range| ["--range", range])).arg(url);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("curl: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(Duration::from_secs_f64(String::from_utf8_lossy(&output.stdout).trim().parse()?))
}

/// From its start until mpv has shown one frame and ended: the same flags for a file and a URL.
pub fn mpv_first_frame(film: &str) -> Result<Duration> {
    let mut command = Command::new(machine::program("mpv").ok_or("mpv is not installed")?);
    command.args(["--no-config", "--vo=null", "--ao=null", "--frames=1", "--really-quiet", film]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status()?;
    let time = begun.elapsed();
    if status.success() { Ok(time) } else { Err(format!("mpv {film}: {status}").into()) }
}

/// One connection, kept alive, for one range request after another.
pub struct Client {
    stream: TcpStream,
    path: String,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, path: path.into(), buffer: Vec::new() })
    }

    /// From asking until the last byte is there.
    pub fn get(&mut self, range: ByteRange) -> Result<Duration> {
        let begun = Instant::now();
        self.ask(range)?;
        while self.buffer.len() < range.len() as usize {
            if self.read_more()? == 0 {
                return Err("the answer ended early".into());
            }
        }
        Ok(begun.elapsed())
    }

    /// Asks for a range, and comes back with the head of its answer: what the buffer holds then is of its body, whose
    /// length is known, as a 206 holds what was asked for.
    fn ask(&mut self, range: ByteRange) -> Result<()> {
        let (first, last) = (range.start, range.end - 1);
        let head = format!("GET /{} HTTP/1.1\r\nHost: origin\r\nRange: bytes={first}-{last}\r\n\r\n", self.path);
        self.stream.write_all(head.as_bytes())?;
        self.buffer.clear();
        loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                if !self.buffer.starts_with(b"HTTP/1.1 206") {
                    return Err(format!("not a part: {}", String::from_utf8_lossy(&self.buffer[..at])).into());
                }
                self.buffer.drain(..at + 4);
                return Ok(());
            }
            if self.buffer.len() > HEAD_BYTES_MAX || self.read_more()? == 0 {
                return Err("no head of an answer".into());
            }
        }
    }

    fn read_more(&mut self) -> Result<usize> {
        let mut piece = [0; RECEIVE_BYTES];
        let len = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..len]);
        Ok(len)
    }
}

/// What a player plays: a file, or a URL itself.
pub trait Source {
    fn size_bytes(&self) -> u64;
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<()>;
}

impl Source for File {
    fn size_bytes(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<()> {
        Ok(self.read_exact_at(bytes, at)?)
    }
}

/// A URL as players stream it: one answer to the end of the film, and a new connection for each seek.
pub struct Stream {
    address: SocketAddr,
    path: String,
    size_bytes: u64,
    // And the offset its next byte has.
    under_way: Option<(Client, u64)>,
}

impl Stream {
    pub fn new(address: SocketAddr, path: &str, size_bytes: u64) -> Self {
        Self { address, path: path.into(), size_bytes, under_way: None }
    }
}

impl Source for Stream {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let (client, next) = match self.under_way.take() {
            Some((client, next)) if next == at => self.under_way.insert((client, next)),
            _ => {
                let mut client = Client::connect(self.address, &self.path)?;
                client.ask(ByteRange::new(at, self.size_bytes))?;
                self.under_way.insert((client, at))
            }
        };
        let ready = client.buffer.len().min(bytes.len());
        bytes[..ready].copy_from_slice(&client.buffer[..ready]);
        client.buffer.drain(..ready);
        client.stream.read_exact(&mut bytes[ready..])?;
        *next += bytes.len() as u64;
        Ok(())
    }
}

/// What a player reads at once.
const PIECE_BYTES: u64 = 128 << 10;
/// A player reads so far ahead of what it shows, and no further.
const BUFFER: Duration = Duration::from_secs(1);
/// Later than this is a stall: a quarter of a frame's time, and more than a busy machine makes a thread wait.
const LATE_MIN: Duration = Duration::from_millis(10);
/// A player that has just started or sought has nothing in its buffer: what comes late then is told apart.
const GRACE: Duration = Duration::from_secs(1);

/// From where a player plays, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    pub from: u64,
    pub time: Duration,
}

/// What a player met.
#[derive(Debug, Default)]
pub struct Played {
    /// For each leg, from asking (the first: from opening) until its first piece was there.
    pub waits: Vec<Duration>,
    /// Bytes that came late, in all.
    pub stalls: Vec<Duration>,
    /// The same within the first second of a leg.
    pub early_stalls: Vec<Duration>,
    /// What it read.
    pub read: RangeSet,
}

/// Opens a film and plays it leg by leg at `rate` bytes a second. It shows a piece as soon as it has it, reads on until
/// its buffer is full, and stands still while the next piece is not there.
pub fn play<S: Source>(open: impl FnOnce() -> Result<S>, legs: &[Leg], rate: u64) -> Result<Played> {
    let mut asked = Instant::now();
    let mut source = open()?;
    let size = source.size_bytes();
    let mut played = Played::default();
    let mut buffer = vec![0; PIECE_BYTES as usize];
    for leg in legs {
        let mut at = leg.from;
        let mut read = |at: &mut u64| -> Result<()> {
            let piece = ByteRange::at(*at, PIECE_BYTES.min(size - *at));
            source.read(piece.start, &mut buffer[..piece.len() as usize])?;
            played.read.insert(piece);
            *at = piece.end;
            Ok(())
        };
        read(&mut at)?;
        played.waits.push(asked.elapsed());
        let begun = Instant::now();
        // When the leg's first byte was shown, or would have been if there had been no stall since.
        let mut clock = begun;
        while at < size {
            let due = clock + Duration::from_secs_f64(float(at - leg.from) / float(rate));
            let end = clock + leg.time;
            let now = Instant::now();
            let read_at = (due.checked_sub(BUFFER).unwrap_or(now)).min(end);
            thread::sleep(read_at.saturating_duration_since(now));
            if Instant::now() >= end {
                break;
            }
            read(&mut at)?;
            let now = Instant::now();
            let late = now.saturating_duration_since(due);
            if late > LATE_MIN {
                let stalls = if due < begun + GRACE { &mut played.early_stalls } else { &mut played.stalls };
                stalls.push(late);
                clock += late;
            }
        }
        asked = Instant::now();
    }
    Ok(played)
}

/// Legs that together last `time`: one from the start, and one for each of `seeks` random jumps at random moments.
pub fn legs(seed: u64, seeks: usize, time: Duration, size_bytes: u64, rate: u64) -> Vec<Leg> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut moments: Vec<f64> = (0..seeks).map(|_| dice.f64()).collect();
    moments.extend([0.0, 1.0]);
    moments.sort_by(f64::total_cmp);
    let lengths = moments.windows(2).map(|pair| time.mul_f64(pair[1] - pair[0]));
    lengths
        .enumerate()
        .map(|(number, time)| {
            #[allow(clippy::cast_sign_loss, reason = "a rate times a time")]
            let bytes = (float(rate) * (time + BUFFER).as_secs_f64()) as u64;
            // So that the film lasts until the next jump.
            let last = size_bytes.saturating_sub(bytes).max(1);
            Leg { from: if number == 0 { 0 } else { dice.u64(..last) }, time }
        })
        .collect()
}
