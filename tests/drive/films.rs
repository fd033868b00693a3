//! Real films, made by ffmpeg and served by nginx: the drive's bytes, frames and seeks are those of the original, and a
//! player plays them to the end.
//! Never here: faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;
use reelfs::digest::Digest;
use tempfile::TempDir;

use super::daemon::{Daemon, free_port};
use super::mount::{Mount, open_direct};
use super::needs::{FUSE, Need, Test};

const NEEDS: &[Need] = &[FUSE, Need::Program("nginx"), Need::Program("ffmpeg")];
const PLAYER: &[Need] = &[FUSE, Need::Program("nginx"), Need::Program("ffmpeg"), Need::Program("mpv")];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("films::bytes_are_equal", NEEDS, bytes_are_equal),
        Test::new("films::frames_are_equal_also_after_seeks", NEEDS, frames_are_equal_also_after_seeks),
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

/// nginx on a copy of the films that it may read, and a drive of it.
struct Cinema {
    mount: Mount,
    originals: PathBuf,
    _daemon: Daemon,
    _folder: TempDir,
}

impl Cinema {
    fn open() -> Self {
        let folder = super::daemon::public_folder();
        let originals = folder.path().join("films");
        fs::create_dir(&originals).unwrap();
        for (name, _) in FILMS {
            fs::copy(films().join(name), originals.join(name)).unwrap();
        }
        let port = free_port();
        let daemon = Daemon::nginx(&originals, folder.path(), "", port);
        let mount = Mount::new(&format!("http://127.0.0.1:{port}/"), &SMALL_CHUNKS);
        Self { mount, originals, _daemon: daemon, _folder: folder }
    }

    /// Each film on the drive, and its original.
    fn pairs(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        FILMS.into_iter().map(|(name, _)| (self.mount.file(name), self.originals.join(name)))
    }
}

fn bytes_are_equal() {
    let cinema = Cinema::open();
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

fn frames_are_equal_also_after_seeks() {
    // Backwards, so that no seek lands in what an earlier one has fetched.
    for seek in ["11.5", "7.3", "2.04", "0"] {
        let cinema = Cinema::open();
        for (far, original) in cinema.pairs() {
            let expected = frames(&original, seek);
            assert!(expected.lines().count() > 10, "{expected}");
            assert!(frames(&far, seek) == expected, "{} from {seek} s on", far.display());
        }
    }
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
