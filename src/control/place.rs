//! Where the sockets are: a folder of the user's own in the runtime directory, one file for each mount point. A folder
//! is opened once, checked, and used through its descriptor, so that nobody can put a link in its place.
//! Never here: what is said over a socket.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

/// What a socket's name ends with.
const ENDING: &str = ".sock";
/// 64 bits: two of a user's mount points never meet.
const HASH_DIGITS: usize = 16;
/// Ours alone.
const FOLDER_MODE: u32 = 0o700;
/// Nobody else may put files there.
const OTHERS_WRITE: u32 = 0o022;
/// Folders looked through for sockets: those of a machine's services, one for each instance.
const FOLDERS_MAX: usize = 256;

/// Asks for a variable of the environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The name of the socket of the mount on `mountpoint` (absolute, links resolved).
pub(super) fn socket_name(mountpoint: &Path) -> String {
    let mut name = Digest::of(mountpoint.as_os_str().as_bytes()).to_string();
    name.truncate(HASH_DIGITS);
    name + ENDING
}

pub(super) fn is_socket_name(name: &str) -> bool {
    name.strip_suffix(ENDING).is_some_and(|hash| hash.len() == HASH_DIGITS)
}

/// A folder that holds sockets.
pub(super) struct Folder {
    dir: File,
    // Device and inode.
    id: (u64, u64),
}

impl Folder {
    /// The one for a mount that begins now; made if it is not there.
    pub(super) fn for_new_socket(env: Env) -> Result<Self> {
        let path = candidates(env, geteuid().as_raw(), &owner).swap_remove(0);
        let made = DirBuilder::new().mode(FOLDER_MODE).create(&path);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io(path.display(), &error)),
            _ => Self::open(&path, &|uid| uid == geteuid().as_raw()),
        }
    }

    /// All that may hold sockets which this user may talk to.
    pub(super) fn all(env: Env) -> Vec<Self> {
        let me = geteuid().as_raw();
        // Below root's own, a service of any user; root may talk to it.
        let may_be = |uid| uid == me || uid == 0 || me == 0;
        let mut folders: Vec<Self> = Vec::new();
        let mut seen = HashSet::new();
        for path in candidates(env, me, &owner) {
            let Ok(folder) = Self::open(&path, &|uid| uid == me || uid == 0) else { continue };
            // A service's instances have a folder each.
            let below = fs::read_dir(folder.path()).into_iter().flatten().flatten();
            folders.extend(below.take(FOLDERS_MAX).filter_map(|entry| Self::open(&entry.path(), &may_be).ok()));
            folders.push(folder);
        }
        // Named by the environment, and found below another.
        folders.retain(|folder| seen.insert(folder.id));
        folders
    }

    /// Opens `path` if it is a folder, not a link to one, whose owner will do and in which nobody else may write.
    pub(super) fn open(path: &Path, may_own: &dyn Fn(u32) -> bool) -> Result<Self> {
        let failed = |error: io::Error| Error::io(path.display(), &error);
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let dir = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let metadata = dir.metadata().map_err(failed)?;
        if !may_own(metadata.uid()) || metadata.mode() & OTHERS_WRITE != 0 {
            let message = format!("{}: not a folder that only this user writes to: remove it", path.display());
            return Err(Error::new(Kind::Denied, message));
        }
        Ok(Self { dir, id: (metadata.dev(), metadata.ino()) })
    }

    /// The very folder that was checked, whatever its name stands for by now; short enough for a socket's address, too.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.dir.as_raw_fd()).into()
    }

    /// `name` in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Names of the sockets in it, `most` at most.
    pub(super) fn sockets(&self, most: usize) -> Vec<String> {
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| is_socket_name(name)).take(most).collect()
    }
}

/// Who owns what is at `path`.
fn owner(path: &Path) -> Option<u32> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.uid())
}

/// The folders in which `uid` has sockets; a new one is made in the first. A variable may be inherited from another user
/// (`sudo` keeps some): then it is not heeded.
fn candidates(env: Env, uid: u32, owner: &dyn Fn(&Path) -> Option<u32>) -> Vec<PathBuf> {
    let is_mine = |path: &PathBuf| path.is_absolute() && owner(path) == Some(uid);
    // systemd gives several, parted by colons.
    let service = env("RUNTIME_DIRECTORY").and_then(|paths| std::env::split_paths(&paths).next());
    let session = env("XDG_RUNTIME_DIR").map(PathBuf::from);
    // Where the session's is, also for who runs outside of it: a timer's job, for example.
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    let mut folders: Vec<_> = service.filter(is_mine).into_iter().collect();
    folders.extend([session, Some(usual)].into_iter().flatten().filter(is_mine).map(|path| path.join("reelfs")));
    let own = if uid == 0 { "/run/reelfs".into() } else { format!("/tmp/reelfs-{uid}").into() };
    folders.push(own);
    // Of the system's services.
    folders.push("/run/reelfs".into());
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn named(variables: &[(&str, &str)], uid: u32) -> Vec<String> {
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let owner = |path: &Path| {
            let path = path.to_str().unwrap();
            (path.starts_with("/run/user/1000") || path.starts_with("/mine")).then_some(1000).or(Some(0))
        };
        candidates(&env, uid, &owner).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn where_the_environment_says() {
        let xdg = ("XDG_RUNTIME_DIR", "/run/user/1000");
        assert_eq!(named(&[xdg], 1000), ["/run/user/1000/reelfs", "/tmp/reelfs-1000", "/run/reelfs"]);
        assert_eq!(named(&[], 1000), ["/run/user/1000/reelfs", "/tmp/reelfs-1000", "/run/reelfs"]);
        assert_eq!(named(&[], 1001), ["/tmp/reelfs-1001", "/run/reelfs"]);
        let service = ("RUNTIME_DIRECTORY", "/mine/films:/mine/other");
        assert_eq!(named(&[xdg, service], 1000)[..2], ["/mine/films", "/run/user/1000/reelfs"]);
        assert_eq!(named(&[("XDG_RUNTIME_DIR", "mine")], 1001), ["/tmp/reelfs-1001", "/run/reelfs"]);
    }

    #[test]
    fn what_belongs_to_another_user_is_not_used() {
        assert_eq!(named(&[("XDG_RUNTIME_DIR", "/run/user/1000")], 0)[..1], ["/run/user/0/reelfs"]);
        assert_eq!(named(&[("RUNTIME_DIRECTORY", "/root/x")], 1001)[0], "/tmp/reelfs-1001");
    }

    #[test]
    fn a_folder_is_checked_before_it_is_used() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("sockets");
        fs::create_dir(&path).unwrap();
        let me = |uid| uid == geteuid().as_raw();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Folder::open(&path, &me).is_ok());
        assert!(Folder::open(&path, &|uid| !me(uid)).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Folder::open(&path, &me).is_err(), "others may write there");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&path, base.path().join("link")).unwrap();
        assert!(Folder::open(&base.path().join("link"), &me).is_err());
    }

    #[test]
    fn one_name_for_each_mount_point() {
        let name = socket_name(Path::new("/mnt/films"));
        assert!(is_socket_name(&name) && name != socket_name(Path::new("/mnt/film")), "{name}");
        assert!(!is_socket_name("x.sock") && !is_socket_name("0123456789abcdef.new"));
    }
}
