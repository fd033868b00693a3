//! Web folders, buckets and `WebDAV` as the servers people run really serve them: each one that is installed is started on a
//! folder with awkward names, and everything in it is listed, described and read.
//! Never here: mounts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reelfs::cancel::Cancel;
use reelfs::config::{PlacesConfig, S3Config};
use reelfs::error::{Kind, Result};
use reelfs::origin::source::Source;
use reelfs::origin::{ListedKind, Origin, Patience};
use reelfs::range::ByteRange;

use super::daemon::{Daemon, free_port};
use super::needs::{Need, Test};
use super::{ftp, ssh};

const NGINX: &[Need] = &[Need::Program("nginx")];
const APACHE: &[Need] = &[Need::Program("apache2")];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("listings::nginx_html", NGINX, nginx_html),
        Test::new("listings::nginx_html_with_rounded_sizes", NGINX, nginx_html_with_rounded_sizes),
        Test::new("listings::nginx_json", NGINX, nginx_json),
        Test::new("listings::nginx_xml", NGINX, nginx_xml),
        Test::new("listings::apache_plain", APACHE, apache_plain),
        Test::new("listings::apache_fancy", APACHE, apache_fancy),
        Test::new("listings::apache_table", APACHE, apache_table),
        Test::new("listings::lighttpd", &[Need::Program("lighttpd")], lighttpd),
        Test::new("listings::caddy", &[Need::Program("caddy")], caddy),
        Test::new("listings::rclone", &[Need::Program("rclone")], rclone),
        Test::new("listings::python", &[Need::Program("python3")], python),
        Test::new("listings::rclone_s3", &[Need::Program("rclone")], rclone_s3),
        Test::new("listings::rclone_webdav", &[Need::Program("rclone")], rclone_webdav),
        Test::new("listings::apache_webdav", APACHE, apache_webdav),
        Test::new("listings::openssh", &[Need::Program("ssh"), Need::Program("sshd")], openssh),
        Test::new("listings::vsftpd", &[Need::Program("vsftpd")], vsftpd),
        Test::new("listings::rclone_ftp", &[Need::Program("rclone")], rclone_ftp),
        Test::new("listings::rclone_sftp", &[Need::Program("ssh"), Need::Program("rclone")], rclone_sftp),
    ]
}

/// Names that break naive encoders, decoders and parsers; all of them are legal on a Linux disk.
const NAMES: [&str; 21] = [
    "plain.mkv",
    "two words.mkv",
    " spaces around ",
    "Tom & Jerry &amp; more.mp4",
    "100%.mp4",
    "%41%2f.mp4",
    "c#1.avi",
    "what?v=1.mp4",
    "a+b=c.mp4",
    "semi;colon,comma.mp4",
    "co:lon.mp4",
    "it's \"quoted\".mp4",
    "<x> [y] {z}.mp4",
    "größe.mkv",
    "日本語の映画.mkv",
    "🎬 film.mkv",
    "dots..and...mkv",
    "tilde~!@$^()_-`|.mkv",
    "2020-01-01 00:00 5",
    "index of.mkv",
    "CAPS.MKV",
];

/// A folder of awkward names, and what is in each file.
struct Films {
    temp: tempfile::TempDir,
    files: BTreeMap<String, Vec<u8>>,
}

impl Films {
    fn make() -> Self {
        let temp = tempfile::tempdir().unwrap();
        // A server that drops its privileges must get in.
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = temp.path().join("films");
        let deep = root.join("sub dir/Ünï & #2");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(deep.join("deep film.mkv"), content(12_345)).unwrap();
        let long = format!("{}.mkv", "long".repeat(49));
        let names = NAMES.iter().map(|name| (*name).to_owned()).chain([long]);
        // Around every server's rounding: below a thousand, some KiB, above a MiB.
        let sizes = [700, 5_000, 999_999, 1_500_001].into_iter().cycle();
        let files: BTreeMap<_, _> = names.zip(sizes.map(content)).collect();
        for (name, content) in &files {
            fs::write(root.join(name), content).unwrap();
        }
        Self { temp, files }
    }

    fn path(&self) -> String {
        self.temp.path().join("films").to_str().unwrap().to_owned()
    }
}

fn content(size: u32) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn patience() -> Patience {
    Patience { stall: Duration::from_secs(20), cancel: Cancel::new() }
}

fn open(source: &str, places: &PlacesConfig) -> Arc<dyn Origin> {
    Source::parse(source).unwrap().open(places).unwrap()
}

fn open_web(_: &Films, port: u16, path: &str) -> Arc<dyn Origin> {
    open(&format!("http://127.0.0.1:{port}{path}"), &PlacesConfig::default())
}

/// The bucket is the folder of films.
fn open_bucket(_: &Films, port: u16, path: &str) -> Arc<dyn Origin> {
    let s3 = S3Config { endpoint: Some(format!("http://127.0.0.1:{port}")), ..S3Config::default() };
    open(&format!("s3://films{path}"), &PlacesConfig { s3, ..PlacesConfig::default() })
}

fn open_webdav(_: &Films, port: u16, path: &str) -> Arc<dyn Origin> {
    open(&format!("webdav://127.0.0.1:{port}{path}"), &PlacesConfig::default())
}

/// The films are all that the server has.
fn open_sftp(films: &Films, port: u16, path: &str) -> Arc<dyn Origin> {
    let ssh_command = shlex::split(&ssh::command(films.temp.path())).unwrap();
    let places = PlacesConfig { ssh_command, ..PlacesConfig::default() };
    open(&format!("sftp://127.0.0.1:{port}{path}"), &places)
}

fn open_ftp(_: &Films, port: u16, path: &str) -> Arc<dyn Origin> {
    open(&format!("ftp://127.0.0.1:{port}{path}"), &PlacesConfig::default())
}

/// They lie somewhere on its disk.
fn open_sshd(films: &Films, port: u16, path: &str) -> Arc<dyn Origin> {
    open_sftp(films, port, &format!("{}{path}", films.path()))
}

fn read(origin: &dyn Origin, path: &str, range: ByteRange) -> Result<Vec<u8>> {
    let stat = origin.stat(path, &patience())?;
    let mut body = origin.read(path, &stat, range, &patience())?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What a server is known to do.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy)]
struct Server {
    open: fn(&Films, u16, &str) -> Arc<dyn Origin>,
    /// Every size in its listings is exact.
    exact_sizes: bool,
    /// It heeds Range.
    ranges: bool,
    /// Names with spaces at their ends can be asked for.
    has_spaced_names: bool,
    /// A folder may be empty; in a bucket there is none then.
    has_empty_folders: bool,
}

/// A server of web folders.
const WEB: Server =
    Server { open: open_web, exact_sizes: true, ranges: true, has_spaced_names: true, has_empty_folders: true };
const WEBDAV: Server = Server { open: open_webdav, ..WEB };
const SFTP: Server = Server { open: open_sftp, ..WEB };
const FTP: Server = Server { open: open_ftp, ..WEB };
const BUCKET: Server = Server { open: open_bucket, has_spaced_names: false, has_empty_folders: false, ..WEB };

impl Server {
    /// Of the films, those that can be had.
    fn names(self, films: &Films) -> impl Iterator<Item = &str> {
        films.files.keys().map(String::as_str).filter(move |name| self.has_spaced_names || name.trim() == *name)
    }
}

fn check(films: &Films, port: u16, server: Server) {
    let origin = (server.open)(films, port, "/");
    check_names(films, &*origin, server);
    check_bytes(films, &*origin, server);
    check_folders(films, &*origin, server);
    check_sources(films, port, server);
}

fn check_names(films: &Films, origin: &dyn Origin, server: Server) {
    let listed = origin.list_whole("", &patience()).unwrap();
    let mut expected: Vec<&str> = server.names(films).chain(["empty", "sub dir"]).collect();
    expected.sort_unstable();
    assert_eq!(listed.iter().map(|one| &*one.name).collect::<Vec<_>>(), expected);
    for one in &listed {
        match (one.kind, films.files.get(&*one.name)) {
            (ListedKind::Folder, None) => {}
            (ListedKind::File { size_bytes: None }, Some(_)) => assert!(!server.exact_sizes, "{one:?}"),
            (ListedKind::File { size_bytes: Some(size) }, Some(content)) => {
                assert_eq!(size, content.len() as u64, "{one:?}");
            }
            (kind, content) => panic!("{one:?} is {kind:?} and has {:?} bytes", content.map(Vec::len)),
        }
    }
}

fn check_bytes(films: &Films, origin: &dyn Origin, server: Server) {
    for name in server.names(films) {
        let content = &films.files[name];
        let size = content.len() as u64;
        let stat = origin.stat(name, &patience()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stat.size_bytes, size, "{name}");
        assert_eq!(read(origin, name, ByteRange::new(0, size)).unwrap(), *content, "{name}");
        for range in [ByteRange::new(0, 1), ByteRange::new(100, 600), ByteRange::new(size - 1, size)] {
            match read(origin, name, range) {
                Ok(bytes) => assert_eq!(bytes, content[range.start as usize..range.end as usize], "{name} {range}"),
                Err(error) => assert!(!server.ranges && error.kind() == Kind::Unsupported, "{name} {range}: {error}"),
            }
        }
    }
}

fn check_folders(films: &Films, origin: &dyn Origin, server: Server) {
    if server.has_empty_folders {
        assert_eq!(origin.list_whole("empty", &patience()).unwrap(), []);
    }
    assert_eq!(&*origin.list_whole("sub dir", &patience()).unwrap()[0].name, "Ünï & #2");
    let deep = origin.list_whole("sub dir/Ünï & #2", &patience()).unwrap();
    assert_eq!((deep.len(), &*deep[0].name), (1, "deep film.mkv"));
    assert_eq!(origin.stat("sub dir/Ünï & #2/deep film.mkv", &patience()).unwrap().size_bytes, 12_345);
    assert_eq!(origin.list_whole("none", &patience()).unwrap_err().kind(), Kind::Missing);
    assert_eq!(origin.stat("none", &patience()).unwrap_err().kind(), Kind::Missing);
    // What is deleted under us is missing; what is replaced has changed.
    let path = Path::new(&films.path()).join("empty/brief.mkv");
    fs::write(&path, b"before").unwrap();
    let stat = origin.stat("empty/brief.mkv", &patience()).unwrap();
    fs::write(&path, b"after it").unwrap();
    let range = ByteRange::new(0, stat.size_bytes);
    let error = origin.read("empty/brief.mkv", &stat, range, &patience()).err().unwrap();
    assert!(matches!(error.kind(), Kind::Changed | Kind::Unsupported), "{error}");
    fs::remove_file(&path).unwrap();
    // nginx drops a connection after 412 without a word; a drive asks again after what may pass.
    let ask = || origin.read("empty/brief.mkv", &stat, range, &patience()).err().unwrap();
    let error = (0..3).map(|_| ask()).find(|error| !error.may_pass()).unwrap();
    assert_eq!(error.kind(), Kind::Missing, "{error}");
}

/// As typed without the last slash, a single file, and what is not there.
fn check_sources(films: &Films, port: u16, server: Server) {
    let open = |port, path| (server.open)(films, port, path);
    assert_eq!(&*open(port, "/sub%20dir").list_whole("", &patience()).unwrap()[0].name, "Ünï & #2");
    let single = open(port, "/two%20words.mkv");
    assert_eq!(&*single.list_whole("", &patience()).unwrap()[0].name, "two words.mkv");
    let size_bytes = single.stat("two words.mkv", &patience()).unwrap().size_bytes;
    assert_eq!(size_bytes, films.files["two words.mkv"].len() as u64);
    for path in ["/none/", "/none"] {
        assert_eq!(open(port, path).list_whole("", &patience()).unwrap_err().kind(), Kind::Missing, "{path}");
    }
}

fn nginx(directives: &str, exact_sizes: bool) {
    let (films, port) = (Films::make(), free_port());
    let _daemon = Daemon::nginx(Path::new(&films.path()), films.temp.path(), directives, port);
    check(&films, port, Server { exact_sizes, ..WEB });
}

fn nginx_html() {
    nginx("", true);
}

fn nginx_html_with_rounded_sizes() {
    nginx("autoindex_exact_size off;", false);
}

fn nginx_json() {
    nginx("autoindex_format json;", true);
}

fn nginx_xml() {
    nginx("autoindex_format xml;", true);
}

/// Apache on the films, with further modules, and directives for their folder and for all.
fn start_apache(films: &Films, port: u16, modules: &[&str], options: &str, more: &str) -> Daemon {
    let folder = "/usr/lib/apache2/modules";
    let is_there = |name: &&str| Path::new(&format!("{folder}/mod_{name}.so")).exists();
    let common = ["mpm_event", "unixd", "authz_core", "dir", "mime", "autoindex"];
    let names = common.iter().chain(modules).copied().filter(is_there);
    let load =
        names.map(|name| format!("LoadModule {name}_module {folder}/mod_{name}.so\n")).collect::<Vec<_>>().concat();
    let (home, root) = (films.temp.path(), films.path());
    let shown = home.display();
    let config = format!(
        "ServerRoot {shown}\nDefaultRuntimeDir {shown}\nServerName localhost\nPidFile {shown}/pid\n\
         ErrorLog {shown}/error.log\nListen 127.0.0.1:{port}\n{load}TypesConfig /dev/null\nUser daemon\nGroup daemon\n\
         {more}DocumentRoot {root}\n<Directory {root}>\nOptions +Indexes\nRequire all granted\n{options}\n</Directory>\n"
    );
    Daemon::start_on(&config, "apache2", &["-f", "CONFIG", "-DFOREGROUND"], home, port)
}

fn apache(options: &str) {
    let (films, port) = (Films::make(), free_port());
    let _daemon = start_apache(&films, port, &[], options, "");
    check(&films, port, Server { exact_sizes: false, ..WEB });
}

fn apache_plain() {
    apache("");
}

fn apache_fancy() {
    apache("IndexOptions FancyIndexing");
}

fn apache_table() {
    apache("IndexOptions FancyIndexing HTMLTable IconsAreLinks FoldersFirst Charset=UTF-8");
}

fn lighttpd() {
    let (films, port) = (Films::make(), free_port());
    // Its cache would describe a file for a second after it was replaced. Without a type it gives no version at all.
    let config = format!(
        "server.document-root = \"{}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
         server.stat-cache-engine = \"disable\"\nmimetype.assign = ( \"\" => \"application/octet-stream\" )\n\
         server.modules = ( \"mod_dirlisting\" )\ndir-listing.activate = \"enable\"\ndir-listing.encoding = \"utf-8\"\n",
        films.path()
    );
    let _daemon = Daemon::start_on(&config, "lighttpd", &["-D", "-f", "CONFIG"], films.temp.path(), port);
    check(&films, port, Server { exact_sizes: false, ..WEB });
}

fn caddy() {
    let (films, port) = (Films::make(), free_port());
    let (home, root) = (films.temp.path(), films.path());
    let config = format!(
        "{{\n admin off\n auto_https off\n storage file_system {}/storage\n}}\n\
         http://127.0.0.1:{port} {{\n root * {root}\n file_server browse\n}}\n",
        home.display()
    );
    let arguments = ["run", "--adapter", "caddyfile", "--config", "CONFIG"];
    let _daemon = Daemon::start_on(&config, "caddy", &arguments, home, port);
    check(&films, port, WEB);
}

/// Without a cache of listings: the test changes the folder under it.
fn rclone_serve(protocol: &str, root: &Path, home: &Path, port: u16) -> Daemon {
    let (root, address) = (root.to_str().unwrap(), format!("127.0.0.1:{port}"));
    let options = ["--addr", &address, "--config", "/dev/null", "--dir-cache-time", "0", "--poll-interval", "0"];
    Daemon::start("rclone", &[&["serve", protocol, root], &options[..]].concat(), home, port)
}

fn rclone() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = rclone_serve("http", Path::new(&films.path()), films.temp.path(), port);
    check(&films, port, WEB);
}

fn rclone_webdav() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = rclone_serve("webdav", Path::new(&films.path()), films.temp.path(), port);
    check(&films, port, WEBDAV);
}

fn rclone_s3() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = rclone_serve("s3", films.temp.path(), films.temp.path(), port);
    check(&films, port, BUCKET);
}

fn apache_webdav() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = start_apache(&films, port, &["dav", "dav_fs"], "Dav On\n", "DavLockDB dav.lock\n");
    check(&films, port, WEBDAV);
}

fn openssh() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = ssh::start_sshd(films.temp.path(), port);
    check(&films, port, Server { open: open_sshd, ..SFTP });
}

fn rclone_sftp() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = ssh::start_rclone(Path::new(&films.path()), films.temp.path(), port);
    check(&films, port, SFTP);
}

fn vsftpd() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = ftp::start_vsftpd(Path::new(&films.path()), films.temp.path(), port, 16);
    check(&films, port, FTP);
}

fn rclone_ftp() {
    let (films, port) = (Films::make(), free_port());
    let _daemon = rclone_serve("ftp", Path::new(&films.path()), films.temp.path(), port);
    check(&films, port, FTP);
}

/// It ignores Range: listed, described, and read whole or not at all.
fn python() {
    let (films, port) = (Films::make(), free_port());
    let (root, port_text) = (films.path(), port.to_string());
    let arguments = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", &root, &port_text];
    let _daemon = Daemon::start("python3", &arguments, films.temp.path(), port);
    check(&films, port, Server { exact_sizes: false, ranges: false, ..WEB });
}
