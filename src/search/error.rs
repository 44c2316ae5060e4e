//! Files of results that cannot be used, each with what to do.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::space::ChildId;

/// What a file of results is opened for, and so what to do where it will not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A search goes on from it.
    Search,
    /// It is merged with others.
    Part,
    /// A merge writes it.
    Output,
}

/// The remedy where the file is not the one that was meant.
impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Search => "name another file with --results",
            Self::Part => "leave it out",
            Self::Output => "name another file with --output",
        })
    }
}

/// Results that cannot be used.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// The file cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else, or what another version of bignas wrote.
    #[error("{} does not begin as results of a search by this version of bignas do, and is left as it is: {purpose}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it was opened for.
        purpose: Purpose,
    },
    /// A line is not what it should be.
    #[error("{}, line {line}: not a result of a search; delete that line, and its child is evaluated again", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// Another process writes the file.
    #[error("another search or merge writes {}: wait for its end, or {purpose}", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// What it was opened for.
        purpose: Purpose,
    },
    /// The scores depend on something that is not the same here.
    #[error("{} holds the scores of another search, {difference}: delete it if nobody needs them, or {purpose}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What they depend on.
        difference: &'static str,
        /// What the file was opened for.
        purpose: Purpose,
    },
    /// Two parts are not parts of one search, though their scores are comparable.
    #[error(
        "{} is a part of a search {difference} than {}: leave it out, or run `bignas search` on it with the flags of the others, which keeps \
         its scores",
        path.display(),
        first.display()
    )]
    OtherAim {
        /// The file.
        path: PathBuf,
        /// The part that it was compared with.
        first: PathBuf,
        /// What was asked for otherwise.
        difference: &'static str,
    },
    /// There is nothing to merge.
    #[error("{} holds no results yet: run `bignas search --shard` on it, or leave it out", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Two parts disagree.
    #[error(
        "child {child} has another accuracy in {} than before, so that the machines do not compute alike: leave the file out, and give its \
         share to a machine like the others",
        path.display()
    )]
    Disagree {
        /// The second file.
        path: PathBuf,
        /// The child.
        child: ChildId,
    },
}
