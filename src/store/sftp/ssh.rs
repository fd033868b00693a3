//! The user's own `ssh`: how it is started, and what its last words mean. Pure.
//! Never here: the conversation with the server behind it.

use std::process::Stdio;

use tokio::process::Command;

use super::address::Address;
use crate::error::{Error, Kind};

/// Nothing is ever asked of a person: there may be none. Nothing but files is wanted: no forwarding of windows, keys or
/// ports. A connection that somebody else shares is used, and none of ours is: each has a link for itself. What has gone
/// silent is noticed, also while nothing is asked.
const OPTIONS: [&str; 9] = [
    "-xaT",
    "-oBatchMode=yes",
    "-oClearAllForwardings=yes",
    "-oPermitLocalCommand=no",
    "-oRemoteCommand=none",
    "-oControlMaster=no",
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=3",
    "-s",
];

/// `program` and its own first arguments, told to speak SFTP with `address`. What the user says there comes first, and
/// for `ssh` the first word counts.
pub(super) fn command(program: &[String], address: &Address) -> Command {
    let mut words = program.iter();
    let mut command = Command::new(words.next().map_or("ssh", String::as_str));
    command.args(words).args(OPTIONS);
    if let Some(port) = address.port {
        command.arg(format!("-p{port}"));
    }
    if let Some(user) = &address.user {
        command.arg(format!("-l{user}"));
    }
    command.args(["--", &address.host, "sftp"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // For others.
    command.env_remove("REELFS_USER").env_remove("REELFS_PASSWORD").env_remove("REELFS_PASSWORD_FILE");
    // Ctrl-C in a terminal is meant for us: what is under way ends in order. And nobody outlives the drive.
    command.process_group(0).kill_on_drop(true);
    command
}

/// What is meant by what `ssh` said before it ended, without having let us in.
pub(super) fn ended(address: &Address, said: &str) -> Error {
    const PART: [(&str, Kind, &str); 9] = [
        (
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
            Kind::Denied,
            "its host key is another one than before: if that is right, `ssh-keygen -R HOST`, then `ssh LOGIN` once",
        ),
        ("Host key verification failed", Kind::Denied, "its host key is not known: `ssh LOGIN` once, and answer yes"),
        (
            "Too many authentication failures",
            Kind::Denied,
            "it refuses to try so many keys: name the right one with IdentityFile in ~/.ssh/config",
        ),
        (
            "Permission denied",
            Kind::Denied,
            "it takes none of our keys: `ssh LOGIN` must log in without asking (ssh-copy-id, ssh-add)",
        ),
        ("Could not resolve hostname", Kind::Unreachable, "no such host"),
        ("Connection refused", Kind::Unreachable, "nobody listens there"),
        ("subsystem request failed", Kind::Unsupported, "it offers no SFTP: is `Subsystem sftp` in its sshd_config?"),
        ("Bad configuration option", Kind::Invalid, "ssh refuses its options"),
        ("unknown option", Kind::Invalid, "ssh refuses its options"),
    ];
    let Some((_, kind, meaning)) = PART.iter().find(|(part, ..)| said.contains(part)) else {
        return lost(address, said);
    };
    let meaning = meaning.replace("LOGIN", &address.login()).replace("HOST", &address.host);
    Error::new(*kind, format!("{address}: {meaning}"))
}

/// The same of a conversation that had begun: whatever `ssh` said, it may pass.
pub(super) fn lost(address: &Address, said: &str) -> Error {
    let meaning = match said.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(last) => format!("the connection ended: {last}"),
        None => "the connection ended".to_owned(),
    };
    Error::new(Kind::Unreachable, format!("{address}: {meaning}"))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn address(url: &str) -> Address {
        Address::new(Url::parse(url).unwrap()).unwrap()
    }

    #[test]
    fn a_host_or_a_user_is_never_an_option() {
        let command = command(&["ssh".into(), "-v".into()], &address("sftp://-oProxyCommand=x@-F%2Fetc:7/"));
        let words: Vec<_> = command.as_std().get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words[0], "-v", "the user's own come first");
        assert_eq!(words[words.len() - 5..], ["-p7", "-l-oProxyCommand=x", "--", "-F/etc", "sftp"]);
        assert!(words.contains(&"-oBatchMode=yes".into()));
    }

    #[test]
    fn last_words_say_what_to_do() {
        let nas = address("sftp://alice@nas:22/films");
        for (said, kind, hint) in [
            ("Warning: x\r\nalice@nas: Permission denied (publickey,password).\r\n", Kind::Denied, "ssh-copy-id"),
            ("Host key verification failed.\r\n", Kind::Denied, "`ssh -p 22 alice@nas` once"),
            ("ssh: Could not resolve hostname nas: Name or service not known", Kind::Unreachable, "no such host"),
            ("ssh: connect to host nas port 22: Connection refused", Kind::Unreachable, "nobody listens"),
            ("subsystem request failed on channel 0", Kind::Unsupported, "Subsystem sftp"),
            ("kex_exchange_identification: read: Connection reset by peer\n\n", Kind::Unreachable, "reset by peer"),
            ("", Kind::Unreachable, "ended"),
        ] {
            let error = ended(&nas, said);
            assert_eq!(error.kind(), kind, "{said}");
            assert!(error.to_string().contains(hint) && !error.to_string().contains('\n'), "{error}");
            assert_eq!(lost(&nas, said).kind(), Kind::Unreachable, "{said}");
        }
    }
}
