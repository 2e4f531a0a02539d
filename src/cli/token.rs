//! `hubgate token`: a new secret for a client or an admin, shown once. Nothing is stored.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Done, Failure};
use crate::{http::Scope, hub::Sha256};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Makes a token, and prints it once with its sha256 and the line for the configuration.
    New(NewArgs),
}

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Whose token it is: printable ASCII without blanks; logs and the audit show it.
    #[arg(value_name = "NAME", default_value = "ops", value_parser = name)]
    name: String,
    /// What an admin may do: request, approve, operate, audit.
    #[arg(long, value_name = "SCOPE,...", value_delimiter = ',', default_value = "operate,audit")]
    scopes: Vec<Scope>,
    /// For auth.clients, which have no scopes, rather than for auth.admins.
    #[arg(long, conflicts_with = "scopes")]
    client: bool,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('"') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("write printable ASCII without blanks and quotes".into());
    }
    Ok(text.to_owned())
}

pub(super) fn run(command: &TokenCommand) -> Done {
    let TokenCommand::New(NewArgs { name, scopes, client, json }) = command;
    // Two random UUIDs are 244 bits of the system's randomness.
    let token = format!("hg_{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let sha256 = Sha256::of(token.as_bytes());
    let line = if *client {
        format!("clients = [{{ name = \"{name}\", token_sha256 = \"{sha256}\" }}]")
    } else {
        let scopes: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\"")).collect();
        format!("admins = [{{ name = \"{name}\", token_sha256 = \"{sha256}\", scopes = [{}] }}]", scopes.join(", "))
    };
    if *json {
        let value = json!({ "name": name, "token": token, "token_sha256": sha256, "config": line });
        println!("{}", serde_json::to_string_pretty(&value).map_err(|error| Failure::Failed(error.into()))?);
        return Ok(());
    }
    println!("token         {token}");
    println!("token_sha256  {sha256}");
    println!("\n# config.toml; the token itself goes to {name} and nowhere else\n[auth]\n{line}");
    Ok(())
}
