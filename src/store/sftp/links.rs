//! Links to folders that a listing is already below: followed again, they would make a tree without an end.
//! Never here: asking the server.
//!
//! SFTP knows no inodes. What tells one folder from another is its path at the server with all links resolved, as `REALPATH`
//! gives it; the servers of `OpenSSH` and its like resolve them. Of a server that does not, nothing is cut.

use bytes::Bytes;

use crate::config::Links;

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

    /// Whether links on the way to the folder, of which nothing is known yet, are followed. An error says why that can't be told.
    pub fn is_followed(&self, links: Links) -> Result<bool, &'static str> {
        match (links, self.real.as_slice()) {
            (Links::Follow, _) => Ok(true),
            (_, []) => Err(NOT_RESOLVED),
            (Links::Skip, _) => Ok(!self.is_linked),
            (Links::FollowInside, [top, ..]) => Ok(self.real.last().is_some_and(|last| is_inside(last, top))),
        }
    }

    /// Whether the name in the last folder is followed: `is_link` if it is one for sure, `real` is where it leads.
    pub fn follows(&self, links: Links, name: &[u8], is_link: bool, real: Option<&[u8]>) -> bool {
        let is_itself = |real: &[u8]| self.real.last().is_some_and(|last| real == below(last, name));
        match (links, real) {
            (Links::Follow, _) => true,
            (_, None) => false,
            (Links::Skip, Some(real)) => !is_link && is_itself(real),
            // A server that does not resolve links says that one leads to itself.
            (Links::FollowInside, Some(real)) => {
                self.real.first().is_some_and(|top| is_inside(real, top)) && !(is_link && is_itself(real))
            }
        }
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

/// Why `--links` can't be kept.
const NOT_RESOLVED: &str = "the server does not tell where links lead: only --links follow can be had of it";

/// Whether a path is `top` or lies below it.
fn is_inside(path: &[u8], top: &[u8]) -> bool {
    let rest = path.strip_prefix(top.strip_suffix(b"/").unwrap_or(top));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
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
        // Which of them are followed.
        let follows = |links, name: &str, is_link, real: &str| {
            plain.follows(links, name.as_bytes(), is_link, Some(real.as_bytes()))
        };
        for (name, real, is_link, skip, inside) in [
            ("f", "/srv/films/a/f", false, true, true),
            ("l", "/srv/films/b", true, false, true),
            ("l", "/srv", true, false, true),
            ("l", "/srv2/b", true, false, false),
            ("l", "/", true, false, false),
            // Of servers that tell no kind of a name.
            ("l", "/srv/films/b", false, false, true),
            // Of servers that resolve nothing.
            ("l", "/srv/films/a/l", true, false, false),
        ] {
            assert_eq!(follows(Links::Skip, name, is_link, real), skip, "{real}");
            assert_eq!(follows(Links::FollowInside, name, is_link, real), inside, "{real}");
            assert!(follows(Links::Follow, name, is_link, real));
        }
        assert!(!plain.follows(Links::FollowInside, b"l", true, None), "it leads nowhere");
        assert_eq!(plain.is_followed(Links::Skip), Ok(true));
        assert_eq!((up.is_followed(Links::Skip), up.is_followed(Links::FollowInside)), (Ok(false), Ok(false)));
        assert_eq!(way("in", &["/srv", "/srv/films"]).is_followed(Links::FollowInside), Ok(true));
        assert_eq!(way("in", &["/", "/srv/films"]).is_followed(Links::FollowInside), Ok(true));
        // Of a server that says nothing, nothing is cut.
        assert!(
            way("a/b", &[]).is_followed(Links::Skip).is_err() && way("a/b", &[]).is_followed(Links::Follow).is_ok()
        );
        let unknown = way("a/b", &[]);
        assert!(!unknown.is_round() && !unknown.meets(b"a") && !unknown.holds(b"/srv"));
    }
}
