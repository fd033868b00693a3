//! SFTP version 3 as far as a reader needs it: requests into bytes, bytes into replies. Pure.
//! Never here: processes, and what a reply means for a drive.
//!
//! Every number in a reply comes from outside: nothing is reserved on a reply's word, and what does not fit its packet is
//! no reply. Names are bytes here; a listing says which of them can be shown.

use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};

/// Longest packet taken: `OpenSSH` sends up to 256 KiB, others a little more around as many bytes of a file.
pub(super) const PACKET_BYTES_MAX: usize = 1 << 20;
/// What a packet begins with: the length of the rest.
pub(super) const LENGTH_BYTES: usize = 4;

const VERSION: u32 = 3;
const INIT: u8 = 1;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const FSTAT: u8 = 8;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REALPATH: u8 = 16;
const STAT: u8 = 17;

const IS_VERSION: u8 = 2;
const IS_STATUS: u8 = 101;
const IS_HANDLE: u8 = 102;
const IS_DATA: u8 = 103;
const IS_NAME: u8 = 104;
const IS_ATTRS: u8 = 105;

/// `SSH_FXF_READ`.
const TO_READ: u32 = 1;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 1 << 1;
const HAS_MODE: u32 = 1 << 2;
const HAS_TIMES: u32 = 1 << 3;
const HAS_MORE: u32 = 1 << 31;

const MODE_KIND: u32 = 0o170_000;
const MODE_FOLDER: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_LINK: u32 = 0o120_000;

/// Every server of `OpenSSH`'s kind says so, since 2008, and carries out one request after the other. Others may look at
/// a file's time before they have read the bytes that were asked for first.
const IN_ORDER: &[u8] = b"fstatvfs@openssh.com";

/// What a server is asked. Paths and handles are bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request<'a> {
    Open(&'a [u8]),
    Close(&'a [u8]),
    Read {
        handle: &'a [u8],
        offset: u64,
        bytes: u32,
    },
    StatHandle(&'a [u8]),
    Stat(&'a [u8]),
    OpenFolder(&'a [u8]),
    ReadFolder(&'a [u8]),
    /// The path with all links resolved; the reply has it as its only name.
    RealPath(&'a [u8]),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Status(Status),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Name>),
    Attributes(Attributes),
}

/// How a request ended that brings nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub code: u32,
    /// In the server's words; may be empty.
    pub message: String,
}

impl Status {
    pub const END: u32 = 1;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const FAILURE: u32 = 4;
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub name: Bytes,
    /// Of the name itself: a link is not followed.
    pub attributes: Attributes,
}

/// As far as the server tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub size_bytes: Option<u64>,
    pub modified: Option<SystemTime>,
    pub kind: Option<FileKind>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Folder,
    File,
    Link,
    Other,
}

/// The first packet of a conversation.
pub(super) fn hello() -> Vec<u8> {
    packet(INIT, |body| body.extend(VERSION.to_be_bytes()))
}

/// The server's first packet, without its length: whether it carries out requests in their order. `None`: it speaks
/// something else.
pub(super) fn is_in_order(mut packet: Bytes) -> Option<bool> {
    if packet.try_get_u8().ok()? != IS_VERSION || packet.try_get_u32().ok()? < VERSION {
        return None;
    }
    let mut is_in_order = false;
    while packet.has_remaining() {
        let (name, _) = (string(&mut packet)?, string(&mut packet)?);
        is_in_order |= name == IN_ORDER;
    }
    Some(is_in_order)
}

impl Request<'_> {
    /// As a packet; the reply to it carries the same `id`.
    pub fn encode(self, id: u32) -> Vec<u8> {
        let (kind, string) = match self {
            Self::Open(path) => (OPEN, path),
            Self::Close(handle) => (CLOSE, handle),
            Self::Read { handle, .. } => (READ, handle),
            Self::StatHandle(handle) => (FSTAT, handle),
            Self::Stat(path) => (STAT, path),
            Self::OpenFolder(path) => (OPENDIR, path),
            Self::ReadFolder(handle) => (READDIR, handle),
            Self::RealPath(path) => (REALPATH, path),
        };
        packet(kind, |body| {
            body.extend(id.to_be_bytes());
            body.extend((string.len() as u32).to_be_bytes());
            body.extend(string);
            match self {
                // Without attributes: nothing is made.
                Self::Open(_) => body.extend([TO_READ, 0].map(u32::to_be_bytes).as_flattened()),
                Self::Read { offset, bytes, .. } => {
                    body.extend(offset.to_be_bytes());
                    body.extend(bytes.to_be_bytes());
                }
                _ => {}
            }
        })
    }

    /// Most bytes of a file that the reply brings.
    pub fn weight_bytes(self) -> u64 {
        if let Self::Read { bytes, .. } = self { bytes.into() } else { 0 }
    }
}

impl Reply {
    /// Of a packet without its length, with the id of the request it answers. `None`: it is none.
    pub fn decode(mut packet: Bytes) -> Option<(u32, Self)> {
        let kind = packet.try_get_u8().ok()?;
        let id = packet.try_get_u32().ok()?;
        let reply = match kind {
            IS_STATUS => {
                let code = packet.try_get_u32().ok()?;
                // Old servers leave it out.
                let message = string(&mut packet).unwrap_or_default();
                Self::Status(Status { code, message: String::from_utf8_lossy(&message).into_owned() })
            }
            IS_HANDLE => Self::Handle(string(&mut packet)?),
            IS_DATA => Self::Data(string(&mut packet)?),
            IS_NAME => {
                let count = packet.try_get_u32().ok()?;
                Self::Names((0..count).map(|_| name(&mut packet)).collect::<Option<_>>()?)
            }
            IS_ATTRS => Self::Attributes(attributes(&mut packet)?),
            _ => return None,
        };
        Some((id, reply))
    }
}

fn packet(kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, kind];
    fill(&mut packet);
    let length = (packet.len() - LENGTH_BYTES) as u32;
    packet[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    packet
}

fn string(packet: &mut Bytes) -> Option<Bytes> {
    let length = packet.try_get_u32().ok()? as usize;
    (length <= packet.len()).then(|| packet.split_to(length))
}

fn name(packet: &mut Bytes) -> Option<Name> {
    // Between them the same once more, as `ls -l` would print it.
    let (name, _) = (string(packet)?, string(packet)?);
    Some(Name { name, attributes: attributes(packet)? })
}

fn attributes(packet: &mut Bytes) -> Option<Attributes> {
    let has = packet.try_get_u32().ok()?;
    let mut attributes = Attributes::default();
    if has & HAS_SIZE != 0 {
        attributes.size_bytes = Some(packet.try_get_u64().ok()?);
    }
    if has & HAS_OWNER != 0 {
        packet.try_get_u64().ok()?;
    }
    if has & HAS_MODE != 0 {
        attributes.kind = Some(match packet.try_get_u32().ok()? & MODE_KIND {
            MODE_FOLDER => FileKind::Folder,
            MODE_FILE => FileKind::File,
            MODE_LINK => FileKind::Link,
            _ => FileKind::Other,
        });
    }
    if has & HAS_TIMES != 0 {
        // The time it was read, then the time it was changed, in seconds: 32 bits of them last until 2106.
        packet.try_get_u32().ok()?;
        let seconds = packet.try_get_u32().ok()?;
        attributes.modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into()));
    }
    if has & HAS_MORE != 0 {
        let count = packet.try_get_u32().ok()?;
        for _ in 0..count {
            let _ = (string(packet)?, string(packet)?);
        }
    }
    Some(attributes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &[u8]) -> Vec<u8> {
        [&(text.len() as u32).to_be_bytes()[..], text].concat()
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn decode(parts: &[&[u8]]) -> Option<(u32, Reply)> {
        Reply::decode(parts.concat().into())
    }

    #[test]
    fn requests_are_as_the_draft_has_them() {
        assert_eq!(hello(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
        assert_eq!(
            Request::Open(b"/a").encode(7),
            [0, 0, 0, 19, 3, 0, 0, 0, 7, 0, 0, 0, 2, b'/', b'a', 0, 0, 0, 1, 0, 0, 0, 0]
        );
        let read = Request::Read { handle: b"h", offset: 1 << 32, bytes: 32 << 10 };
        assert_eq!(
            read.encode(8),
            [0, 0, 0, 22, 5, 0, 0, 0, 8, 0, 0, 0, 1, b'h', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x80, 0]
        );
        assert_eq!((read.weight_bytes(), Request::Stat(b"").weight_bytes()), (32 << 10, 0));
        assert_eq!(Request::Stat(b"\xff").encode(9), [0, 0, 0, 10, 17, 0, 0, 0, 9, 0, 0, 0, 1, 0xff]);
    }

    #[test]
    fn a_server_says_what_it_is() {
        let told = |parts: &[&[u8]]| is_in_order(parts.concat().into());
        assert_eq!(told(&[&[2], &numbers(&[3])]), Some(false));
        let ordered = [text(b"limits@openssh.com"), text(b"1"), text(IN_ORDER), text(b"2")].concat();
        assert_eq!(told(&[&[2], &numbers(&[3]), &ordered]), Some(true));
        assert_eq!(told(&[&[2], &numbers(&[2])]), None, "too old");
        assert_eq!(told(&[&[2], &numbers(&[3]), &text(b"half")]), None);
        assert_eq!(told(&[b"Welcome!"]), None, "a shell that greets");
    }

    #[test]
    fn replies_are_read() {
        let status = |code, message: &str| Some((1, Reply::Status(Status { code, message: message.into() })));
        assert_eq!(decode(&[&[101], &numbers(&[1, 2]), &text(b"no"), &text(b"en")]), status(2, "no"));
        assert_eq!(decode(&[&[101], &numbers(&[1, 1])]), status(1, ""));
        assert_eq!(decode(&[&[103], &numbers(&[5]), &text(b"abc")]), Some((5, Reply::Data("abc".into()))));
        let when = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
        let film = Attributes { size_bytes: Some(7), modified: Some(when), kind: Some(FileKind::File) };
        let written = numbers(&[0x8000_000f, 0, 7, 1000, 1000, 0o100_644, 8, 9, 1]);
        let more = [text(b"vendor"), text(b"data")].concat();
        assert_eq!(decode(&[&[105], &numbers(&[6]), &written, &more]), Some((6, Reply::Attributes(film))));
        let names = [text(b"\xffilm"), text(b"-rw-r--r-- ..."), written, more].concat();
        let name = Name { name: Bytes::from_static(b"\xffilm"), attributes: film };
        assert_eq!(decode(&[&[104], &numbers(&[6, 1]), &names]), Some((6, Reply::Names(vec![name]))));
        let nothing = Some((6, Reply::Attributes(Attributes::default())));
        assert_eq!(decode(&[&[105], &numbers(&[6, 0])]), nothing);
    }

    #[test]
    fn what_is_cut_short_or_promises_too_much_is_no_reply() {
        for parts in [
            vec![],
            vec![103],
            [&[103][..], &numbers(&[5, 9]), b"short"].concat(),
            [&[104][..], &numbers(&[5, u32::MAX])].concat(),
            [&[105][..], &numbers(&[5, 0x8000_0000, u32::MAX])].concat(),
            [&[200][..], &numbers(&[5])].concat(),
        ] {
            assert_eq!(Reply::decode(parts.into()), None);
        }
    }

    proptest! {
        #[test]
        fn no_packet_panics(packet: Vec<u8>, kind in 100_u8..107) {
            let packet = Bytes::from([vec![kind], packet].concat());
            let _ = (Reply::decode(packet.clone()), is_in_order(packet));
        }
    }
}
