//! A file as a row of cells: which of its bytes are cached, on their way, and where they are read. Pure.
//! Never here: colours.

use crate::range::ByteRange;
use crate::read::FileStatus;

/// What a cell shows; the first that is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A reader stands here.
    Read,
    /// Some of it is on its way.
    InFlight,
    /// All of it is cached.
    Cached,
    /// Some of it is.
    PartlyCached,
    /// None of it.
    Missing,
}

impl Cell {
    /// Told apart without colours, too.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Read => "┃",
            Self::InFlight => "▒",
            Self::Cached => "█",
            Self::PartlyCached => "▄",
            Self::Missing => "·",
        }
    }
}

/// `file` as `width` cells.
pub fn bar(file: &FileStatus, width: u16) -> Vec<Cell> {
    let size = file.size_bytes.max(1);
    let edge = |cell: u16| (u128::from(size) * u128::from(cell) / u128::from(width.max(1))) as u64;
    let cell = |number: u16| {
        // At least a byte, where a file has fewer bytes than cells.
        let start = edge(number);
        let cell = ByteRange::new(start, edge(number + 1).max(start + 1));
        let held = |ranges: &[ByteRange]| ranges.iter().map(|range| range.intersect(cell).len()).sum::<u64>();
        // A reader at the end stands in the last cell.
        let is_read = |reader: &u64| cell.contains(ByteRange::at((*reader).min(size - 1), 1));
        let cached = held(&file.cached);
        if file.readers.iter().any(is_read) {
            Cell::Read
        } else if held(&file.in_flight) > 0 {
            Cell::InFlight
        } else if cached >= cell.len() {
            Cell::Cached
        } else if cached > 0 {
            Cell::PartlyCached
        } else {
            Cell::Missing
        }
    };
    (0..width).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status_report::tests::film;

    fn drawn(file: &FileStatus, width: u16) -> String {
        bar(file, width).into_iter().map(Cell::symbol).collect()
    }

    #[test]
    fn a_film_that_plays() {
        let mut film = film();
        assert_eq!(drawn(&film, 20), "██┃███▒▒············");
        film.cached[0].end = 9 << 20;
        assert_eq!(drawn(&film, 10), "▄┃·▒······");
        film.readers = vec![film.size_bytes];
        assert_eq!(drawn(&film, 10), "▄··▒·····┃");
        assert_eq!(drawn(&film, 0), "");
    }

    #[test]
    fn files_smaller_than_their_bar() {
        let mut film = film();
        (film.readers, film.in_flight) = (Vec::new(), Vec::new());
        for size in [0, 1, 3] {
            film.size_bytes = size;
            film.cached = vec![ByteRange::new(0, size)];
            assert_eq!(bar(&film, 8).len(), 8, "{size}");
        }
        assert_eq!(drawn(&film, 8), "████████");
    }
}
