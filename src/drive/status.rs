//! What is open on the drive, for a person who wants to see it.
//! Never here: how it is shown.

use super::Drive;
use crate::origin::Health;
use crate::read::FileStatus;

impl Drive {
    /// Whether the origin is asked.
    pub fn health(&self) -> Health {
        self.origin.health()
    }

    /// The open files, `most` at most, in the order in which they were opened; and how many there are in all. Never asks
    /// the origin.
    pub fn files_open(&self, most: usize) -> (Vec<FileStatus>, usize) {
        let (files, all) = self.files.all(most);
        (files.iter().map(|file| self.reader.status(&file.handle)).collect(), all)
    }
}
