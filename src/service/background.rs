//! A mount behind its starter's back: this program once more, in a session of its own. What was typed goes to it through
//! a pipe, not as arguments, which everyone on the machine may read; its first word comes back through another.
//! Never here: what it does, and forking: a process with threads can't.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::notify;
use crate::error::{Error, Kind, Result};
use crate::fuse::reaper::THIS_PROGRAM;
use crate::sys;

/// The hidden command of ours that the second process runs.
pub const COMMAND: &str = "serve-in-background";

/// What `ps` calls it.
const PROGRAM: &str = "reelfs";

/// The kernel starts no program with more.
const TYPED_BYTES_MAX: u64 = 2 << 20;

/// The word is one line.
const WORD_BYTES_MAX: u64 = 64 << 10;

/// What the word begins with.
const DONE: char = '+';
const FAILED: char = '-';

/// Starts the second process on `typed` and returns what it says when its drive answers, or why there is none. It has its
/// own deadlines; Ctrl-C ends the waiting, and the drive with it. `mountpoint` is for people who look at `ps`.
pub fn start(typed: &[OsString], mountpoint: &Path, variables: Vec<(&str, OsString)>) -> Result<String> {
    let fail = |error: io::Error| Error::io("starting in the background", &error);
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0(PROGRAM).arg(COMMAND).arg("--").arg(mountpoint);
    command.envs(variables);
    // Whoever started us may be a service; what we start isn't the one that systemd waits for.
    command.env_remove(notify::SOCKET);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = sys::detach(&mut command).spawn().map_err(fail)?;
    if let Some(mut input) = child.stdin.take() {
        // If it is gone already, that is what its word, or the lack of one, tells.
        let _ = input.write_all(&packed(typed));
    }
    let word = child.stdout.take().map_or_else(|| Ok(String::new()), word_of).map_err(fail)?;
    if let Some(line) = word.strip_prefix(DONE) {
        return Ok(line.to_owned());
    }
    // It ends by itself; no process is left over for our own parent.
    let status = child.wait().map_err(fail)?;
    Err(match word.strip_prefix(FAILED) {
        Some(word) => failure(word),
        None => Error::new(Kind::Local, format!("the mount ended before its drive answered ({status})")),
    })
}

/// In the second process: what was typed.
pub fn typed(input: impl Read) -> Result<Vec<OsString>> {
    let mut bytes = Vec::new();
    input
        .take(TYPED_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("reading what to mount in the background", &error))?;
    Ok(unpacked(&bytes))
}

/// In the second process: the word it owes its starter, once.
pub struct Word<W: Write>(Option<W>);

impl<W: Write> Word<W> {
    /// To be said to `starter`.
    pub fn new(starter: W) -> Self {
        Self(Some(starter))
    }

    /// The drive answers. Fails when nobody waits for it any longer: then nobody wants the drive either.
    pub fn done(&mut self, line: &str) -> Result<()> {
        self.say(DONE, line).map_err(|error| Error::io("the program that wanted this drive is gone", &error))
    }

    /// There will be no drive. After `done` it is too late for that, and goes to the log.
    pub fn failed(&mut self, error: &Error) {
        if self.0.is_none() {
            log::error!("{error}");
        }
        // Without a listener there is nobody to tell.
        let kind = serde_json::to_string(&error.kind()).unwrap_or_default();
        let _ = self.say(FAILED, &format!("{kind} {error}"));
    }

    fn say(&mut self, first: char, line: &str) -> io::Result<()> {
        let Some(mut starter) = self.0.take() else { return Ok(()) };
        writeln!(starter, "{first}{}", line.replace('\n', " "))?;
        starter.flush()
    }
}

/// The error that `Word::failed` told: its kind, a blank, and its message.
fn failure(word: &str) -> Error {
    let (kind, message) = word.split_once(' ').unwrap_or(("", word));
    Error::new(serde_json::from_str(kind).unwrap_or(Kind::Local), message)
}

fn word_of(output: impl Read) -> io::Result<String> {
    let mut word = Vec::new();
    BufReader::new(output.take(WORD_BYTES_MAX)).read_until(b'\n', &mut word)?;
    Ok(String::from_utf8_lossy(&word).trim_end().to_owned())
}

/// Each argument with a NUL at its end, which none can hold.
fn packed(args: &[OsString]) -> Vec<u8> {
    args.iter().flat_map(|arg| [arg.as_bytes(), b"\0"].concat()).collect()
}

fn unpacked(bytes: &[u8]) -> Vec<OsString> {
    let mut args: Vec<_> = bytes.split(|byte| *byte == 0).map(OsStr::from_bytes).collect();
    // Behind the last NUL.
    args.pop();
    args.into_iter().map(|arg| OsString::from_vec(arg.as_bytes().to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_go_through_the_pipe_as_they_are() {
        let args: Vec<OsString> = ["reelfs", "", "a b\n", "http://u:p@h/"]
            .map(OsString::from)
            .into_iter()
            .chain([OsString::from_vec(vec![0xff])])
            .collect();
        assert_eq!(typed(packed(&args).as_slice()).unwrap(), args);
        assert!(typed(io::empty()).unwrap().is_empty());
    }

    #[test]
    fn one_word_and_no_more() {
        let mut said = Vec::new();
        let mut word = Word::new(&mut said);
        word.done("films are\non /mnt").unwrap();
        word.failed(&Error::new(Kind::Local, "too late"));
        assert_eq!(word_of(said.as_slice()).unwrap(), "+films are on /mnt");
        assert_eq!(said, b"+films are on /mnt\n");
        let mut said = Vec::new();
        Word::new(&mut said).failed(&Error::new(Kind::Missing, "no such host"));
        let word = word_of(said.as_slice()).unwrap();
        let told = failure(word.strip_prefix(FAILED).unwrap());
        assert_eq!((told.kind(), told.to_string().as_str()), (Kind::Missing, "no such host"));
        assert_eq!(word_of(io::empty()).unwrap(), "");
    }
}
