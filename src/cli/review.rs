//! `hubgate inspect`, `approve`, `reject` and `revoke`: what a reviewer looks at and decides, over a running gateway's
//! API, since only its tokens say who somebody is. `approve --as-patch` prints the rule for the reviewed folder instead,
//! and asks nobody.

use std::iter;

use bytesize::ByteSize;
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use time::{Date, macros::format_description};

use super::{
    Done, RepoAtRevision,
    admin::{at_the_command_line, print_json},
    remote::RemoteArgs,
};
use crate::{
    admin::{Id, Proposal, shown},
    config::Sources,
    hub::{Commit, Repo},
    policy::LicenseId,
};

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// org/name, datasets/org/name or spaces/org/name, with @REVISION where it is not main.
    #[arg(value_name = "REPO[@REV]")]
    repo: RepoAtRevision,
    /// Why, in one line; it stands in the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    /// org/name, datasets/org/name or spaces/org/name.
    #[arg(value_name = "REPO")]
    repo: Repo,
    /// The licence that was reviewed: apache-2.0, or other:NAME.
    #[arg(long, alias = "license", value_name = "ID")]
    licence: String,
    /// Why, in one line.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The last day on which it holds.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    expires: Date,
    /// The one commit that was reviewed.
    #[arg(long, value_name = "COMMIT")]
    pin: Option<Commit>,
    /// Gated or private upstream content is meant to come in.
    #[arg(long)]
    gated: bool,
    /// Where the review is written down.
    #[arg(long, value_name = "TEXT")]
    ticket: Option<String>,
    /// Prints the rule for the reviewed policy folder, and asks nobody.
    #[arg(long)]
    as_patch: bool,
    /// With --as-patch: who approves.
    #[arg(long, value_name = "NAME", requires = "as_patch")]
    approved_by: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct RejectArgs {
    /// org/name, datasets/org/name or spaces/org/name.
    #[arg(value_name = "REPO")]
    repo: Repo,
    /// Why, in one line.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The approval's id.
    #[arg(value_name = "ID", required_unless_present = "list")]
    id: Option<Id>,
    /// Why, in one line.
    #[arg(long, value_name = "TEXT", required_unless_present = "list")]
    reason: Option<String>,
    /// Lists all approvals and rejections.
    #[arg(long, conflicts_with_all = ["id", "reason"])]
    list: bool,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

fn day(text: &str) -> Result<Date, String> {
    Date::parse(text, format_description!("[year]-[month]-[day]")).map_err(|_| "write YYYY-MM-DD".into())
}

pub(super) fn inspect(sources: &Sources, args: &InspectArgs) -> Done {
    let remote = args.remote.required(sources)?;
    let RepoAtRevision { repo, revision } = &args.repo;
    let body = json!({
        "repo": repo.id(), "kind": repo.kind(), "revision": revision.to_string(), "reason": args.reason,
    });
    let found = super::runtime()?.block_on(remote.ask(Method::POST, "/requests/inspect", Some(&body)))?;
    if args.json {
        return print_json(&found);
    }
    print_inspection(&found);
    Ok(())
}

fn print_inspection(found: &Value) {
    // All of it is what upstream and the repo's owner wrote.
    let text = |field: &str| shown(found[field].as_str().unwrap_or("-"));
    println!("{}@{}", text("canonical"), text("commit"));
    println!("  owner      {}", text("author"));
    let flags = ["gated", "private", "disabled"].into_iter().filter(|flag| found[*flag] == true);
    println!(
        "  upstream   {}",
        iter::once(text("upstream_id")).chain(flags.map(str::to_owned)).collect::<Vec<_>>().join(", ")
    );
    println!("  changed    {}", text("last_modified"));
    for (source, name) in [("readme", "README.md"), ("card", "cardData"), ("tags", "tags")] {
        println!("  licence    {} ({name})", claim(&found["licence"][source]));
    }
    let (files, bytes) = (&found["files"], found["bytes"].as_u64().unwrap_or_default());
    println!("  files      {files}{}, {}", if found["whole"] == false { " or more" } else { "" }, ByteSize::b(bytes));
    for largest in found["largest"].as_array().into_iter().flatten() {
        let size = ByteSize::b(largest[1].as_u64().unwrap_or_default()).to_string();
        println!("  {size:>9}  {}", shown(largest[0].as_str().unwrap_or("-")));
    }
    println!("  runs code  {} files", found["code_files"]);
    for path in found["code"].as_array().into_iter().flatten() {
        println!("             {}", shown(path.as_str().unwrap_or("-")));
    }
}

/// What one source states: a list of licences, a reason why it can't be read, or nothing.
fn claim(claim: &Value) -> String {
    if let Some(stated) = claim["stated"].as_array() {
        return stated.iter().filter_map(Value::as_str).map(shown).collect::<Vec<_>>().join(", ");
    }
    claim["unreadable"].as_str().map_or_else(|| "none stated".into(), |why| format!("unreadable: {}", shown(why)))
}

pub(super) fn approve(sources: &Sources, args: &ApproveArgs) -> Done {
    if args.as_patch {
        let proposal = Proposal {
            repo: args.repo.clone(),
            licence: LicenseId::new(&args.licence),
            reason: args.reason.clone(),
            expires: args.expires,
            pin: args.pin,
            gated: args.gated,
            ticket: args.ticket.clone(),
        };
        let approved_by = args.approved_by.clone().unwrap_or_else(|| at_the_command_line().name);
        print!("{}", proposal.as_rule(args.repo.to_string(), &approved_by).to_toml());
        return Ok(());
    }
    let remote = args.remote.required(sources)?;
    let body = json!({
        "repo": args.repo.id(),
        "kind": args.repo.kind(),
        "licence": args.licence,
        "reason": args.reason,
        "expires": args.expires.to_string(),
        "pin": args.pin,
        "gated": args.gated,
        "ticket": args.ticket,
    });
    let approved = super::runtime()?.block_on(remote.ask(Method::POST, "/approvals", Some(&body)))?;
    println!("approved: {} as {}, until {}", args.repo, approved["id"].as_str().unwrap_or("?"), args.expires);
    Ok(())
}

pub(super) fn reject(sources: &Sources, args: &RejectArgs) -> Done {
    let remote = args.remote.required(sources)?;
    let body = json!({ "repo": args.repo.id(), "kind": args.repo.kind(), "reason": args.reason });
    super::runtime()?.block_on(remote.ask(Method::POST, "/rejections", Some(&body)))?;
    println!("rejected: {}", args.repo);
    Ok(())
}

pub(super) fn revoke(sources: &Sources, args: &RevokeArgs) -> Done {
    let remote = args.remote.required(sources)?;
    let (method, path, body) = match &args.id {
        Some(id) => (Method::POST, format!("/approvals/{id}/revoke"), Some(json!({ "reason": args.reason }))),
        None => (Method::GET, "/approvals".into(), None),
    };
    let answer = super::runtime()?.block_on(remote.ask(method, &path, body.as_ref()))?;
    if args.json {
        return print_json(&answer);
    }
    let all = answer["approvals"].as_array().map_or_else(|| std::slice::from_ref(&answer), Vec::as_slice);
    for approval in all {
        let text = |field: &str| approval[field].as_str().unwrap_or("-");
        let state = match (text("answer"), approval["in_force"] == true, &approval["revoked"]) {
            (_, _, revoked) if !revoked.is_null() => "revoked".to_owned(),
            ("approved", true, _) => format!("approved until {}", text("expires")),
            ("approved", false, _) => "approved, not in force".into(),
            (answer, ..) => answer.to_owned(),
        };
        println!("{}  {} {}  {state}  by {}: {}", text("id"), text("kind"), text("repo"), text("by"), text("reason"));
    }
    Ok(())
}
