//! The `bignas` command line.

#![warn(clippy::unwrap_used)]

use std::panic::{set_hook, take_hook};
use std::process::ExitCode;

use bignas::cli::{Cli, STOPPED, Stopped};
use bignas::console::tell;
use clap::Parser;

/// What a shell reports of a program whose reader has gone: 128 and the number of SIGPIPE.
const READER_GONE: i32 = 141;

fn main() -> ExitCode {
    bignas::process::keep_freed_memory();
    end_quietly_where_the_reader_has_gone();
    let Err(error) = Cli::parse().run() else { return ExitCode::SUCCESS };
    if let Some(stopped) = error.downcast_ref::<Stopped>() {
        tell(stopped);
        return ExitCode::from(STOPPED);
    }
    // One line a cause: what failed, then why.
    tell(format!("error: {error}"));
    error.chain().skip(1).for_each(|cause| tell(format!("  because {cause}")));
    ExitCode::FAILURE
}

/// `bignas … | head` is no error: `println!` panics where nobody reads any more, and this program ends there without a word.
fn end_quietly_where_the_reader_has_gone() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(READER_GONE);
        }
        usual(panic);
    }));
}
