//! Reads over HTTP from a server far away: how many connections they take, and what is asked of it.
//! Never here: how long anything takes, beyond what no busy machine could mistake.

use super::*;
use crate::config::PlacesConfig;
use crate::demo::{Act, Content, Link, RequestInfo, Server, ServerConfig};
use crate::origin::source::Source;

/// A server behind `link`, and a reader of its one film.
struct Far {
    server: Server,
    reader: Reader,
    entry: Arc<Entry>,
    metrics: Arc<Metrics>,
    _dir: TempDir,
}

impl Far {
    fn build(link: Link, plan: &Plan) -> Self {
        let film = Content::Generated { size_bytes: SIZE, seed: 1 };
        let server = Server::start(ServerConfig { link, ..ServerConfig::default() }.file("film", film)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let origin = Source::parse(&server.url()).unwrap().open(&PlacesConfig::default()).unwrap();
        let stat = origin.stat("film", &Patience { stall: LONG, cancel: Cancel::new() }).unwrap();
        let metrics = Arc::default();
        let (cache, reader) = assemble(dir.path(), plan, origin, &metrics);
        server.reset_counts();
        let entry = cache.entry("film", &stat).unwrap();
        Self { server, reader, entry, metrics, _dir: dir }
    }

    /// Reads a block of each of these slots, for the first time; the longest that one took.
    fn probe(&self, handle: &Arc<Handle>, blocks: std::ops::Range<u64>) -> Duration {
        // Each in another slot than the last: lone reads, that stay lone.
        let place = |block: u64| ByteRange::at(block % 8 * 5 * CHUNK + block / 8 * 128 * KIB, 64 * KIB);
        let timed = |block| {
            let asked_at = Instant::now();
            self.read(handle, place(block));
            asked_at.elapsed()
        };
        blocks.map(timed).max().unwrap_or_default()
    }

    fn read(&self, handle: &Arc<Handle>, range: ByteRange) {
        assert!(read(&self.reader, handle, range).unwrap() == right(range), "{range}");
    }
}

#[test]
fn a_copy_over_thin_connections_takes_all_that_guesses_may() {
    // Each carries a sixth of the link.
    let link = Link {
        round_trip: Duration::from_millis(40),
        rate_per_connection: Some(4_000_000),
        rate_total: Some(24_000_000),
    };
    let far = Far::build(link, &Plan { connections: 8, lookahead_chunks: 20, ..PLAN });
    let handle = far.reader.open(Arc::clone(&far.entry));
    for at in (0..SIZE).step_by(128 << 10) {
        far.read(&handle, ByteRange::at(at, 128 * KIB).intersect(ByteRange::new(0, SIZE)));
    }
    let counts = far.server.counts("film");
    // A request that was overtaken may have begun to be answered.
    let overtaken = far.metrics.hedges.get() * CHUNK;
    assert!((SIZE..=SIZE + overtaken).contains(&counts.body_bytes), "{}", counts.body_bytes);
    // All are kept open when they have nothing to do.
    assert!((6..=8).contains(&far.server.connections_open()), "{}", far.server.connections_open());
}

const FAR: Link = Link { round_trip: Duration::from_millis(20), rate_per_connection: None, rate_total: None };

#[test]
fn a_request_that_hangs_is_overtaken() {
    let far = Far::build(FAR, &PLAN);
    let handle = far.reader.open(Arc::clone(&far.entry));
    far.probe(&handle, 0..20);
    far.server.reset_counts();
    // Far longer than a busy machine makes anything take.
    let delay = LONG / 3;
    far.server.set_weather(
        move |request: &RequestInfo| {
            if request.number % 20 == 10 { Act::Delay(delay) } else { Act::Serve }
        },
    );
    let longest = far.probe(&handle, 20..80);
    assert!(longest < delay, "{longest:?}");
    let (hedges, wins) = (far.metrics.hedges.get(), far.metrics.hedge_wins.get());
    assert!(wins >= 3 && hedges >= wins, "{wins} of {hedges}");
    assert!(hedges <= 80 / 20 + 1, "{hedges}: 5 % of all requests, and one");
    assert_eq!(far.metrics.origin_requests.get(), 80 + hedges);
}

#[test]
fn an_origin_that_struggles_is_not_asked_twice() {
    let far = Far::build(FAR, &PLAN);
    let handle = far.reader.open(Arc::clone(&far.entry));
    far.probe(&handle, 0..20);
    far.server.set_weather(
        |request: &RequestInfo| {
            if request.number.is_multiple_of(2) { Act::Status(503, None) } else { Act::Serve }
        },
    );
    far.probe(&handle, 20..26);
    let before = far.metrics.hedges.get();
    far.server.set_weather(|request: &RequestInfo| {
        if request.number.is_multiple_of(2) { Act::Status(503, None) } else { Act::Delay(Duration::from_millis(300)) }
    });
    far.probe(&handle, 26..32);
    assert_eq!(far.metrics.hedges.get(), before);
}

#[test]
fn over_http_ten_readers_cost_one() {
    let far = Far::build(Link::default(), &Plan { lookahead_chunks: 20, ..PLAN });
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let handle = far.reader.open(Arc::clone(&far.entry));
                for at in (0..SIZE).step_by(128 << 10) {
                    let range = ByteRange::at(at, 128 * KIB).intersect(ByteRange::new(0, SIZE));
                    far.read(&handle, range);
                }
            });
        }
    });
    // A busy machine may make a request so late that it is overtaken.
    let overtaken = far.metrics.hedges.get() * CHUNK;
    let bytes = far.server.counts("film").body_bytes;
    assert!((SIZE..=SIZE + overtaken).contains(&bytes), "{bytes}");
}
