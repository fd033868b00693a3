//! The unit files, as systemd itself reads them.
//! Never here: what the services they start do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::needs::{Need, Test};

const SYSTEMD: &[Need] = &[Need::Program("systemd-analyze")];

/// What `systemd-analyze security` may find at most, of 100. It counts whatever needs a tree of mounts of its own, in
/// which nobody would see the drive.
const EXPOSURE_MAX: &str = "50";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("units::systemd_finds_no_fault", SYSTEMD, systemd_finds_no_fault),
        Test::new("units::the_system_s_service_may_do_little", SYSTEMD, the_system_s_service_may_do_little),
    ]
}

/// A unit of ours in a folder of its own, with the program where it is built.
fn unit(name: &str) -> (TempDir, PathBuf) {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/reelfs mount --config "));
    let folder = tempfile::tempdir().unwrap();
    let text = text.replace("/usr/bin/reelfs", env!("CARGO_BIN_EXE_reelfs"));
    fs::write(folder.path().join("reelfs@.service"), text).unwrap();
    let instance = folder.path().join("reelfs@films.service");
    (folder, instance)
}

fn analyze(typed: &[&str], folder: &Path) -> String {
    // The manual pages are the package's.
    let mut command = Command::new("systemd-analyze");
    command.args(typed).env("PATH", super::needs::path()).env("XDG_RUNTIME_DIR", folder).env("HOME", folder);
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{typed:?}: {said}");
    said
}

fn systemd_finds_no_fault() {
    for (name, typed) in
        [("reelfs@.service", &["verify", "--man=no"][..]), ("user/reelfs@.service", &["--user", "verify", "--man=no"])]
    {
        let (folder, instance) = unit(name);
        let said = analyze(&[typed, &[instance.to_str().unwrap()]].concat(), folder.path());
        // It warns of keys that it does not know, and succeeds.
        assert!(!said.contains("reelfs@"), "{name}: {said}");
    }
}

fn the_system_s_service_may_do_little() {
    let (folder, _) = unit("reelfs@.service");
    let unit = folder.path().join("reelfs@.service");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let said = analyze(&["security", "--offline=true", &threshold, unit.to_str().unwrap()], folder.path());
    println!("{}", said.lines().last().unwrap_or_default());
}
