//! How far a sync is: a bar where somebody watches, else a line for each file. All of it on standard error.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use crate::gateway::{FileProgress, Plan, PlannedFile};

/// How often a file that is long on its way is mentioned where there is no bar.
const MENTION_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Show {
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: usize,
    done: usize,
    /// Of each file on its way: what of it has been counted, and when it was mentioned last.
    coming: HashMap<String, (u64, Instant)>,
}

impl Show {
    /// For these plans.
    pub(super) fn of<'p>(plans: impl Iterator<Item = &'p Plan>) -> Self {
        let (mut files, mut bytes) = (0, 0);
        for planned in plans.filter_map(|plan| plan.verdict.as_ref().ok()) {
            for file in planned.wanted() {
                files += 1;
                bytes += file.size;
            }
        }
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        let style = ProgressStyle::with_template(template).ok().filter(|_| io::stderr().is_terminal());
        let bar = style.map(|style| ProgressBar::new(bytes).with_style(style));
        let show = Self { bar, state: Mutex::new(State { files, ..State::default() }) };
        show.count(0);
        show
    }

    /// Something happened to a file of a repo.
    pub(super) fn on(&self, repo: &str, file: &PlannedFile, what: FileProgress) {
        let name = format!("{repo} {}", file.path);
        let size = ByteSize::b(file.size);
        match what {
            FileProgress::Begun => {
                self.state().coming.insert(name, (0, Instant::now()));
            }
            FileProgress::Bytes(bytes) => {
                let mention = {
                    let mut state = self.state();
                    let Some((counted, mentioned)) = state.coming.get_mut(&name) else { return };
                    if let Some(bar) = &self.bar {
                        bar.inc(bytes.saturating_sub(*counted));
                    }
                    *counted = bytes.max(*counted);
                    let due = mentioned.elapsed() >= MENTION_EVERY;
                    if due {
                        *mentioned = Instant::now();
                    }
                    due
                };
                if mention && self.bar.is_none() {
                    eprintln!("{name}: {} of {size}", ByteSize::b(bytes));
                }
            }
            FileProgress::Done { fetched } => {
                let counted = self.leave(&name);
                if let Some(bar) = &self.bar {
                    bar.inc(file.size.saturating_sub(counted));
                } else {
                    eprintln!("{name}: {} ({size})", if fetched { "fetched" } else { "found here" });
                }
            }
            FileProgress::Failed(error) => {
                let counted = self.leave(&name);
                if let Some(bar) = &self.bar {
                    bar.set_position(bar.position().saturating_sub(counted));
                    bar.set_length(bar.length().unwrap_or_default().saturating_sub(file.size));
                }
                self.say(&format!("{name}: failed: {error}"));
            }
        }
    }

    pub(super) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// A file is through: what of it was counted.
    fn leave(&self, name: &str) -> u64 {
        let counted = self.state().coming.remove(name).map_or(0, |(counted, _)| counted);
        self.count(1);
        counted
    }

    fn count(&self, more: usize) {
        let mut state = self.state();
        state.done += more;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}/{} files", state.done, state.files));
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
