//! The far place that ships with the program: a small film, an HTTP origin behind a simulated far link, and what
//! `reelfs demo` shows of them. The same origin is the double of the test-suite and of the benches.
//! Never here: mounting, and anything the drive itself needs to work.
//!
//! The film is made of ffmpeg's own test sources, a minute long, with its `moov` box at the end so that opening it
//! already takes a seek across the link:
//!
//! ```text
//! ffmpeg -f lavfi -i testsrc2=size=640x360:rate=25:duration=60 \
//!   -f lavfi -i sine=frequency=440:beep_factor=4:sample_rate=48000:duration=60 \
//!   -c:v libx264 -preset slow -pix_fmt yuv420p -b:v 420k -maxrate 800k -bufsize 1600k -g 50 -c:a aac -b:a 64k \
//!   -map_metadata -1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact film.mp4
//! ```

mod answer;
mod connections;
mod counted;
mod http;
mod link;
mod noise;
mod page;
pub mod server;
mod site;
mod tally;
pub mod tour;
pub mod watch;
mod weather;

pub use link::Link;
pub use noise::{generate, generated};
pub use server::{Server, ServerConfig};
pub use site::Content;
pub use tally::{Asked, Counts};
pub use weather::{Act, Fair, RequestInfo, Weather};

/// The name the film is served under.
pub const FILM_NAME: &str = "film.mp4";

/// The film: H.264 640x360 at 25 frames a second and AAC, 60 s, `moov` last.
pub static FILM: &[u8] = include_bytes!("film.mp4");
