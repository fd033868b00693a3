//! What a `WebDAV` server answers to `PROPFIND`: XML in, one resource after the other out, never held whole. Pure.
//! Never here: the network, and where a link leads (`links.rs`).
//!
//! Properties are optional: one that is missing, garbled or refused is not known, and the resource counts all the same.
//! Elements are known by their local names: servers differ in their prefixes, and only four properties are asked for.

use std::io::{self, BufRead, BufReader, Read};
use std::time::SystemTime;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::super::answer::http_date;
use crate::error::{Error, Kind, Result};

/// Most bytes of one tag or text: four times the longest path of Linux, percent-encoded. The XML reader holds one of them
/// at a time.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// Elements within elements; a real answer has six.
const DEPTH_MAX: usize = 64;

/// One `response` of the answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resource {
    /// The link as the server wrote it.
    pub href: String,
    /// The resource says that it is a collection.
    pub is_folder: bool,
    pub size_bytes: Option<u64>,
    pub modified: Option<SystemTime>,
    pub etag: Option<String>,
    /// The status of the whole resource, where the server tells one.
    pub status: Option<u16>,
}

/// Elements that mean something where they stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Multistatus,
    Response,
    Href,
    /// The status of a resource.
    Status,
    Propstat,
    /// The status of some properties.
    PropertyStatus,
    Properties,
    Size,
    Modified,
    Etag,
    Type,
    Collection,
    Other,
}

impl Element {
    /// What `name` means inside `parent`; `None`: the document is something else than a multistatus.
    fn of(parent: Option<Self>, name: &str) -> Option<Self> {
        Some(match (parent, name) {
            (None, "multistatus") => Self::Multistatus,
            (None, _) => return None,
            (Some(Self::Multistatus), "response") => Self::Response,
            (Some(Self::Response), "href") => Self::Href,
            (Some(Self::Response), "status") => Self::Status,
            (Some(Self::Response), "propstat") => Self::Propstat,
            (Some(Self::Propstat), "status") => Self::PropertyStatus,
            (Some(Self::Propstat), "prop") => Self::Properties,
            (Some(Self::Properties), "getcontentlength") => Self::Size,
            (Some(Self::Properties), "getlastmodified") => Self::Modified,
            (Some(Self::Properties), "getetag") => Self::Etag,
            (Some(Self::Properties), "resourcetype") => Self::Type,
            (Some(Self::Type), "collection") => Self::Collection,
            _ => Self::Other,
        })
    }

    fn has_text(self) -> bool {
        matches!(self, Self::Href | Self::Status | Self::PropertyStatus | Self::Size | Self::Modified | Self::Etag)
    }
}

/// Hands the resources of `body` to `each`, in the order they come. An error of `each` ends the reading and comes out of
/// it, as does an error that `body` holds. An answer that breaks off is an error: names would be missing.
pub(super) fn read(body: impl Read, mut each: impl FnMut(Resource) -> Result<()>) -> Result<()> {
    let mut reader = Reader::from_reader(Counted { inner: BufReader::new(body), left_bytes: TOKEN_BYTES_MAX });
    reader.config_mut().expand_empty_elements = true;
    let (mut buffer, mut document) = (Vec::new(), Document::default());
    while !document.is_over {
        buffer.clear();
        reader.get_mut().left_bytes = TOKEN_BYTES_MAX;
        match reader.read_event_into(&mut buffer).map_err(|error| garbled(&error))? {
            Event::Start(tag) => document.start(tag.local_name().as_ref())?,
            Event::End(_) => {
                if let Some(resource) = document.end() {
                    each(resource)?;
                }
            }
            Event::Text(text) => document.text(&text),
            Event::CData(text) => document.text(&text),
            Event::GeneralRef(entity) => {
                let char = entity.resolve_char_ref().ok().flatten();
                document.text(&char.or_else(|| predefined(&entity)).map(String::from).unwrap_or_default());
            }
            Event::Eof if document.elements.is_empty() => return Err(no_multistatus()),
            Event::Eof => return Err(Error::new(Kind::Unreachable, "the list broke off before its end")),
            _ => {}
        }
    }
    // The end of the body gives the connection back; what stands there means nothing any more.
    let _ = reader.get_mut().inner.read(&mut [0]);
    Ok(())
}

/// XML's own five references.
fn predefined(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

fn garbled(error: &quick_xml::Error) -> Error {
    if let quick_xml::Error::Io(error) = error
        && let Some(ours) = error.get_ref().and_then(|error| error.downcast_ref::<Error>())
    {
        return ours.clone();
    }
    Error::new(Kind::Unsupported, format!("the server's answer is no valid XML: {error}"))
}

fn no_multistatus() -> Error {
    Error::new(Kind::Unsupported, "the server does not answer as WebDAV does (no `multistatus`)")
}

/// A document half read.
#[derive(Default)]
struct Document {
    elements: Vec<Element>,
    text: String,
    resource: Resource,
    /// Properties whose status is not told yet.
    properties: Resource,
    is_over: bool,
}

impl Document {
    fn start(&mut self, name: &str) -> Result<()> {
        let element = Element::of(self.elements.last().copied(), name).ok_or_else(no_multistatus)?;
        if self.elements.len() >= DEPTH_MAX {
            return Err(Error::new(
                Kind::Unsupported,
                format!("the server's XML is nested more than {DEPTH_MAX} deep"),
            ));
        }
        self.elements.push(element);
        match element {
            Element::Response => self.resource = Resource::default(),
            Element::Propstat => self.properties = Resource::default(),
            Element::Collection => self.properties.is_folder = true,
            _ => {}
        }
        self.text.clear();
        Ok(())
    }

    /// Text of other elements is not kept; nor is text longer than a token, in however many pieces it comes.
    fn text(&mut self, text: &str) {
        if self.elements.last().is_some_and(|element| element.has_text())
            && self.text.len() + text.len() <= TOKEN_BYTES_MAX
        {
            self.text.push_str(text);
        }
    }

    /// An element ends; a resource that is complete with it.
    fn end(&mut self) -> Option<Resource> {
        let text = self.text.trim();
        match self.elements.pop()? {
            // A resource has one link; more of them come with a status alone.
            Element::Href if self.resource.href.is_empty() => text.clone_into(&mut self.resource.href),
            Element::Status => self.resource.status = status(text),
            Element::PropertyStatus => self.properties.status = status(text),
            Element::Size => self.properties.size_bytes = text.parse().ok(),
            Element::Modified => self.properties.modified = modified(text),
            Element::Etag => self.properties.etag = Some(text.to_owned()).filter(|etag| !etag.is_empty()),
            Element::Propstat => self.resource.take(std::mem::take(&mut self.properties)),
            Element::Response => return Some(std::mem::take(&mut self.resource)),
            Element::Multistatus => self.is_over = true,
            _ => {}
        }
        self.text.clear();
        None
    }
}

impl Resource {
    /// Takes properties in, unless their status says that they are not to be had.
    fn take(&mut self, told: Self) {
        if told.status.is_some_and(|status| !(200..300).contains(&status)) {
            return;
        }
        self.is_folder |= told.is_folder;
        self.size_bytes = self.size_bytes.or(told.size_bytes);
        self.modified = self.modified.or(told.modified);
        self.etag = self.etag.take().or(told.etag);
    }
}

/// `HTTP/1.1 200 OK`; the number alone will do.
fn status(text: &str) -> Option<u16> {
    text.split_whitespace().find_map(|word| word.parse().ok())
}

/// A time as RFC 4918 has it, or as some servers write it instead.
fn modified(text: &str) -> Option<SystemTime> {
    http_date(text).or_else(|| text.parse::<jiff::Timestamp>().ok().map(SystemTime::from))
}

/// Counts the bytes of one token before the XML reader holds them.
struct Counted<R> {
    inner: R,
    left_bytes: usize,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left_bytes == 0 {
            let message = format!("the server's XML has a tag or text of more than {TOKEN_BYTES_MAX} bytes");
            return Err(io::Error::other(Error::new(Kind::Full, message)));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        self.inner.consume(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn resources(body: &str) -> Result<Vec<Resource>> {
        let mut resources = Vec::new();
        read(body.as_bytes(), |resource| {
            resources.push(resource);
            Ok(())
        })?;
        Ok(resources)
    }

    fn multistatus(inside: &str) -> String {
        format!(r#"<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{inside}</D:multistatus>"#)
    }

    fn one(properties: &str) -> Resource {
        let ok = "<D:status>HTTP/1.1 200 OK</D:status>";
        let propstat = format!("<D:propstat><D:prop>{properties}</D:prop>{ok}</D:propstat>");
        let body = multistatus(&format!("<D:response><D:href>/a.mkv</D:href>{propstat}</D:response>"));
        resources(&body).unwrap().pop().unwrap()
    }

    const WHEN: &str = "<D:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified>";

    fn when() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn webdav_properties_are_read_under_any_prefix() {
        let etag = "<D:getetag>\"x&amp;&#49;\"</D:getetag>";
        let file = one(&format!("<D:resourcetype/><D:getcontentlength>7</D:getcontentlength>{WHEN}{etag}"));
        let expected = Resource {
            href: "/a.mkv".into(),
            is_folder: false,
            size_bytes: Some(7),
            modified: Some(when()),
            etag: Some("\"x&1\"".into()),
            status: None,
        };
        assert_eq!(file, expected);
        let body = r#"<multistatus xmlns="DAV:" xmlns:lp1="DAV:"><response><href><![CDATA[ /b/ ]]></href>
            <propstat><prop><lp1:resourcetype><collection/></lp1:resourcetype></prop></propstat></response></multistatus>"#;
        let folder = Resource { href: "/b/".into(), is_folder: true, ..Resource::default() };
        assert_eq!(resources(body).unwrap(), [folder]);
    }

    /// Each costs itself and nothing else.
    #[test]
    fn webdav_properties_that_are_odd_are_not_known() {
        let size = "<D:getcontentlength>7</D:getcontentlength>";
        for odd in ["", "<D:getlastmodified/>", "<D:getlastmodified>yesterday</D:getlastmodified>"] {
            let file = one(&format!("{size}{odd}"));
            assert_eq!((file.size_bytes, file.modified), (Some(7), None), "{odd}");
        }
        for odd in ["", "-1", "7.0", "99999999999999999999"] {
            let file = one(&format!("<D:getcontentlength>{odd}</D:getcontentlength>{WHEN}<D:resourcetype/>"));
            assert_eq!((file.size_bytes, file.modified), (None, Some(when())), "{odd}");
        }
        for date in ["1994-11-06T08:49:37Z", "Sun, 06 Nov 1994 09:49:37 +0100"] {
            let file = one(&format!("<D:getlastmodified>{date}</D:getlastmodified>"));
            assert_eq!(file.modified, Some(when()), "{date}");
        }
        let refused = format!(
            "<D:response><D:href>/a</D:href><D:propstat><D:prop>{size}</D:prop><D:status>HTTP/1.1 404 Not Found\
             </D:status></D:propstat><D:propstat><D:prop>{WHEN}</D:prop><D:status>nonsense</D:status></D:propstat>\
             </D:response>"
        );
        let file = resources(&multistatus(&refused)).unwrap().pop().unwrap();
        assert_eq!((file.size_bytes, file.modified), (None, Some(when())));
        let gone = "<D:response><D:href>/a</D:href><D:status>HTTP/1.1 404 Not Found</D:status></D:response>";
        assert_eq!(resources(&multistatus(gone)).unwrap()[0].status, Some(404));
    }

    #[test]
    fn webdav_answers_that_are_none_or_break_off_are_errors() {
        let kind = |body: &str| resources(body).unwrap_err().kind();
        assert_eq!(kind(""), Kind::Unsupported);
        assert_eq!(kind("<html><body><p>Hello</body></html>"), Kind::Unsupported);
        assert_eq!(kind("not a page"), Kind::Unsupported);
        let whole = multistatus("<D:response><D:href>/a</D:href></D:response>");
        assert_eq!(resources(&whole).unwrap().len(), 1);
        let cut = &whole[..whole.len() - "</D:multistatus>".len()];
        assert_eq!(kind(cut), Kind::Unreachable);
        assert_eq!(kind(&whole.replace("</D:href>", "</D:h>")), Kind::Unsupported);
    }

    /// An endless tag, text or nesting is refused while it is small.
    #[test]
    fn webdav_answers_are_counted_before_they_are_held() {
        struct Endless(&'static [u8], usize, u64);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.2 += buffer.len() as u64;
                assert!(self.2 < 1 << 20, "read on and on");
                for byte in &mut *buffer {
                    *byte = self.0[self.1 % self.0.len()];
                    self.1 += 1;
                }
                Ok(buffer.len())
            }
        }
        for (start, endless) in [
            (&b"<multistatus><response><href>"[..], &b"/aaaaaaa"[..]),
            (b"<multistatus><response ", b"a='b' "),
            (b"<multistatus><!-- ", b" comment"),
            (b"<multistatus>", b"<response>"),
            (b"<!DOCTYPE ", b"aaaaaaaa"),
        ] {
            let error = read(start.chain(Endless(endless, 0, 0)), |_| Ok(())).unwrap_err();
            assert!(matches!(error.kind(), Kind::Full | Kind::Unsupported), "{error}");
        }
    }
}
