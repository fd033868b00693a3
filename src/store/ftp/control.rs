//! A connection to an FTP server: commands and replies, one after the other, and the second connection that bytes come
//! over. Binary and passive only.
//! Never here: how many there are, and what is read for.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::address::Address;
use super::reply::{Features, Reply};
use crate::error::{Error, Kind, Result};
use crate::store::{Stat, Version};

/// Longest line of a reply; paths in it are not longer.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// Longest reply in lines: greetings may be long.
const REPLY_LINES_MAX: usize = 1_000;

/// The connection that commands go over.
pub(super) struct Control {
    stream: BufReader<TcpStream>,
    peer: SocketAddr,
    /// Of the server, for messages.
    what: String,
    features: Features,
    /// The folder one logs in to.
    home: String,
    /// EPSV was refused: the older command is used.
    is_old: bool,
}

/// What a path leads to.
pub(super) enum Found {
    Folder,
    File(Stat),
}

impl Control {
    /// Connects and logs in.
    pub async fn open(address: &Address) -> Result<Self> {
        let what = address.to_string();
        let lost = |error: std::io::Error| unreachable(&what, &error);
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        let peer = stream.peer_addr().map_err(lost)?;
        let stream = BufReader::new(stream);
        let mut control = Self { stream, peer, what, features: Features::default(), home: "/".into(), is_old: false };
        control.expect_success().await?;
        let mut reply = control.ask("USER", &address.user).await?;
        if reply.code == 331 {
            reply = control.ask("PASS", &address.password).await?;
        }
        if reply.code != 230 && reply.code != 202 {
            return Err(reply.refusal(&control.what));
        }
        let features = control.ask("FEAT", "").await?;
        control.features = if features.code == 211 { features.features() } else { Features::default() };
        if control.features.utf8 {
            // Refused by those that always do.
            control.ask("OPTS", "UTF8 ON").await?;
        }
        control.ask("TYPE", "I").await?.success(&control.what)?;
        control.home = control.ask("PWD", "").await?.folder().unwrap_or_else(|| "/".to_owned());
        Ok(control)
    }

    /// The folder one logs in to.
    pub fn home(&self) -> &str {
        &self.home
    }

    /// Whether nothing has come since the last reply, the connection's end included: what has come would be taken for the
    /// reply to the next command. Waits for nothing.
    pub fn is_quiet(&self) -> bool {
        let read = self.stream.get_ref().try_read(&mut [0]);
        self.stream.buffer().is_empty() && read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// What is at `path`, as exactly as the server tells.
    pub async fn find(&mut self, path: &str, what: &str) -> Result<Found> {
        if self.features.facts {
            let reply = self.ask("MLST", path).await?.success(what)?;
            if reply.code != 250 {
                return Err(out_of_step(what, &reply));
            }
            let line =
                reply.lines.iter().skip(1).find_map(|line| super::line::facts(line.strip_prefix(' ').unwrap_or(line)));
            match line {
                Some(line) if line.kind == super::line::LineKind::Folder => return Ok(Found::Folder),
                Some(line) if line.kind == super::line::LineKind::File => {
                    if let (Some(size_bytes), modified @ Some(_)) = (line.size_bytes, line.modified) {
                        return Ok(Found::File(stat(size_bytes, modified)));
                    }
                }
                _ => {}
            }
        }
        let size = self.ask("SIZE", path).await?;
        if size.code == 213 {
            let size_bytes = size.size_bytes().ok_or_else(|| nonsense(what))?;
            let modified = self.ask("MDTM", path).await?;
            return match modified.code {
                213 => Ok(Found::File(stat(size_bytes, modified.modified()))),
                // It never tells. Any other refusal may pass, and the file is not another one because of it.
                500.. => Ok(Found::File(stat(size_bytes, None))),
                _ if modified.is_success() => Err(out_of_step(what, &modified)),
                _ => Err(modified.refusal(what)),
            };
        }
        if size.is_success() {
            return Err(out_of_step(what, &size));
        }
        if self.ask("CWD", path).await?.is_success() {
            return Ok(Found::Folder);
        }
        Err(size.refusal(what))
    }

    /// Begins to send the file at `path` from byte `start` on.
    pub async fn send(&mut self, path: &str, start: u64, what: &str) -> Result<TcpStream> {
        let data = self.connect_data(what).await?;
        let reply = self.ask("REST", &start.to_string()).await?;
        if reply.code != 350 && start > 0 {
            let why = "the server can't send from the middle of a file";
            return Err(Error::new(Kind::Unsupported, format!("{what}: {why} (REST: {})", reply.code)));
        }
        self.begin("RETR", path, what).await?;
        Ok(data)
    }

    /// Begins to list the folder at `path`; whether its lines are facts.
    pub async fn list(&mut self, path: &str, what: &str) -> Result<(TcpStream, bool)> {
        // Into the folder first: some take a path for a pattern, or for options.
        self.ask("CWD", path).await?.success(what)?;
        let data = self.connect_data(what).await?;
        self.begin(if self.features.facts { "MLSD" } else { "LIST" }, "", what).await?;
        Ok((data, self.features.facts))
    }

    /// The reply that ends what `send` or `list` began. Their connection must have been closed.
    pub async fn finish(&mut self, what: &str) -> Result<()> {
        self.reply().await?.success(what).map(|_| ())
    }

    /// The same, of a transfer that we have closed early: whatever it says, the server is ready again.
    pub async fn settle(&mut self) -> Result<()> {
        self.reply().await.map(|_| ())
    }

    async fn begin(&mut self, command: &str, argument: &str, what: &str) -> Result<()> {
        let reply = self.ask(command, argument).await?.success(what)?;
        // 125 and 150; anything else would be a transfer that has ended already.
        if reply.code < 200 { Ok(()) } else { Err(nonsense(what)) }
    }

    async fn connect_data(&mut self, what: &str) -> Result<TcpStream> {
        let mut reply = if self.is_old { self.ask("PASV", "").await? } else { self.ask("EPSV", "").await? };
        if !self.is_old && !reply.is_success() {
            self.is_old = true;
            reply = self.ask("PASV", "").await?;
        }
        let port = reply.success(what)?.port().ok_or_else(|| nonsense(what))?;
        let address = SocketAddr::new(self.peer.ip(), port);
        TcpStream::connect(address).await.map_err(|error| unreachable(what, &error))
    }

    /// One command, and its reply whatever it is. The argument is never shown: it may be a password.
    async fn ask(&mut self, command: &str, argument: &str) -> Result<Reply> {
        if argument.contains(['\r', '\n', '\0']) {
            return Err(Error::new(Kind::Invalid, format!("{}: a line's end in a name can't be asked for", self.what)));
        }
        let line = if argument.is_empty() { format!("{command}\r\n") } else { format!("{command} {argument}\r\n") };
        let sent = self.stream.get_mut().write_all(line.as_bytes()).await;
        sent.map_err(|error| unreachable(&self.what, &error))?;
        self.reply().await
    }

    async fn expect_success(&mut self) -> Result<Reply> {
        self.reply().await?.success(&self.what)
    }

    async fn reply(&mut self) -> Result<Reply> {
        let mut lines = Vec::new();
        while lines.len() < REPLY_LINES_MAX {
            let mut line = Vec::new();
            let read = (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
            read.map_err(|error| unreachable(&self.what, &error))?;
            if line.pop() != Some(b'\n') {
                return Err(Error::new(Kind::Unreachable, format!("{}: the server closed the connection", self.what)));
            }
            let line = String::from_utf8_lossy(&line);
            lines.push(line.trim_end_matches('\r').to_owned());
            if let Some(reply) = Reply::parse(&lines) {
                log::trace!("{}: {} {}", self.what, reply.code, reply.lines.last().map_or("", String::as_str));
                return Ok(reply);
            }
        }
        Err(nonsense(&self.what))
    }
}

impl Reply {
    /// Itself, or the error it means.
    fn success(self, what: &str) -> Result<Self> {
        if self.is_success() { Ok(self) } else { Err(self.refusal(what)) }
    }
}

fn stat(size_bytes: u64, modified: Option<std::time::SystemTime>) -> Stat {
    Stat { size_bytes, modified, version: Version::size_and_time(size_bytes, modified) }
}

/// A reply to another question: a server that told the end of a transfer twice. The next connection begins anew.
fn out_of_step(what: &str, reply: &Reply) -> Error {
    Error::new(Kind::Unreachable, format!("{what}: the server answers something else ({})", reply.code))
}

fn nonsense(what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{what}: what the server answers is not FTP"))
}

pub(super) fn unreachable(what: &str, error: &std::io::Error) -> Error {
    Error::new(Kind::Unreachable, format!("{what}: the connection was lost: {error}"))
}
