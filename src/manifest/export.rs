//! What the log says, for people and their programs: `manifest list` and `manifest export`.

use std::{io, sync::Arc};

use globset::GlobMatcher;
use time::OffsetDateTime;

use super::{Error, LogFault, LogItem, Logged, NewRecord, Record, Result, record::rfc3339_micros, search::walk};
use crate::{hub::Sha256, store::Store};

/// Faults of the log that are named one by one; beyond them they are counted.
const FAULTS_NAMED: usize = 1000;

/// Which records to show.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The repo, written as in a web URL (`org/name`, `datasets/org/name`); see [`Filter::repos`].
    pub repo: Option<GlobMatcher>,
    /// Not before.
    pub since: Option<OffsetDateTime>,
    /// Before.
    pub until: Option<OffsetDateTime>,
    /// The licence as recorded, in any case.
    pub licence: Option<String>,
    /// The digest of the content.
    pub sha256: Option<Sha256>,
    /// Everything that happened, rather than the one record by which each file is served now.
    pub history: bool,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let glob = |filter: &Self| filter.repo.as_ref().map(|repo| repo.glob().clone());
        let others =
            |filter: &Self| (filter.since, filter.until, filter.licence.clone(), filter.sha256, filter.history);
        glob(self) == glob(other) && others(self) == others(other)
    }
}

impl Filter {
    /// A pattern for [`Filter::repo`]: a name or a glob such as `org/*`, in any case.
    pub fn repos(pattern: &str) -> std::result::Result<GlobMatcher, globset::Error> {
        let glob = globset::GlobBuilder::new(pattern).case_insensitive(true).literal_separator(true).build()?;
        Ok(glob.compile_matcher())
    }

    pub(super) fn takes(&self, record: &Record) -> bool {
        let fact = &record.fact;
        self.repo.as_ref().is_none_or(|repo| repo.is_match(fact.repo.to_string()))
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.sha256.is_none_or(|sha256| fact.sha256 == sha256)
            && self
                .licence
                .as_ref()
                .is_none_or(|wanted| fact.licence.as_ref().is_some_and(|licence| licence.eq_ignore_ascii_case(wanted)))
    }
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a header. The columns are [`COLUMNS`].
    Csv,
    /// The log's own lines, unchanged, so that their chain can be checked with `sha256sum` alone.
    Jsonl,
    /// A line for the eye: [`TEXT_COLUMNS`].
    Text,
}

/// The columns of [`Format::Text`], for whoever shows them to people; the text itself begins without.
pub const TEXT_COLUMNS: &str = "TIME  WHAT  REPO@COMMIT  PATH  BYTES  LICENCE";

/// The columns of the CSV. The first five are those of the plain mirror's manifest.
pub const COLUMNS: [&str; 22] = [
    "repo",
    "revision",
    "sha256",
    "size",
    "license",
    "kind",
    "commit",
    "path",
    "etag",
    "what",
    "time",
    "license_from",
    "rule",
    "approved_by",
    "ticket",
    "policy_sha256",
    "asked_by",
    "origin",
    "upstream_id",
    "writer",
    "seq",
    "prev",
];

/// How an export went.
#[derive(Debug, Default)]
pub struct Exported {
    /// Records written.
    pub records: u64,
    /// Records of a later version of hubgate, which this one can't show.
    pub newer: u64,
    /// What is wrong with the log, at most 1,000 of it. The export holds all that could be read.
    pub faults: Vec<LogFault>,
    /// How many faults there are.
    pub fault_count: u64,
}

impl Exported {
    /// Whether the log was whole; if not, the command fails (exit code 1) after writing what there is.
    pub fn is_whole(&self) -> bool {
        self.fault_count == 0
    }
}

/// Writes the records that `filter` takes, in order of writer and number.
///
/// Without [`Filter::history`] the log is read twice and about 100 bytes are held for every file; with it,
/// once and nothing.
pub async fn export(
    store: &dyn Store,
    filter: &Filter,
    format: Format,
    out: &mut (dyn io::Write + Send),
) -> Result<Exported> {
    let mut exported = Exported::default();
    let mut sink = Sink::new(format, out)?;
    walk(store, !filter.history, |item| {
        match item {
            LogItem::Record(logged) if filter.takes(&logged.record) => {
                sink.write(&logged)?;
                exported.records += 1;
            }
            LogItem::Record(_) => {}
            LogItem::Newer(_) => exported.newer += 1,
            LogItem::Fault(fault) => {
                exported.fault_count += 1;
                if exported.faults.len() < FAULTS_NAMED {
                    exported.faults.push(fault);
                }
            }
        }
        Ok(())
    })
    .await?;
    sink.finish()?;
    Ok(exported)
}

/// Where records go, in their form.
enum Sink<'a> {
    Csv(Box<csv::Writer<&'a mut (dyn io::Write + Send)>>),
    Jsonl(&'a mut (dyn io::Write + Send)),
    Text(&'a mut (dyn io::Write + Send)),
}

impl<'a> Sink<'a> {
    fn new(format: Format, out: &'a mut (dyn io::Write + Send)) -> Result<Self> {
        Ok(match format {
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                writer.write_record(COLUMNS).map_err(output)?;
                Self::Csv(Box::new(writer))
            }
            Format::Jsonl => Self::Jsonl(out),
            Format::Text => Self::Text(out),
        })
    }

    fn write(&mut self, logged: &Logged) -> Result<()> {
        match self {
            Self::Csv(writer) => writer.write_record(row(&logged.record)?).map_err(output),
            Self::Jsonl(out) => out.write_all(&logged.line).and_then(|()| out.write_all(b"\n")).map_err(output),
            Self::Text(out) => {
                let Record { fact, .. } = &logged.record;
                let NewRecord { what, repo, commit, path, size, licence, .. } = fact;
                let (time, licence) = (time(&logged.record)?, licence.as_deref().unwrap_or("-"));
                writeln!(out, "{time}  {what:<9}  {repo}@{commit}  {path}  {size}  {licence}").map_err(output)
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Csv(mut writer) => writer.flush(),
            Self::Jsonl(out) | Self::Text(out) => out.flush(),
        }
        .map_err(output)
    }
}

fn row(record: &Record) -> Result<[String; COLUMNS.len()]> {
    let fact = &record.fact;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Ok([
        fact.repo.to_string(),
        fact.revision.as_ref().map(ToString::to_string).unwrap_or_default(),
        fact.sha256.to_string(),
        fact.size.to_string(),
        text(&fact.licence),
        fact.repo.kind().to_string(),
        fact.commit.to_string(),
        fact.path.to_string(),
        fact.etag.to_string(),
        fact.what.to_string(),
        time(record)?,
        text(&fact.licence_from),
        text(&fact.rule),
        text(&fact.approved_by),
        text(&fact.ticket),
        fact.policy_sha256.map(|digest| digest.to_string()).unwrap_or_default(),
        text(&fact.asked_by),
        fact.origin.clone(),
        text(&fact.upstream_id),
        record.writer.to_string(),
        record.seq.to_string(),
        record.prev.to_string(),
    ])
}

fn time(record: &Record) -> Result<String> {
    rfc3339_micros::format(record.time).map_err(|error| output(io::Error::other(error)))
}

fn output(error: impl Into<io::Error>) -> Error {
    Error::Output(Arc::new(error.into()))
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::{
        super::{
            Manifest, What, WriterId,
            testing::{MemoryStore, fact},
        },
        *,
    };
    use crate::hub::{Repo, RepoKind, Sha256};

    async fn store() -> Arc<MemoryStore> {
        let store = MemoryStore::new();
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tracker, shutdown.clone());
        let mit = NewRecord {
            repo: Repo::new(RepoKind::Dataset, "Acme/data").unwrap(),
            licence: Some("mit".into()),
            path: "a, \"b\".csv".parse().unwrap(),
            ..fact(2)
        };
        manifest.record_stored(fact(1)).await.unwrap();
        manifest.record_stored(mit).await.unwrap();
        manifest.record_stored(fact(3)).await.unwrap();
        manifest.record(NewRecord { what: What::Evicted, ..fact(1) }).await.unwrap();
        manifest.record(NewRecord { what: What::Withdrawn, ..fact(3) }).await.unwrap();
        manifest.record_stored(fact(3)).await.unwrap();
        store
    }

    async fn lines(store: &MemoryStore, filter: &Filter, format: Format) -> Vec<String> {
        let mut out = Vec::new();
        let exported = export(store, filter, format, &mut out).await.unwrap();
        assert!(exported.is_whole());
        String::from_utf8(out).unwrap().lines().map(Into::into).collect()
    }

    #[tokio::test]
    async fn the_csv_starts_with_the_mirrors_columns_and_has_what_is_served_now() {
        let store = store().await;
        let lines = lines(&store, &Filter::default(), Format::Csv).await;
        assert!(lines[0].starts_with("repo,revision,sha256,size,license,"), "{}", lines[0]);
        assert_eq!(lines.len(), 3, "{lines:#?}");
        let start = format!("datasets/Acme/data,main,{},{},mit,dataset,", fact(2).sha256, fact(2).size);
        assert!(lines[1].starts_with(&start), "{}", lines[1]);
        assert!(lines[1].contains(r#","a, ""b"".csv","#), "{}", lines[1]);
        // File 3 was withdrawn and came back: the later of its two records counts.
        assert!(lines[2].contains("file-3.bin") && lines[2].contains(",6,"), "{}", lines[2]);
    }

    #[tokio::test]
    async fn the_later_of_two_processes_words_counts_whichever_is_read_first() {
        let store = MemoryStore::new();
        let start = |writer: &str| {
            let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
            Manifest::start(store.clone(), writer.parse().unwrap(), &tracker, shutdown)
        };
        let (first, last) = (start("a"), start("z"));
        let evicted = |n| NewRecord { what: What::Evicted, ..fact(n) };
        last.record_stored(fact(1)).await.unwrap();
        first.record(evicted(1)).await.unwrap();
        first.record_stored(fact(2)).await.unwrap();
        last.record(evicted(2)).await.unwrap();
        last.record(evicted(3)).await.unwrap();
        first.record_stored(fact(3)).await.unwrap();
        let lines = lines(&store, &Filter::default(), Format::Text).await;
        assert!(lines.len() == 1 && lines[0].contains("file-3.bin"), "{lines:#?}");
    }

    #[tokio::test]
    async fn a_new_writer_that_sorts_before_the_others_leaves_no_file_out() {
        let store = MemoryStore::new();
        store.plant_record("b", 0, fact(1));
        let hold = store.hold_read("manifest/log/");
        let (mut out, filter) = (Vec::new(), Filter::default());
        let mut exporting = Box::pin(export(&*store, &filter, Format::Text, &mut out));
        assert!(futures_util::poll!(exporting.as_mut()).is_pending());
        // Between the two readings of the log.
        store.plant_record("a", 0, fact(2));
        hold.notify_one();
        exporting.await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("file-1.bin"), "{text}");
    }

    #[tokio::test]
    async fn jsonl_is_the_logs_own_text_so_its_chain_can_be_checked() {
        let store = store().await;
        let lines = lines(&store, &Filter { history: true, ..Filter::default() }, Format::Jsonl).await;
        assert_eq!(lines.len(), 6);
        for pair in lines.windows(2) {
            let next: Record = serde_json::from_str(&pair[1]).unwrap();
            assert_eq!(next.prev, Sha256::of(pair[0].as_bytes()));
        }
    }

    #[tokio::test]
    async fn filters_take_repo_licence_and_time() {
        let store = store().await;
        let all = Filter { history: true, ..Filter::default() };
        let repo = |glob: &str| Filter { repo: Some(Filter::repos(glob).unwrap()), ..all.clone() };
        let licence = Filter { licence: Some("MIT".into()), ..all.clone() };
        let future = Filter { since: Some(OffsetDateTime::now_utc() + Duration::HOUR), ..all.clone() };
        let past = Filter { until: Some(OffsetDateTime::now_utc() - Duration::HOUR), ..all.clone() };
        for (filter, count) in [
            (all.clone(), 6),
            (repo("org/name"), 5),
            (repo("ORG/*"), 5),
            (repo("datasets/acme/*"), 1),
            (repo("acme/*"), 0),
            (licence, 1),
            (future, 0),
            (past, 0),
        ] {
            assert_eq!(lines(&store, &filter, Format::Text).await.len(), count, "{filter:?}");
        }
    }

    #[tokio::test]
    async fn a_broken_log_is_exported_as_far_as_it_can_be_read_and_said_to_be_broken() {
        let store = store().await;
        store.plant(&store.keys("manifest/log/")[2].clone(), "nonsense\n");
        let mut out = Vec::new();
        let exported = export(&*store, &Filter::default(), Format::Jsonl, &mut out).await.unwrap();
        assert!(!exported.is_whole());
        assert_eq!((exported.records, exported.fault_count, exported.faults.len()), (2, 1, 1));
    }
}
