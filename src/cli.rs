//! The command line: what each command reads, prints and returns.
//!
//! Exit codes: 0 fine, 1 the thing failed, 2 usage or configuration. Results go to standard output, logs and
//! complaints to standard error. `anyhow` ends here.

mod admin;
mod gc;
mod healthcheck;
mod lock;
mod manifest;
mod policy;
mod preseed;
mod publish;
mod references;
mod remote;
mod review;
mod store;
mod sync;
mod token;

use std::{path::PathBuf, process::ExitCode, str::FromStr};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Core, StartError, stop_on_signals},
    config::{self, ConfigError, Loaded, Sources},
    hub::{ParseError, Repo, Revision},
    policy::{LoadError, PolicyHandle},
    server,
    telemetry::{self, LogConfig},
    upstream::Upstream,
};

/// A read-through caching gateway for the Hugging Face Hub that can prove what it served.
#[derive(Debug, Parser)]
#[command(name = "hubgate", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct SourceArgs {
    /// The configuration file; without it ./config.toml, if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, above file and environment: --set upstream.offline=true. The value is written as in the file, or
    /// without quotes.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write section.key=value")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the Hub's read path.
    Serve(ServeArgs),
    /// Says what the configuration comes to, and whether it can be used. Asks nobody.
    CheckConfig,
    /// Asks the gateway on this machine whether it lives; for containers.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Brings whole repos in, as policy lets them, and writes the manifest as CSV. Needs no running gateway.
    Sync(sync::SyncArgs),
    /// Writes down the commits that are approved, with the digest of every file; --diff shows what the Hub has since.
    Lock(lock::LockArgs),
    /// Has a running gateway bring a whole repo in, and watches it.
    Preseed(preseed::PreseedArgs),
    /// What may come in, and why.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// What came in.
    #[command(subcommand)]
    Manifest(manifest::ManifestCommand),
    /// Proves offline that log, index, snapshots, blobs and audit log agree; exit code 1 if they don't.
    Verify(store::VerifyArgs),
    /// Says what the store no longer needs: blobs that nothing names, leftovers, old jobs; --apply removes it.
    Gc(gc::GcArgs),
    /// Publishes plain copies for workloads that read the bucket themselves: of `publish.repos`, or of those named.
    Publish(publish::PublishArgs),
    /// What is known of commits.
    #[command(subcommand)]
    Snapshot(store::SnapshotCommand),
    /// What was asked for and refused, and waits for an answer.
    Requests(admin::RequestsArgs),
    /// Has a running gateway ask what a repo holds that no rule names: licence, size, files that run code.
    Inspect(review::InspectArgs),
    /// Lets a repo in: over a running gateway's admin API, or as a rule for the reviewed policy folder.
    Approve(review::ApproveArgs),
    /// Says no to a repo that was asked for.
    Reject(review::RejectArgs),
    /// Takes an approval back; --list shows them all.
    Revoke(review::RevokeArgs),
    /// Refuses a repo, a commit or a content from now on, everywhere; --lift ends it.
    Withdraw(admin::WithdrawArgs),
    /// Tokens of clients and admins.
    #[command(subcommand)]
    Token(token::TokenCommand),
}

/// `REPO[@REV]`.
#[derive(Debug, Clone)]
struct RepoAtRevision {
    repo: Repo,
    revision: Revision,
}

impl FromStr for RepoAtRevision {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (repo, revision) = text.split_once('@').map_or((text, None), |(repo, revision)| (repo, Some(revision)));
        let revision = revision.map_or_else(|| Ok(Revision::main()), str::parse)?;
        Ok(Self { repo: repo.parse()?, revision })
    }
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// host:port of the public listener; the same as --set server.listen=...
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
enum Failure {
    /// Exit code 2.
    Setup(String),
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 1; what there is to say has been printed.
    Said,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Setup(error.to_string())
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::Setup(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Misconfigured(problem) => Self::Setup(problem),
            StartError::Failed(error) => Self::Failed(error.into()),
        }
    }
}

impl<E: Into<anyhow::Error>> From<Wrapped<E>> for Failure {
    fn from(Wrapped(error): Wrapped<E>) -> Self {
        Self::Failed(error.into())
    }
}

/// An error that is none of the above; `?` alone could not tell them apart.
struct Wrapped<E>(E);

type Done = Result<(), Failure>;

/// Runs the program.
pub fn run() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Setup(problems)) => {
            for problem in problems.lines() {
                eprintln!("hubgate: {problem}");
            }
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            eprintln!("hubgate: {error:#}");
            ExitCode::FAILURE
        }
        Err(Failure::Said) => ExitCode::FAILURE,
    }
}

impl Cli {
    fn run(self) -> Done {
        // Needs no configuration: what it prints goes into one.
        if let Command::Token(command) = &self.command {
            return token::run(command);
        }
        let mut flags = self.sources.set;
        if let Command::Serve(ServeArgs { listen: Some(listen) }) = &self.command {
            flags.push(("server.listen".into(), listen.clone()));
        }
        let sources = Sources::of_process(self.sources.config, flags)?;
        // Asks another process, whose configuration counts.
        if let Command::Preseed(args) = &self.command {
            return preseed::run(&sources, args);
        }
        let loaded = config::load(&sources)?;
        match self.command {
            Command::Serve(_) => serve(&loaded),
            Command::CheckConfig => check_config(&loaded),
            Command::Healthcheck(args) => healthcheck::run(&loaded, &args),
            Command::Sync(args) => sync::run(&loaded, &args),
            Command::Lock(args) => lock::run(&loaded, &args),
            Command::Preseed(args) => preseed::run(&sources, &args),
            Command::Policy(command) => policy::run(&loaded, &command),
            Command::Manifest(command) => manifest::run(&loaded, &command),
            Command::Verify(args) => store::verify(&loaded, &args),
            Command::Gc(args) => gc::run(&loaded, &args),
            Command::Publish(args) => publish::run(&loaded, &args),
            Command::Snapshot(command) => store::snapshot(&loaded, &command),
            Command::Requests(args) => admin::requests(&loaded, &sources, &args),
            Command::Inspect(args) => review::inspect(&sources, &args),
            Command::Approve(args) => review::approve(&sources, &args),
            Command::Reject(args) => review::reject(&sources, &args),
            Command::Revoke(args) => review::revoke(&sources, &args),
            Command::Withdraw(args) => admin::withdraw(&loaded, &sources, &args),
            Command::Token(command) => token::run(&command),
        }
    }
}

fn serve(loaded: &Loaded) -> Done {
    let telemetry = telemetry::init(&loaded.config.log).map_err(|error| Failure::Setup(error.to_string()))?;
    server::raise_open_files();
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals = stop_on_signals(stop.clone()).map_err(Wrapped)?;
        let app = App::build(loaded, telemetry.access.clone()).await?;
        let helpers = tokio_util::task::TaskTracker::new();
        let signals = helpers.spawn(signals);
        helpers.spawn(telemetry.report_dropped(stop.clone()));
        let outcome = app.run(stop).await;
        signals.abort();
        Ok(outcome?)
    });
    // Dropped, it would wait for every call to the file system that has not come back.
    runtime.shutdown_background();
    outcome
}

fn check_config(loaded: &Loaded) -> Done {
    print!("{}", loaded.effective());
    // What only the modules themselves can say of their sections.
    Upstream::new(&loaded.config.upstream, loaded.proxy_env.clone())
        .map_err(|error| Failure::Setup(error.to_string()))?;
    let policy = &loaded.config.policy;
    PolicyHandle::open_locked(&policy.dir, policy.lock.clone(), loaded.lists.clone())?;
    let env = &loaded.proxy_env;
    if loaded.config.upstream.proxy.is_none() && (env.https_proxy.is_some() || env.http_proxy.is_some()) {
        eprintln!(
            "hubgate: upstream.proxy is not set, so HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment count"
        );
    }
    if let Some(warning) = loaded.config.store.warning() {
        eprintln!("hubgate: {warning}");
    }
    eprintln!("hubgate: the configuration can be used; `hubgate serve` also asks the store");
    Ok(())
}

/// For commands that do their work and end: complaints on standard error, no access lines.
fn quiet_logs(loaded: &Loaded, filter: &str) -> Result<telemetry::Telemetry, Failure> {
    let log = LogConfig { filter: filter.into(), ..loaded.config.log.clone() };
    telemetry::init(&log).map_err(|error| Failure::Setup(error.to_string()))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("can't start the runtime").map_err(Failure::Failed)
}

/// Runs work that needs the store, the policy or upstream, and takes them down after it.
fn with_core<F>(loaded: &Loaded, work: impl FnOnce(std::sync::Arc<Core>) -> F) -> Done
where
    F: Future<Output = Done>,
{
    with_core_and_logs(loaded, "warn", work)
}

/// The same over a store that must be there, and that is only read unless the work `writes`.
fn with_core_on_a_store<F>(loaded: &Loaded, writes: bool, work: impl FnOnce(std::sync::Arc<Core>) -> F) -> Done
where
    F: Future<Output = Done>,
{
    let build = async || {
        if writes {
            Box::pin(Core::build_on_a_store(loaded)).await
        } else {
            Box::pin(Core::build_to_read(loaded)).await
        }
    };
    with_core_built(loaded, "warn", build, work)
}

/// The same with a log filter of the command's own.
fn with_core_and_logs<F>(loaded: &Loaded, filter: &str, work: impl FnOnce(std::sync::Arc<Core>) -> F) -> Done
where
    F: Future<Output = Done>,
{
    with_core_built(loaded, filter, async || Box::pin(Core::build(loaded)).await, work)
}

fn with_core_built<F>(
    loaded: &Loaded,
    filter: &str,
    build: impl AsyncFnOnce() -> Result<Core, StartError>,
    work: impl FnOnce(std::sync::Arc<Core>) -> F,
) -> Done
where
    F: Future<Output = Done>,
{
    let _logs = quiet_logs(loaded, filter)?;
    runtime()?.block_on(async {
        let core = std::sync::Arc::new(build().await?);
        core.check_layout().await?;
        // What was withdrawn is withdrawn for commands, too.
        core.admin.refresh().await.context("what admins decided").map_err(Failure::Failed)?;
        let following = tokio::spawn(core.admin.clone().follow(CancellationToken::new()));
        let outcome = work(core.clone()).await;
        following.abort();
        if let Some(core) = std::sync::Arc::into_inner(core) {
            core.stop(tokio::time::Instant::now() + loaded.config.server.drain_timeout).await;
        }
        outcome
    })
}
