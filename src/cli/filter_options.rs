//! What of a source is shown, as typed: patterns that include and exclude, in their order, also from files.
//! Never here: what a pattern means.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use clap::builder::BoolishValueParser;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::config::{FilterConfig, FilterRule};
use crate::error::{Error, Kind, Result};
use crate::origin::filter::Rules;

/// A longer file of patterns is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Their ids, for the check whether they mean anything to a source.
pub const IDS: [&str; 7] =
    ["include", "exclude", "filter", "include_from", "exclude_from", "filter_from", "media_only"];

/// The filters, each where it was typed among the others.
#[derive(Debug, Default)]
pub struct FilterOptions {
    typed: Vec<(Way, String)>,
    is_media_only: bool,
}

/// As clap knows them: each kind by itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is shown")]
struct Flat {
    /// Show files that match this pattern, and no others: '*.mkv', '*.{mkv,srt}', '/films/**' (a slash in front: from the top
    /// of the source), 'Season 1/' (a slash at the end: a folder with all in it). May be given several times. Of all filters,
    /// the first that matches decides, in the order in which they were typed.
    #[arg(long, value_name = "PATTERN", env = "REELFS_INCLUDE", value_delimiter = '\n')]
    include: Vec<String>,
    /// Hide what matches: '*sample*', 'Extras/'. Written as above; a folder that is hidden is not entered.
    #[arg(long, value_name = "PATTERN", env = "REELFS_EXCLUDE", value_delimiter = '\n')]
    exclude: Vec<String>,
    /// Either: '+ PATTERN' shows, '- PATTERN' hides. What no filter matches is shown, unless there is an --include.
    #[arg(long, value_name = "RULE", env = "REELFS_FILTER", value_delimiter = '\n', allow_hyphen_values = true)]
    filter: Vec<String>,
    /// The same as --include for each line of a file; empty lines, and those with # or ; in front, are none.
    #[arg(long, value_name = "FILE", env = "REELFS_INCLUDE_FROM", value_delimiter = '\n')]
    include_from: Vec<String>,
    /// The same as --exclude for each line of a file.
    #[arg(long, value_name = "FILE", env = "REELFS_EXCLUDE_FROM", value_delimiter = '\n')]
    exclude_from: Vec<String>,
    /// The same as --filter for each line of a file.
    #[arg(long, value_name = "FILE", env = "REELFS_FILTER_FROM", value_delimiter = '\n')]
    filter_from: Vec<String>,
    /// Show only files that players open, by the endings of their names: films, sound, pictures, subtitles, playlists.
    #[arg(long, env = "REELFS_MEDIA_ONLY", value_parser = BoolishValueParser::new())]
    media_only: bool,
}

/// How a rule is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Include,
    Exclude,
    Filter,
    IncludeFrom,
    ExcludeFrom,
    FilterFrom,
}

impl Way {
    const ALL: [(&str, Self); 6] = [
        (IDS[0], Self::Include),
        (IDS[1], Self::Exclude),
        (IDS[2], Self::Filter),
        (IDS[3], Self::IncludeFrom),
        (IDS[4], Self::ExcludeFrom),
        (IDS[5], Self::FilterFrom),
    ];

    fn option(self) -> String {
        let id = Self::ALL.iter().find(|(_, way)| *way == self).map_or("", |(id, _)| id);
        format!("--{}", id.replace('_', "-"))
    }
}

impl Args for FilterOptions {
    fn augment_args(command: Command) -> Command {
        Flat::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flat::augment_args_for_update(command)
    }
}

impl FromArgMatches for FilterOptions {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut all = Vec::new();
        for (id, way) in Way::ALL {
            let texts = matches.get_many::<String>(id).into_iter().flatten();
            let places = matches.indices_of(id).into_iter().flatten();
            all.extend(places.zip(texts).map(|(at, text)| (at, way, text.clone())));
        }
        all.sort_by_key(|(at, ..)| *at);
        let typed = all.into_iter().map(|(_, way, text)| (way, text)).collect();
        Ok(Self { typed, is_media_only: matches.get_flag("media_only") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl FilterOptions {
    /// What was typed, as it is meant. `Invalid` if a file or a pattern can't be read.
    pub fn into_config(self) -> Result<FilterConfig> {
        let mut config = FilterConfig { is_media_only: self.is_media_only, ..FilterConfig::default() };
        for (way, text) in self.typed {
            let option = way.option();
            match way {
                // A variable of the environment may be there and empty.
                _ if text.is_empty() => {}
                Way::Include | Way::Exclude | Way::Filter => {
                    let place = format!("{option} '{}'", text.escape_debug());
                    add(&mut config, way, &text, place)?;
                }
                Way::IncludeFrom | Way::ExcludeFrom | Way::FilterFrom => add_file(&mut config, way, &text, &option)?,
            }
        }
        // Read here once, to say what is wrong before anything is done.
        Rules::new(&config)?;
        Ok(config)
    }
}

fn add(config: &mut FilterConfig, way: Way, text: &str, place: String) -> Result<()> {
    let (is_included, pattern) = match way {
        Way::Include | Way::IncludeFrom => {
            config.shows_rest = false;
            (true, text)
        }
        Way::Exclude | Way::ExcludeFrom => (false, text),
        Way::Filter | Way::FilterFrom => match (text, text.split_once(' ')) {
            ("!", _) => {
                config.rules.clear();
                return Ok(());
            }
            (_, Some(("+", pattern))) => (true, pattern),
            (_, Some(("-", pattern))) => (false, pattern),
            _ => {
                let told = format!("{place}: a rule is `+ PATTERN` or `- PATTERN`, with a space between");
                return Err(Error::new(Kind::Invalid, told));
            }
        },
    };
    config.rules.push(FilterRule { is_included, pattern: pattern.to_owned(), place });
    Ok(())
}

fn add_file(config: &mut FilterConfig, way: Way, path: &str, option: &str) -> Result<()> {
    let invalid = |why: String| Error::new(Kind::Invalid, format!("{option} {}: {why}", path.escape_debug()));
    let mut text = String::new();
    File::open(Path::new(path))
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| invalid(format!("it can't be read: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(invalid("too long for a file of patterns".into()));
    }
    // Also where it holds nothing yet: only what it will hold is to be shown.
    config.shows_rest &= way != Way::IncludeFrom;
    for (line, text) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let text = text.trim();
        if !text.is_empty() && !text.starts_with(['#', ';']) {
            add(config, way, text, format!("{option} {}:{line}", path.escape_debug()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: FilterOptions,
    }

    fn meant(typed: &[&str]) -> Result<FilterConfig> {
        Line::try_parse_from([&["mount"], typed].concat()).unwrap().options.into_config()
    }

    fn shown(config: &FilterConfig) -> Vec<String> {
        let sign = |rule: &FilterRule| if rule.is_included { '+' } else { '-' };
        config.rules.iter().map(|rule| format!("{} {}", sign(rule), rule.pattern)).collect()
    }

    #[test]
    fn rules_keep_the_order_in_which_they_were_typed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules");
        std::fs::write(&file, "\u{feff}# of mine\r\n\n ; too\n  *.iso  \r\n/a b/\n").unwrap();
        let file = file.to_str().unwrap();
        let config = meant(&[
            "--exclude",
            "*sample*",
            "--include=*.mkv",
            "--exclude-from",
            file,
            "--filter",
            "- x",
            "--include",
            "*.{mp4,srt}",
            "--filter=+ y z",
            "--exclude=b\nc",
        ]);
        let config = config.unwrap();
        assert_eq!(
            shown(&config),
            ["- *sample*", "+ *.mkv", "- *.iso", "- /a b/", "- x", "+ *.{mp4,srt}", "+ y z", "- b", "- c"]
        );
        assert!(!config.shows_rest && !config.is_media_only);
        assert_eq!(config.rules[2].place, format!("--exclude-from {file}:4"));

        let config = meant(&["--filter=- x", "--filter=!", "--filter=+ y", "--media-only"]).unwrap();
        assert_eq!((shown(&config), config.shows_rest, config.is_media_only), (vec!["+ y".into()], true, true));
        assert_eq!(meant(&[]).unwrap(), FilterConfig::default());
        std::fs::write(file, "").unwrap();
        assert!(!meant(&["--include-from", file]).unwrap().shows_rest);
    }

    #[test]
    fn mistakes_are_told_in_one_line_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules");
        std::fs::write(&file, "*.mkv\n\n[a\n").unwrap();
        let from = format!("--include-from={}", file.display());
        let rules = format!("--filter-from={}", file.display());
        for (typed, told) in [
            ("--include=a[b", "--include 'a[b': the `[` at character 2 is not closed: write `\\[`"),
            ("--filter=*.mkv", "--filter '*.mkv': a rule is `+ PATTERN` or `- PATTERN`"),
            ("--filter=-x", "with a space between"),
            ("--exclude-from=/nowhere/at/all", "--exclude-from /nowhere/at/all: it can't be read: No such file"),
            (&from, "rules:3: the `[` at character 1"),
            (&rules, "rules:1: a rule is"),
        ] {
            let error = meant(&[typed]).unwrap_err();
            let said = error.to_string();
            assert!(error.kind() == Kind::Invalid && said.contains(told) && !said.contains('\n'), "{typed}: {said}");
        }
    }
}
