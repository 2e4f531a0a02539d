//! One run of a command: no shell, an empty environment, a bounded time and a bounded memory of what it said.

use std::{
    ffi::OsString,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

/// What is kept of each of the two outputs, in bytes; the rest is read and dropped.
const KEPT_BYTES: usize = 64 * 1024;

/// How long what the command started may hold its outputs open once it has ended itself.
const LINGER: Duration = Duration::from_secs(5);

/// What a hook keeps of our environment.
const KEPT_VARIABLES: [&str; 2] = ["PATH", "HOME"];

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The exit code; none where a signal ended it or it did not run.
    pub exit_code: Option<i32>,
    /// What else went wrong: it could not be started, or took too long.
    pub problem: Option<String>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// The beginning of its standard output.
    pub stdout: String,
    /// The beginning of its standard error.
    pub stderr: String,
}

/// Ends a command and all that it started, when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // Nobody is left in it where everything has ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs it with `input` on its standard input, at most for `timeout`.
pub(super) async fn run(program: &str, arguments: &[String], input: Vec<u8>, timeout: Duration) -> Ended {
    let begun = Instant::now();
    let mut command = Command::new(program);
    let kept = KEPT_VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command
        .args(arguments)
        .env_clear()
        .envs(kept.collect::<Vec<(&str, OsString)>>())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Ended { problem: Some(format!("{program} can't be started: {error}")), ..Ended::default() };
        }
    };
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let outcome = tokio::time::timeout(timeout, attend(child, input, &mut stdout, &mut stderr, &mut group)).await;
    let (status, problem) = match outcome {
        Ok(Ok(status)) => (Some(status), None),
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(_) => (None, Some(format!("it was killed after {} (hooks.timeout)", humantime::format_duration(timeout)))),
    };
    Ended {
        exit_code: status.and_then(|status| status.code()),
        problem,
        milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Feeds it, listens to it, and waits for its end and for that of its outputs.
async fn attend(
    mut child: Child,
    input: Vec<u8>,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
    group: &mut Group,
) -> std::io::Result<ExitStatus> {
    let (to, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feeding = async {
        if let Some(mut to) = to {
            // One that does not read to the end is free not to.
            let _ = to.write_all(&input).await;
        }
    };
    let listening = async { tokio::join!(listen(out, stdout), listen(err, stderr)) };
    tokio::pin!(listening);
    let mut status = None;
    // It may close its outputs early, or end without having read all; only its own end is the end of feeding it.
    let waiting = async {
        tokio::select! {
            ended = child.wait() => ended,
            ended = async { feeding.await; std::future::pending().await } => ended,
        }
    };
    tokio::pin!(waiting);
    tokio::select! {
        ended = &mut waiting => status = Some(ended),
        _ = &mut listening => {}
    }
    match status {
        // What it has started may live on with its outputs; nobody waits for that.
        Some(ended) => {
            let _ = tokio::time::timeout(LINGER, listening).await;
            drop(Group(group.0.take()));
            ended
        }
        None => waiting.await,
    }
}

async fn listen(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let room = KEPT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, input: &[u8], timeout: Duration) -> Ended {
        run("/bin/sh", &["-c".into(), script.into()], input.to_vec(), timeout).await
    }

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn its_input_outputs_and_exit_code_arrive() {
        let ended = sh("cat; echo oh >&2; exit 3", b"told", LONG).await;
        assert_eq!((ended.exit_code, &*ended.stdout, &*ended.stderr), (Some(3), "told", "oh\n"));
        assert_eq!(ended.problem, None);
        // More than a pipe holds, and nobody reads it.
        assert_eq!(sh("exit 0", &vec![b'x'; 1 << 20], LONG).await.exit_code, Some(0));
    }

    #[tokio::test]
    async fn what_it_says_is_kept_within_a_bound() {
        let ended = sh("head -c 1000000 /dev/zero | tr '\\0' x", b"", LONG).await;
        assert_eq!((ended.exit_code, ended.stdout.len()), (Some(0), KEPT_BYTES));
    }

    #[tokio::test]
    async fn its_environment_has_nothing_of_ours() {
        let ended = run("/usr/bin/env", &[], Vec::new(), LONG).await;
        let names: Vec<&str> = ended.stdout.lines().filter_map(|line| line.split('=').next()).collect();
        assert!(names.iter().all(|name| KEPT_VARIABLES.contains(name)), "{names:?}");
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "or this shows nothing");
    }

    #[tokio::test]
    async fn one_that_closes_its_outputs_early_is_told_all() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("told");
        let script = format!("exec >&- 2>&-; sleep 0.3; cat > {}", told.display());
        let ended = sh(&script, &vec![b'x'; 1_000_000], LONG).await;
        assert_eq!((ended.exit_code, ended.problem), (Some(0), None));
        assert_eq!(std::fs::metadata(told).unwrap().len(), 1_000_000);
    }

    #[tokio::test]
    async fn past_its_time_it_is_killed_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let ended = sh(&script, b"", Duration::from_secs(1)).await;
        assert_eq!(ended.exit_code, None);
        assert!(ended.problem.unwrap().contains("hooks.timeout"));
        let started = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let started = Pid::from_raw(started).unwrap();
        let gone = async {
            while rustix::process::test_kill_process(started).is_ok() && !is_zombie(started) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("the grandchild is killed");
    }

    /// Killed, and not yet collected by whoever adopted it.
    fn is_zombie(pid: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_a_failure_that_names_it() {
        let ended = run("/nowhere/hook", &[], Vec::new(), LONG).await;
        assert!(ended.problem.unwrap().contains("/nowhere/hook can't be started"));
    }
}
