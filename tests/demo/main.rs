//! The demo: what each person sees when hubgate does its main job. Needs no internet.
//!
//! A stand-in for the Hub with a small model, hubgate before it with a policy of its own; one allowed pull, one
//! refused; the Hub stopped; the pull again from a clean client cache; then the proof. At the end hubgate stays
//! up for a client of your own. Run it with `cargo run --release --example demo`, from the project's folder.

#[path = "../it/support/client.rs"]
#[allow(dead_code, reason = "the demo uses a part of it")]
mod client;

use std::{io::IsTerminal as _, path::Path};

use anyhow::{Context, Result, ensure};
use client::Client;
use hub_standin::Standin;
use hubgate::{
    app::App,
    config::{self, Sources},
    manifest,
    telemetry::AccessLog,
};
use tokio_util::sync::CancellationToken;

/// Allows the model of the stand-in, which the shipped policy must not: on the real Hub its name is anybody's.
const POLICY: &str = "tests/demo/policy";
const MODEL: &str = "acme/tiny";
const REFUSED: &str = "acme/secret";
const FILES: [&str; 5] = ["README.md", "config.json", "tokenizer.json", "model.safetensors", "empty.txt"];

fn say(who: &str, what: &str) {
    // https://no-color.org
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (bold, normal) = if std::io::stdout().is_terminal() && !plain { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("\n{bold}[{who}]{normal} {what}");
}

#[tokio::main]
async fn main() -> Result<()> {
    ensure!(Path::new(POLICY).is_dir(), "run the demo from the project's folder: its policy is there");
    let dir = tempfile::tempdir()?;

    let hub = Standin::builder().fixtures().start().await;
    say("stand-in", &format!("A stand-in for the Hub listens on {}. It has the model {MODEL}.", hub.hub_url()));

    let file = dir.path().join("config.toml");
    std::fs::write(&file, configuration(&hub, dir.path()))?;
    say("platform engineer", &format!("hubgate starts with this {}:\n", file.display()));
    print!("{}", std::fs::read_to_string(&file)?);
    let loaded = config::load(&Sources { file: Some(file), ..Sources::default() })?;
    let app = App::build(&loaded, AccessLog::none()).await?;
    let address = app.addresses().next().context("no listener")?;
    let store = app.core().store.clone();
    let gateway = app.core().gateway.clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));
    let endpoint = format!("http://{address}");
    let client = Client::new(&endpoint);
    client.wait_until_ready().await?;
    println!("\nready on {endpoint}");

    say("reviewer", &format!("hubgate policy explain {MODEL}\n"));
    let operator = hubgate::gateway::Asker::operator("demo");
    print!("{}", gateway.explain(&operator, &MODEL.parse()?, &"main".parse()?).await);

    say("developer", &format!("HF_ENDPOINT={endpoint}, then loads {MODEL}: cold, hubgate fetches."));
    let first = pull(&client, &dir.path().join("cache-1")).await?;
    println!("  the Hub sent {} bytes of files", hub.counters().file_bytes(&format!("{MODEL}/*")));

    say("developer", &format!("tries {REFUSED}, which no rule names. What the terminal shows:"));
    let refused = client.head(&format!("/{REFUSED}/resolve/main/config.json")).await?;
    ensure!(refused.status == 403, "expected a refusal, got {}", refused.status);
    println!("  403  {}", refused.header("x-error-message"));
    ensure!(hub.counters().matching(&format!("* *{REFUSED}*")) == 0, "a refused repo was asked for");
    println!("  (of {REFUSED} nothing was asked upstream)");

    hub.stop().await;
    say("SRE", "The Hub is gone. hubgate stays ready:");
    println!("  {}", client.get("/-/readyz").await?.text());

    say("developer", "loads the model again, in a new container with an empty cache:");
    let second = pull(&client, &dir.path().join("cache-2")).await?;
    ensure!(first == second, "the second pull differs from the first");

    say("auditor", "hubgate manifest export --format csv\n");
    manifest::export(&*store, &manifest::Filter::default(), manifest::Format::Csv, &mut std::io::stdout()).await?;
    say("auditor", "hubgate verify\n");
    let report = manifest::verify::verify(store, verify_options()).await?;
    report.write_text(&mut std::io::stdout())?;
    ensure!(report.is_fine(), "verify found something");

    say("you", &format!("hubgate stays up. Try: HF_ENDPOINT={endpoint} hf download {MODEL}   (Ctrl-C ends it)"));
    if std::env::args().any(|argument| argument == "--no-wait") {
        println!("not waiting, as asked");
    } else {
        tokio::signal::ctrl_c().await?;
    }
    stop.cancel();
    running.await??;
    Ok(())
}

fn verify_options() -> manifest::verify::Options {
    let snapshots = std::sync::Arc::new(hubgate::gateway::StoredSnapshots);
    manifest::verify::Options { snapshots: Some(snapshots), ..manifest::verify::Options::default() }
}

fn configuration(hub: &Standin, dir: &Path) -> String {
    let cdn = hub.cdn_url().trim_start_matches("http://").to_owned();
    format!(
        r#"[server]
listen = "127.0.0.1:0"

[upstream]
endpoint = "{}"
allowed_hosts = ["{cdn}"]
allow_private = true              # the stand-in is on this machine

[store.local]
path = "{}"

[policy]
dir = "{POLICY}"
contact = "ml-platform@example.com"
"#,
        hub.hub_url(),
        dir.join("store").display(),
    )
}

/// Downloads the model as `huggingface_hub` does: HEAD on the branch, GET at the commit; checks sizes. Returns
/// the digests.
async fn pull(client: &Client, cache: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(cache)?;
    let mut digests = Vec::new();
    for file in FILES {
        let url = format!("/{MODEL}/resolve/main/{file}");
        let meta = client.head(&url).await?;
        ensure!(meta.status == 200, "{file}: {} {}", meta.status, meta.header("x-error-message"));
        let content = client.get(&url).await?;
        ensure!(content.body.len().to_string() == meta.header("content-length"), "{file}: another size than announced");
        std::fs::write(cache.join(file), &content.body)?;
        let digest = hubgate::hub::Sha256::of(&content.body).to_string();
        println!(
            "  {file:<18} {:>7} bytes  sha256 {}  at {}",
            content.body.len(),
            &digest[..12],
            &meta.header("x-repo-commit")[..7]
        );
        digests.push(digest);
    }
    Ok(digests)
}
