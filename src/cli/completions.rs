//! `reelfs completions`: what a shell needs to complete our commands and options.
//! Never here: the commands themselves.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use super::written;
use crate::error::Result;

/// Print completions for a shell: bash, zsh, fish, elvish or powershell. The package installs those of the first three.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to write them for.
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes them to `out`.
pub fn run(args: &CompletionsArgs, mut command: Command, out: &mut dyn Write) -> Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    out.write_all(&script).map_err(|error| written(&error))
}
