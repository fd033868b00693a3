//! `reelfs mount`: checks, mounts, waits for the end, unmounts.
//! Never here: what a mount is made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::options::MountOptions;
use super::{misuse, say};
use crate::assemble;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::fuse::mount_point;
use crate::fuse::reaper::Reaper;
use crate::fuse::signals::{self, End};
use crate::metrics::Metrics;
use crate::origin::source::Source;

/// Mount a far folder of video as a read-only drive, until Ctrl-C or `fusermount3 -u`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// What to show: a folder or file of this machine (a path, file://), or of a web server (http://, https://).
    source: String,
    /// Where to show it: an empty folder.
    mountpoint: PathBuf,
    #[command(flatten)]
    options: MountOptions,
}

/// Runs the mount in the foreground.
pub fn run(args: MountArgs, is_quiet: bool) -> Result<()> {
    let typed = args.mountpoint.display().to_string();
    let mut config = args.options.into_config(args.source, args.mountpoint, &|name| std::env::var_os(name))?;
    config.mountpoint = mount_point::prepare(&config.mountpoint, config.fuse.allow_other)?;
    check_apart(&config)?;

    let (ends, ended) = signals::channel();
    let reaper = Reaper::start(&config.mountpoint)
        .inspect_err(|error| log::warn!("{error}: after a crash, unmount with `fusermount3 -u {typed}`"));
    let mounted = assemble::mount(&config, Arc::new(Metrics::default()), ends.clone())?;
    // Only from here on: until the drive is there, Ctrl-C may simply kill us, and the reaper tidies up.
    signals::listen(ends)?;
    if !is_quiet {
        say(&format!("{} is on {typed} (Ctrl-C to unmount)", mounted.source()));
    }
    let end = ended.recv().map_err(|_| Error::new(Kind::Local, "the drive went away without a word"))?;
    match end {
        End::Signal(signal) => log::info!("signal {signal}: unmounting {typed}"),
        End::Unmounted => log::info!("{typed} was unmounted"),
    }
    mounted.unmount()?;
    drop(reaper);
    Ok(())
}

/// A drive that is read through itself waits for itself, for ever.
fn check_apart(config: &Config) -> Result<()> {
    let mountpoint = &config.mountpoint;
    if real(&config.cache.dir).starts_with(mountpoint) {
        return Err(misuse(format!(
            "the cache directory {} is inside the mount point: choose another --cache-dir",
            config.cache.dir.display()
        )));
    }
    let Source::Folder(source) = Source::parse(&config.source)? else { return Ok(()) };
    // A source that isn't there has its own error, later.
    let Ok(source) = fs::canonicalize(source) else { return Ok(()) };
    if mountpoint.starts_with(&source) || source.starts_with(mountpoint) {
        return Err(misuse(format!(
            "the mount point {} and the source {} lie in each other: choose a folder elsewhere",
            mountpoint.display(),
            source.display()
        )));
    }
    Ok(())
}

/// `path` absolute and without links, as far as it exists; the rest as written.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors()
        .find_map(|existing| {
            let rest = path.strip_prefix(existing).ok()?;
            fs::canonicalize(existing).ok().map(|existing| existing.join(rest))
        })
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_far_as_a_path_exists() {
        let folder = tempfile::tempdir().unwrap();
        let real_folder = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        std::os::unix::fs::symlink("mnt", folder.path().join("link")).unwrap();
        assert_eq!(real(&folder.path().join("link/a/b")), real_folder.join("mnt/a/b"));
        assert_eq!(real(&folder.path().join("link")), real_folder.join("mnt"));
        assert_eq!(real(Path::new("/no/such")), PathBuf::from("/no/such"));
    }
}
