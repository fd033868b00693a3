//! Servers of other people, started on a port of their own and ended with the test.
//! Never here: what they serve, and `reelfs` itself.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::needs;

/// A server may take this long to listen, on a machine that is busy with other tests.
const START_MAX: Duration = Duration::from_secs(30);
/// After a polite request to end.
const END_MAX: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(10);

/// A server of ours; ended, and only it, when dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Starts `program` and waits until it listens. Its output goes to a log in `home`.
    pub fn start(program: &str, arguments: &[&str], home: &Path, port: u16) -> Self {
        let log = fs::File::create(home.join("server.log")).unwrap();
        let spawned = Command::new(program)
            .args(arguments)
            .env("PATH", needs::path())
            .env("HOME", home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let mut daemon = Self(spawned.unwrap_or_else(|error| panic!("{program}: {error}")));
        let log = || fs::read_to_string(home.join("server.log")).unwrap_or_default();
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(daemon.0.try_wait().unwrap().is_none(), "{program} ended: {}", log());
            assert!(Instant::now() < deadline, "{program} does not listen: {}", log());
            thread::sleep(TICK);
        }
        daemon
    }

    /// The same, on a configuration file that stands for `CONFIG` among the arguments.
    pub fn start_on(config: &str, program: &str, arguments: &[&str], home: &Path, port: u16) -> Self {
        let file = home.join("server.conf");
        fs::write(&file, config).unwrap();
        let file = file.to_str().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|text| if *text == "CONFIG" { file } else { text }).collect();
        Self::start(program, &arguments, home, port)
    }

    /// nginx on the folder `root`, with its own files in `home`.
    pub fn nginx(root: &Path, home: &Path, directives: &str, port: u16) -> Self {
        let server = format!("root {}; autoindex on; {directives}", root.display());
        Self::nginx_with("access_log off;", &server, home, port)
    }

    /// nginx in front of the server on `behind`, which sees the requests as they were sent; `log` says what it notes.
    pub fn nginx_proxy(behind: u16, home: &Path, log: &str, port: u16) -> Self {
        let server = format!(
            "location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_set_header Host $http_host; \
             proxy_http_version 1.1; }}"
        );
        Self::nginx_with(log, &server, home, port)
    }

    fn nginx_with(http: &str, server: &str, home: &Path, port: u16) -> Self {
        let home_shown = home.display();
        let temp_paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {home_shown}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 1; pid {home_shown}/pid; error_log stderr;\nevents {{}}\n\
             http {{ {http} {temp_paths} server {{ listen 127.0.0.1:{port}; {server} }} }}\n"
        );
        Self::start_on(&config, "nginx", &["-c", "CONFIG"], home, port)
    }

    pub fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Politely first where it matters: a master process takes its workers along.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        // One that a test has stopped would not hear it.
        let _ = kill_process(Pid::from_child(&self.0), Signal::CONT);
        let deadline = Instant::now() + END_MAX;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port nobody listens on right now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder that a server may enter which gave up root's rights.
pub fn public_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}
