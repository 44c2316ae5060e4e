//! What becomes of a training when its terminal or its reader goes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::{bignas, write_images};

const EPOCHS: &str = "4";

fn train(here: &Path) -> Command {
    write_images(&here.join("images"), 16);
    bignas(here, &["train", "--data", "images", "--run", "run", "--model", "model", "--epochs", EPOCHS, "--batch-size", "8", "--no-flip"])
}

/// `command`, begun with a signal as `flag` says, whatever these tests began with.
fn through_env(flag: &str, command: &Command) -> Command {
    let mut through = Command::new("env");
    through.arg(flag).arg(command.get_program()).args(command.get_args()).current_dir(command.get_current_dir().expect("set"));
    through.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    through
}

/// A training that has begun, and what it says from its second line on.
fn begun(mut command: Command) -> (Child, BufReader<ChildStderr>) {
    let mut training = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = BufReader::new(training.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("step 1 of") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("reads"), 0, "it ended before its first step");
    }
    (training, said)
}

fn signal(training: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &training.id().to_string()]).status().expect("runs");
    assert!(sent.success());
}

#[test]
fn a_hangup_saves_like_ctrl_c() {
    let directory = tempfile::tempdir().expect("a directory");
    let (training, mut said) = begun(through_env("--default-signal=HUP", &train(directory.path())));
    // A shell tells its jobs, and then the terminal tells whoever is left.
    signal(&training, "-HUP");
    signal(&training, "-HUP");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("reads");
    assert_eq!(training.wait_with_output().expect("ends").status.code(), Some(130), "{rest}");
    assert!(rest.contains("saved run/checkpoints/step-") && rest.contains("go on with: "), "{rest}");
}

#[test]
fn nohup_keeps_a_training_from_the_end_of_its_terminal() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut training, said) = begun(through_env("--ignore-signal=HUP", &train(directory.path())));
    signal(&training, "-HUP");
    signal(&training, "-HUP");
    let rest: Vec<String> = said.lines().map_while(Result::ok).collect();
    assert!(training.wait().expect("ends").success(), "{rest:?}");
    assert!(directory.path().join("model/model.json").is_file());
}

#[test]
fn a_reader_that_goes_does_not_end_a_training() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut training, said) = begun(train(directory.path()));
    // Every epoch says something.
    drop(said);
    assert!(training.wait().expect("ends").success());
    assert!(directory.path().join("model/model.json").is_file());
}

/// A stopped run that nobody listens to ends with the status of a stopped one all the same.
#[test]
fn a_stopped_training_without_a_reader_saves() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut training, said) = begun(train(directory.path()));
    drop(said);
    signal(&training, "-TERM");
    assert_eq!(training.wait().expect("ends").code(), Some(130));
    assert!(fs::read_dir(directory.path().join("run/checkpoints")).expect("a run").next().is_some());
}
