//! The kernel's table of mounts: reading it, and the name under which a drive stands in it. Pure.
//! Never here: opening `/proc`, mounting, unmounting.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::store::remote::shown;

/// Tells our mounts from other programs': they are of type `fuse.reelfs`. fuser passes a `Subtype` on to fusermount3
/// only, so the mount has to ask for `CUSTOM("subtype=reelfs")`, which the kernel takes, too.
pub const SUBTYPE: &str = "reelfs";

/// The kernel takes a page of options at most; nobody reads a longer name in `df`.
const FSNAME_BYTES_MAX: usize = 512;

/// One mount, as `/proc/self/mountinfo` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Unique among the mounts of the moment.
    pub id: u64,
    /// `major:minor` of its filesystem.
    pub device: String,
    /// Where it is.
    pub mount_point: PathBuf,
    /// `ext4`, `fuse.sshfs`.
    pub fs_type: String,
    /// The device, or the name the program gave.
    pub source: String,
}

impl Mount {
    /// Whether a FUSE program serves it, ours or another.
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.")
    }

    /// Whether this program, in this process or another, mounted it.
    pub fn is_ours(&self) -> bool {
        self.fs_type.strip_prefix("fuse.") == Some(SUBTYPE)
    }

    /// Of `36 35 98:0 /root /mount\040point rw shared:1 - ext4 /dev/sda1 rw`; the optional fields end at the lone `-`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = fields.nth(1)?;
        let mount_point = fields.nth(1)?;
        fields.by_ref().find(|&field| field == b"-")?;
        let text = |field| String::from_utf8_lossy(&unescape(field)).into_owned();
        Some(Self {
            id,
            device: text(device),
            mount_point: OsString::from_vec(unescape(mount_point)).into(),
            fs_type: text(fields.next()?),
            source: text(fields.next()?),
        })
    }
}

/// What is mounted on exactly `path` (absolute, links resolved); where mounts lie over each other, the one that is seen.
pub fn topmost(mountinfo: &[u8], path: &Path) -> Option<Mount> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(Mount::parse).rfind(|mount| mount.mount_point == path)
}

/// Undoes the kernel's `\040` for blanks, tabs, newlines, `#` and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = if first == b'\\' { after.first_chunk().copied().and_then(octal_byte) } else { None };
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

fn octal_byte(digits: [u8; 3]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

/// `source` as it may be shown to anyone: a URL without user, password, query (signatures travel there) and fragment.
fn without_secrets(source: &str) -> String {
    let Some((scheme, rest)) = source.split_once("://") else { return source.to_owned() };
    if let Ok(url) = Url::parse(source) {
        return shown(&url);
    }
    // A URL that can't be read is about to be refused; its password must not be in the refusal.
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let authority = rest.find(['/', '\\']).unwrap_or(rest.len());
    let host = rest[..authority].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host..])
}

/// `source` as the name a mount shows in `df` and `mount`. fuser 0.18 pastes it into a comma-separated list of mount
/// options as it is, so what separates or escapes there, or in the table itself, is percent-encoded; and everyone can
/// read the table, so secrets are left out.
pub fn escape_fsname(source: &str) -> String {
    let mut name = String::new();
    for char in without_secrets(source).chars() {
        let start = name.len();
        if char == ',' || char == '\\' || char.is_whitespace() || char.is_control() {
            let mut utf8 = [0; 4];
            name.extend(char.encode_utf8(&mut utf8).bytes().map(percent_encoding::percent_encode_byte));
        } else {
            name.push(char);
        }
        if name.len() > FSNAME_BYTES_MAX {
            name.truncate(start);
            break;
        }
    }
    if name.is_empty() { SUBTYPE.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
36 27 98:0 /mnt1 /films rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
90 27 0:51 / /my\\040films\\011\\134x rw,nosuid - fuse.reelfs http://h/a\\040b ro,user_id=0
91 36 0:52 / /films rw shared:7 - fuse.sshfs me@host: rw
garbage
92 27 0:53 / /no-separator rw
93 27 0:54 / /odd\\9\\7 rw - fuse /dev/fuse rw
";

    #[test]
    fn the_mount_that_is_seen() {
        let films = topmost(TABLE, Path::new("/films")).unwrap();
        assert_eq!(films.device, "0:52");
        assert_eq!((films.id, films.fs_type.as_str(), films.source.as_str()), (91, "fuse.sshfs", "me@host:"));
        assert!(films.is_fuse() && !films.is_ours());
        let proc = topmost(TABLE, Path::new("/proc")).unwrap();
        assert!(!proc.is_fuse() && !proc.is_ours());
        for nothing in ["/", "/film", "/films/a", "/no-separator"] {
            assert_eq!(topmost(TABLE, Path::new(nothing)), None, "{nothing}");
        }
    }

    #[test]
    fn escapes_of_the_table_are_undone() {
        let ours = topmost(TABLE, Path::new("/my films\t\\x")).unwrap();
        assert!(ours.is_fuse() && ours.is_ours());
        assert_eq!(ours.source, "http://h/a b");
        assert!(topmost(TABLE, Path::new("/odd\\9\\7")).unwrap().is_fuse());
        assert_eq!(unescape(b"\\400\\04"), b"\\400\\04");
    }

    #[test]
    fn a_name_injects_no_option_and_tells_no_secret() {
        for (source, name) in [
            ("/srv/films", "/srv/films"),
            ("/srv/a,allow_other b\\\n\u{a0}", "/srv/a%2Callow_other%20b%5C%0A%C2%A0"),
            ("/srv/Фильмы", "/srv/Фильмы"),
            ("/srv/me@home?", "/srv/me@home?"),
            ("http://alice:secret@host/a,b/?sig=secret#secret", "http://host/a%2Cb/"),
            ("HTTP://alice@Host", "http://host/"),
            ("s3://key:secret@bucket/x", "s3://bucket/x"),
            ("http://u:secret@[/x@y?secret", "http://[/x@y"),
            ("http://u:se@cret@a b", "http://a%20b"),
            ("file:///a@b", "file:///a@b"),
            ("", "reelfs"),
        ] {
            assert_eq!(escape_fsname(source), name, "{source}");
        }
        let long = escape_fsname(&",".repeat(5_000));
        assert!(long.len() <= FSNAME_BYTES_MAX && long.ends_with("%2C"));
    }
}
