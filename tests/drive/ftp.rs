//! Folders of FTP servers that other people made, as drives: for guests, and with a password from wherever it may come.
//! Never here: names and listings (see `listings`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::compare::{check, check_whole, wait_until};
use super::daemon::{Daemon, free_port, public_folder};
use super::mount::{Mount, Place};
use super::needs::{FUSE, Need, Test};
use super::places::{SECRET, SIZE, check_films, refused, serve, write};

pub fn tests() -> Vec<Test> {
    const RCLONE: &[Need] = &[FUSE, Need::Program("rclone")];
    const VSFTPD: &[Need] = &[FUSE, Need::Program("vsftpd")];
    vec![
        Test::new("ftp::with_a_password", RCLONE, with_a_password),
        Test::new("ftp::as_a_guest", VSFTPD, as_a_guest),
        Test::new("ftp::a_film_that_is_replaced", VSFTPD, a_film_that_is_replaced),
    ]
}

/// Very secure, and strict about where it locks itself in. It shows `root` to anybody, to so many guests at a time.
pub fn start_vsftpd(root: &Path, home: &Path, port: u16, guests: usize) -> Daemon {
    let (root, cell) = (root.display(), home.join("cell"));
    fs::create_dir_all(&cell).unwrap();
    let config = format!(
        "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\n\
         local_enable=NO\nno_anon_password=YES\nanon_root={root}\nanon_world_readable_only=NO\nftp_username=daemon\n\
         secure_chroot_dir={}\nseccomp_sandbox=NO\nmax_per_ip={guests}\nxferlog_enable=NO\n",
        cell.display()
    );
    Daemon::start_on(&config, "vsftpd", &["CONFIG"], home, port)
}

fn with_a_password() {
    let (home, _daemon, port) = serve("ftp", &["--user", "viewer", "--pass", SECRET]);
    let place = Place::new();
    let mount = Mount::on(&place, &format!("ftp://viewer:{SECRET}@127.0.0.1:{port}/"), &[]);
    check_films(&mount);
    assert!(!place.log().contains(SECRET));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts.contains("ftp://127.0.0.1") && !mounts.contains(SECRET));
    let source = format!("ftp://127.0.0.1:{port}/");
    // From the environment, and from where every FTP program looks.
    let variables = [("REELFS_USER", "viewer"), ("REELFS_PASSWORD", SECRET)];
    drop(Mount::with(&Place::new(), &source, &[], &variables));
    let netrc = home.path().join("netrc");
    fs::write(&netrc, format!("machine 127.0.0.1 login viewer password {SECRET}\n")).unwrap();
    drop(Mount::with(&Place::new(), &source, &[], &[("NETRC", netrc.to_str().unwrap())]));
    let said = refused(&format!("ftp://viewer:wrong-{SECRET}@127.0.0.1:{port}/"), &[], &[("RUST_LOG", "trace")]);
    assert!(said.contains("user and password"), "{said}");
    let said = refused(&format!("ftp://viewer:{SECRET}@127.0.0.1:{port}/none/"), &[], &[]);
    assert!(said.contains("/none"), "{said}");
}

/// It takes two connections only: those will do.
fn as_a_guest() {
    let (home, port) = (public_folder(), free_port());
    let films = home.path().join("films");
    fs::create_dir_all(films.join("a series")).unwrap();
    write(&films.join("film.mkv"), 7, SIZE);
    write(&films.join("a series/s01 e01.mkv"), 8, SIZE);
    let _daemon = start_vsftpd(&films, home.path(), port, 2);
    check_films(&Mount::new(&format!("ftp://127.0.0.1:{port}"), &[]));
}

fn a_film_that_is_replaced() {
    let (home, port) = (public_folder(), free_port());
    let films = home.path().join("films");
    fs::create_dir(&films).unwrap();
    write(&films.join("film.mkv"), 7, SIZE);
    let _daemon = start_vsftpd(&films, home.path(), port, 8);
    let options = ["--dir-ttl", "0", "--lookahead-chunks", "0"];
    let mount = Mount::new(&format!("ftp://127.0.0.1:{port}/"), &options);
    let old = File::open(mount.file("film.mkv")).unwrap();
    let mut bytes = vec![0; 1000];
    old.read_exact_at(&mut bytes, 0).unwrap();
    check(7, 0, &bytes);
    write(&films.join("film.mkv"), 9, SIZE - 5);
    let error = old.read_exact_at(&mut bytes, 6 << 20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    wait_until("the new version", || fs::metadata(mount.file("film.mkv")).is_ok_and(|film| film.len() == SIZE - 5));
    check_whole(&File::open(mount.file("film.mkv")).unwrap(), (9, SIZE - 5), 1 << 20).unwrap();
}
