//! The real program as a process of its own, to be killed, stopped and set up wrongly.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use hub_standin::Standin;

use super::{client::Client, gateway::POLICY};

/// `hubgate serve` as a process of its own.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) client: Client,
    log: Arc<Mutex<String>>,
}

/// A folder with a configuration before `hub`.
pub(crate) fn set_up(hub: &Standin, more: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("policy")).unwrap();
    std::fs::write(root.path().join("policy/policy.toml"), POLICY).unwrap();
    let cdn = hub.cdn_url().trim_start_matches("http://").to_owned();
    let config = format!(
        "server.listen = \"127.0.0.1:0\"\nserver.drain_timeout = \"20s\"\nupstream.endpoint = {:?}\n\
         upstream.allowed_hosts = [{cdn:?}]\nupstream.allow_private = true\nupstream.proxy = \"none\"\n\
         store.local.path = \"{}\"\npolicy.dir = \"{}\"\n{more}\n",
        hub.hub_url(),
        root.path().join("store").display(),
        root.path().join("policy").display(),
    );
    std::fs::write(root.path().join("config.toml"), config).unwrap();
    root
}

pub(crate) fn hubgate(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hubgate"));
    command.arg("--config").arg(root.join("config.toml")).args(arguments).env_clear().stdin(Stdio::null());
    command
}

impl Process {
    pub(crate) async fn start(root: &Path) -> Self {
        Self::run(hubgate(root, &["serve"])).await
    }

    /// `command` must come to run `hubgate serve`.
    pub(crate) async fn run(command: Command) -> Self {
        let process = Self::launch(command).await;
        process.client.wait_until_ready().await.unwrap();
        process
    }

    /// The same, as soon as it listens.
    pub(crate) async fn launch(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log: Arc<Mutex<String>> = Arc::default();
        let (reader, lines) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                writeln!(lines.lock().unwrap(), "{line}").unwrap();
            }
        });
        let mut address = None;
        for _ in 0..1000 {
            let text = log.lock().unwrap().clone();
            address = text.lines().find(|line| line.contains("listening")).and_then(|line| {
                let (_, after) = line.split_once("address=")?;
                after
                    .trim_matches('"')
                    .split(|c: char| !c.is_ascii_digit() && !".:".contains(c))
                    .next()
                    .map(str::to_owned)
            });
            if address.is_some() || child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let address = address.unwrap_or_else(|| panic!("not listening:\n{}", log.lock().unwrap()));
        let client = Client::new(&format!("http://{address}"));
        Self { child, client, log }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.client.endpoint().trim_start_matches("http://").parse().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        for _ in 0..1500 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not end:\n{}", self.log());
    }

    /// As the kernel's OOM killer does it.
    pub(crate) async fn kill(mut self) {
        self.child.kill().unwrap();
        self.ended().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
