//! `hubgate requests` and `withdraw`: over a running gateway's API; and, where none is named, on the store itself, which
//! other gateways see within seconds.

use std::{str::FromStr, sync::Arc};

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{Done, Failure, remote::RemoteArgs, with_core};
use crate::{
    admin::{self, Actor, Id, Target, WithdrawalShown},
    app::Core,
    config::{Loaded, Sources},
    hub::{Repo, Sha256},
};

#[derive(Debug, Args)]
pub(super) struct RequestsArgs {
    /// Those that were answered, too.
    #[arg(long)]
    all: bool,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct WithdrawArgs {
    /// A repo, REPO@COMMIT or sha256:DIGEST.
    #[arg(value_name = "WHAT", required_unless_present_any = ["lift", "list"])]
    what: Option<Withdrawn>,
    /// Why, in one line; who is refused reads it.
    #[arg(long, value_name = "TEXT", required_unless_present = "list")]
    reason: Option<String>,
    /// Removes the files from the store, too.
    #[arg(long, requires = "what")]
    purge: bool,
    /// Ends the withdrawal of this id.
    #[arg(long, value_name = "ID", conflicts_with = "what")]
    lift: Option<Id>,
    /// Lists all withdrawals.
    #[arg(long, conflicts_with_all = ["what", "lift", "reason"])]
    list: bool,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Clone)]
struct Withdrawn(Target);

impl FromStr for Withdrawn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(digest) = text.strip_prefix("sha256:") {
            let sha256: Sha256 = digest.parse().map_err(|error: crate::hub::ParseError| error.to_string())?;
            return Ok(Self(Target::Sha256 { sha256 }));
        }
        let (repo, commit) = text.split_once('@').map_or((text, None), |(repo, commit)| (repo, Some(commit)));
        let repo: Repo = repo.parse().map_err(|error: crate::hub::ParseError| error.to_string())?;
        let Some(commit) = commit else { return Ok(Self(Target::Repo { repo })) };
        let commit = commit.parse().map_err(|error: crate::hub::ParseError| error.to_string())?;
        Ok(Self(Target::Commit { repo, commit }))
    }
}

pub(super) fn at_the_command_line() -> Actor {
    Actor::at_the_command_line(std::env::var("USER").ok().as_deref())
}

fn failed(error: admin::Error) -> Failure {
    Failure::Failed(error.into())
}

pub(super) fn requests(loaded: &Loaded, sources: &Sources, args: &RequestsArgs) -> Done {
    let state = if args.all { "all" } else { "waiting" };
    if let Some(remote) = args.remote.remote(sources)? {
        let asked = super::runtime()?.block_on(remote.ask(Method::GET, &format!("/requests?state={state}"), None))?;
        return print_requests(&asked, args.json);
    }
    with_core(loaded, async |core: Arc<Core>| {
        let mut found = core.admin.list_requests().await.map_err(failed)?;
        found.requests.retain(|request| args.all || request.state == admin::State::Waiting);
        let found = serde_json::to_value(&found).map_err(|error| Failure::Failed(error.into()))?;
        print_requests(&found, args.json)
    })
}

fn print_requests(found: &Value, json: bool) -> Done {
    if json {
        return print_json(found);
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for request in found["requests"].as_array().into_iter().flatten() {
        let clients = request["askers"].as_object().map_or(0, serde_json::Map::len);
        let wishes = request["in_person"].as_array().map_or(0, Vec::len);
        println!(
            "{:<8}  {:<7}  {}  asked {} times by {clients} clients and {wishes} admins, last {}  {}",
            text(&request["state"]),
            text(&request["kind"]),
            text(&request["repo"]),
            request["count"],
            text(&request["last"]),
            text(&request["refused"]),
        );
    }
    Ok(())
}

pub(super) fn withdraw(loaded: &Loaded, sources: &Sources, args: &WithdrawArgs) -> Done {
    if let Some(remote) = args.remote.remote(sources)? {
        let (method, path, body) = args.as_request();
        let answer = super::runtime()?.block_on(remote.ask(method, &path, body.as_ref()))?;
        return print_withdrawals(&answer, args.json);
    }
    let reason = args.reason.clone().unwrap_or_default();
    with_core(loaded, async |core: Arc<Core>| {
        let (admin, actor) = (&core.admin, at_the_command_line());
        let shown: Vec<WithdrawalShown> = match (&args.what, &args.lift) {
            (Some(Withdrawn(target)), _) => {
                let shown = admin.withdraw(target.clone(), &reason, args.purge, &actor).await.map_err(failed)?;
                admin.carry_out(&shown.withdrawal.id).await.map_err(failed)?;
                vec![admin.withdrawal(&shown.withdrawal.id).map_err(failed)?]
            }
            (None, Some(id)) => vec![admin.lift(id, &reason, &actor).await.map_err(failed)?],
            (None, None) => admin.list_withdrawals().await.map_err(failed)?,
        };
        let answer = if args.list { json!({ "withdrawals": shown }) } else { json!(shown.first()) };
        print_withdrawals(&answer, args.json)
    })
}

impl WithdrawArgs {
    fn as_request(&self) -> (Method, String, Option<Value>) {
        let reason = &self.reason;
        let target = match (&self.what, &self.lift) {
            (None, Some(id)) => {
                return (Method::POST, format!("/withdrawals/{id}/lift"), Some(json!({ "reason": reason })));
            }
            (None, None) => return (Method::GET, "/withdrawals".into(), None),
            (Some(Withdrawn(target)), _) => target,
        };
        let body = match target {
            Target::Repo { repo } => {
                json!({ "repo": repo.id(), "kind": repo.kind(), "reason": reason, "purge": self.purge })
            }
            Target::Commit { repo, commit } => json!({
                "repo": repo.id(), "kind": repo.kind(), "commit": commit, "reason": reason, "purge": self.purge,
            }),
            Target::Sha256 { sha256 } => json!({ "sha256": sha256, "reason": reason, "purge": self.purge }),
        };
        (Method::POST, "/withdrawals".into(), Some(body))
    }
}

fn print_withdrawals(answer: &Value, json: bool) -> Done {
    if json {
        return print_json(answer);
    }
    let all = answer["withdrawals"].as_array().map_or_else(|| std::slice::from_ref(answer), Vec::as_slice);
    for withdrawal in all {
        let text = |field: &str| withdrawal[field].as_str().unwrap_or_default().to_owned();
        let what = match withdrawal["of"].as_str() {
            Some("sha256") => format!("sha256:{}", text("sha256")),
            Some("commit") => format!("{} {}@{}", text("kind"), text("repo"), text("commit")),
            _ => format!("{} {}", text("kind"), text("repo")),
        };
        let state = match (withdrawal["in_force"].as_bool(), withdrawal["purge"].as_bool(), &withdrawal["purged"]) {
            (Some(false), ..) => "lifted".to_owned(),
            (_, Some(true), Value::Null) => "withdrawn; its files are being removed".into(),
            (_, Some(true), purged) => {
                let removed = &purged["details"];
                format!("withdrawn; {} files and {} blobs removed", removed["files"], removed["blobs"])
            }
            _ => "withdrawn".into(),
        };
        println!("{}  {what}  {state}  by {}: {}", text("id"), text("by"), text("reason"));
    }
    Ok(())
}

pub(super) fn print_json(value: &Value) -> Done {
    println!("{}", serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.into()))?);
    Ok(())
}
