//! `hubgate manifest`: what came in, read from the log in the store.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::{Done, Failure, with_core_on_a_store};
use crate::{
    app::Core,
    config::Loaded,
    manifest::{Filter, Format, TEXT_COLUMNS, export},
};

#[derive(Debug, Subcommand)]
pub(super) enum ManifestCommand {
    /// Lists what is stored, a line for each file; on a terminal, under a line that names the columns.
    List(Selection),
    /// Writes what is stored, for other programs.
    Export {
        /// The form: csv starts with the plain mirror's columns, jsonl is the log's own lines.
        #[arg(long, value_enum, default_value = "csv")]
        format: ExportFormat,
        /// The file to write; without it, standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        selection: Selection,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ExportFormat {
    Csv,
    Jsonl,
}

/// Which records.
#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Only these repos: a name or a pattern, org/* or datasets/org/name.
    #[arg(long, value_name = "PATTERN")]
    repo: Option<String>,
    /// Not before this day or time: 2026-11-24 or 2026-11-24T06:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<OffsetDateTime>,
    /// Before this day or time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<OffsetDateTime>,
    /// Only with this licence, as it was recorded.
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Everything that happened, rather than what is served now.
    #[arg(long)]
    history: bool,
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    let day = || Date::parse(text, format_description!("[year]-[month]-[day]")).map(|day| day.midnight().assume_utc());
    OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| day())
        .map_err(|_| "write 2026-11-24 or 2026-11-24T06:00:00Z".into())
}

impl Selection {
    fn filter(&self) -> Result<Filter, Failure> {
        let repo = self.repo.as_deref().map(Filter::repos).transpose();
        Ok(Filter {
            repo: repo.map_err(|error| Failure::Setup(format!("--repo: {error}")))?,
            since: self.since,
            until: self.until,
            licence: self.license.clone(),
            sha256: None,
            history: self.history,
        })
    }
}

pub(super) fn run(loaded: &Loaded, command: &ManifestCommand) -> Done {
    let (selection, format, output) = match command {
        ManifestCommand::List(selection) => (selection, Format::Text, None),
        ManifestCommand::Export { format, output, selection } => {
            let format = match format {
                ExportFormat::Csv => Format::Csv,
                ExportFormat::Jsonl => Format::Jsonl,
            };
            (selection, format, output.as_ref())
        }
    };
    let filter = selection.filter()?;
    with_core_on_a_store(loaded, false, async |core: std::sync::Arc<Core>| match output {
        None => {
            if format == Format::Text && io::stdout().is_terminal() {
                println!("{TEXT_COLUMNS}");
            }
            write(&core, &filter, format, &mut io::stdout()).await
        }
        Some(path) => {
            let file = File::create(path).with_context(|| path.display().to_string()).map_err(Failure::Failed)?;
            write(&core, &filter, format, &mut io::BufWriter::new(file)).await
        }
    })
}

async fn write(core: &Core, filter: &Filter, format: Format, out: &mut (dyn io::Write + Send)) -> Done {
    let exported = export(&*core.store, filter, format, out).await.map_err(|error| Failure::Failed(error.into()))?;
    out.flush().context("the output").map_err(Failure::Failed)?;
    for fault in &exported.faults {
        eprintln!("hubgate: {fault}");
    }
    if exported.newer > 0 {
        eprintln!("hubgate: {} records are of a later version of hubgate and are not shown", exported.newer);
    }
    if exported.is_whole() {
        return Ok(());
    }
    eprintln!("hubgate: the log has {} faults; `hubgate verify` says more", exported.fault_count);
    Err(Failure::Said)
}
