//! Links to folders that a listing is already below: followed again, they would make a tree without an end.
//! Never here: asking the server.
//!
//! SFTP knows no inodes. What tells one folder from another is its path at the server with all links resolved, as `REALPATH`
//! gives it; the servers of `OpenSSH` and its like resolve them. Of a server that does not, nothing is cut.

use bytes::Bytes;

/// The folders on the way to one that is listed, itself the last: their real paths. Empty where they are not known.
pub(super) struct Way {
    real: Vec<Bytes>,
    // Some folder was reached by a link: real folders, too, may be met again then.
    is_linked: bool,
}

impl Way {
    /// Along the components of `key` from the top of the drive on; `real` has one path more than there are components.
    pub fn new(key: &str, real: Vec<Bytes>) -> Self {
        let parts = key.split('/').filter(|part| !part.is_empty());
        let is_linked = real.windows(2).zip(parts).any(|(two, part)| two[1] != below(&two[0], part.as_bytes()));
        Self { real, is_linked }
    }

    /// Whether the folder itself was on the way already.
    pub fn is_round(&self) -> bool {
        self.is_linked && self.real.split_last().is_some_and(|(last, before)| before.contains(last))
    }

    /// Whether a folder of that name in the last one, which is no link, was on the way already.
    pub fn meets(&self, name: &[u8]) -> bool {
        self.is_linked && self.real.last().is_some_and(|last| self.holds(&below(last, name)))
    }

    /// Whether the folder with this real path is on the way.
    pub fn holds(&self, real: &[u8]) -> bool {
        self.real.iter().any(|on_way| on_way == real)
    }
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    // `/` itself ends with one.
    [folder.strip_suffix(b"/").unwrap_or(folder), b"/", name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(key: &str, real: &[&'static str]) -> Way {
        Way::new(key, real.iter().map(|path| Bytes::from_static(path.as_bytes())).collect())
    }

    #[test]
    fn links_to_folders_on_the_way_are_told_from_others() {
        let plain = way("films/a", &["/srv", "/srv/films", "/srv/films/a"]);
        assert!(plain.holds(b"/srv") && plain.holds(b"/srv/films/a") && !plain.holds(b"/srv/films/b"));
        assert!(!plain.is_round() && !plain.meets(b"films"));
        // `up` leads above the top of the drive: what is there is shown, but for the top itself.
        let up = way("up", &["/srv/films", "/srv"]);
        assert!(!up.is_round() && up.meets(b"films") && !up.meets(b"series"));
        assert!(way("up/films", &["/srv/films", "/srv", "/srv/films"]).is_round());
        let root = way("all", &["/srv", "/"]);
        assert!(root.meets(b"srv") && !root.meets(b"etc"));
        assert!(!way("etc", &["/", "/etc"]).meets(b"etc"));
        // Of a server that says nothing, nothing is cut.
        let unknown = way("a/b", &[]);
        assert!(!unknown.is_round() && !unknown.meets(b"a") && !unknown.holds(b"/srv"));
    }
}
