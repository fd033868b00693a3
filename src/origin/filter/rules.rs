//! The filters of a mount: which of the rules decides on a path.
//! Never here: how a pattern is read, and asking an origin.

use super::glob::Glob;
use crate::config::{FilterConfig, FilterRule, Links};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::media::is_media_name;

/// Most rules: each name of a listing is held against all of them.
pub const RULES_MAX: usize = 1000;

/// What is shown of a source. Of the rules, the first that matches decides; what none matches is shown, unless there is one
/// that includes what it matches and nothing else (`FilterConfig::shows_rest`).
#[derive(Debug)]
pub struct Rules {
    /// Whether what a pattern matches is shown, and the pattern.
    ordered: Vec<(bool, Glob)>,
    shows_rest: bool,
    is_media_only: bool,
}

impl Rules {
    /// `Invalid` where a pattern can't be read, with the place where the user wrote it.
    pub fn new(config: &FilterConfig) -> Result<Self> {
        if config.rules.len() > RULES_MAX {
            let told = format!(
                "{} filters are more than {RULES_MAX}: join patterns, like `*.{{nfo,txt}}`",
                config.rules.len()
            );
            return Err(Error::new(Kind::Invalid, told));
        }
        let parse = |rule: &FilterRule| match Glob::parse(&rule.pattern) {
            Ok(glob) => Ok((rule.is_included, glob)),
            Err(why) => Err(Error::new(Kind::Invalid, format!("{}: {why}", rule.place))),
        };
        let ordered = config.rules.iter().map(parse).collect::<Result<_>>()?;
        Ok(Self { ordered, shows_rest: config.shows_rest, is_media_only: config.is_media_only })
    }

    /// Whether a file of this path is shown.
    pub fn shows_file(&self, path: &str) -> bool {
        self.lets_through(path) && (!self.is_media_only || is_media_name(path))
    }

    /// Whether a symbolic link of this path is shown. What it leads to is not known; without an ending it may be a folder.
    pub fn shows_link(&self, path: &str) -> bool {
        let may_be_folder = || !path.rsplit('/').next().is_some_and(|name| name.contains('.'));
        self.lets_through(path) && (!self.is_media_only || is_media_name(path) || may_be_folder())
    }

    fn lets_through(&self, path: &str) -> bool {
        let decided = self.ordered.iter().find(|(_, glob)| glob.matches(path)).map(|(is_included, _)| *is_included);
        decided.unwrap_or(self.shows_rest)
    }

    /// Whether a folder of this path is shown: unless it is sure that nothing in it is. A hidden folder holds none that is shown.
    pub fn shows_folder(&self, path: &str) -> bool {
        for (is_included, glob) in &self.ordered {
            if *is_included && glob.may_match_in(path) {
                return true;
            }
            if !is_included && glob.matches_all_in(path) {
                return false;
            }
        }
        self.shows_rest
    }
}

/// Tells what is shown of a source by these filters and links from what is shown by others: short, and the same in every run.
/// `None` if all is.
pub fn view(config: &FilterConfig, links: Links) -> Option<String> {
    if !config.is_given() && links == Links::default() {
        return None;
    }
    let mut text = format!("{links:?} {} {}\n", config.shows_rest, config.is_media_only);
    for rule in &config.rules {
        // No pattern holds a NUL: a command line can't.
        text.push(if rule.is_included { '+' } else { '-' });
        text.push_str(&rule.pattern);
        text.push('\0');
    }
    Some(Digest::of(text.as_bytes()).to_string())
}
