//! `reelfs sources`: what can be mounted.
//! Never here: what makes a source one (`origin/source.rs`).

use std::io::{self, Write};

use super::written;
use crate::error::Result;
use crate::origin::source::SOURCE_KINDS;

/// Prints each kind of source, and how those that are not built in would be.
pub fn run(out: &mut dyn Write) -> Result<()> {
    print(out).map_err(|error| written(&error))
}

fn print(out: &mut dyn Write) -> io::Result<()> {
    for kind in &SOURCE_KINDS {
        writeln!(out, "{}\n    {}", kind.example, kind.what)?;
        if let Some(feature) = kind.missing_feature {
            writeln!(out, "    not built in: cargo install --path . --features {feature}")?;
        }
    }
    Ok(())
}
