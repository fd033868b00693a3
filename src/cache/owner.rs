//! Whose the folder of a cache must be: whoever may write in it can choose what is read from it, and what is written over.
//! Never here: the modes of what is made in it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;

use crate::error::{Error, Kind, Result};

/// Permission of everybody to write.
const OTHERS_WRITE: u32 = 0o002;

/// `Denied`, with what to do, for a folder that belongs to another user, or that everybody may write in.
pub(super) fn check(dir: &Path) -> Result<()> {
    let meta = std::fs::metadata(dir).map_err(|error| Error::io(dir.display(), &error))?;
    match refusal(&dir.display().to_string(), (meta.uid(), meta.mode()), geteuid().as_raw()) {
        Some(message) => Err(Error::new(Kind::Denied, message)),
        None => Ok(()),
    }
}

/// Why a cache is not used in the folder `dir`, which belongs to `uid` and has this mode. Root is no exception: it would
/// write where another user leads it.
fn refusal(dir: &str, (uid, mode): (u32, u32), user: u32) -> Option<String> {
    if uid != user {
        Some(format!(
            "the cache directory {dir} belongs to user {uid}, and reelfs runs as user {user}: `chown -R {user} {dir}`, or give another --cache-dir"
        ))
    } else if mode & OTHERS_WRITE != 0 {
        Some(format!(
            "the cache directory {dir} can be written by every user (mode {:04o}): `chmod go-w {dir}`, or give another --cache-dir",
            mode & 0o7777
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn cache_folder_of_another_user_or_writable_by_all_is_refused_with_the_fix() {
        assert_eq!(refusal("/c", (1000, 0o40_700), 1000), None);
        assert_eq!(refusal("/c", (0, 0o40_755), 0), None);
        let message = |owner, user| refusal("/c", owner, user).unwrap();
        for (uid, user) in [(65_534, 0), (0, 1000), (1000, 1001)] {
            let message = message((uid, 0o40_700), user);
            assert!(message.contains(&format!("`chown -R {user} /c`")) && message.contains("--cache-dir"), "{message}");
        }
        let message = message((1000, 0o40_777), 1000);
        assert!(message.contains("`chmod go-w /c`") && message.contains("0777"), "{message}");
    }

    #[test]
    fn cache_folder_is_looked_at_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(check(dir.path()).unwrap_err().kind(), Kind::Denied);
    }
}
