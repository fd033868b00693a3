//! How a mount begins and ends, as whoever typed it sees it.
//! Never here: refusals that need no mount; see `tests/cli.rs`.

use std::fs;
use std::process::Output;

use reelfs::fuse::mount_point;
use rustix::process::Signal;

use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "lifecycle::says_where_it_is_and_ends_in_order_on_a_signal",
            &[FUSE],
            says_where_it_is_and_ends_in_order_on_a_signal,
        ),
        Test::new("lifecycle::ends_when_it_is_unmounted_from_outside", &[FUSE], ends_when_it_is_unmounted_from_outside),
        Test::new("lifecycle::killed_and_mounted_again_at_once", &[FUSE], killed_and_mounted_again_at_once),
    ]
}

/// A folder of this machine with one film.
fn films(place: &Place) -> String {
    let folder = place.path("films");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("film.mp4"), b"not much of a film").unwrap();
    folder.to_str().unwrap().to_owned()
}

fn refused(output: &Output, told: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.lines().count() == 1, "{output:?}");
    for told in told {
        assert!(said.contains(told), "{said} lacks {told}");
    }
}

fn says_where_it_is_and_ends_in_order_on_a_signal() {
    let (place, other) = (Place::new(), Place::new());
    let films = films(&place);
    for signal in [Signal::INT, Signal::TERM] {
        let mut mount = Mount::on(&place, &films, &[]);
        let point = place.point();
        assert_eq!(place.log(), format!("reelfs: {films} is on {} (Ctrl-C to unmount)\n", point.display()));
        assert_eq!(fs::read(mount.file("film.mp4")).unwrap(), b"not much of a film");
        // Meanwhile the folder and the cache are taken.
        let again =
            reelfs().args(["mount", &films]).arg(&point).arg("--cache-dir").arg(other.cache()).output().unwrap();
        refused(&again, &["already mounted", "fusermount3 -u"]);
        let holder = format!("process {}", mount.pid());
        let beside = reelfs().args(["mount", &films]).arg(other.point()).arg("--cache-dir").arg(place.cache()).output();
        refused(&beside.unwrap(), &["in use", &holder]);
        mount.send(signal);
        assert!(mount.wait().success());
        assert!(!place.is_mounted());
        assert!(fs::read_dir(point).unwrap().next().is_none());
    }
}

fn ends_when_it_is_unmounted_from_outside() {
    let place = Place::new();
    let mut mount = Mount::on(&place, &films(&place), &[]);
    mount_point::unmount(&place.point(), false).unwrap();
    assert!(mount.wait().success());
}

/// Who comes first after a death, the next start or the process that tidies up, must not matter.
fn killed_and_mounted_again_at_once() {
    let place = Place::new();
    let films = films(&place);
    for _ in 0..40 {
        let mount = Mount::on(&place, &films, &[]);
        assert_eq!(fs::read(mount.file("film.mp4")).unwrap(), b"not much of a film");
        mount.kill();
    }
    let mount = Mount::on(&place, &films, &[]);
    assert_eq!(fs::read(mount.file("film.mp4")).unwrap(), b"not much of a film");
    mount.end();
}
