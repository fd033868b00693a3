//! The ways in: tokens, headers, Digest, certificates and proxies, each against a program of other people's that wants it, and
//! a look at all places where a secret could show.
//! Never here: what is read once the door is open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::daemon::{Daemon, free_port, public_folder};
use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Need, Test};

const NGINX: &[Need] = &[FUSE, Need::Program("nginx")];
const APACHE: &[Need] = &[FUSE, Need::Program("apache2")];
const TLS: &[Need] = &[FUSE, Need::Program("nginx"), Need::Program("openssl")];
const PROXIES: &[Need] = &[FUSE, Need::Program("nginx"), Need::Program("tinyproxy"), Need::Program("microsocks")];
const BUCKET: &[Need] = &[FUSE, Need::Program("rclone")];

const FILM_BYTES: usize = 3 << 20;
/// Nothing else is called so.
const SECRET: &str = "s3cretW0rd";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("access::a_token_and_headers_reach_the_own_server_alone", NGINX, a_token_and_headers),
        Test::new("access::digest_is_spoken", APACHE, digest_is_spoken),
        Test::new("access::certificates_of_ones_own", TLS, certificates_of_ones_own),
        Test::new("access::a_certificate_is_shown", TLS, a_certificate_is_shown),
        Test::new("access::through_proxies", PROXIES, through_proxies),
        Test::new("access::a_bucket_gets_the_headers_too", BUCKET, a_bucket_gets_the_headers),
        Test::new("access::what_can_not_be_used_is_told", TLS, what_can_not_be_used_is_told),
        Test::new("access::nothing_secret_is_shown", NGINX, nothing_secret_is_shown),
    ]
}

/// A folder with one film, and one for a server's own files.
struct Films {
    folder: TempDir,
    home: TempDir,
    film: Vec<u8>,
}

impl Films {
    fn make() -> Self {
        Self::of(16)
    }

    fn of(seed: u64) -> Self {
        let (folder, home) = (public_folder(), public_folder());
        let mut dice = fastrand::Rng::with_seed(seed);
        let film: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(FILM_BYTES).collect();
        fs::write(folder.path().join("film.mkv"), &film).unwrap();
        Self { folder, home, film }
    }

    fn nginx(&self, directives: &str, port: u16) -> Daemon {
        Daemon::nginx(self.folder.path(), self.home.path(), directives, port)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Mounts `source`, lists it and reads the film.
    fn check(&self, source: &str, options: &[&str], variables: &[(&str, &str)]) {
        let mount = Mount::with(&Place::new(), source, options, variables);
        let names: Vec<_> = fs::read_dir(mount.point()).unwrap().map(|name| name.unwrap().file_name()).collect();
        assert!(names.iter().any(|name| name == "film.mkv"), "{source}: {names:?}");
        assert!(fs::read(mount.file("film.mkv")).unwrap() == self.film, "{source}");
    }
}

/// The exit code of `reelfs mount` where it can't, and what it says.
fn refused(source: &str, options: &[&str]) -> (Option<i32>, String) {
    let place = Place::new();
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_reelfs"), "mount", source])
        .arg(place.point())
        .args(["--cache-dir".as_ref(), place.cache().as_os_str()])
        .args(options)
        .env("XDG_RUNTIME_DIR", place.runtime())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn a_token_and_headers() {
    let (films, mirror) = (Films::make(), Films::of(17));
    let (port, mirror_port) = (free_port(), free_port());
    for (films, folder) in [(&films, "new/own"), (&mirror, "moved")] {
        let folder = films.folder.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("film.mkv"), &films.film).unwrap();
    }
    // The mirror refuses what is none of its business.
    let _mirror = mirror.nginx(
        "if ($http_authorization) { return 400; } if ($http_x_key) { return 400; } if ($http_cookie) { return 400; }",
        mirror_port,
    );
    let wanted = format!(
        "if ($http_authorization != 'Bearer {SECRET}') {{ return 401; }} if ($http_x_key != 'a b') {{ return 403; }} \
         if ($http_cookie != 'c=d') {{ return 403; }} rewrite ^/own/(.*)$ /new/own/$1 redirect; \
         rewrite ^/(moved/.+)$ http://127.0.0.1:{mirror_port}/$1 redirect;"
    );
    let _daemon = films.nginx(&wanted, port);
    let (token, headers) = (films.home("token"), films.home("headers"));
    fs::write(&token, format!("{SECRET}\n")).unwrap();
    fs::write(&headers, "# both are wanted\nX-Key: a b\n").unwrap();
    let (token, headers) = (token.to_str().unwrap(), format!("@{}", headers.display()));
    let options = ["--bearer-token-file", token, "--header", &headers, "--header", "Cookie: c=d"];
    let url = format!("http://127.0.0.1:{port}/");
    films.check(&url, &options, &[]);
    films.check(&format!("{url}own/"), &options, &[]);
    // The environment says it, too.
    let by_environment = [("REELFS_HEADER", "X-Key: a b\nCookie: c=d"), ("REELFS_BEARER_TOKEN_FILE", token)];
    films.check(&url, &[], &by_environment);
    // A film that is at another server comes from there.
    let moved = Mount::new(&format!("{url}moved/film.mkv"), &options);
    assert!(fs::read(moved.file("film.mkv")).unwrap() == mirror.film);
    drop(moved);
    let (code, said) = refused(&url, &options[..4]);
    assert_eq!(code, Some(1), "{said}");
    // A token that was renewed is read again.
    let mount = Mount::with(&Place::new(), &url, &[&options[..], &["--dir-ttl", "0"]].concat(), &[]);
    fs::write(token, "outdated").unwrap();
    assert!(fs::read_dir(mount.point()).unwrap().next().unwrap().is_ok(), "the token in use still logs in");
}

fn digest_is_spoken() {
    let films = Films::make();
    let (home, root, port) = (films.home.path().display(), films.folder.path().display(), free_port());
    let modules = "/usr/lib/apache2/modules";
    let names = [
        "mpm_event",
        "unixd",
        "authn_core",
        "authz_core",
        "authz_user",
        "authn_file",
        "auth_digest",
        "autoindex",
        "dir",
        "mime",
        "dav",
        "dav_fs",
    ];
    let is_there = |name: &&str| Path::new(&format!("{modules}/mod_{name}.so")).exists();
    let load = names.iter().filter(|name| is_there(name));
    let load: Vec<_> = load.map(|name| format!("LoadModule {name}_module {modules}/mod_{name}.so\n")).collect();
    let load = load.concat();
    // As htdigest writes it.
    let hashed = Command::new("sh").args(["-c", "printf 'me:films:p w' | md5sum"]).output().unwrap().stdout;
    let hashed = String::from_utf8(hashed).unwrap();
    fs::write(films.home("users"), format!("me:films:{}\n", hashed.split(' ').next().unwrap())).unwrap();
    let config = format!(
        "ServerRoot {home}\nDefaultRuntimeDir {home}\nServerName localhost\nPidFile {home}/pid\n\
         ErrorLog {home}/error.log\nListen 127.0.0.1:{port}\n{load}TypesConfig /dev/null\nUser daemon\nGroup daemon\n\
         DAVLockDB dav.lock\nDocumentRoot {root}\n<Directory {root}>\nOptions +Indexes\nDav On\nAuthType Digest\n\
         AuthName films\nAuthUserFile {home}/users\nRequire valid-user\n</Directory>\n"
    );
    let _daemon = Daemon::start_on(&config, "apache2", &["-f", "CONFIG", "-DFOREGROUND"], films.home.path(), port);
    for scheme in ["http", "webdav"] {
        let url = format!("{scheme}://127.0.0.1:{port}/");
        films.check(&url, &[], &[("REELFS_USER", "me"), ("REELFS_PASSWORD", "p w")]);
        let (code, said) = refused(&format!("{scheme}://me:wrong@127.0.0.1:{port}/"), &[]);
        assert!(code == Some(1) && said.contains("password"), "{said}");
    }
}

/// Runs openssl in `home`.
fn openssl(home: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(home).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// `NAME.pem` and `NAME.key`, signed by itself as people do it.
fn self_signed(home: &Path, name: &str) {
    let (pem, key, subject) = (format!("{name}.pem"), format!("{name}.key"), format!("/CN={name}"));
    let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-addext", NAMES];
    openssl(home, &[&made[..], &["-keyout", &key, "-out", &pem, "-subj", &subject]].concat());
}

/// `NAME.pem` and `NAME.key`, signed by `ca`.
fn signed_by(home: &Path, ca: &str, name: &str) {
    let (pem, key, request, subject) =
        (format!("{name}.pem"), format!("{name}.key"), format!("{name}.csr"), format!("/CN={name}"));
    openssl(home, &["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", &subject]);
    fs::write(home.join("ext"), format!("{NAMES}\nbasicConstraints=CA:FALSE\n")).unwrap();
    let (ca_pem, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
    let signed = ["x509", "-req", "-CAcreateserial", "-days", "2", "-extfile", "ext"];
    openssl(home, &[&signed[..], &["-in", &request, "-CA", &ca_pem, "-CAkey", &ca_key, "-out", &pem]].concat());
}

/// nginx that speaks TLS on the port that is returned.
fn tls(films: &Films, name: &str, more: &str) -> (Daemon, u16) {
    let port = free_port();
    let (home, plain) = (films.home.path().display(), free_port());
    let directives = format!(
        "listen 127.0.0.1:{port} ssl; ssl_certificate {home}/{name}.pem; ssl_certificate_key {home}/{name}.key; {more}"
    );
    (films.nginx(&directives, plain), port)
}

fn certificates_of_ones_own() {
    let films = Films::make();
    let home = films.home.path();
    self_signed(home, "authority");
    self_signed(home, "nas");
    self_signed(home, "other");
    signed_by(home, "authority", "server");
    for (server, trusted) in [("nas", "nas"), ("server", "authority")] {
        let (_daemon, port) = tls(&films, server, "");
        let trusted = films.home(&format!("{trusted}.pem"));
        let trusted = trusted.to_str().unwrap();
        for host in ["127.0.0.1", "localhost"] {
            films.check(&format!("https://{host}:{port}/"), &["--ca-cert", trusted], &[]);
        }
        let url = format!("https://127.0.0.1:{port}/");
        films.check(&url, &[], &[("SSL_CERT_FILE", trusted)]);
        for options in [&[][..], &["--ca-cert", films.home("other.pem").to_str().unwrap()]] {
            let (code, said) = refused(&url, options);
            assert!(code == Some(1) && said.contains("certificate") && said.contains("--ca-cert"), "{said}");
        }
        let mount = Mount::new(&url, &["--insecure"]);
        assert!(fs::read(mount.file("film.mkv")).unwrap() == films.film);
        assert!(mount.place.log().contains("--insecure"), "{}", mount.place.log());
        // A name that the certificate is not for.
        let (code, said) = refused(&format!("https://127.0.0.2:{port}/"), &["--ca-cert", trusted]);
        assert_eq!(code, Some(1), "{said}");
    }
}

fn a_certificate_is_shown() {
    let films = Films::make();
    let home = films.home.path();
    self_signed(home, "authority");
    signed_by(home, "authority", "server");
    signed_by(home, "authority", "me");
    let wanted = format!("ssl_client_certificate {}/authority.pem; ssl_verify_client on;", home.display());
    let (_daemon, port) = tls(&films, "server", &wanted);
    let path = |name: &str| films.home(name).to_str().unwrap().to_owned();
    let both = fs::read_to_string(path("me.pem")).unwrap() + &fs::read_to_string(path("me.key")).unwrap();
    fs::write(path("both.pem"), both).unwrap();
    let url = format!("https://localhost:{port}/");
    let trusted = ["--ca-cert", &path("authority.pem")];
    films.check(
        &url,
        &[&trusted[..], &["--client-cert", &path("me.pem"), "--client-key", &path("me.key")]].concat(),
        &[],
    );
    films.check(&url, &[&trusted[..], &["--client-cert", &path("both.pem")]].concat(), &[]);
    let (code, said) = refused(&url, &trusted);
    assert_eq!(code, Some(1), "{said}");
}

fn through_proxies() {
    let films = Films::make();
    let port = free_port();
    let _daemon = films.nginx("", port);
    let home = |name: &str| {
        let home = films.home(name);
        fs::create_dir(&home).unwrap();
        home
    };
    let (http, locked, socks) = (free_port(), free_port(), free_port());
    let config = |port: u16, more: &str| format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\n{more}");
    let tinyproxy =
        |config: &str, home: &Path, port| Daemon::start_on(config, "tinyproxy", &["-d", "-c", "CONFIG"], home, port);
    let open = tinyproxy(&config(http, ""), &home("open"), http);
    let _locked = tinyproxy(&config(locked, &format!("BasicAuth me {SECRET}\n")), &home("locked"), locked);
    let socks_home = home("socks");
    let socks_server = Daemon::start("microsocks", &["-i", "127.0.0.1", "-p", &socks.to_string()], &socks_home, socks);
    let url = format!("http://127.0.0.1:{port}/");
    let (http, socks) = (format!("http://127.0.0.1:{http}"), format!("socks5://127.0.0.1:{socks}"));
    films.check(&url, &["--proxy", &http], &[]);
    films.check(&url, &["--proxy", &socks], &[]);
    films.check(&url, &[], &[("http_proxy", &http), ("HTTP_PROXY", "")]);
    films.check(&url, &[], &[("ALL_PROXY", &socks)]);
    films.check(&url, &[], &[("REELFS_PROXY", &format!("http://me:{SECRET}@127.0.0.1:{locked}"))]);
    let (code, said) = refused(&url, &["--proxy", &format!("http://127.0.0.1:{locked}")]);
    assert!(code == Some(1) && said.contains("proxy"), "{said}");
    // Nothing goes another way where the proxies are gone, but what needs none.
    drop((open, socks_server));
    for proxy in [&http, &socks] {
        let (code, said) = refused(&url, &["--proxy", proxy]);
        assert_eq!(code, Some(1), "{said}");
        films.check(&url, &["--proxy", proxy], &[("NO_PROXY", "127.0.0.0/8")]);
    }
}

/// A bucket behind a door that opens to a header alone.
fn a_bucket_gets_the_headers() {
    let films = Films::make();
    let bucket = films.home("store/bucket");
    fs::create_dir_all(&bucket).unwrap();
    fs::write(bucket.join("film.mkv"), &films.film).unwrap();
    let (behind, port) = (free_port(), free_port());
    let store = films.home("store");
    let address = format!("127.0.0.1:{behind}");
    let arguments = ["serve", "s3", store.to_str().unwrap(), "--addr", &address, "--config", "/dev/null"];
    let _store = Daemon::start("rclone", &arguments, &store, behind);
    let door = format!(
        "if ($http_x_key != 'a') {{ return 403; }} \
         location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_set_header Host $http_host; proxy_http_version 1.1; }}"
    );
    let _door = films.nginx(&door, port);
    let endpoint = format!("http://127.0.0.1:{port}");
    films.check("s3://bucket/", &["--s3-endpoint", &endpoint, "--header", "X-Key: a"], &[]);
    let (code, said) = refused("s3://bucket/", &["--s3-endpoint", &endpoint]);
    assert_eq!(code, Some(1), "{said}");
}

/// One line, the exit code for a mistake of the command, and not the secret.
fn what_can_not_be_used_is_told() {
    let home = public_folder();
    self_signed(home.path(), "one");
    self_signed(home.path(), "two");
    fs::write(home.path().join("text"), "this is none").unwrap();
    fs::write(home.path().join("empty"), "").unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    for (options, told) in [
        (vec!["--header", "no colon s3cretW0rd"], "header"),
        (vec!["--header", "Range: s3cretW0rd"], "range"),
        (vec!["--header", "@/nowhere/at/all"], "/nowhere/at/all"),
        (vec!["--bearer-token-file", &path("empty")], "token"),
        (vec!["--bearer-token-file", &path("missing")], "token"),
        (vec!["--ca-cert", &path("text")], "certificate"),
        (vec!["--ca-cert", &path("missing")], "missing"),
        (vec!["--client-cert", &path("one.pem")], "key"),
        (vec!["--client-cert", &path("one.pem"), "--client-key", &path("two.key")], "key"),
        (vec!["--proxy", "gopher://me:s3cretW0rd@host"], "proxy"),
    ] {
        let (code, said) = refused("https://127.0.0.1:9/", &options);
        assert_eq!(code, Some(2), "{options:?}: {said}");
        assert!(
            said.contains(told) && !said.contains(SECRET) && said.trim().lines().count() <= 2,
            "{options:?}: {said}"
        );
    }
    let (code, said) = refused("/tmp", &["--proxy", "http://host:1"]);
    assert!(code == Some(2) && said.contains("--proxy means nothing here"), "{said}");
}

/// What a secret was typed, set or written for shows it nowhere: neither to other users nor in what is kept.
fn nothing_secret_is_shown() {
    let films = Films::make();
    let port = free_port();
    let _daemon = films.nginx("", port);
    let (token, headers) = (films.home("token"), films.home("headers"));
    fs::write(&token, SECRET).unwrap();
    fs::write(&headers, format!("X-Key: {SECRET}\n")).unwrap();
    let place = Place::new();
    let output = reelfs()
        .args(["mount", "--background", "-vv", &format!("http://me:{SECRET}@127.0.0.1:{port}/?key={SECRET}")])
        .arg(place.point())
        .args(["--cache-dir".as_ref(), place.cache().as_os_str(), "--log-file".as_ref(), place.path("log").as_os_str()])
        .args(["--bearer-token-file", token.to_str().unwrap(), "--header", &format!("@{}", headers.display())])
        .args(["--header", &format!("Cookie: a={SECRET}")])
        .env("XDG_RUNTIME_DIR", place.runtime())
        .env("REELFS_PROXY", format!("http://me:{SECRET}@127.0.0.1:9"))
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(fs::read(place.point().join("film.mkv")).unwrap() == films.film);
    let status = reelfs().args(["status", "--json"]).env("XDG_RUNTIME_DIR", place.runtime()).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(status.contains("film.mkv") || status.contains("127.0.0.1"), "{status}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for shown in [&*said, &*status, &*mounts, &*place.log()] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    // What belongs to this mount, among all the processes of the machine.
    let point = place.point();
    let (mut is_found, point) = (false, point.to_str().unwrap());
    for process in
        fs::read_dir("/proc").unwrap().filter_map(|process| fs::read(process.ok()?.path().join("cmdline")).ok())
    {
        let line = String::from_utf8_lossy(&process);
        if line.contains(point) {
            is_found = true;
            assert!(!line.contains(SECRET), "{line}");
        }
    }
    assert!(is_found, "the mount's own process shows its mount point");
    let mut folders = vec![place.cache(), place.runtime()];
    while let Some(folder) = folders.pop() {
        if folder == place.point() {
            continue;
        }
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_type().unwrap().is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                let is_there = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
                assert!(!is_there, "{}", entry.path().display());
            }
        }
    }
    let ended = reelfs().args(["umount", point]).env("XDG_RUNTIME_DIR", place.runtime()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
