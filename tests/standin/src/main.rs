//! The stand-in Hub by hand: `hub-standin --help`.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hub_standin::{Content, Crowd, DEFAULT_TOKEN, NewCommit, Origin, RepoBuilder, RepoName, Standin};
use serde_json::json;

/// A stand-in for the Hugging Face Hub and its CDN, for tests without the internet.
///
/// Prints one line of JSON with its addresses when it is ready, and runs until interrupted.
///
/// Faults and counts go through the control listener:
///   curl -X POST -d '{"fault":{"kind":"cut_after","bytes":1000},"path":"*.safetensors","origin":"cdn","times":1}' \
///     http://CONTROL/-/standin/faults
///   curl http://CONTROL/-/standin/counters
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Args {
    /// Where the Hub listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Where the CDN listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    cdn_listen: SocketAddr,

    /// Where control requests are answered: counters, faults, refs, rate (GET and POST under /-/standin/).
    #[arg(long, value_name = "ADDR")]
    control: Option<SocketAddr>,

    /// Host name in the Hub's own URLs, in place of its address.
    #[arg(long, value_name = "NAME", default_value = "")]
    hub_host: String,

    /// Host name in CDN URLs, in place of its address.
    #[arg(long, value_name = "NAME", default_value = "")]
    cdn_host: String,

    /// Serve the built-in repos: acme/tiny, datasets/acme/table, spaces/acme/demo and others.
    #[arg(long)]
    fixtures: bool,

    /// Serve a folder as a repo of one commit. KIND is model, dataset or space.
    #[arg(long, value_name = "KIND:ID=DIR")]
    repo: Vec<String>,

    /// Serve an LFS file of pseudo-random bytes. SIZE may end in K, M or G (powers of 1024).
    /// Files of one repo come in one commit, with a README that states the licence apache-2.0.
    #[arg(long, value_name = "KIND:ID/PATH=SIZE@SEED")]
    generated: Vec<String>,

    /// Serve a repo with very many small files.
    #[arg(long, value_name = "KIND:ID=FILES")]
    crowd: Vec<String>,

    /// Cap the CDN, over all connections, to so many bytes a second (K, M, G as above).
    #[arg(long, value_name = "BYTES", value_parser = size)]
    rate: Option<u64>,

    /// Cap the Hub likewise.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    hub_rate: Option<u64>,

    /// The token that has access; every other one is refused.
    #[arg(long, default_value = DEFAULT_TOKEN)]
    token: String,

    /// Speak TLS on both origins, and write the authority to trust to DIR/ca.pem.
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hub-standin: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> io::Result<()> {
    let mut builder = Standin::builder()
        .listen(args.listen, args.cdn_listen)
        .hosts(args.hub_host, args.cdn_host)
        .token(args.token)
        .rate(Origin::Cdn, args.rate.unwrap_or(0))
        .rate(Origin::Hub, args.hub_rate.unwrap_or(0));
    if let Some(address) = args.control {
        builder = builder.control(address);
    }
    if args.tls_dir.is_some() {
        builder = builder.tls();
    }
    if args.fixtures {
        builder = builder.fixtures();
    }
    for repo in &args.repo {
        let (name, dir) = split(repo, '=', "--repo", "KIND:ID=DIR")?;
        let found = RepoBuilder::from_directory(name, dir);
        builder = builder.repo(found.map_err(|error| invalid(format!("--repo {repo}: {dir}: {error}")))?);
    }
    for (name, commit) in generated(&args.generated)? {
        builder = builder.repo(RepoBuilder::new(name).commit(commit));
    }
    for crowd in &args.crowd {
        let (name, files) = split(crowd, '=', "--crowd", "KIND:ID=FILES")?;
        let files = files.parse().map_err(|_| invalid(format!("--crowd {crowd}: {files} is not a number of files")))?;
        let commit = NewCommit::new("Add files").file("README.md", README).crowd(Crowd::new(files));
        builder = builder.repo(RepoBuilder::new(name).commit(commit));
    }
    let standin = builder.try_start().await?;
    if let (Some(dir), Some(pem)) = (&args.tls_dir, standin.ca_pem()) {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("ca.pem"), pem)?;
    }
    let ready = json!({
        "ready": true, "hub": standin.hub_url(), "cdn": standin.cdn_url(),
        "hub_address": standin.hub_address(), "cdn_address": standin.cdn_address(),
        "control": standin.control_address().map(|address| format!("http://{address}")),
        "ca": args.tls_dir.map(|dir| dir.join("ca.pem")),
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{ready}")?;
    out.flush()?;
    drop(out);
    stopped().await
}

const README: &str = "---\nlicense: apache-2.0\n---\n# Generated\n";

/// The commit of each repo that `--generated` names.
fn generated(specs: &[String]) -> io::Result<Vec<(RepoName, NewCommit)>> {
    let mut commits: Vec<(RepoName, NewCommit)> = Vec::new();
    for spec in specs {
        let form = "KIND:ID/PATH=SIZE@SEED";
        let wrong = |what: &str| invalid(format!("--generated {spec}: {what}; the form is {form}"));
        let (target, size_and_seed) = spec.rsplit_once('=').ok_or_else(|| wrong("there is no ="))?;
        let (bytes, seed) = size_and_seed.split_once('@').unwrap_or((size_and_seed, "1"));
        let bytes = size(bytes).map_err(|error| wrong(&error))?;
        let seed = seed.parse().map_err(|_| wrong("the seed is not a number"))?;
        let mut labels = target.splitn(3, '/');
        let (Some(owner), Some(repo), Some(path)) = (labels.next(), labels.next(), labels.next()) else {
            return Err(wrong("the id needs two labels and a path after them"));
        };
        let name = RepoName::from(format!("{owner}/{repo}").as_str());
        let at = commits.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            commits.push((name, NewCommit::new("Add generated files").file("README.md", README)));
            commits.len() - 1
        });
        let commit = std::mem::take(&mut commits[at].1);
        commits[at].1 = commit.lfs(path, Content::generated(bytes, seed));
    }
    Ok(commits)
}

fn split<'a>(text: &'a str, at: char, flag: &str, form: &str) -> io::Result<(&'a str, &'a str)> {
    text.split_once(at).ok_or_else(|| invalid(format!("{flag} {text}: the form is {form}")))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// `1500`, `64K`, `100M`, `2G`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        unit => return Err(format!("{unit} is no unit: use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is not a number of bytes"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too large"))
}

async fn stopped() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
