//! Reads over HTTP from a server far away: how many connections they take, and what is asked of it.
//! Never here: how long anything takes, beyond what no busy machine could mistake.

use super::*;
use crate::demo::{Content, Link};

/// A server behind `link`, and a reader of its one film.
struct Far {
    server: Server,
    reader: Reader,
    entry: Arc<Entry>,
    _dir: TempDir,
}

impl Far {
    fn build(link: Link, plan: &Plan) -> Self {
        let film = Content::Generated { size_bytes: SIZE, seed: 1 };
        let server = Server::start(ServerConfig { link, ..ServerConfig::default() }.file("film", film)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let origin = Source::parse(&server.url()).unwrap().open().unwrap();
        let stat = origin.stat("film", &Patience { stall: LONG, cancel: Cancel::new() }).unwrap();
        let (cache, reader) = assemble(dir.path(), plan, origin, &Arc::default());
        server.reset_counts();
        let entry = cache.entry("film", &stat).unwrap();
        Self { server, reader, entry, _dir: dir }
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
    assert_eq!(counts.body_bytes, SIZE);
    // All are kept open when they have nothing to do.
    assert!((6..=8).contains(&far.server.connections_open()), "{}", far.server.connections_open());
}
