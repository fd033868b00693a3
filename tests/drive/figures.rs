//! Each figure that a mount tells changes when that happens which it counts; and Prometheus' own checker has nothing to say
//! about the page.
//! Never here: how figures are shown to people.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use reelfs::demo::{Link, Server, ServerConfig};

use super::compare::{made, wait_until};
use super::control::{self, samples, scrape, told};
use super::mount::{Mount, Place, open_direct, read_direct, reelfs};
use super::needs::{FUSE, Need, Test};

const FILM: (u64, u64) = (0xf1, 64 << 20);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("figures::of_a_film_that_is_played", &[FUSE], of_a_film_that_is_played),
        Test::new("figures::of_a_library_that_is_written_to", &[FUSE], of_a_library_that_is_written_to),
        Test::new("figures::all_are_in_the_guide_and_the_dashboard_knows_them", &[FUSE], all_are_in_the_guide),
        Test::new("figures::warnings_of_one_chunk_are_one", &[FUSE], warnings_of_one_chunk_are_one),
        Test::new("figures::promtool_is_content", &[FUSE, Need::Program("promtool")], promtool_is_content),
    ]
}

fn server() -> Server {
    let link = Link { round_trip: Duration::from_millis(20), rate_total: Some(12_500_000), ..Link::default() };
    Server::start(ServerConfig { link, ..ServerConfig::default() }.file("films/a.mkv", made(FILM.0, FILM.1))).unwrap()
}

/// Where a mount with `--metrics-listen :0 -v` serves its page.
fn address(place: &Place) -> String {
    let log = place.log();
    log.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned()
}

/// What the page says now, by series.
fn figures(address: &str) -> BTreeMap<String, f64> {
    samples(&scrape(address, "/metrics").1).into_iter().collect()
}

/// Waits until each of these series is larger than before.
fn wait_until_grown(address: &str, before: &BTreeMap<String, f64>, series: &[&str]) {
    for name in series {
        let was = before.get(*name).unwrap_or_else(|| panic!("there is no {name}"));
        wait_until(&format!("{name} has grown from {was}"), || figures(address)[*name] > *was);
    }
}

fn of_a_film_that_is_played() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--metrics-listen", ":0", "-v", "--passthrough", "off"]);
    let page = address(&mount.place);
    let idle = figures(&page);
    for series in ["process_resident_memory_bytes", "process_threads", "process_open_fds"] {
        assert!(idle[series] > 0.0, "{series}");
    }
    let film = open_direct(&mount.file("films/a.mkv")).unwrap();
    wait_until_grown(&page, &idle, &["reelfs_open_seconds_count"]);
    let mut bytes = vec![0; 128 << 10];
    for at in 0..192 {
        film.read_exact_at(&mut bytes, at * (128 << 10)).unwrap();
    }
    let played = [
        "reelfs_index_lookups_total",
        "reelfs_index_query_seconds_count",
        "reelfs_chunk_first_byte_seconds_count",
        "reelfs_chunk_download_seconds_count",
        "reelfs_cache_queue_seconds_count",
        "reelfs_cache_write_seconds_count",
        "reelfs_cache_sync_seconds_count",
        "reelfs_index_commit_seconds_count",
        "reelfs_index_wal_bytes",
    ];
    wait_until_grown(&page, &idle, &played);
    let now = figures(&page);
    // Some are made as soon as a name is looked up, so that no idle mount is seen without any.
    assert!(now["reelfs_connections"] >= 1.0, "{now:?}");
    // The link needs 20 ms, so no request's first byte came sooner.
    for bound in ["0.000001", "0.001024", "0.016384"] {
        assert!(now[&format!("reelfs_chunk_first_byte_seconds_bucket{{le=\"{bound}\"}}")] < 0.5, "{now:?}");
    }
    let (count, inf) = ("reelfs_chunk_first_byte_seconds_count", "reelfs_chunk_first_byte_seconds_bucket{le=\"+Inf\"}");
    assert!((now[count] - now[inf]).abs() < 0.5 && now["reelfs_chunk_first_byte_seconds_sum"] >= 0.02, "{now:?}");
    assert!(now["reelfs_index_replans"] < 1.0, "{now:?}");
    // A jump leaves what was being fetched ahead.
    film.read_exact_at(&mut bytes, 48 << 20).unwrap();
    wait_until_grown(&page, &now, &["reelfs_seek_seconds_count", "reelfs_flights_cancelled_total"]);
    let told = told(&mount);
    for name in ["open", "seek", "chunk_first_byte", "chunk_download", "index_query", "index_commit", "cache_sync"] {
        assert!(told["timings"][name]["count"].as_u64().unwrap() >= 1, "{name}: {told}");
    }
    let (first, whole) = (&told["timings"]["chunk_first_byte"], &told["timings"]["chunk_download"]);
    assert!(
        first["p50_ms"].as_f64().unwrap() >= 20.0 && whole["p50_ms"].as_f64() >= first["p50_ms"].as_f64(),
        "{told}"
    );
    assert!(told["cache"]["index_lookups"].as_u64().unwrap() >= 1, "{told}");
    assert!(told["process"]["threads"].as_u64().unwrap() >= 2, "{told}");
    drop(film);
    mount.end();
}

/// A mounted library that is empty.
fn library() -> (String, Mount) {
    let place = Place::new();
    let library = format!("library:{}", place.path("library").display());
    assert!(reelfs().args(["init", &library]).output().unwrap().status.success());
    let mount = Mount::on(&place, &library, &["--metrics-listen", ":0", "-v"]);
    (address(&mount.place), mount)
}

fn of_a_library_that_is_written_to() {
    let (page, mount) = library();
    let idle = figures(&page);
    let mut open = File::create(mount.file("a.mkv")).unwrap();
    open.write_all(&vec![7; 5 << 20]).unwrap();
    // It would commit by itself after five seconds: until it does, this is told.
    let now = figures(&page);
    let is_uncommitted = now["reelfs_library_commit_seconds_count"] < 0.5;
    assert!(!is_uncommitted || now["reelfs_library_uncommitted_bytes"] >= f64::from(5 << 20), "{now:?}");
    open.sync_all().unwrap();
    let series = [
        "reelfs_library_written_bytes_total",
        "reelfs_library_write_seconds_count",
        "reelfs_library_commit_seconds_count",
        "reelfs_library_catalog_commit_seconds_count",
        "reelfs_library_sync_seconds_count",
        "reelfs_library_wal_bytes",
    ];
    wait_until_grown(&page, &idle, &series);
    wait_until("all is committed", || figures(&page)["reelfs_library_uncommitted_bytes"] < 0.5);
    drop(open);
    drop(File::open(mount.file("a.mkv")).unwrap());
    wait_until_grown(&page, &idle, &["reelfs_open_seconds_count"]);
    fs::remove_file(mount.file("a.mkv")).unwrap();
    wait_until_grown(&page, &idle, &["reelfs_library_gc_blobs_total", "reelfs_library_gc_bytes_total"]);
    let now = figures(&page);
    assert!(now["reelfs_library_replans"] < 1.0 && now["reelfs_library_pinned_blobs"] < 1.0, "{now:?}");
    let told = told(&mount);
    for name in ["library_write", "library_commit", "library_catalog_commit", "library_sync", "open"] {
        assert!(told["timings"][name]["p99_ms"].as_f64().unwrap() > 0.0, "{name}: {told}");
    }
    assert!(told["library"]["commits"].as_u64().unwrap() >= 1, "{told}");
    assert_eq!(told["library"]["written_bytes"], 5 << 20, "{told}");
    let text = control::status(&mount.place, &[]);
    let text = String::from_utf8_lossy(&text.stdout);
    let mut faster = File::create(mount.file("b.mkv")).unwrap();
    // Until they are committed, blobs are held on to that no file names yet.
    for series in ["reelfs_library_queued_chunks", "reelfs_library_pinned_blobs"] {
        wait_until(series, || {
            faster.write_all(&vec![8; 16 << 20]).unwrap();
            figures(&page)[series] > 0.5
        });
    }
    drop(faster);
    assert!(text.contains("  written 5.0 MiB in ") && text.contains(" removed ("), "{text}");
    mount.end();
}

/// Each name on a page, with its kind.
fn kinds(address: &str) -> BTreeMap<String, String> {
    let page = scrape(address, "/metrics").1;
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    kinds.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The words of an expression that may be names of series.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(move |c| !is_part(c)).filter(|word| word.starts_with("reelfs_") || word.starts_with("process_"))
}

fn all_are_in_the_guide() {
    let server = server();
    let drive = Mount::new(&server.url(), &["--metrics-listen", ":0", "-v"]);
    // A summary has no series before its first answer.
    open_direct(&drive.file("films/a.mkv")).unwrap();
    let mut told = kinds(&address(&drive.place));
    drive.end();
    let (page, library) = library();
    told.extend(kinds(&page));
    library.end();
    let guide = include_str!("../../docs/metrics.md");
    let rows = guide.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), told, "docs/metrics.md has a row for each metric");
    // The dashboard is of Grafana's JSON model, and each of its expressions asks for what there is.
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../docs/grafana-dashboard.json")).unwrap();
    assert!(dashboard["schemaVersion"].as_u64() >= Some(36) && dashboard["title"] == "reelfs");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: std::collections::BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        assert!(panel["type"] == "timeseries" && panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let mut asked = names(expression).peekable();
            assert!(asked.peek().is_some(), "{expression}");
            for name in asked {
                let is_histogram = |name: &str| told.get(name).is_some_and(|kind| kind == "histogram");
                let is_known = told.contains_key(name) && !is_histogram(name);
                assert!(is_known || name.strip_suffix("_bucket").is_some_and(is_histogram), "{expression}: {name}");
            }
        }
    }
}

/// Whatever parts of it programs ask for, a chunk that can't be had is warned of once; the count is told later.
fn warnings_of_one_chunk_are_one() {
    let server = server();
    let mount = Mount::new(&server.url(), &["-v", "--retries", "0", "--chunk-timeout", "2"]);
    read_direct(&mount.file("films/a.mkv"), 0, 4096).unwrap();
    read_direct(&mount.file("films/a.mkv"), 20 << 20, 4096).unwrap();
    let is_told = |line: &str| line.contains("films/a.mkv [20971520, ") && line.contains("the first byte after");
    wait_until("a request is told", || mount.place.log().lines().any(is_told));
    server.shutdown();
    for part in 0..6 {
        read_direct(&mount.file("films/a.mkv"), (40 << 20) + part * (256 << 10), 4096).unwrap_err();
    }
    let log = mount.place.log();
    let warned = log.lines().filter(|line| line.contains(" WARN ") && line.contains("[41943040, 44040192)"));
    // That the whole server is away since then, a fetch that nobody waits for tells, too.
    let warned = warned.filter(|line| !line.contains("has not answered for"));
    assert_eq!(warned.count(), 1, "{log}");
    mount.end();
}

fn promtool_is_content() {
    let (page, library) = library();
    check_page(&page);
    library.end();
    let server = server();
    let drive = Mount::new(&server.url(), &["--metrics-listen", ":0", "-v"]);
    check_page(&address(&drive.place));
    drive.end();
}

fn check_page(address: &str) {
    let page = scrape(address, "/metrics").1;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(), "{said:?}");
}
