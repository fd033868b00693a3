//! Where a symbolic link leads: the text of the file that stands for it, read once and kept like any other file's bytes, so
//! that it is known without the origin, too.
//! Never here: following it. The kernel does that, from where the link lies on the drive.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::node::Known;
use super::{Drive, Node, NodeKind};
use crate::error::{Error, Kind, Result};
use crate::origin::Stat;
use crate::range::ByteRange;
use crate::store::{LINK_TARGET_BYTES_MAX, link_file};

impl Drive {
    /// The target of a symbolic link, as it was written. It may lead anywhere, or nowhere.
    pub fn target(self: &Arc<Self>, ino: u64, reply: impl FnOnce(Result<Vec<u8>>) + Send + 'static) {
        let link = match self.node(ino) {
            Ok(node) if node.kind == NodeKind::Link => node,
            Ok(node) => return reply(Err(Error::new(Kind::Invalid, format!("{} is not a link", node.path)))),
            Err(error) => return reply(Err(error)),
        };
        let drive = Arc::clone(self);
        let file = Arc::new(Node::new(ino, link_file(&link.path).into(), NodeKind::File, Known::default()));
        // With the version comes all of it. It is no film that somebody looks at: never part of a scan.
        let load = self.first_contact(&file, &Arc::<AtomicBool>::default(), false);
        let path = Arc::clone(&file.path);
        self.stats.get_by(
            &path,
            Some(load),
            Box::new(move |stat| {
                let stat = match stat {
                    Ok(stat) => stat,
                    Err(error) => return reply(Err(error)),
                };
                let opens = Arc::clone(&drive);
                // A refused job is dropped with its reply, which the kernel's adapter then answers with EIO.
                if let Err(error) = opens.opens.run(move || drive.read_target(&file.path, &stat, reply)) {
                    log::warn!("{error}");
                }
            }),
        );
    }

    fn read_target(&self, path: &Arc<str>, stat: &Stat, reply: impl FnOnce(Result<Vec<u8>>) + Send + 'static) {
        if !(1..=LINK_TARGET_BYTES_MAX).contains(&stat.size_bytes) {
            return reply(Err(no_target(path)));
        }
        let entry = match self.cache.entry(path, stat) {
            Ok(entry) => entry,
            Err(error) => return reply(Err(error)),
        };
        let handle = self.reader.open_to_scan(entry);
        let range = ByteRange::new(0, stat.size_bytes);
        let mut bytes = vec![0; stat.size_bytes as usize];
        if self.reader.read_cached(&handle, 0, &mut bytes) {
            return reply(target_of(path, &bytes));
        }
        let (path, held) = (Arc::clone(path), Arc::clone(&handle));
        self.reader.read(
            &handle,
            range,
            Box::new(move |answer| {
                reply(answer.and_then(|bytes| target_of(&path, bytes)));
                drop(held);
            }),
        );
    }
}

/// The target in a file's bytes: all of them, but for the end of a line that an editor put there.
fn target_of(path: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let target = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let target = target.strip_suffix(b"\r").unwrap_or(target);
    // The kernel would take what stands before a NUL for all of it.
    if target.is_empty() || target.contains(&0) { Err(no_target(path)) } else { Ok(target.to_vec()) }
}

fn no_target(path: &str) -> Error {
    let told =
        format!("{path}: a link's file holds a path of 1 to {LINK_TARGET_BYTES_MAX} bytes, and this one does not");
    Error::new(Kind::Unsupported, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_what_the_file_holds() {
        for (bytes, target) in [
            (&b"../x/real.mkv"[..], Some(&b"../x/real.mkv"[..])),
            (b"/abs/ol ute\n", Some(b"/abs/ol ute")),
            (b"dos\r\n", Some(b"dos")),
            (b"two\nlines", Some(b"two\nlines")),
            (b"latin\xe9", Some(b"latin\xe9")),
            (b"\n", None),
            (b"", None),
            (b"a\0b", None),
        ] {
            assert_eq!(target_of("f", bytes).ok().as_deref(), target, "{bytes:?}");
        }
    }
}
