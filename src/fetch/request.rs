//! One request for bytes, told in one line when it is over, whatever became of it: how much came, and how soon.
//! Never here: asking.

use std::time::{Duration, Instant};

use super::flight::Flight;
use crate::config::format_size;
use crate::range::ByteRange;

/// A request under way. Said by `-v` when it is dropped.
pub(super) struct Request<'a> {
    flight: &'a Flight,
    begun: Instant,
    // `None` of an answer that is under way already: it was asked for elsewhere.
    asked: Option<ByteRange>,
    first_byte: Option<Duration>,
    came_bytes: u64,
}

impl<'a> Request<'a> {
    /// None has been made yet.
    pub fn new(flight: &'a Flight) -> Self {
        Self { flight, begun: Instant::now(), asked: None, first_byte: None, came_bytes: 0 }
    }

    /// It is made now.
    pub fn asked(&mut self, range: ByteRange) {
        (self.asked, self.begun) = (Some(range), Instant::now());
    }

    /// So many bytes have come. If they are its first ones: how long that took.
    pub fn came(&mut self, bytes: usize) -> Option<Duration> {
        self.came_bytes += bytes as u64;
        if self.first_byte.is_some() {
            return None;
        }
        let first_byte = self.begun.elapsed();
        self.first_byte = Some(first_byte);
        self.asked.map(|_| first_byte)
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.asked.is_none() && self.came_bytes == 0 {
            return;
        }
        // Made only where it is logged.
        log::info!(
            "{}",
            line(self.flight.entry.path(), self.asked, self.came_bytes, self.first_byte, self.begun.elapsed())
        );
    }
}

/// `a.mkv [0, 2097152): 2.0 MiB in 181.0ms, the first byte after 21.0ms`.
fn line(path: &str, asked: Option<ByteRange>, bytes: u64, first: Option<Duration>, took: Duration) -> String {
    let asked = asked.map_or_else(|| "from its opening".to_owned(), |range| range.to_string());
    let first = first.map_or_else(|| "nothing came".to_owned(), |first| format!("the first byte after {first:.1?}"));
    format!("{path} {asked}: {} in {took:.1?}, {first}", format_size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_a_line() {
        let ms = Duration::from_millis;
        assert_eq!(
            line("a.mkv", Some(ByteRange::new(0, 2 << 20)), 2 << 20, Some(ms(21)), ms(181)),
            "a.mkv [0, 2097152): 2.0 MiB in 181.0ms, the first byte after 21.0ms"
        );
        assert_eq!(line("a.mkv", None, 0, None, ms(9)), "a.mkv from its opening: 0 B in 9.0ms, nothing came");
    }
}
