//! A connection to a Redis server whose replies are counted before they are parsed, and end: `redis` itself takes whatever
//! comes, makes room for as many values as a reply announces, and waits anew for each byte.
//! Never here: what is asked.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use redis::{ConnectionAddr, ConnectionInfo, ConnectionLike, ErrorKind, RedisError, RedisResult, Value};

/// Bytes of one reply beside its values: the replies to a batch of a thousand keys of the longest kind.
const REPLY_BYTES_MAX: usize = super::VALUE_BYTES_MAX as usize + super::BATCH_KEYS_MAX * super::KEY_BYTES_MAX;
/// Bytes of a line: a number, or an error in words.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Values in one reply: two for each key of a batch, and room for what stands around them.
const REPLY_VALUES_MAX: usize = 8 * super::BATCH_KEYS_MAX;

/// A connection that is logged in and has its database chosen.
pub(super) struct Line {
    socket: BufReader<TcpStream>,
    database: i64,
    /// When the replies to what is asked now have to be there.
    ends_at: Instant,
    /// A reply was left half read, or none came: what comes next would be the rest of it.
    is_broken: bool,
}

impl Line {
    /// Connects, waiting so long for the connection and as long for the server's word on who asks.
    pub fn open(info: &ConnectionInfo, timeout: Duration) -> RedisResult<Self> {
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only a plain connection over TCP").into());
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "its name leads to no address");
        let mut socket = None;
        for address in (host.trim_matches(['[', ']']), *port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(connected) => {
                    socket = Some(connected);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let socket = socket.ok_or(last)?;
        socket.set_nodelay(true)?;
        let settings = info.redis_settings();
        let mut line = Self {
            socket: BufReader::new(socket),
            database: settings.db(),
            ends_at: Instant::now() + timeout,
            is_broken: false,
        };
        line.allow(timeout)?;
        if let Some(password) = settings.password() {
            let mut login = redis::cmd("AUTH");
            if let Some(user) = settings.username() {
                login.arg(user);
            }
            login.arg(password).exec(&mut line)?;
        }
        if line.database != 0 {
            redis::cmd("SELECT").arg(line.database).exec(&mut line)?;
        }
        Ok(line)
    }

    /// What is asked from now on may take so long, with all its replies.
    pub fn allow(&mut self, timeout: Duration) -> io::Result<()> {
        self.socket.get_ref().set_write_timeout(Some(timeout))?;
        self.ends_at = Instant::now() + timeout;
        Ok(())
    }

    /// Whether the next reply will be the one to the next question.
    pub fn is_sound(&self) -> bool {
        !self.is_broken
    }

    fn send(&mut self, commands: &[u8]) -> RedisResult<()> {
        self.is_broken = true;
        self.socket.get_mut().write_all(commands)?;
        Ok(())
    }

    /// The next reply; an error in it is a value.
    fn reply(&mut self) -> RedisResult<Value> {
        let mut source = Timed { socket: &mut self.socket, ends_at: self.ends_at };
        match read_reply(&mut source) {
            Ok(bytes) => redis::parse_redis_value(&bytes),
            // No connection that was lost: asking again would bring the same.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err((ErrorKind::Parse, "a reply that can't be right", error.to_string()).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// So many replies, after `skipped` ones.
    fn replies(&mut self, skipped: usize, count: usize) -> RedisResult<Vec<Value>> {
        let mut values = Vec::new();
        let mut failed: Option<RedisError> = None;
        for at in 0..skipped + count {
            match self.reply()? {
                Value::ServerError(error) if at < skipped => failed = failed.or(Some(error.into())),
                value if at >= skipped => values.push(value),
                _ => {}
            }
        }
        self.is_broken = false;
        failed.map_or(Ok(values), Err)
    }
}

impl ConnectionLike for Line {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.send(command)?;
        let mut values = self.replies(0, 1)?;
        values.pop().unwrap_or(Value::Nil).extract_error()
    }

    fn req_packed_commands(&mut self, commands: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        self.send(commands)?;
        self.replies(offset, count)
    }

    fn get_db(&self) -> i64 {
        self.database
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.is_sound()
    }
}

/// A socket that is read until a moment and no longer, however slowly bytes come.
struct Timed<'a> {
    socket: &'a mut BufReader<TcpStream>,
    ends_at: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.socket.buffer().is_empty() {
            let left = self.ends_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the reply has not ended in time"));
            }
            self.socket.get_ref().set_read_timeout(Some(left))?;
        }
        self.socket.read(buffer)
    }
}

/// The bytes of one whole reply, counted as they come: lines, strings of an announced length, and arrays of replies.
fn read_reply(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let (mut awaited, mut values) = (1_usize, 0);
    while awaited > 0 {
        awaited -= 1;
        values += 1;
        let start = reply.len();
        read_line(source, &mut reply)?;
        let line = &reply[start..reply.len() - 2];
        let [kind, number @ ..] = line else { return Err(odd("an empty line")) };
        match kind {
            b'+' | b'-' | b':' => {}
            b'$' => {
                let Some(length) = length(number)? else { continue };
                let left = REPLY_BYTES_MAX.saturating_sub(reply.len());
                if length > left {
                    return Err(odd("more bytes than were asked for"));
                }
                let read = source.by_ref().take(length as u64 + 2).read_to_end(&mut reply)?;
                if read < length + 2 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            b'*' => {
                awaited = awaited.saturating_add(length(number)?.unwrap_or(0));
                if awaited.saturating_add(values) > REPLY_VALUES_MAX {
                    return Err(odd("more values than were asked for"));
                }
            }
            _ => return Err(odd("no reply of Redis")),
        }
        if reply.len() > REPLY_BYTES_MAX {
            return Err(odd("more bytes than were asked for"));
        }
    }
    Ok(reply)
}

/// Appends a line with its end.
fn read_line(source: &mut impl Read, reply: &mut Vec<u8>) -> io::Result<()> {
    let start = reply.len();
    let mut byte = [0];
    while !reply[start..].ends_with(b"\r\n") {
        if reply.len() - start >= LINE_BYTES_MAX {
            return Err(odd("a line without an end"));
        }
        source.read_exact(&mut byte)?;
        reply.push(byte[0]);
    }
    Ok(())
}

/// An announced length; nothing where nothing follows.
fn length(number: &[u8]) -> io::Result<Option<usize>> {
    let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<i64>().ok());
    match number.ok_or_else(|| odd("a length that is none"))? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| odd("a length that is none")),
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sends {what}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use redis::IntoConnectionInfo as _;

    use super::*;

    fn reply(bytes: &[u8]) -> io::Result<Vec<u8>> {
        read_reply(&mut &bytes[..])
    }

    #[test]
    fn redis_replies_end_where_they_say() {
        for whole in ["+OK\r\n", "-ERR no\r\n", ":7\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "$4\r\na\r\nb\r\n"] {
            assert_eq!(reply(format!("{whole}+more\r\n").as_bytes()).unwrap(), whole.as_bytes());
            assert!(reply(&whole.as_bytes()[..whole.len() - 1]).is_err(), "{whole}");
        }
        let nested = "*2\r\n*2\r\n$1\r\na\r\n:1\r\n$-1\r\n";
        assert_eq!(reply(format!("{nested}:2\r\n").as_bytes()).unwrap(), nested.as_bytes());
    }

    /// None of these is read on, and for none is room made.
    #[test]
    fn redis_replies_are_counted_before_they_are_parsed() {
        let endless = |start: &'static str, byte: u8| {
            let error = read_reply(&mut start.as_bytes().chain(io::repeat(byte))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{start}: {error}");
        };
        endless("+", b'a');
        endless("$", b'9');
        endless("$1000000000\r\n", 0);
        endless("*1000000000000\r\n", b':');
        endless("*4611686018427387904\r\n", b':');
        endless("$-2\r\n", b'a');
        endless("HTTP/1.1 400 Bad Request\r\n", b'a');
        let nested = "*1000\r\n".repeat(1_000);
        assert!(reply(nested.as_bytes()).is_err());
    }

    /// Bytes that come one by one do not make a reply wait for ever.
    #[test]
    fn redis_reply_that_trickles_or_never_comes_ends_in_time() {
        for piece in [&b"a"[..], b""] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("redis://{}/0", listener.local_addr().unwrap());
            let server = thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                socket.set_nodelay(true).unwrap();
                while socket.write_all(piece).is_ok() && socket.take_error().unwrap().is_none() {
                    thread::sleep(Duration::from_millis(20));
                    if piece.is_empty() && socket.peek(&mut [0; 64]).unwrap_or(0) == 0 {
                        return;
                    }
                }
            });
            let info = url.as_str().into_connection_info().unwrap();
            let mut line = Line::open(&info, Duration::from_secs(5)).unwrap();
            line.allow(Duration::from_millis(300)).unwrap();
            let error = redis::cmd("GET").arg("a").query::<Vec<u8>>(&mut line).unwrap_err();
            assert!(error.is_timeout() && !line.is_sound(), "{error}");
            drop(line);
            drop(server);
        }
    }
}
