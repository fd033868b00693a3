//! `mount -t fuse.reelfs SOURCE DIR -o …` and /etc/fstab: mount(8) calls the program `mount.fuse.reelfs`, a link to ours,
//! and what it says there is written here as it would be typed for `reelfs mount --background`.
//! Never here: mounting, and what an option means.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command};

use super::misuse;
use super::options::Env;
use crate::error::Result;
use crate::sys;

/// What mount(8) looks for in /sbin.
const NAME: &str = "mount.fuse.reelfs";

/// mount(8)'s own code for "the mount failed".
pub const FAILED: u8 = 32;

/// Where the caches are of mounts that belong to the whole machine: at boot there is no home.
const CACHE_BASE: (&str, &str) = ("CACHE_DIRECTORY", "/var/cache/reelfs");

/// A source that is none: the settings name it. So a line of /etc/fstab needs no password.
const NO_SOURCE: &str = "none";

/// What `ro` is with us: then a library is not held for writing.
const READ_ONLY: &str = "--read-only";

/// Options for mount(8), systemd and the kernel: done before we are called, always so, or without meaning on a drive that
/// has no devices or programs of root.
const GENERIC: [&str; 39] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "mand",
    "nomand",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "default_permissions",
    "comment",
];

/// Whether mount(8) called us, by the name it called.
pub fn is_meant(args: &[OsString]) -> bool {
    args.first().is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// What the mount in the background finds in its environment.
pub fn variables(env: Env) -> Vec<(&'static str, OsString)> {
    let (name, base) = CACHE_BASE;
    if sys::is_root() && env(name).is_none() { vec![(name, base.into())] } else { Vec::new() }
}

/// What mount(8) asked for, as typed for us; nothing if it only wants to see whether it could ask.
pub fn as_typed(args: &[OsString], command: &Command) -> Result<Option<Vec<OsString>>> {
    let mut places = Vec::new();
    let mut typed: Vec<OsString> = ["reelfs", super::MOUNT, "--background"].map(OsString::from).into();
    let (mut is_sloppy, mut is_fake) = (false, false);
    let mut lists = Vec::new();
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.as_bytes() {
            b"-o" => lists.push(rest.next().ok_or_else(|| misuse("-o: the options are missing"))?.as_os_str()),
            // The type, which is our name.
            b"-t" => drop(rest.next()),
            b"-s" => is_sloppy = true,
            b"-f" => is_fake = true,
            // No table of mounts but the kernel's is kept.
            b"-n" => {}
            b"-v" => typed.push("--verbose".into()),
            [b'-', b'o', list @ ..] => lists.push(OsStr::from_bytes(list)),
            [b'-', ..] => return Err(misuse(format!("{NAME} knows no {}", arg.display()))),
            _ => places.push(arg),
        }
    }
    let mut is_read_only = false;
    for option in lists.iter().flat_map(|list| list.as_bytes().split(|byte| *byte == b',')) {
        match option {
            // The last one counts, as everywhere.
            b"ro" | b"rw" => is_read_only = option == b"ro",
            _ => match translated(OsStr::from_bytes(option), command) {
                Ok(option) => typed.extend(option),
                Err(_) if is_sloppy => {}
                Err(error) => return Err(error),
            },
        }
    }
    if is_read_only && !typed.iter().any(|option| option == READ_ONLY) {
        typed.push(READ_ONLY.into());
    }
    let [source, dir] = places.as_slice() else {
        return Err(misuse(format!("usage: {NAME} SOURCE DIR [-o OPTION,…]")));
    };
    typed.push("--".into());
    typed.extend((source.as_os_str() != NO_SOURCE).then(|| (*source).clone()));
    typed.push((*dir).clone());
    Ok((!is_fake).then_some(typed))
}

/// One of `-o`, as typed: `cache_size=20G` as `--cache-size=20G`. Nothing for those that are not for us.
fn translated(option: &OsStr, command: &Command) -> Result<Option<OsString>> {
    let Some(text) = option.to_str() else {
        return Err(misuse(format!("the option {} is not UTF-8", option.display())));
    };
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    if text.is_empty() || GENERIC.contains(&name) || name.starts_with("x-") || name.starts_with("X-") {
        return Ok(None);
    }
    let long = name.replace('_', "-");
    let mount = command.find_subcommand(super::MOUNT).expect("the command line has this command");
    let is_told = |arg: &Arg| {
        use ArgAction::{Help, HelpLong, HelpShort, Version};
        matches!(arg.get_action(), Help | HelpLong | HelpShort | Version)
    };
    // A mount that only says something and ends well would be taken for one that is there.
    let known = |arg: &&Arg| arg.get_long() == Some(&long) && long != "background" && !is_told(arg);
    let arg = mount.get_arguments().find(known).ok_or_else(|| {
        misuse(format!("unknown option `{name}`: `reelfs mount --help` lists those there are, with - or _"))
    })?;
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    match value {
        Some(value) if takes_value => Ok(Some(format!("--{long}={value}").into())),
        None if !takes_value => Ok(Some(format!("--{long}").into())),
        Some(_) => Err(misuse(format!("the option `{name}` takes no value"))),
        None => Err(misuse(format!("the option `{name}` needs a value: {name}=…"))),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::super::Cli;
    use super::*;

    fn asked(args: &[&str]) -> std::result::Result<Option<Vec<String>>, String> {
        let args: Vec<OsString> = [NAME].iter().chain(args).map(OsString::from).collect();
        let mut command = Cli::command();
        command.build();
        let typed = as_typed(&args, &command).map_err(|error| error.to_string())?;
        Ok(typed.map(|typed| typed.into_iter().map(|arg| arg.into_string().unwrap()).collect()))
    }

    #[test]
    fn called_by_its_name() {
        let is_meant = |program: &str| is_meant(&[program.into()]);
        assert!(is_meant("/sbin/mount.fuse.reelfs") && is_meant("mount.fuse.reelfs"));
        assert!(!is_meant("/usr/bin/reelfs") && !is_meant("") && !super::is_meant(&[]));
    }

    #[test]
    fn as_mount_asks() {
        let options = "rw,noatime,_netdev,noauto,x-systemd.automount,cache_size=20G,allow-other,uid=7";
        let typed = asked(&["https://h/films/", "/srv/films", "-o", options]).unwrap().unwrap();
        let expected =
            "reelfs mount --background --cache-size=20G --allow-other --uid=7 -- https://h/films/ /srv/films";
        assert_eq!(typed.join(" "), expected);
        for (options, expected) in [("ro", 1), ("rw,ro", 1), ("ro,rw", 0), ("ro,read_only", 1), ("rw,read-only", 1)] {
            let typed = asked(&["library:/srv/films", "/films", "-o", options]).unwrap().unwrap();
            assert_eq!(typed.iter().filter(|arg| *arg == READ_ONLY).count(), expected, "{options}");
        }
        let typed = asked(&["none", "/srv/films", "-v", "-n", "-t", "fuse.reelfs", "-oconfig=films"]).unwrap().unwrap();
        assert_eq!(typed.join(" "), "reelfs mount --background --verbose --config=films -- /srv/films");
        assert!(Cli::try_parse_from(typed).is_ok());
        assert_eq!(asked(&["a", "b", "-f"]), Ok(None));
        assert!(asked(&["a", "b", "-s", "-o", "cash_size=1"]).unwrap().is_some());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (args, told) in [
            (&["a", "b", "-o", "cash_size=1"][..], "unknown option `cash_size`"),
            (&["a", "b", "-o", "cache_size"], "`cache_size` needs a value"),
            (&["a", "b", "-o", "allow_other=1"], "`allow_other` takes no value"),
            (&["a", "b", "-o", "background"], "unknown option"),
            (&["a", "b", "-o", "remount"], "unknown option"),
            (&["a", "b", "-o", "help"], "unknown option `help`"),
            (&["a", "b", "-o", "version"], "unknown option `version`"),
            (&["a", "b", "-N", "x"], "knows no -N"),
            (&["a", "b", "-o"], "missing"),
            (&["a"], "usage"),
        ] {
            let said = asked(args).unwrap_err();
            assert!(said.contains(told), "{args:?}: {said}");
        }
    }
}
