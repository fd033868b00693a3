//! What the drive tells of itself: owners and modes, sizes for `df`, extended attributes, data and holes, the mount table.
//! Never here: file contents.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use reelfs::demo::{Server, ServerConfig};
use rustix::fs::SeekFrom;

use super::compare::{made, wait_until};
use super::mount::{Mount, Place, read_direct};
use super::needs::{FUSE, Need, Test};

const SIZE: u64 = 3 << 20;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("shown::owners_and_modes", &[FUSE], owners_and_modes),
        Test::new("shown::space", &[FUSE], space),
        Test::new("shown::extended_attributes", &[FUSE], extended_attributes),
        Test::new("shown::one_time_for_a_file", &[FUSE], one_time_for_a_file),
        Test::new("shown::data_and_holes", &[FUSE], data_and_holes),
        Test::new("shown::who_may_enter", &[FUSE, Need::Program("setpriv")], who_may_enter),
    ]
}

fn server() -> Server {
    Server::start(ServerConfig::default().file("film.mkv", made(1, SIZE)).file("sub/b.mkv", made(2, SIZE))).unwrap()
}

fn owners_and_modes() {
    let server = server();
    let shown = |options: &[&str], name: &str| {
        let mount = Mount::new(&server.url(), options);
        let metadata = fs::metadata(mount.file(name)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode())
    };
    let (uid, gid) = reelfs::sys::invoking_user();
    assert_eq!(shown(&[], "film.mkv"), (uid, gid, libc::S_IFREG | 0o444));
    assert_eq!(shown(&[], "sub"), (uid, gid, libc::S_IFDIR | 0o555));
    let options = ["--uid", "1234", "--gid", "2345", "--umask", "027"];
    assert_eq!(shown(&options, "film.mkv"), (1234, 2345, libc::S_IFREG | 0o440));
    assert_eq!(shown(&options, "sub"), (1234, 2345, libc::S_IFDIR | 0o550));
}

fn space() {
    let server = server();
    let mount = Mount::new(&server.url(), &[]);
    let space = rustix::fs::statvfs(mount.point()).unwrap();
    assert_eq!(space.f_blocks * space.f_frsize, SIZE, "the files of the top folder");
    assert_eq!((space.f_bfree, space.f_bavail, space.f_namemax), (0, 0, 255));
    assert!(space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let metadata = fs::metadata(mount.file("film.mkv")).unwrap();
    assert_eq!((metadata.len(), metadata.blocks(), metadata.nlink()), (SIZE, SIZE / 512, 1));
    // 2024-01-01, as the origin says.
    assert_eq!(metadata.mtime(), 1_704_067_200);
    let df = Command::new("df").arg(mount.point()).output().unwrap();
    assert!(df.status.success());
}

fn attribute(path: &Path, name: &str) -> Result<String, rustix::io::Errno> {
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(path, name, &mut value)?;
    Ok(String::from_utf8(value[..len].to_vec()).unwrap())
}

fn extended_attributes() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--fill", "never", "--lookahead-chunks", "0"]);
    let film = mount.file("film.mkv");
    let mut list = [0; 256];
    let len = rustix::fs::listxattr(&film, &mut list).unwrap();
    let names = String::from_utf8(list[..len].to_vec()).unwrap();
    let names: Vec<_> = names.split_terminator('\0').collect();
    assert_eq!(names, ["user.reelfs.version", "user.reelfs.cached_bytes", "user.reelfs.source"]);
    assert_eq!(attribute(&film, "user.reelfs.source").unwrap(), server.url());
    assert_eq!(attribute(&mount.file("sub"), "user.reelfs.source").unwrap(), server.url());
    assert_eq!(attribute(&film, "user.reelfs.cached_bytes").unwrap(), "0");
    read_direct(&film, 0, 1 << 20).unwrap();
    read_direct(&film, 1 << 20, 1 << 20).unwrap();
    // Recorded a moment after it was read.
    wait_until("cached bytes", || {
        let cached: u64 = attribute(&film, "user.reelfs.cached_bytes").unwrap().parse().unwrap();
        assert!(cached <= SIZE);
        cached >= 2 << 20
    });
    assert!(attribute(&film, "user.reelfs.version").unwrap().contains("-0"), "an ETag of the demo's origin");
    assert_eq!(attribute(&film, "user.other"), Err(rustix::io::Errno::NODATA));
    assert_eq!(rustix::fs::getxattr(&film, "user.reelfs.source", &mut [0; 3]), Err(rustix::io::Errno::RANGE));
}

/// The listing tells it to the minute, the file's own answer to the second.
fn one_time_for_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mkv");
    fs::write(&path, vec![7; 100_000]).unwrap();
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_047);
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let server = Server::start(ServerConfig::default().file("film.mkv", reelfs::demo::Content::Disk(path))).unwrap();
    let place = Place::new();
    let mut times = Vec::new();
    for _ in 0..2 {
        let mount = Mount::on(&place, &server.url(), &["--dir-ttl", "1"]);
        let film = mount.file("film.mkv");
        for _ in 0..2 {
            times.push(fs::metadata(&film).unwrap().mtime());
            read_direct(&film, 0, 1_000).unwrap();
            times.push(fs::metadata(&film).unwrap().mtime());
            // Its name and its listing are old by then.
            std::thread::sleep(std::time::Duration::from_millis(1_200));
            assert_eq!(fs::read_dir(mount.point()).unwrap().count(), 1);
        }
        mount.end();
    }
    assert!(times.iter().all(|time| time / 60 == 1_700_000_047 / 60 && *time == times[0]), "{times:?}");
}

fn data_and_holes() {
    let server = server();
    let mount = Mount::new(&server.url(), &[]);
    let film = File::open(mount.file("film.mkv")).unwrap();
    let seek = |to| rustix::fs::seek(&film, to);
    assert_eq!(seek(SeekFrom::Data(0)), Ok(0));
    assert_eq!(seek(SeekFrom::Data(12_345)), Ok(12_345));
    assert_eq!(seek(SeekFrom::Hole(12_345)), Ok(SIZE));
    assert_eq!(seek(SeekFrom::Data(SIZE)), Err(rustix::io::Errno::NXIO));
    assert_eq!(seek(SeekFrom::Hole(SIZE)), Err(rustix::io::Errno::NXIO));
    assert_eq!(seek(SeekFrom::End(-1)), Ok(SIZE - 1));
}

/// Another user is kept out, unless they were let in. Root only: nobody else can become another user.
fn who_may_enter() {
    if !reelfs::sys::is_root() {
        println!("shown::who_may_enter shows nothing without root");
        return;
    }
    let server = server();
    for (options, is_in) in
        [(&[][..], false), (&["--allow-other"], true), (&["--allow-other", "--umask", "077"], false)]
    {
        let mount = Mount::new(&server.url(), options);
        // The folder of the mount point is the tester's own.
        let folder = mount.point().parent().unwrap().to_owned();
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let read = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
            .arg(mount.file("film.mkv"))
            .output()
            .unwrap();
        assert_eq!(read.status.success(), is_in, "{options:?}: {}", String::from_utf8_lossy(&read.stderr));
        assert_eq!(read.stdout.len() as u64, if is_in { SIZE } else { 0 });
    }
}
