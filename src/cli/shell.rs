//! Commands that this program prints, ready to be pasted into a shell.

use std::path::Path;

/// The command line that this process was given.
pub(super) fn own_command() -> impl Iterator<Item = String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned())
}

/// A command line of `arguments`, each quoted where a shell would read it otherwise.
pub(super) fn command_line(arguments: impl IntoIterator<Item = String>) -> String {
    arguments.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// `path` as one word of a shell.
pub(super) fn path_word(path: &Path) -> String {
    quoted(path.to_string_lossy().into_owned())
}

/// `argument` as one word of a shell.
fn quoted(argument: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match argument.chars().all(plain) && !argument.is_empty() {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_stays_one_word() {
        let cases: [(&[&str], &str); 3] = [
            (&["bignas", "train", "--run", "runs/a"], "bignas train --run runs/a"),
            (&["bignas", "--data", "a b", "--child", "$(id)"], "bignas --data 'a b' --child '$(id)'"),
            (&["bignas", "--name", "it's", ""], r"bignas --name 'it'\''s' ''"),
        ];
        for (arguments, expected) in cases {
            assert_eq!(command_line(arguments.iter().map(|&argument| argument.to_owned())), expected);
        }
        assert_eq!(path_word(Path::new("my runs/a")), "'my runs/a'");
    }
}
