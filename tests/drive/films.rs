//! Real films, made by ffmpeg and served by programs of other people's making over all that reelfs speaks: the drive's
//! bytes, frames and seeks are those of the original, and a player plays them to the end.
//! Never here: faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;
use reelfs::digest::Digest;
use tempfile::TempDir;

use super::daemon::{Daemon, free_port};
use super::ftp::start_vsftpd;
use super::mount::{Mount, open_direct};
use super::needs::{FUSE, Need, Test};
use super::ssh;

const NEEDS: &[Need] = &[FUSE, Need::Program("nginx"), Need::Program("ffmpeg")];
const RCLONE: &[Need] = &[FUSE, Need::Program("rclone"), Need::Program("ffmpeg")];
const OPENSSH: &[Need] = &[FUSE, Need::Program("ssh"), Need::Program("sshd"), Need::Program("ffmpeg")];
const VSFTPD: &[Need] = &[FUSE, Need::Program("vsftpd"), Need::Program("ffmpeg")];
const PLAYER: &[Need] = &[FUSE, Need::Program("nginx"), Need::Program("ffmpeg"), Need::Program("mpv")];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("films::bytes_are_equal", NEEDS, bytes_are_equal),
        Test::new("films::frames_are_equal_also_after_seeks", NEEDS, frames_are_equal_also_after_seeks),
        Test::new("films::through_http", NEEDS, || are_equal_through(http)),
        Test::new("films::through_s3", RCLONE, || are_equal_through(s3)),
        Test::new("films::through_webdav", RCLONE, || are_equal_through(webdav)),
        Test::new("films::through_sftp", OPENSSH, || are_equal_through(sftp)),
        Test::new("films::through_ftp", VSFTPD, || are_equal_through(ftp)),
        Test::new("films::a_player_plays_each_to_its_end", PLAYER, a_player_plays_each_to_its_end),
    ]
}

/// Each container, with the codecs it usually holds. The index is in front, behind, or both.
const FILMS: [(&str, &[&str]); 5] = [
    ("moov first.mp4", &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-movflags", "+faststart"]),
    ("moov last.mp4", &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]),
    ("film.mkv", &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]),
    ("film.webm", &["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M", "-c:a", "libopus"]),
    ("film.avi", &["-c:v", "mpeg4", "-q:v", "5", "-c:a", "mp3"]),
];

/// Many chunks even in a small film.
const SMALL_CHUNKS: [&str; 2] = ["--chunk-size", "64KiB"];

/// The films, made once for all tests and all runs.
fn films() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("films-1");
    fs::create_dir_all(&folder).unwrap();
    for (name, how) in FILMS {
        let film = folder.join(name);
        if film.exists() {
            continue;
        }
        let part = folder.join(format!("part-{}-{name}", std::process::id()));
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=480x270:rate=25:duration=12"])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000:duration=12", "-g", "50"])
            .args(how)
            .arg(&part)
            .output()
            .unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        fs::rename(part, film).unwrap();
    }
    folder
}

/// A server that shows a folder, and how a drive of it is mounted.
struct Shown {
    source: String,
    options: Vec<String>,
    _daemon: Daemon,
}

/// Starts a server of a folder on a port, with its own files beside it.
type Serve = fn(films: &Path, home: &Path, port: u16) -> Shown;

fn http(films: &Path, home: &Path, port: u16) -> Shown {
    let daemon = Daemon::nginx(films, home, "", port);
    Shown { source: format!("http://127.0.0.1:{port}/"), options: Vec::new(), _daemon: daemon }
}

fn s3(films: &Path, home: &Path, port: u16) -> Shown {
    // A bucket is a folder in what it shows.
    let daemon = rclone("s3", films.parent().unwrap(), home, port);
    let options = vec!["--s3-endpoint".into(), format!("http://127.0.0.1:{port}")];
    Shown { source: "s3://films/".into(), options, _daemon: daemon }
}

fn webdav(films: &Path, home: &Path, port: u16) -> Shown {
    let daemon = rclone("webdav", films, home, port);
    Shown { source: format!("webdav://127.0.0.1:{port}/"), options: Vec::new(), _daemon: daemon }
}

fn sftp(films: &Path, home: &Path, port: u16) -> Shown {
    let daemon = ssh::start_sshd(home, port);
    let source = format!("sftp://127.0.0.1:{port}{}", films.display());
    Shown { source, options: vec!["--ssh-command".into(), ssh::command(home)], _daemon: daemon }
}

fn ftp(films: &Path, home: &Path, port: u16) -> Shown {
    let daemon = start_vsftpd(films, home, port, 16);
    Shown { source: format!("ftp://127.0.0.1:{port}/"), options: Vec::new(), _daemon: daemon }
}

fn rclone(protocol: &str, root: &Path, home: &Path, port: u16) -> Daemon {
    let address = format!("127.0.0.1:{port}");
    let arguments = ["serve", protocol, root.to_str().unwrap(), "--addr", &address, "--config", "/dev/null"];
    Daemon::start("rclone", &arguments, home, port)
}

/// A server of a copy of the films that it may read, and a drive of it.
struct Cinema {
    mount: Mount,
    originals: PathBuf,
    _shown: Shown,
    _folder: TempDir,
}

impl Cinema {
    fn open() -> Self {
        Self::served(http)
    }

    fn served(serve: Serve) -> Self {
        let folder = super::daemon::public_folder();
        let originals = folder.path().join("films");
        fs::create_dir(&originals).unwrap();
        for (name, _) in FILMS {
            fs::copy(films().join(name), originals.join(name)).unwrap();
        }
        let shown = serve(&originals, folder.path(), free_port());
        let options: Vec<&str> = shown.options.iter().map(String::as_str).chain(SMALL_CHUNKS).collect();
        let mount = Mount::new(&shown.source, &options);
        Self { mount, originals, _shown: shown, _folder: folder }
    }

    /// Each film on the drive, and its original.
    fn pairs(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        FILMS.into_iter().map(|(name, _)| (self.mount.file(name), self.originals.join(name)))
    }
}

fn bytes_are_equal() {
    compare_bytes(&Cinema::open());
}

fn compare_bytes(cinema: &Cinema) {
    let names = fs::read_dir(cinema.mount.point()).unwrap().count();
    assert_eq!(names, FILMS.len());
    for (far, original) in cinema.pairs() {
        let original = fs::read(original).unwrap();
        assert_eq!(fs::metadata(&far).unwrap().len(), original.len() as u64);
        // Through the kernel's page cache, then from ours.
        assert_eq!(Digest::of(&fs::read(&far).unwrap()), Digest::of(&original), "{}", far.display());
        let mut again = Vec::new();
        std::io::Read::read_to_end(&mut open_direct(&far).unwrap(), &mut again).unwrap();
        assert_eq!(Digest::of(&again), Digest::of(&original), "{}", far.display());
    }
}

/// The MD5 of each frame from `seek` seconds on.
fn frames(film: &Path, seek: &str) -> String {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-ss", seek, "-i"])
        .arg(film)
        .args(["-map", "0", "-f", "framemd5", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", film.display());
    String::from_utf8(output.stdout).unwrap()
}

/// Backwards, so that no seek lands in what an earlier one has fetched.
const SEEKS: [&str; 4] = ["11.5", "7.3", "2.04", "0"];

fn frames_are_equal_also_after_seeks() {
    for seek in SEEKS {
        compare_frames(&Cinema::open(), seek);
    }
}

fn compare_frames(cinema: &Cinema, seek: &str) {
    for (far, original) in cinema.pairs() {
        let expected = frames(&original, seek);
        assert!(expected.lines().count() > 10, "{expected}");
        assert!(frames(&far, seek) == expected, "{} from {seek} s on", far.display());
    }
}

fn are_equal_through(serve: Serve) {
    let cinema = Cinema::served(serve);
    for seek in SEEKS {
        compare_frames(&cinema, seek);
    }
    compare_bytes(&cinema);
}

fn a_player_plays_each_to_its_end() {
    let cinema = Cinema::open();
    for (far, original) in cinema.pairs() {
        let output = Command::new("mpv")
            .args(["--no-config", "--vo=null", "--ao=null", "--ao-null-untimed", "--untimed", "--no-terminal"])
            .args(["--log-file=/dev/stderr", "--msg-level=all=info"])
            .arg(&far)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", far.display());
        assert!(said.contains("EOF reached") || said.contains("End of file"), "{}: {said}", far.display());
        assert!(original.exists());
    }
}
