//! Buckets and `WebDAV` folders of servers that other people made, as drives: with keys and passwords, and without.
//! Never here: names and listings (see `listings`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use reelfs::demo::generate;

use super::compare::{check, check_whole, wait_until};
use super::daemon::{Daemon, free_port, public_folder};
use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Need, Test};

const NEEDS: &[Need] = &[FUSE, Need::Program("rclone")];
const COUNTED: &[Need] = &[FUSE, Need::Program("rclone"), Need::Program("nginx")];
pub const SIZE: u64 = (9 << 20) + 4_321;
pub const SECRET: &str = "very-secret-indeed";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("places::a_bucket_with_keys", NEEDS, a_bucket_with_keys),
        Test::new("places::a_bucket_opens_in_one_answer", COUNTED, a_bucket_opens_in_one_answer),
        Test::new("places::webdav_with_a_password", NEEDS, webdav_with_a_password),
        Test::new("places::a_bucket_whose_film_is_replaced", NEEDS, a_bucket_whose_film_is_replaced),
    ]
}

/// A folder of films, and a server of it; a bucket is a folder in `home`.
pub fn serve(protocol: &str, options: &[&str]) -> (tempfile::TempDir, Daemon, u16) {
    let (home, port) = (tempfile::tempdir().unwrap(), free_port());
    fs::create_dir_all(home.path().join("films/a series")).unwrap();
    write(&home.path().join("films/film.mkv"), 7, SIZE);
    write(&home.path().join("films/a series/s01 e01.mkv"), 8, SIZE);
    let root = if protocol == "s3" { home.path().to_owned() } else { home.path().join("films") };
    let address = format!("127.0.0.1:{port}");
    let fixed = ["serve", protocol, root.to_str().unwrap(), "--addr", &address, "--config", "/dev/null"];
    let fresh = ["--dir-cache-time", "0", "--poll-interval", "0"];
    let daemon = Daemon::start("rclone", &[&fixed[..], &fresh, options].concat(), home.path(), port);
    (home, daemon, port)
}

pub fn write(path: &Path, seed: u64, size: u64) {
    let mut bytes = vec![0; size as usize];
    generate(seed, 0, &mut bytes);
    fs::write(path, bytes).unwrap();
}

pub fn check_films(mount: &Mount) {
    for (name, seed) in [("film.mkv", 7), ("a series/s01 e01.mkv", 8)] {
        let film = File::open(mount.file(name)).unwrap();
        assert_eq!(film.metadata().unwrap().len(), SIZE, "{name}");
        let mut bytes = vec![0; 100_000];
        for offset in [SIZE - 100_000, 5 << 20, 1] {
            film.read_exact_at(&mut bytes, offset).unwrap();
            check(seed, offset, &bytes);
        }
        check_whole(&film, (seed, SIZE), 1 << 20).unwrap();
    }
}

/// What a failed mount says, and that it does not say the secret.
pub fn refused(source: &str, options: &[&str], variables: &[(&str, &str)]) -> String {
    let place = Place::new();
    let output = reelfs()
        .arg("mount")
        .args([source.as_ref(), place.point().as_os_str(), "--cache-dir".as_ref(), place.cache().as_os_str()])
        .args(options)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && !said.contains(SECRET), "{said}");
    said
}

fn a_bucket_with_keys() {
    let (_home, _daemon, port) = serve("s3", &["--auth-key", &format!("viewer,{SECRET}")]);
    let endpoint = format!("http://127.0.0.1:{port}");
    let options = ["--s3-endpoint", &endpoint];
    let keys = [("AWS_ACCESS_KEY_ID", "viewer"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let place = Place::new();
    let mount = Mount::with(&place, "s3://films", &options, &keys);
    check_films(&mount);
    assert!(!place.log().contains(SECRET));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts.contains("s3://films") && !mounts.contains(SECRET));
    // Part of a bucket.
    let series = Mount::with(&Place::new(), "s3://films/a%20series", &options, &keys);
    assert_eq!(fs::metadata(series.file("s01 e01.mkv")).unwrap().len(), SIZE);
    let said = refused("s3://films", &options, &[]);
    assert!(said.contains("s3://films"), "{said}");
    let said = refused("s3://none", &options, &keys);
    assert!(said.contains("s3://none"), "{said}");
    let said = refused("s3://films/no%20such%20folder", &options, &keys);
    assert!(said.contains("no such folder"), "{said}");
}

/// The version comes with the first bytes, as from any web server, though what is asked is signed.
fn a_bucket_opens_in_one_answer() {
    let (home, _daemon, port) = serve("s3", &["--auth-key", &format!("viewer,{SECRET}")]);
    // In between, to see what is asked.
    let (folder, counted) = (public_folder(), free_port());
    let asked = folder.path().join("asked");
    let log = format!("log_format asked '$request_method $uri'; access_log {} asked;", asked.display());
    let _proxy = Daemon::nginx_proxy(port, folder.path(), &log, counted);
    let keys = [("AWS_ACCESS_KEY_ID", "viewer"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let endpoint = format!("http://127.0.0.1:{counted}");
    let mount = Mount::with(&Place::new(), "s3://films", &["--s3-endpoint", &endpoint], &keys);
    check_films(&mount);
    let asked = fs::read_to_string(asked).unwrap();
    assert!(asked.contains("GET /films/film.mkv") && !asked.contains("HEAD /films/film.mkv"), "{asked}");
    drop(home);
}

fn webdav_with_a_password() {
    let (_home, _daemon, port) = serve("webdav", &["--user", "viewer", "--pass", SECRET]);
    let place = Place::new();
    let mount = Mount::on(&place, &format!("webdav://viewer:{SECRET}@127.0.0.1:{port}/"), &[]);
    check_films(&mount);
    assert!(!place.log().contains(SECRET));
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(SECRET));
    refused(&format!("webdav://viewer:wrong-{SECRET}@127.0.0.1:{port}/"), &[], &[]);
}

fn a_bucket_whose_film_is_replaced() {
    let (home, _daemon, port) = serve("s3", &[]);
    let endpoint = format!("http://127.0.0.1:{port}");
    let mount = Mount::new("s3://films", &["--s3-endpoint", &endpoint, "--dir-ttl", "0", "--lookahead-chunks", "0"]);
    let old = File::open(mount.file("film.mkv")).unwrap();
    let mut bytes = vec![0; 1000];
    old.read_exact_at(&mut bytes, 0).unwrap();
    check(7, 0, &bytes);
    write(&home.path().join("films/film.mkv"), 9, SIZE - 5);
    // The old handle has one version or an error; a new one, sooner or later, the new version.
    let error = old.read_exact_at(&mut bytes, 6 << 20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    wait_until("the new version", || fs::metadata(mount.file("film.mkv")).is_ok_and(|film| film.len() == SIZE - 5));
    check_whole(&File::open(mount.file("film.mkv")).unwrap(), (9, SIZE - 5), 1 << 20).unwrap();
}
