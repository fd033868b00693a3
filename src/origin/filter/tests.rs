//! What is shown through filters, and what a guessed name gets.

use std::fs;

use super::*;
use crate::cancel::Cancel;
use crate::config::{FilterConfig, FilterRule, Links};
use crate::origin::object::Object;
use crate::store::dir::Dir;

fn config(rules: &[&str]) -> FilterConfig {
    let rules = rules.iter().map(|rule| FilterRule {
        is_included: rule.starts_with('+'),
        pattern: rule[2..].to_owned(),
        place: format!("rule {rule}"),
    });
    FilterConfig { rules: rules.collect(), ..FilterConfig::default() }
}

fn rules(rules: &[&str]) -> Rules {
    Rules::new(&config(rules)).unwrap()
}

fn patience() -> Patience {
    Patience { stall: Duration::from_secs(5), cancel: Cancel::new() }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let shown = rules(&["- *sample*", "+ *.mkv", "- /old/", "+ old/x", "- *.{nfo,txt}"]);
    for (path, is_shown) in [
        ("a.mkv", true),
        ("a.sample.mkv", false),
        ("old/a.mkv", true),
        ("old/x", false),
        ("f/old/x", true),
        ("a.nfo", false),
        ("a.srt", true),
    ] {
        assert_eq!(shown.shows_file(path), is_shown, "{path}");
    }
    // A film may be in it.
    assert!(shown.shows_folder("old") && shown.shows_folder("f"));
    assert!(!rules(&["- /old/", "+ *.mkv"]).shows_folder("old"));
    assert!(rules(&["+ /old/keep/*", "- /old/"]).shows_folder("old"));
    assert!(!rules(&["+ /old/keep/*", "- /old/"]).shows_folder("old/other"));
}

#[test]
fn what_is_not_included_is_left_out() {
    let only = |text: &[&str]| Rules::new(&FilterConfig { shows_rest: false, ..config(text) }).unwrap();
    let films = only(&["+ *.mkv"]);
    assert!(films.shows_file("f/a.mkv") && !films.shows_file("a.srt") && films.shows_folder("f"));
    let one = only(&["+ /f/**"]);
    assert!(one.shows_file("f/g/a") && !one.shows_file("a"));
    assert!(one.shows_folder("f") && one.shows_folder("f/g") && !one.shows_folder("g"));
    let media = Rules::new(&FilterConfig { is_media_only: true, ..config(&["- *.jpg"]) }).unwrap();
    assert!(media.shows_file("a.srt") && !media.shows_file("a.jpg") && !media.shows_file("a.nfo"));
    assert!(media.shows_folder("any.nfo"));
    assert!(media.shows_link("a.srt") && media.shows_link("v1.2/Season 1"));
    assert!(!media.shows_link("a.nfo") && !media.shows_link("a.jpg"));
}

#[test]
fn a_hidden_folder_holds_nothing_that_is_shown() {
    let patterns =
        ["*", "**", "/f/", "f/", "/f/**", "*.a", "/g/*.a", "/f**x", "g/**/a", "f", "/f/*", "{f,g}/", "/f/g/"];
    let folders = ["f", "g", "f/g", "g/f", "fx", "h/f", "f/g/h"];
    for first in &patterns {
        for second in &patterns {
            for (one, other) in [('+', '-'), ('-', '+'), ('-', '-')] {
                for shows_rest in [false, true] {
                    let text = [format!("{one} {first}"), format!("{other} {second}")];
                    let config = FilterConfig { shows_rest, ..config(&[&text[0], &text[1]]) };
                    let rules = Rules::new(&config).unwrap();
                    for folder in folders.iter().filter(|folder| !rules.shows_folder(folder)) {
                        for name in ["a", "x", "f", "b.a", "g/a", "f/x/b.a", "g/h/a"] {
                            let path = format!("{folder}/{name}");
                            assert!(!rules.shows_file(&path), "{text:?} {shows_rest}: {path}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let error = Rules::new(&config(&["- a", "+ b[c"])).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().starts_with("rule + b[c: the `[` at character 2"), "{error}");
    assert!(Rules::new(&config(&vec!["- a"; RULES_MAX + 1])).is_err());
}

#[test]
fn one_view_is_told_from_another() {
    let all = [
        config(&[]),
        config(&["- a"]),
        config(&["+ a"]),
        config(&["- a", "- b"]),
        config(&["- b", "- a"]),
        FilterConfig { shows_rest: false, ..config(&["+ a"]) },
        FilterConfig { is_media_only: true, ..config(&[]) },
    ];
    let mut views: Vec<_> = all.iter().map(|config| view(config, Links::Follow)).collect();
    views.extend([Links::FollowInside, Links::Skip].map(|links| view(&all[0], links)));
    assert_eq!(views[0], None);
    for (at, view) in views.iter().enumerate() {
        assert!(!views[at + 1..].contains(view), "{at}");
    }
    assert_eq!(views[3], view(&config(&["- a", "- b"]), Links::Follow));
}

#[test]
fn what_is_left_out_is_not_listed_and_not_opened() {
    let temp = tempfile::tempdir().unwrap();
    for folder in ["f", "old/g", "empty"] {
        fs::create_dir_all(temp.path().join(folder)).unwrap();
    }
    for file in ["a.mkv", "a.nfo", "f/b.mkv", "f/b.nfo", "old/g/c.mkv"] {
        fs::write(temp.path().join(file), file).unwrap();
    }
    let origin = || Arc::new(Object::new(Dir::open(temp.path()).unwrap(), "films")) as Arc<dyn Origin>;
    let filtered = Filtered::new(origin(), rules(&["- *.nfo", "- /old/"]));
    let names = |folder: &str| -> Vec<_> {
        filtered.list_whole(folder, &patience()).unwrap().into_iter().map(|listed| listed.name).collect()
    };
    filtered.check_shows().unwrap();
    assert_eq!(names("").iter().map(|name| &**name).collect::<Vec<_>>(), ["a.mkv", "empty", "f"]);
    assert_eq!(names("f").iter().map(|name| &**name).collect::<Vec<_>>(), ["b.mkv"]);
    filtered.check_shows().unwrap();
    let missing = |done: Result<()>| assert_eq!(done.unwrap_err().kind(), Kind::Missing);
    for folder in ["old", "old/g"] {
        missing(filtered.list_whole(folder, &patience()).map(drop));
    }
    let stat = origin().stat("f/b.nfo", &patience()).unwrap();
    for path in ["a.nfo", "f/b.nfo", "old/g/c.mkv"] {
        missing(filtered.stat(path, &patience()).map(drop));
        missing(filtered.begin(path, Section::First(1), &patience()).map(drop));
        missing(filtered.read(path, &stat, ByteRange::new(0, 1), &patience()).map(drop));
    }
    filtered.stat("f/b.mkv", &patience()).unwrap();

    let nothing = Filtered::new(origin(), rules(&["- *"]));
    assert!(nothing.list_whole("", &patience()).unwrap().is_empty());
    let error = nothing.check_shows().unwrap_err();
    assert!(error.to_string().contains("none of its 5 names"), "{error}");
    // Of a folder that is empty, nothing is left out.
    let empty = Object::new(Dir::open(&temp.path().join("empty")).unwrap(), "films");
    let empty = Filtered::new(Arc::new(empty), rules(&["- *"]));
    assert!(empty.list_whole("", &patience()).unwrap().is_empty());
    empty.check_shows().unwrap();
}
