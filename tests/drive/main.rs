//! The mounted drive, and the real servers and players around it: every test that needs more than Rust, in one program
//! that can say which of its tests are ignored because something is not installed.
//! Never here: what can be tested without a kernel or another program.
//!
//! Each module lists its tests in `tests()`; one that is forgotten there is dead code, and the lints refuse it.
#![allow(clippy::unwrap_used, reason = "a test that meets an error should end there")]

mod access;
mod backups;
mod budget;
mod cache_commands;
mod compare;
mod contact;
mod containers;
mod control;
mod daemon;
mod demo;
mod dying;
mod faults;
mod figures;
mod films;
mod filters;
mod folders;
mod ftp;
mod growing;
mod hanging;
mod homes;
mod keep;
mod killed;
mod kills;
mod late;
mod lifecycle;
mod limit;
mod links;
mod listings;
mod look;
mod memory;
mod mount;
mod needs;
mod offline;
mod outage;
mod passthrough;
mod places;
mod plain;
mod private;
mod puts;
mod readers;
mod readonly;
mod replaced;
mod restarts;
mod scan;
mod service;
mod sftp;
mod shown;
mod slow_disk;
mod small;
mod ssh;
mod steps;
mod stored;
mod storm;
mod units;
mod volume;
mod writers;
mod written;

use std::collections::BTreeSet;
use std::fs;

use libtest_mimic::{Arguments, Trial};
use needs::Test;

/// A file that is no module of this program would never run.
fn every_file_is_a_module() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/drive");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<_> = files.filter(|name| name != "main.rs").collect();
    let lines = include_str!("main.rs").lines();
    let modules = lines.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let modules: BTreeSet<_> = modules.map(|module| format!("{module}.rs")).collect();
    assert_eq!(files, modules);
}

fn main() {
    // The processes that the tests of dying mounts start are this program, too.
    if dying::serve() {
        return;
    }
    let own = vec![Test::new("every_file_is_a_module", &[], every_file_is_a_module)];
    let all = [
        own,
        access::tests(),
        backups::tests(),
        budget::tests(),
        cache_commands::tests(),
        contact::tests(),
        containers::tests(),
        control::tests(),
        demo::tests(),
        dying::tests(),
        faults::tests(),
        figures::tests(),
        films::tests(),
        filters::tests(),
        folders::tests(),
        ftp::tests(),
        growing::tests(),
        look::tests(),
        hanging::tests(),
        homes::tests(),
        keep::tests(),
        killed::tests(),
        kills::tests(),
        lifecycle::tests(),
        limit::tests(),
        links::tests(),
        listings::tests(),
        memory::tests(),
        offline::tests(),
        outage::tests(),
        passthrough::tests(),
        places::tests(),
        private::tests(),
        puts::tests(),
        readers::tests(),
        readonly::tests(),
        replaced::tests(),
        restarts::tests(),
        scan::tests(),
        service::tests(),
        sftp::tests(),
        shown::tests(),
        slow_disk::tests(),
        small::tests(),
        steps::tests(),
        plain::tests(),
        stored::tests(),
        storm::tests(),
        units::tests(),
        volume::tests(),
        writers::tests(),
        written::tests(),
    ];
    // Modules by name, for a lane that runs some of them: libtest-mimic takes one filter only.
    let only = std::env::var("REELFS_TESTS_ONLY").unwrap_or_default();
    let is_asked_for =
        |trial: &Trial| only.is_empty() || only.split(' ').any(|module| trial.name().starts_with(module));
    let trials = all.into_iter().flatten().map(Test::into_trial).filter(is_asked_for).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
