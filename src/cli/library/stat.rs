//! `reelfs stat`: what is known of one file of a library.
//! Never here: its bytes.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::{LibraryOptions, json_time, line, shown_time};
use crate::cli::written;
use crate::config::format_size;
use crate::error::{Error, Kind, Result};
use crate::library::place::{self, Access};
use crate::library::{Content, Manifest, Meta, Proof, content_type};

/// Show what a library knows of a file: size, chunks, hashes, type, tags, times.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// A file of a library.
    #[arg(value_name = "LIBRARY/PATH")]
    library: String,
    /// As JSON, for programs; with every chunk and its SHA-256.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Shows it.
pub fn run(args: StatArgs, out: &mut dyn Write) -> Result<()> {
    let opened = args.options.open(&args.library, Access::Look)?;
    if opened.path.is_empty() {
        let library = place::shown(&args.library);
        return Err(Error::new(
            Kind::Invalid,
            format!("{library} is a library: name a file of it; `reelfs ls` lists them"),
        ));
    }
    let manifest = opened.library.manifest(&opened.path)?;
    if args.json {
        return writeln!(out, "{}", as_json(&opened.path, &manifest)).map_err(|error| written(&error));
    }
    let (size, meta) = (manifest.size_bytes(), manifest.meta());
    line(out, &format!("path      {}", opened.path))?;
    line(out, &format!("size      {size} ({})", format_size(size)))?;
    line(out, &format!("kept      {}", kept(&manifest)))?;
    line(out, &format!("type      {}", content_type(&opened.path, meta).as_deref().unwrap_or("-")))?;
    line(out, &format!("tags      {}", if meta.tags.is_empty() { "-".to_owned() } else { meta.tags.join(", ") }))?;
    line(out, &format!("modified  {}", shown_time(meta.modified)))?;
    line(out, &format!("created   {}", shown_time(meta.created)))
}

/// What was given, or else what the name stands for.
fn content_type(path: &str, meta: &Meta) -> Option<String> {
    meta.content_type.clone().or_else(|| content_type::of_name(path))
}

fn kept(manifest: &Manifest) -> String {
    if manifest.is_of_another_program() {
        return "as another program put it: read-only".to_owned();
    }
    match manifest.content() {
        Content::Inline(_) => "whole, in one place".to_owned(),
        Content::Chunks(chunks) => {
            let unproved = chunks.iter().filter(|chunk| chunk.proof == Proof::Size).count();
            let holes: u64 =
                chunks.iter().filter(|chunk| chunk.proof == Proof::Zeros).map(|chunk| chunk.range.len()).sum();
            let holes = if holes > 0 { format!(", {} of holes", format_size(holes)) } else { String::new() };
            let foreign = if unproved > 0 { ", without hashes (another program wrote it)" } else { "" };
            format!("{}{holes}{foreign}", super::counted(chunks.len() as u64, "chunk"))
        }
    }
}

fn as_json(path: &str, manifest: &Manifest) -> serde_json::Value {
    let chunks: Vec<_> = manifest
        .chunks()
        .iter()
        .map(|chunk| {
            let sha256 = match chunk.proof {
                Proof::Sha256(digest) => Some(digest.to_string()),
                Proof::Size | Proof::Zeros => None,
            };
            json!({ "start_byte": chunk.range.start, "end_byte": chunk.range.end, "sha256": sha256, "is_hole": chunk.proof == Proof::Zeros })
        })
        .collect();
    let meta = manifest.meta();
    json!({
        "path": path,
        "size_bytes": manifest.size_bytes(),
        "is_inline": matches!(manifest.content(), Content::Inline(_)),
        "content_type": content_type(path, meta),
        "tags": meta.tags,
        "modified": json_time(meta.modified),
        "created": json_time(meta.created),
        "chunks": chunks,
    })
}
