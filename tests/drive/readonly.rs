//! Nothing on the drive can be changed, by anybody, in any way.
//! Never here: what can be read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use reelfs::demo::{Server, ServerConfig};
use rustix::fs::{CWD, XattrFlags};

use super::compare::made;
use super::mount::Mount;
use super::needs::{FUSE, Test};

pub fn tests() -> Vec<Test> {
    vec![Test::new("readonly::every_way_to_write_is_refused", &[FUSE], every_way_to_write_is_refused)]
}

fn every_way_to_write_is_refused() {
    let server = Server::start(ServerConfig::default().file("sub/film.mkv", made(1, 5000))).unwrap();
    let mount = Mount::new(&server.url(), &[]);
    let (film, new, sub) = (mount.file("sub/film.mkv"), mount.file("sub/new"), mount.file("sub"));
    let mode = || fs::Permissions::from_mode(0o777);
    let opened = File::open(&film).unwrap();
    let now = std::time::SystemTime::now();
    let tries: [(&str, io::Result<()>); 16] = [
        ("create", File::create(&new).map(drop)),
        ("create over", File::create(&film).map(drop)),
        ("open for writing", File::options().write(true).open(&film).map(drop)),
        ("open for reading and writing", File::options().read(true).write(true).open(&film).map(drop)),
        ("append", File::options().append(true).open(&film).map(drop)),
        ("unlink", fs::remove_file(&film)),
        ("mkdir", fs::create_dir(&new)),
        ("rmdir", fs::remove_dir(&sub)),
        ("rename", fs::rename(&film, &new)),
        ("link", fs::hard_link(&film, &new)),
        ("symlink", std::os::unix::fs::symlink(&film, &new)),
        ("chmod", fs::set_permissions(&film, mode())),
        ("chown", std::os::unix::fs::chown(&film, Some(1), Some(1))),
        ("utimes", opened.set_modified(now)),
        (
            "truncate",
            Ok(rustix::fs::open(
                &film,
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC,
                rustix::fs::Mode::empty(),
            )
            .map(drop))
            .and_then(|done| done.map_err(io::Error::from)),
        ),
        (
            "mknod",
            rustix::fs::mknodat(CWD, &new, rustix::fs::FileType::Fifo, rustix::fs::Mode::empty(), 0)
                .map_err(io::Error::from),
        ),
    ];
    for (what, tried) in tries {
        assert_eq!(tried.unwrap_err().raw_os_error(), Some(libc::EROFS), "{what}");
    }
    let set = rustix::fs::setxattr(&film, "user.reelfs.version", b"x", XattrFlags::empty());
    assert_eq!(set, Err(rustix::io::Errno::ROFS));
    assert_eq!(rustix::fs::removexattr(&film, "user.reelfs.version"), Err(rustix::io::Errno::ROFS));
    assert_eq!(rustix::fs::access(&film, rustix::fs::Access::WRITE_OK), Err(rustix::io::Errno::ROFS));
    // On an open file the kernel itself says no.
    assert!(opened.set_len(1).is_err());
    super::compare::check(1, 0, &fs::read(&film).unwrap());
    assert_eq!(fs::read_dir(&sub).unwrap().count(), 1);
}
