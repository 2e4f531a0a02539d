//! hf-hub 1.0.0, the async client. `HF_ENDPOINT` and `HF_HOME` come from the environment, as in a user's program.

use futures::{StreamExt, pin_mut};
use hf_hub_1::HFClient;
use hf_hub_1::repository::{HFRepository, RepoTreeEntry, RepoTypeModel};
use rust_clients::{Ask, Got, Outcome, answer, asked, files_below};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    answer(run().await)
}

async fn run() -> Outcome {
    let (action, ask) = asked()?;
    let (owner, name) = ask.repo.split_once('/').unwrap_or(("", &ask.repo));
    let repo = HFClient::new()?.model(owner, name);
    match action.as_str() {
        "download" => download(&repo, &ask).await,
        "snapshot" => snapshot(&repo, &ask).await,
        "info" => info(&repo, &ask).await,
        "list" => list(&repo, &ask).await,
        other => Err(format!("hf-hub 1.0.0 has no action {other}").into()),
    }
}

async fn download(repo: &HFRepository<RepoTypeModel>, ask: &Ask) -> Outcome {
    let mut got = Got::default();
    for file in &ask.files {
        let path = repo
            .download_file()
            .filename(file)
            .revision(&ask.revision)
            .send()
            .await?;
        got.files.insert(file.clone(), path);
    }
    Ok(got)
}

async fn snapshot(repo: &HFRepository<RepoTypeModel>, ask: &Ask) -> Outcome {
    let folder = repo
        .snapshot_download()
        .revision(&ask.revision)
        .send()
        .await?;
    Ok(Got {
        files: files_below(&folder)?,
        ..Got::default()
    })
}

async fn info(repo: &HFRepository<RepoTypeModel>, ask: &Ask) -> Outcome {
    let info = repo.info().revision(&ask.revision).send().await?;
    Ok(Got {
        value: serde_json::json!({"id": info.id, "sha": info.sha}),
        ..Got::default()
    })
}

async fn list(repo: &HFRepository<RepoTypeModel>, ask: &Ask) -> Outcome {
    let entries = repo
        .list_tree()
        .revision(&ask.revision)
        .recursive(true)
        .send()?;
    pin_mut!(entries);
    let mut names = Vec::new();
    while let Some(entry) = entries.next().await {
        if let RepoTreeEntry::File { path, .. } = entry? {
            names.push(path);
        }
    }
    names.sort();
    Ok(Got {
        value: serde_json::json!({ "names": names }),
        ..Got::default()
    })
}
