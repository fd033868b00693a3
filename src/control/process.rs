//! What this process takes of its machine, as the system tells.
//! Never here: limits on it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;

use serde::{Deserialize, Serialize};

/// Of the system's table of connections so much is looked at, for IPv4 and IPv6 each: about 27,000 of them.
const TABLE_BYTES_MAX: u64 = 4 << 20;
/// As the table writes a connection that stands, and a socket that listens.
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// The process that serves a mount. What the system does not tell is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSnapshot {
    /// Memory that it has, pages of files included.
    pub resident_bytes: u64,
    /// Its threads.
    pub threads: u64,
    /// Files, sockets and pipes that it has open.
    pub open_files: u64,
    /// Connections that it made to others over TCP and that stand.
    pub connections: u64,
}

impl ProcessSnapshot {
    /// Right now.
    pub(super) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let links = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let open: Vec<_> = links.map(|link| fs::read_link(link.path()).unwrap_or_default()).collect();
        let inode = |target: &std::path::PathBuf| {
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        };
        let sockets: BTreeSet<u64> = open.iter().filter_map(inode).collect();
        Self {
            resident_bytes: field(&status, "VmRSS:") << 10,
            threads: field(&status, "Threads:"),
            open_files: open.len() as u64,
            connections: ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
                .map(|table| connections(&head(table), &sockets))
                .iter()
                .sum(),
        }
    }
}

/// Its first bytes; nothing where it can't be read.
fn head(path: &str) -> String {
    let mut text = Vec::new();
    // What can't be read ends the table.
    let _ = File::open(path).and_then(|file| file.take(TABLE_BYTES_MAX).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// The number behind a name.
fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Of the connections in the system's table those of `sockets`, but for those that others made to a port that one of
/// `sockets` listens on.
fn connections(table: &str, sockets: &BTreeSet<u64>) -> u64 {
    let rows = table.lines().skip(1).filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = words[..] else { return None };
        let is_ours = inode.parse().is_ok_and(|inode| sockets.contains(&inode));
        is_ours.then_some(())?;
        Some((local.rsplit(':').next()?.to_owned(), state))
    });
    let rows: Vec<_> = rows.collect();
    let ports: BTreeSet<_> = rows.iter().filter(|(_, state)| *state == LISTENING).map(|(port, _)| port).collect();
    rows.iter().filter(|(port, state)| *state == ESTABLISHED && !ports.contains(port)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_those_that_we_made() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:238C 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0 0 10 0
   1: 0100007F:238C 0100007F:A001 01 00000000:00000000 00:00000000 00000000  1000        0 12 1 0 20 4 30 10 -1
   2: 0100007F:B001 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 13 1 0 20 4 30 10 -1
   3: 0100007F:B002 0100007F:0050 06 00000000:00000000 00:00000000 00000000  1000        0 14 1 0 20 4 30 10 -1
   4: 0100007F:B003 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 15 1 0 20 4 30 10 -1
   5: damaged";
        assert_eq!(connections(table, &BTreeSet::from([11, 12, 13, 14])), 1);
        assert_eq!(connections("", &BTreeSet::from([11])), 0);
    }

    #[test]
    fn a_connection_more_is_one_more() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let before = ProcessSnapshot::now();
        assert!(before.resident_bytes > 1 << 20 && before.threads >= 1 && before.open_files >= 4, "{before:?}");
        let made = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let sockets = BTreeSet::from([std::os::fd::AsRawFd::as_raw_fd(&made)].map(|number| {
            let target = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
            target.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap()
        }));
        assert_eq!(connections(&head("/proc/self/net/tcp"), &sockets), 1);
    }
}
