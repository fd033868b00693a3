//! How far the kernel reads ahead on the drive: a setting of the mount, which root may raise.
//! Never here: how far the drive itself looks ahead.

use std::fs;
use std::path::Path;

use super::mount_point;
use super::mount_table::Mount;
use crate::error::{Error, Result};

/// Twice the kernel's own. Players read 128 KiB at a time from anywhere: a page more than fits into the kernel's
/// readahead, which then asks in two parts, the second behind the first, and each as long as the whole. More was
/// measured and brought nothing.
const READAHEAD_KIB: u32 = 256;

/// Raises the readahead of the drive on `mountpoint`, where that is allowed. Without it the drive is as right, and a seek
/// takes a little longer.
pub fn raise(mountpoint: &Path) {
    if let Err(error) = try_raise(mountpoint) {
        log::debug!("the kernel's readahead stays as it is: {error}");
    }
}

fn try_raise(mountpoint: &Path) -> Result<()> {
    let Some(mount) = mount_point::mounted(mountpoint)?.filter(Mount::is_ours) else {
        // Taken off already, or somebody mounted over it.
        return Ok(());
    };
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", mount.device);
    let io = |error: std::io::Error| Error::io(&setting, &error);
    let now = fs::read_to_string(&setting).map_err(io)?;
    // Who has set more knows why.
    if now.trim().parse().is_ok_and(|now: u32| now >= READAHEAD_KIB) {
        return Ok(());
    }
    fs::write(&setting, READAHEAD_KIB.to_string()).map_err(io)
}
