//! The program: everything is in the library; this hands it the command line and turns its answer into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    reelfs::cli::run()
}
