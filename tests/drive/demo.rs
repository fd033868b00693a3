//! `reelfs demo --once`: the first command of the README ends well and leaves nothing.
//! Never here: what a tour shows.

use std::fs;

use super::mount::{Place, reelfs};
use super::needs::{FUSE, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("demo::a_tour_ends_well_and_leaves_nothing", &[FUSE], a_tour_ends_well_and_leaves_nothing),
        Test::new("demo::a_tour_in_a_folder_of_ones_own", &[FUSE], a_tour_in_a_folder_of_ones_own),
    ]
}

fn a_tour_ends_well_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let output = reelfs().args(["demo", "--once"]).env("TMPDIR", scratch.path()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(!output.stdout.is_empty());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

fn a_tour_in_a_folder_of_ones_own() {
    let place = Place::new();
    let output = reelfs().args(["demo", "--once"]).arg(place.point()).env("TMPDIR", place.path("")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!place.is_mounted());
    assert_eq!(fs::read_dir(place.point()).unwrap().count(), 0);
}
