//! hf-hub 0.4.3, the generation that TGI, TEI and candle pin: `sync-ACTION` by ureq, `tokio-ACTION` by reqwest.
//! It reads `HF_ENDPOINT` only through `from_env`.

use hf_hub_0::{Repo, RepoType};
use rust_clients::{Ask, Got, Outcome, answer, asked};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    answer(run().await)
}

async fn run() -> Outcome {
    let (action, ask) = asked()?;
    let repo = Repo::with_revision(ask.repo.clone(), RepoType::Model, ask.revision.clone());
    match action.as_str() {
        "sync-download" => tokio::task::block_in_place(|| sync_download(repo, &ask)),
        "sync-info" => tokio::task::block_in_place(|| sync_info(repo)),
        "tokio-download" => tokio_download(repo, &ask).await,
        "tokio-info" => tokio_info(repo).await,
        other => Err(format!("hf-hub 0.4.3 has no action {other}").into()),
    }
}

fn sync_download(repo: Repo, ask: &Ask) -> Outcome {
    let repo = hf_hub_0::api::sync::ApiBuilder::from_env()
        .with_progress(false)
        .build()?
        .repo(repo);
    let mut got = Got::default();
    for file in &ask.files {
        got.files.insert(file.clone(), repo.get(file)?);
    }
    Ok(got)
}

fn sync_info(repo: Repo) -> Outcome {
    let info = hf_hub_0::api::sync::ApiBuilder::from_env()
        .build()?
        .repo(repo)
        .info()?;
    Ok(facts(info))
}

async fn tokio_download(repo: Repo, ask: &Ask) -> Outcome {
    let repo = hf_hub_0::api::tokio::ApiBuilder::from_env()
        .with_progress(false)
        .build()?
        .repo(repo);
    let mut got = Got::default();
    for file in &ask.files {
        got.files.insert(file.clone(), repo.get(file).await?);
    }
    Ok(got)
}

async fn tokio_info(repo: Repo) -> Outcome {
    let info = hf_hub_0::api::tokio::ApiBuilder::from_env()
        .build()?
        .repo(repo)
        .info()
        .await?;
    Ok(facts(info))
}

fn facts(info: hf_hub_0::api::RepoInfo) -> Got {
    let mut names: Vec<_> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    names.sort();
    Got {
        value: serde_json::json!({"sha": info.sha, "names": names}),
        ..Got::default()
    }
}
