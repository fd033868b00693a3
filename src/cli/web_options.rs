//! How servers are asked over HTTP, as typed: headers, tokens, certificates, a proxy.
//! Never here: requests, and users and passwords (`store/credentials.rs`).

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::BoolishValueParser;
use http::header::HeaderMap;

use crate::config::{Secret, WebConfig, parse_header};
use crate::error::{Error, Kind, Result};
use crate::store::remote::access::Access;

/// A longer file of headers is another file.
const HEADERS_BYTES_MAX: u64 = 64 << 10;

/// Their ids, for the check whether they mean anything to a source.
pub const IDS: [&str; 8] =
    ["header", "bearer_token_file", "ca_cert", "client_cert", "client_key", "insecure", "unstable_validators", "proxy"];

/// For sources of the kinds http(s), `WebDAV` and S3. Shared by mounts and the library's commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Web servers, WebDAV, buckets")]
pub struct WebOptions {
    /// Send a header with every request to the source's own server, and to no other it sends on to: 'X-Api-Key: 1234'. May be
    /// given several times. `@FILE` reads headers from a file, one on each line: what is typed, everyone on the machine may read.
    // Refused by us: clap repeats what it refuses.
    #[arg(
        id = "header",
        long = "header",
        value_name = "NAME: VALUE",
        env = "REELFS_HEADER",
        hide_env_values = true,
        value_delimiter = '\n'
    )]
    headers: Vec<Secret>,
    /// Log in with the token in this file (Authorization: Bearer). When the server refuses it, the file is read again.
    #[arg(long, value_name = "FILE", env = "REELFS_BEARER_TOKEN_FILE")]
    bearer_token_file: Option<PathBuf>,
    /// Trust the certificates in this PEM file, too: of an authority of your own, or a server's self-signed one.
    #[arg(long, value_name = "FILE", env = "REELFS_CA_CERT")]
    ca_cert: Option<PathBuf>,
    /// Show this certificate to a server that asks for one: a PEM file, with its chain.
    #[arg(long, value_name = "FILE", env = "REELFS_CLIENT_CERT")]
    client_cert: Option<PathBuf>,
    /// The key of --client-cert: a PEM file without a password. Default: it is in the same file.
    #[arg(long, value_name = "FILE", env = "REELFS_CLIENT_KEY", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// Take any certificate for the server's: others on the network can read and change everything then. --ca-cert is better.
    #[arg(long, env = "REELFS_INSECURE", value_parser = BoolishValueParser::new())]
    insecure: bool,
    /// Tell a file's version by its size and time alone, for servers behind one name that give one file different `ETag`s, or
    /// a new time with each answer. A file that is replaced by another of the same size in the same second is not noticed then.
    #[arg(long, env = "REELFS_UNSTABLE_VALIDATORS", value_parser = BoolishValueParser::new())]
    unstable_validators: bool,
    /// Ask through this proxy: http://, https:// or socks5://host:port. Default: `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`.
    /// Hosts in `NO_PROXY` are asked directly in both cases. A proxy's password is better given in the environment.
    #[arg(long, value_name = "URL", env = "REELFS_PROXY", hide_env_values = true)]
    proxy: Option<Secret>,
}

impl WebOptions {
    /// What was typed, as it is meant. `Invalid` if a file or the proxy can't be used.
    pub fn into_config(self) -> Result<WebConfig> {
        let mut headers = HeaderMap::new();
        for Secret(text) in &self.headers {
            match text.strip_prefix('@') {
                Some(path) => add_file(&mut headers, Path::new(path))?,
                None if text.trim().is_empty() => {}
                None => add(&mut headers, text)?,
            }
        }
        // The program may change its working directory, and reads them again.
        let absolute = |path: Option<PathBuf>| path.map(|path| std::path::absolute(&path).unwrap_or(path));
        let web = WebConfig {
            headers,
            token_file: absolute(self.bearer_token_file),
            ca_cert: absolute(self.ca_cert),
            client_cert: absolute(self.client_cert),
            client_key: absolute(self.client_key),
            is_insecure: self.insecure,
            has_unstable_validators: self.unstable_validators,
            proxy: self.proxy.filter(|Secret(url)| !url.is_empty()),
        };
        if web.is_given() {
            Access::new(&web)?;
        }
        Ok(web)
    }
}

fn add(headers: &mut HeaderMap, line: &str) -> Result<()> {
    let (name, value) = parse_header(line)?;
    headers.append(name, value);
    Ok(())
}

/// One header on each line; empty lines and those with a `#` in front are none.
fn add_file(headers: &mut HeaderMap, path: &Path) -> Result<()> {
    let invalid = |why: &str| Error::new(Kind::Invalid, format!("--header @{}: {why}", path.display()));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(HEADERS_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| invalid(&format!("it can't be read: {error}")))?;
    if text.len() as u64 > HEADERS_BYTES_MAX {
        return Err(invalid("too long for a file of headers"));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.into_iter().try_for_each(|line| add(headers, line).map_err(|error| invalid(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: WebOptions,
    }

    fn meant(typed: &[&str]) -> Result<WebConfig> {
        Line::try_parse_from([&["mount"], typed].concat()).unwrap().options.into_config()
    }

    #[test]
    fn headers_are_typed_or_read_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        std::fs::write(&file, "# of the firewall\n\nReferer: https://films.example/\nX-Key:\t s3cret \n").unwrap();
        let config = meant(&["--header", "Cookie: a=s3cret", "--header", &format!("@{}", file.display())]).unwrap();
        let value = |name: &str| config.headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(
            (value("cookie"), value("referer"), value("x-key")),
            ("a=s3cret", "https://films.example/", "s3cret")
        );
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
        let line = Line::try_parse_from(["mount", "--header", "A: s3cret", "--proxy", "http://u:s3cret@host"]).unwrap();
        assert!(!format!("{line:?}").contains("s3cret"), "{line:?}");
    }

    #[test]
    fn what_is_no_header_is_refused_and_not_repeated() {
        for bad in ["s3cret", "s3cret key: 1", "X-Key: s3cret\u{1}", "Range: s3cret", ": s3cret", "@/nowhere/at/all"] {
            let error = meant(&["--header", bad]).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
