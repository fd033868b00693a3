//! Servers that are reached with `ssh`: keys, known hosts and configuration of their own, away from those of whoever runs
//! the tests.
//! Never here: what they serve.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::daemon::Daemon;

/// Must be started by its full path: it starts itself anew for each guest.
const SSHD: &str = "/usr/sbin/sshd";

/// Keys of a server on `port` and of its one guest, below `home`; each knows the other.
pub fn introduce(home: &Path, port: u16) {
    for name in ["host_key", "guest_key"] {
        let key = home.join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).status().unwrap();
        assert!(made.success());
    }
    let host_key = fs::read_to_string(home.join("host_key.pub")).unwrap();
    fs::write(home.join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
    let shown = home.display();
    let config = format!(
        "IdentityFile {shown}/guest_key\nIdentitiesOnly yes\nUserKnownHostsFile {shown}/known_hosts\n\
         GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
    );
    fs::write(home.join("ssh_config"), config).unwrap();
}

/// What `--ssh-command` is to be for that guest.
pub fn command(home: &Path) -> String {
    format!("ssh -F {}/ssh_config", home.display())
}

/// OpenSSH's server, which shows the whole disk to whoever runs it.
pub fn start_sshd(home: &Path, port: u16) -> Daemon {
    introduce(home, port);
    // Where it locks itself in before anybody has logged in. Only root's does that.
    let _ = fs::create_dir_all("/run/sshd");
    let shown = home.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host_key\nAuthorizedKeysFile {shown}/guest_key.pub\n\
         PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
         Subsystem sftp /usr/lib/openssh/sftp-server\n"
    );
    Daemon::start_on(&config, SSHD, &["-D", "-e", "-f", "CONFIG"], home, port)
}

/// rclone's server, which shows `root` as the whole disk.
pub fn start_rclone(root: &Path, home: &Path, port: u16) -> Daemon {
    introduce(home, port);
    let (address, key) = (format!("127.0.0.1:{port}"), home.join("host_key"));
    let fixed = ["serve", "sftp", root.to_str().unwrap(), "--addr", &address, "--config", "/dev/null"];
    let fresh = ["--dir-cache-time", "0", "--poll-interval", "0"];
    let login = ["--no-auth", "--key", key.to_str().unwrap()];
    Daemon::start("rclone", &[&fixed[..], &fresh, &login].concat(), home, port)
}
