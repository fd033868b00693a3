//! Where films come from: nginx on a folder, and our own double behind a simulated far link. Loopback only.
//! Never here: mounts.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Content, Link, Server, ServerConfig};
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::bench::Bench;
use crate::machine;

const START_MAX: Duration = Duration::from_secs(30);
const END_MAX: Duration = Duration::from_secs(5);
/// The origin is quiet when it sent nothing for this long: longer than any pause of a fetcher that is at work.
const QUIET: Duration = Duration::from_secs(2);
/// What fills a whole file in the background may go on for long: it is told apart by a limit.
const QUIET_MAX: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(10);

/// Megabits in a second, in bytes.
const MEGABIT: u64 = 1_000_000 / 8;

/// A home's link to a server in the same country: 40 ms, 100 Mbit/s in all.
pub const HOME_LINK: Link =
    Link { round_trip: Duration::from_millis(40), rate_per_connection: None, rate_total: Some(100 * MEGABIT) };

/// Long and thin: 200 ms, 20 Mbit/s for each connection, 100 Mbit/s in all.
pub const LONG_LINK: Link = Link {
    round_trip: Duration::from_millis(200),
    rate_per_connection: Some(20 * MEGABIT),
    rate_total: Some(100 * MEGABIT),
};

/// Our double with some files behind a link.
pub fn double(link: Link, files: Vec<(String, Content)>) -> Result<Server> {
    Ok(Server::start(ServerConfig { link, files, ..ServerConfig::default() })?)
}

/// Bytes sent so far, once nothing more is sent.
pub fn bytes_sent(server: &Server) -> u64 {
    let begun = Instant::now();
    let (mut sent, mut changed_at) = (server.total().body_bytes, begun);
    while changed_at.elapsed() < QUIET && begun.elapsed() < QUIET_MAX {
        thread::sleep(TICK);
        let now = server.total().body_bytes;
        if now != sent {
            (sent, changed_at) = (now, Instant::now());
        }
    }
    sent
}

/// A server of other people; ended, and only it, when dropped.
pub struct Daemon {
    process: Child,
    port: u16,
}

impl Daemon {
    /// nginx on a folder, one worker, as a distribution sets it up.
    pub fn nginx(bench: &Bench, root: &Path) -> Result<Self> {
        let port = free_port()?;
        let home = bench.scratch().join(format!("nginx-{port}"));
        fs::create_dir_all(&home)?;
        let (root, shown) = (root.display(), home.display());
        let temp_paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {shown}/{name};\n"))
            .concat();
        // As root: nobody else may enter the scratch folder.
        let user = if reelfs::sys::is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; worker_processes 1; pid {shown}/pid; error_log stderr; {user}\nevents {{}}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; {temp_paths}\n\
             server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; }} }}\n"
        );
        let file = home.join("nginx.conf");
        fs::write(&file, config)?;
        Self::start("nginx", &["-c", &file.to_string_lossy()], &home, port)
    }

    /// rclone on a folder as a bucket server: what mountpoint-s3 can read.
    pub fn rclone_s3(bench: &Bench, root: &Path) -> Result<Self> {
        let home = bench.scratch().join("s3");
        fs::create_dir_all(&home)?;
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        Self::start("rclone", &["serve", "s3", &root.to_string_lossy(), "--addr", &address], &home, port)
    }

    fn start(program: &str, arguments: &[&str], home: &Path, port: u16) -> Result<Self> {
        let file = machine::program(program).ok_or_else(|| format!("{program} is not installed"))?;
        let log = fs::File::create(home.join("log"))?;
        let mut command = Command::new(file);
        command.args(arguments).env("PATH", machine::path()).env("HOME", home);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut daemon = Self { process: command.spawn()?, port };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if daemon.process.try_wait()?.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(home.join("log")).unwrap_or_default();
                return Err(format!("{program} does not listen: {said}").into());
            }
            thread::sleep(TICK);
        }
        Ok(daemon)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Politely first: a master process takes its workers along.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let deadline = Instant::now() + END_MAX;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port nobody listens on right now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
