//! The settings of a mount in a file: TOML, with the names of the long options as keys. Which keys there are, and what
//! each may hold, is clap's to say: a value is checked as if it were typed, and then stands below what was typed and below
//! the environment. An option needs no line here.
//! Never here: what an option means.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::options::Env;
use super::{clap_line, misuse};
use crate::error::{Error, Kind, Result};

/// Of files that are looked for by name.
const ENDING: &str = "toml";
/// Where an administrator's files are.
const SYSTEM_FOLDER: &str = "/etc/reelfs";
/// A few hundred lines; whatever is longer is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Options about this one start, not about the mount.
const NEVER_IN_FILES: [&str; 4] = ["config", "background", "help", "version"];
/// Below it, two names have nothing to do with each other (Jaro's measure, from 0 to 1).
const LIKENESS_MIN: f64 = 0.7;
/// Who else may read a file that holds a password.
const OTHERS_READ: u32 = 0o004;

/// What a file says, checked.
#[derive(Debug)]
pub struct Settings {
    path: PathBuf,
    values: Vec<Setting>,
}

/// One line of it, for the argument with this id.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    id: String,
    values: Vec<String>,
    is_global: bool,
}

impl Settings {
    /// Reads the file that `--config NAME` means; `command` is the whole command line's definition.
    pub fn read(name: &OsStr, command: &Command, env: Env) -> Result<Self> {
        let path = find(name, env, &|path| path.is_file())?;
        let text = text_of(&path)?;
        let values = check(&text, command, env).map_err(|(at, told)| {
            let line = text[..at.min(text.len())].matches('\n').count() + 1;
            misuse(format!("{}:{line}: {told}", path.display()))
        })?;
        Ok(Self { path, values })
    }

    /// `command` with these values where it has its defaults: what is typed and what the environment says comes first.
    pub fn under(&self, mut command: Command, subcommand: &str) -> Command {
        for setting in &self.values {
            let values = setting.values.clone();
            let set = |arg: Arg| arg.default_values(values);
            command = if setting.is_global {
                command.mut_arg(&setting.id, set)
            } else {
                command.mut_subcommand(subcommand, |mount| mount.mut_arg(&setting.id, set))
            };
        }
        command
    }

    /// The file's word on one argument.
    pub fn get(&self, id: &str) -> Option<&str> {
        self.values.iter().find(|setting| setting.id == id)?.values.first().map(String::as_str)
    }

    /// What whoever mounts should know: a password that everyone on the machine can read.
    pub fn warning(&self) -> Option<String> {
        let mode = fs::metadata(&self.path).ok()?.permissions().mode();
        (mode & OTHERS_READ != 0 && self.values.iter().any(Setting::is_secret)).then(|| {
            let path = self.path.display();
            format!("{path} holds a password and every user may read it: chmod 600 {path}")
        })
    }
}

impl Setting {
    fn is_secret(&self) -> bool {
        let has_password =
            |value: &String| Url::parse(value).is_ok_and(|url| url.password().is_some_and(|it| !it.is_empty()));
        // The path of a file tells nothing, `@FILE` neither.
        let is_named = ["password", "secret", "token", "header"].iter().any(|word| self.id.contains(word));
        let is_path = self.id.ends_with("_file") || self.values.iter().all(|value| value.starts_with('@'));
        (is_named && !is_path) || self.values.iter().any(has_password)
    }
}

/// A path, if it looks like one; else the file of this name in the user's folder, else in the system's.
fn find(name: &OsStr, env: Env, is_file: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
    let as_path = Path::new(name);
    if as_path.components().count() != 1 || as_path.extension().is_some_and(|ending| ending == ENDING) {
        return Ok(as_path.to_owned());
    }
    let mut file_name = name.to_owned();
    file_name.push(".");
    file_name.push(ENDING);
    let mut folders = Vec::from_iter(user_folder(env));
    folders.push(SYSTEM_FOLDER.into());
    let found = folders.iter().map(|folder| folder.join(&file_name)).find(|path| is_file(path));
    found.ok_or_else(|| {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let (name, file_name) = (as_path.display(), Path::new(&file_name).display());
        let told = format!("--config {name}: there is no {file_name} in {}", folders.join(" or "));
        Error::new(Kind::Missing, told)
    })
}

/// `$XDG_CONFIG_HOME/reelfs`, else `~/.config/reelfs`. Relative paths are no paths here, as the XDG specification has it.
fn user_folder(env: Env) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(config.join("reelfs"))
}

fn text_of(path: &Path) -> Result<String> {
    let io = |error: std::io::Error| Error::io(path.display(), &error);
    let mut text = String::new();
    let file = File::open(path).map_err(io)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(misuse(format!("{}: too long for a file of settings", path.display())));
    }
    Ok(text)
}

/// What is wrong, and the byte at which it stands.
type Wrong = (usize, String);

/// Every key known, every value as it may be typed. Never repeats a value that nobody has checked: it may be a password.
fn check(text: &str, command: &Command, env: Env) -> std::result::Result<Vec<Setting>, Wrong> {
    let table = DeTable::parse(text)
        .map_err(|error| (error.span().map_or(0, |span| span.start), error.message().trim_end().replace('\n', "; ")))?;
    let mut command = command.clone();
    // Hands the arguments for all commands down to this one.
    command.build();
    let mount = command.find_subcommand(super::MOUNT).expect("the command line has this command");
    let args: Vec<(&str, &Arg)> = mount.get_arguments().filter_map(|arg| Some((key(arg)?, arg))).collect();
    let mut settings: Vec<(usize, Setting)> = Vec::new();
    for (name, value) in table.get_ref() {
        let at = name.span().start;
        let name: &str = name.get_ref();
        let Some((_, arg)) = args.iter().find(|(key, _)| *key == name) else {
            return Err((at, unknown(name, args.iter().map(|(key, _)| *key))));
        };
        let values = values(text, value)
            .and_then(|values| values.into_iter().map(|value| at_home(value, env)).collect())
            .and_then(|values| fits(name, arg, values, mount))
            .map_err(|told| (value.span().start, told))?;
        settings.push((at, Setting { id: arg.get_id().to_string(), values, is_global: arg.is_global_set() }));
    }
    settings.sort_by_key(|(at, _)| *at);
    Ok(settings.into_iter().map(|(_, setting)| setting).collect())
}

/// An option by its long name, SOURCE and MOUNTPOINT by theirs.
fn key(arg: &Arg) -> Option<&str> {
    let key = arg.get_long().or_else(|| arg.is_positional().then(|| arg.get_id().as_str()))?;
    (!NEVER_IN_FILES.contains(&key)).then_some(key)
}

fn unknown<'a>(name: &str, keys: impl Iterator<Item = &'a str>) -> String {
    if NEVER_IN_FILES.contains(&name) {
        return format!("`{name}` belongs on the command line");
    }
    let alike = keys.map(|key| (strsim::jaro(name, key), key)).max_by(|a, b| a.0.total_cmp(&b.0));
    match alike.filter(|(likeness, _)| *likeness >= LIKENESS_MIN) {
        Some((_, key)) => format!("unknown key `{name}`: did you mean `{key}`?"),
        None => format!("unknown key `{name}`: `reelfs mount --help` lists the options, which are the keys"),
    }
}

/// The text of a value as it would be typed, or of several in a list.
fn values(text: &str, value: &Spanned<DeValue>) -> std::result::Result<Vec<String>, String> {
    // Numbers as they are written: 0o022 must not become 18.
    let written = |span: Range<usize>| text.get(span).unwrap_or_default().replace('_', "");
    Ok(match value.get_ref() {
        DeValue::String(string) if string.contains('\0') => return Err("a value can't hold a NUL".into()),
        DeValue::String(string) => vec![string.to_string()],
        DeValue::Boolean(is) => vec![is.to_string()],
        DeValue::Integer(_) | DeValue::Float(_) => vec![written(value.span())],
        DeValue::Array(array) => {
            let all: std::result::Result<Vec<_>, _> = array.iter().map(|value| values(text, value)).collect();
            all?.concat()
        }
        DeValue::Datetime(_) | DeValue::Table(_) => {
            return Err("write a text in quotes, a number, true or false".into());
        }
    })
}

/// `~/films` as a shell would have it: no shell reads this file.
fn at_home(value: String, env: Env) -> std::result::Result<String, String> {
    let Some(below) = value.strip_prefix("~/") else { return Ok(value) };
    let home = env("HOME").and_then(|home| home.into_string().ok()).ok_or("`~` means nothing here: HOME is not set")?;
    Ok(format!("{home}/{below}"))
}

/// `values` as they may be given for `arg`.
fn fits(name: &str, arg: &Arg, mut values: Vec<String>, mount: &Command) -> std::result::Result<Vec<String>, String> {
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    match arg.get_action() {
        ArgAction::SetTrue if values != ["true"] && values != ["false"] => {
            return Err(format!("`{name}` is true or false"));
        }
        ArgAction::Count => {
            // -v and -vv are no numbers; in a file they are, and a plain `true` is one of them.
            if values == ["true"] || values == ["false"] {
                values = vec![u8::from(values == ["true"]).to_string()];
            }
            if !matches!(values.as_slice(), [one] if one.parse::<u8>().is_ok()) {
                return Err(format!("`{name}` is a number, as often as the option would be typed"));
            }
        }
        ArgAction::SetTrue => {}
        _ if values.len() != 1 && !is_list => return Err(format!("`{name}` takes one value")),
        // Any text is a source or a path, as far as clap knows.
        _ if arg.is_positional() => {}
        _ => {
            let typed = values.iter().map(|value| OsString::from(format!("--{name}={value}")));
            // Its environment was read when the command line was.
            mount.clone().try_get_matches_from([OsString::from(super::MOUNT)].into_iter().chain(typed)).map_err(
                |error| {
                    // clap repeats the value, and some parsers do; with an `@` there may be a password in it.
                    if !values.iter().any(|value| value.contains('@')) {
                        return clap_line(&error);
                    }
                    let cause = error.source().map(ToString::to_string);
                    let cause = cause.filter(|cause| !values.iter().any(|value| cause.contains(value.as_str())));
                    format!("`{name}`: {}", cause.as_deref().unwrap_or("the value can't be read"))
                },
            )?;
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Cli;
    use super::*;

    fn env(name: &str) -> Option<OsString> {
        (name == "HOME").then(|| "/home/me".into())
    }

    /// What stands in the file; or the line of a mistake and the mistake.
    fn read(text: &str) -> std::result::Result<Vec<Setting>, (usize, String)> {
        check(text, &Cli::command(), &env).map_err(|(at, told)| (text[..at].matches('\n').count() + 1, told))
    }

    #[test]
    fn values_are_as_they_would_be_typed() {
        let text = "source = 'http://me:secret@host/'\n# a comment\nmountpoint = \"~/films\"\ncache-size = '20GiB'\n\
                    umask = 0o027\nchunk-timeout = 2.5\nmin-free = 1_000_000\nallow-other = true\nverbose = 2\n";
        let expected = [
            ("source", "http://me:secret@host/"),
            ("mountpoint", "/home/me/films"),
            ("cache_size", "20GiB"),
            ("umask", "0o027"),
            ("chunk_timeout", "2.5"),
            ("min_free", "1000000"),
            ("allow_other", "true"),
            ("verbose", "2"),
        ];
        let settings = read(text).unwrap();
        let told: Vec<_> = settings.iter().map(|setting| (setting.id.as_str(), setting.values.concat())).collect();
        assert_eq!(told, expected.map(|(id, value)| (id, value.to_owned())));
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_was_meant() {
        for (text, line, told) in [
            ("cash-size = 1", 1, "unknown key `cash-size`: did you mean `cache-size`?"),
            ("\ncache_size = 1", 2, "did you mean `cache-size`?"),
            ("sorce = 'x'", 1, "did you mean `source`?"),
            ("zzz = 1", 1, "--help"),
            ("[table]\nx = 1", 1, "unknown key `table`"),
            ("config = 'x'", 1, "belongs on the command line"),
            ("background = true", 1, "belongs on the command line"),
            ("source = 'a'\ncache-size = 'big'", 2, "`big` is not a size"),
            ("fill = 'all'", 1, "possible values: playing, never"),
            ("connections = 0", 1, "1..=64"),
            ("connections = [1, 2]", 1, "takes one value"),
            ("connections = 1979-05-27", 1, "write a text in quotes"),
            ("allow-other = 'perhaps'", 1, "`allow-other` is true or false"),
            ("verbose = 999", 1, "`verbose` is a number"),
            ("uid =", 1, ""),
            ("\n\nuid = 1\nuid = 2", 4, "duplicate key"),
            ("source = \"a\\u0000b\"", 1, "NUL"),
        ] {
            let (at, said) = read(text).unwrap_err();
            assert!(at == line && said.contains(told) && !said.contains('\n'), "{text:?}: line {at}: {said}");
        }
        let (_, said) = read("source = 'http://me:secret@host/'\npassword = geheim").unwrap_err();
        assert!(!said.contains("secret") && !said.contains("geheim"), "{said}");
    }

    #[test]
    fn every_long_option_is_a_key() {
        let command = Cli::command();
        let mount = command.find_subcommand(super::super::MOUNT).unwrap();
        let keys: Vec<_> = mount.get_arguments().filter_map(key).collect();
        for arg in mount.get_arguments().filter_map(Arg::get_long) {
            assert_eq!(keys.contains(&arg), !NEVER_IN_FILES.contains(&arg), "{arg}");
        }
        assert!(keys.contains(&"source") && keys.contains(&"mountpoint"));
    }

    #[test]
    fn what_is_typed_comes_before_the_file() {
        let values = check("connections = 4\nallow-other = true\nquiet = true", &Cli::command(), &env).unwrap();
        let settings = Settings { path: PathBuf::new(), values };
        let read = |typed: &[&str]| {
            let typed = [&["reelfs", "mount", "a", "b"], typed].concat();
            settings.under(Cli::command(), "mount").try_get_matches_from(typed).unwrap()
        };
        let connections =
            |typed: &[&str]| *read(typed).subcommand_matches("mount").unwrap().get_one::<u32>("connections").unwrap();
        assert_eq!((connections(&[]), connections(&["--connections=7"])), (4, 7));
        let matches = read(&[]);
        assert!(matches.get_flag("quiet") && matches.subcommand_matches("mount").unwrap().get_flag("allow_other"));
    }

    #[test]
    fn what_may_be_a_password_is_not_repeated() {
        for key in ["cache-size", "metrics-listen", "umask"] {
            let text = format!("{key} = 'http://me:secret@host/'");
            let (_, told) = check(&text, &Cli::command(), &env).unwrap_err();
            assert!(told.contains(key) && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn where_a_name_leads() {
        let find = |name: &str, there: &'static str| find(name.as_ref(), &env, &|path| path == Path::new(there));
        for (name, there, path) in [
            ("films", "/home/me/.config/reelfs/films.toml", "/home/me/.config/reelfs/films.toml"),
            ("films", "/etc/reelfs/films.toml", "/etc/reelfs/films.toml"),
            ("films.toml", "", "films.toml"),
            ("./films", "", "./films"),
            ("/etc/reelfs/films.conf", "", "/etc/reelfs/films.conf"),
        ] {
            assert_eq!(find(name, there).unwrap(), Path::new(path), "{name}");
        }
        let missing = find("films", "").unwrap_err();
        assert_eq!(missing.kind(), Kind::Missing);
        assert!(missing.to_string().contains("/home/me/.config/reelfs or /etc/reelfs"), "{missing}");
    }

    #[test]
    fn a_password_that_all_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("films.toml");
        for (text, mode, is_warned) in [
            ("source = 'http://me:secret@host/'", 0o644, true),
            ("source = 'http://me:secret@host/'", 0o640, false),
            ("source = 'http://me@host/'", 0o644, false),
            ("source = '/srv/films'", 0o644, false),
            ("header = ['X-Key: secret']", 0o644, true),
            ("header = '@/etc/reelfs/headers'", 0o644, false),
            ("bearer-token-file = '/etc/reelfs/token'", 0o644, false),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let settings = Settings::read(path.as_os_str(), &Cli::command(), &env).unwrap();
            let warning = settings.warning();
            assert_eq!(warning.is_some(), is_warned, "{text} {mode:o}");
            assert!(!warning.unwrap_or_default().contains("secret"));
        }
    }
}
