//! Which links of a `WebDAV` listing lead into the folder that was asked for. Pure.
//! Never here: XML, and the network.
//!
//! Only paths count, compared component by component as they decode: links may name another scheme, host or port, as
//! RFC 4918 allows and servers behind a proxy do, and may be encoded otherwise than they were asked for. A proxy may also
//! have another path in front of its folder than the server that writes the links; then the folder's own link, which each
//! listing holds, says where the folder is.

use percent_encoding::percent_decode_str;

/// The decoded components of a path, without empty ones.
pub(super) type Path = Vec<Vec<u8>>;

/// Where a link leads, seen from the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// To the folder itself.
    Itself,
    /// To this name directly in it, not decoded to text and not checked.
    Name(Vec<u8>),
    /// Below a name in it, or out of it.
    Elsewhere,
}

/// The path that `href` names; a relative one is below `folder`.
pub(super) fn path(href: &str, folder: &Path) -> Path {
    // A `?` or `#` begins nothing here: servers that leave them as they are mean the character.
    let absolute = href.split_once("://").filter(|(scheme, _)| !scheme.contains('/'));
    let (start, text) = match absolute {
        Some((_, rest)) => (&[][..], rest.split_once('/').map_or("", |(_, path)| path)),
        None if href.starts_with('/') => (&[][..], href),
        None => (&folder[..], href),
    };
    let components = text.split('/').filter(|component| !matches!(*component, "" | "."));
    start.iter().cloned().chain(components.map(|component| percent_decode_str(component).collect())).collect()
}

/// Where `path` leads, seen from `folder`.
pub(super) fn link(path: &Path, folder: &Path) -> Link {
    match path.strip_prefix(&folder[..]) {
        Some([]) => Link::Itself,
        Some([name]) => Link::Name(name.clone()),
        _ => Link::Elsewhere,
    }
}

/// A link that was seen: where it leads, and whether to a folder.
pub(super) struct Seen {
    pub path: Path,
    pub is_folder: bool,
}

/// Where the server says that the folder is, as far as the links `seen` first tell: `asked`, if any of them leads there;
/// else the first one, if the second leads into it. `None`: more links are needed.
pub(super) fn folder_early(asked: &Path, seen: &[Seen]) -> Option<Path> {
    if seen.iter().any(|seen| seen.path == *asked) {
        return Some(asked.clone());
    }
    let [first, second, ..] = seen else { return None };
    let leads_in = first.is_folder && matches!(link(&second.path, &first.path), Link::Name(_));
    leads_in.then(|| first.path.clone())
}

/// The same where no more links will be looked at: the folder's own link may also come late, or not at all. `None`:
/// nothing fits.
pub(super) fn folder_of_all(asked: &Path, seen: &[Seen]) -> Option<Path> {
    let holds_any = |folder: &Path| seen.iter().any(|seen| matches!(link(&seen.path, folder), Link::Name(_)));
    if let Some(folder) = folder_early(asked, seen) {
        return Some(folder);
    }
    if holds_any(asked) {
        return Some(asked.clone());
    }
    let own = seen.iter().filter(|seen| seen.is_folder).min_by_key(|seen| seen.path.len())?;
    // A single link is the folder's own, of a folder without names: by its name, as nothing else tells.
    let is_own = if seen.len() == 1 { own.path.last() == asked.last() } else { holds_any(&own.path) };
    is_own.then(|| own.path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(href: &str) -> Path {
        path(href, &Path::new())
    }

    #[test]
    fn webdav_links_are_compared_by_what_their_paths_decode_to() {
        let folder = absolute("/dav/My Films/");
        for (href, expected) in [
            ("/dav/My%20Films/", Link::Itself),
            ("/dav/My Films", Link::Itself),
            ("http://backend:3000/dav//My%20Films/", Link::Itself),
            ("HTTPS://h/dav/My%20%46ilms/a%2fb", Link::Name(b"a/b".to_vec())),
            ("/dav/My%20Films/What%3F/", Link::Name(b"What?".to_vec())),
            ("/dav/My%20Films/Really?.mkv", Link::Name(b"Really?.mkv".to_vec())),
            ("/dav/My%20Films/100% #1.mkv", Link::Name(b"100% #1.mkv".to_vec())),
            ("/dav/My%20Films/%FF", Link::Name(vec![0xff])),
            ("film.mkv", Link::Name(b"film.mkv".to_vec())),
            ("./", Link::Itself),
            ("/dav/My%20Films/..", Link::Name(b"..".to_vec())),
            ("/dav/My%20Films/a/b", Link::Elsewhere),
            ("/dav/", Link::Elsewhere),
            ("/other/a", Link::Elsewhere),
            ("http://host", Link::Elsewhere),
        ] {
            assert_eq!(link(&path(href, &folder), &folder), expected, "{href}");
        }
        assert_eq!(link(&absolute("http://host"), &absolute("/")), Link::Itself);
    }

    #[test]
    fn webdav_folder_is_where_its_own_link_says() {
        let seen = |hrefs: &[&str]| -> Vec<Seen> {
            hrefs.iter().map(|href| Seen { path: absolute(href), is_folder: href.ends_with('/') }).collect()
        };
        let early = |asked: &str, hrefs: &[&str]| folder_early(&absolute(asked), &seen(hrefs));
        let all = |asked: &str, hrefs: &[&str]| folder_of_all(&absolute(asked), &seen(hrefs));
        let at = |folder: &str| Some(absolute(folder));
        // As asked for, at any place in the list.
        assert_eq!(early("/dav/", &["/dav/"]), at("/dav/"));
        assert_eq!(early("/dav/", &["/dav/a.mkv", "/dav/"]), at("/dav/"));
        // Behind a proxy that has another path.
        assert_eq!(early("/films/", &["/srv/dav/"]), None);
        assert_eq!(early("/films/", &["/srv/dav/", "/srv/dav/a.mkv"]), at("/srv/dav/"));
        assert_eq!(early("/", &["/dav/", "/dav/sub/"]), at("/dav/"));
        assert_eq!(early("/dav/", &["/", "/a.mkv"]), at("/"));
        assert_eq!(all("/films/", &["/x/a.mkv", "/x/b.mkv", "/x/"]), at("/x/"), "its own link comes last");
        // Its own link does not come at all.
        assert_eq!(early("/dav/", &["/dav/a.mkv", "/dav/b.mkv"]), None);
        assert_eq!(all("/dav/", &["/dav/a.mkv", "/dav/b.mkv"]), at("/dav/"));
        // A folder without names.
        assert_eq!(all("/dav/Empty/", &["/srv/Empty/"]), at("/srv/Empty/"));
        assert_eq!(all("/dav/Empty/", &["/srv/Other/"]), None);
        assert_eq!(all("/dav/", &["/login"]), None);
        // Nothing fits.
        assert_eq!(all("/dav/", &["/x/a.mkv", "/y/b.mkv"]), None);
        assert_eq!(all("/dav/", &["/x/", "/y/b.mkv"]), None);
    }
}
