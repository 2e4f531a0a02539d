//! The real program over TLS and HTTP/2: what clients see, and what changes without a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hub_standin::Standin;
use hubgate::hub::Sha256;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    fills::big,
    support::{
        gateway::eventually,
        process::{Process, hubgate, set_up},
    },
};

const SIZE: u64 = 24 << 20;
const NAME: &str = "gate.test";

/// A certificate of a name, signed by itself, as `NAME.crt` and `NAME.key`.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn write(folder: &Path, file: &str, subject: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([subject.to_owned()]).unwrap();
        let pair = Self { cert: folder.join(format!("{file}.crt")), key: folder.join(format!("{file}.key")) };
        std::fs::write(&pair.cert, made.cert.pem()).unwrap();
        std::fs::write(&pair.key, made.signing_key.serialize_pem()).unwrap();
        pair
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).unwrap()
    }

    /// As the server's own.
    fn config(&self) -> String {
        format!("server.tls.cert = \"{}\"\nserver.tls.key = \"{}\"\n", self.cert.display(), self.key.display())
    }
}

/// A gateway with TLS, listening.
async fn serving(hub: &Standin, more: &str) -> (tempfile::TempDir, Pair, Process) {
    let root = set_up(hub, "");
    let pair = Pair::write(root.path(), "server", NAME);
    let config = root.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap() + &pair.config() + more;
    std::fs::write(&config, text).unwrap();
    let process = Process::launch(hubgate(root.path(), &["serve"])).await;
    eventually("the store is ready", async || process.log().contains("the store is ready")).await;
    (root, pair, process)
}

async fn shake_hands(
    process: &Process,
    trusted: &CertificateDer<'static>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(process.address()).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(NAME.try_into().unwrap(), stream).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    Ok(stream)
}

type Http2 = SendRequest<Empty<Bytes>>;

async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Http2 {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// The digest of a whole file, redirects followed on the same connection.
async fn sha256(mut sender: Http2, path: &str) -> String {
    let mut path = path.to_owned();
    loop {
        let request = Request::get(format!("http://{NAME}{path}")).body(Empty::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.version(), Version::HTTP_2);
        if answer.status() == StatusCode::TEMPORARY_REDIRECT {
            answer.headers()["location"].to_str().unwrap().clone_into(&mut path);
            continue;
        }
        assert_eq!(answer.status(), 200, "{path}");
        let announced: u64 = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(announced, body.len() as u64);
        return Sha256::of(&body).to_string();
    }
}

/// Cold and warm, two files at once on one connection.
async fn files_come_whole(hub: &Standin, sender: Http2) {
    for _ in 0..2 {
        let (one, other) = tokio::join!(
            sha256(sender.clone(), "/acme/big/resolve/main/model.safetensors"),
            sha256(sender.clone(), "/acme/tiny/resolve/main/model.safetensors"),
        );
        assert_eq!(one, hub.sha256("acme/big", "main", "model.safetensors"));
        assert_eq!(other, hub.sha256("acme/tiny", "main", "model.safetensors"));
    }
}

#[tokio::test]
async fn files_come_whole_by_http2_over_tls_and_by_prior_knowledge() {
    let hub = Standin::builder().fixtures().repo(big(SIZE)).start().await;
    let (_root, pair, process) = serving(&hub, "").await;
    files_come_whole(&hub, http2(shake_hands(&process, &pair.der(), b"h2").await.unwrap()).await).await;
    let root = set_up(&hub, "");
    let plain = Process::start(root.path()).await;
    files_come_whole(&hub, http2(TcpStream::connect(plain.address()).await.unwrap()).await).await;
}

/// Asks by HTTP/1.1 and leaves the connection open.
async fn lives(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let request = format!("GET /-/livez HTTP/1.1\r\nhost: {NAME}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"ok\n") {
        if stream.read_buf(&mut read).await.unwrap() == 0 {
            return false;
        }
    }
    read.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn a_changed_certificate_is_shown_to_new_connections_and_old_ones_live_on() {
    let hub = Standin::builder().fixtures().start().await;
    let (root, old, process) = serving(&hub, "").await;
    let old = old.der();
    let mut before = shake_hands(&process, &old, b"http/1.1").await.unwrap();
    assert!(lives(&mut before).await);

    let new = Pair::write(root.path(), "server", NAME);
    // Clocks of file systems are coarse; the test says when the file was changed.
    let file = std::fs::File::options().append(true).open(&new.cert).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
    process.signal(Signal::HUP);
    let read = async || process.log().contains("read the changed TLS certificate");
    eventually("the certificate is read", read).await;
    assert!(shake_hands(&process, &old, b"http/1.1").await.is_err(), "the old one is shown");
    let mut after = shake_hands(&process, &new.der(), b"http/1.1").await.unwrap();
    assert!(lives(&mut after).await);
    assert!(lives(&mut before).await, "the old connection was closed");

    std::fs::write(&new.cert, "no certificate").unwrap();
    process.signal(Signal::HUP);
    eventually("the bad one is said", async || process.log().contains("the changed TLS certificate is bad")).await;
    assert!(
        shake_hands(
            &process,
            &CertificateDer::from(after.get_ref().1.peer_certificates().unwrap()[0].to_vec()),
            b"http/1.1"
        )
        .await
        .is_ok()
    );
}

#[tokio::test]
async fn sighup_has_the_policy_looked_at_and_says_so() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let process = Process::start(root.path()).await;
    let url = "/acme/tiny/resolve/main/config.json";
    assert_eq!(process.client.get(url).await.unwrap().status, 200);
    let policy = root.path().join("policy/policy.toml");
    std::fs::write(&policy, "[[allow]]\nrepo = \"other/*\"\n").unwrap();
    process.signal(Signal::HUP);
    eventually("it is refused", async || process.client.get(url).await.unwrap().status == 403).await;
    // The log is read by a thread in its own time.
    let said = |text: &str| process.log().contains(text);
    eventually("both are said", async || said("SIGHUP: looking at the policy") && said("policy changed")).await;
    std::fs::write(&policy, "[[allow]]\nrepos = 1\n").unwrap();
    process.signal(Signal::HUP);
    eventually("the bad one is said", async || process.log().contains("policy refused")).await;
    let health = process.client.get("/-/readyz").await.unwrap().json();
    assert!(health["policy_error"].as_str().unwrap().contains("policy.toml"), "{health}");
}

#[tokio::test]
async fn healthcheck_shows_a_certificate_where_clients_must_and_says_what_to_set() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let (server, client) = (Pair::write(root.path(), "server", NAME), Pair::write(root.path(), "client", "probe.test"));
    let base = std::fs::read_to_string(root.path().join("config.toml")).unwrap();
    let (cert, key) = (client.cert.to_str().unwrap(), client.key.to_str().unwrap());
    // Whom the server trusts, and what the healthcheck is given.
    for (authority, arguments, works) in [
        (&server, &[][..], true),
        (&client, &[], false),
        (&client, &["--cert", cert, "--key", key], true),
        (&server, &["--cert", cert, "--key", key], false),
    ] {
        let authority = format!("server.tls.client_ca = \"{}\"\n", authority.cert.display());
        std::fs::write(root.path().join("config.toml"), format!("{base}{}{authority}", server.config())).unwrap();
        let process = Process::launch(hubgate(root.path(), &["serve"])).await;
        eventually("the store is ready", async || process.log().contains("the store is ready")).await;
        let listen = format!("server.listen={}", process.address());
        let asked = [&["healthcheck", "--ready", "--set", &listen], arguments].concat();
        let output = hubgate(root.path(), &asked).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!works)), "{authority}{arguments:?}: {said}");
        let names_the_remedy = said.contains("server.tls.client_ca is set") && said.contains("--cert and --key");
        assert_eq!(names_the_remedy, !works, "{said}");
    }
}

#[tokio::test]
async fn a_file_system_that_does_not_answer_does_not_keep_the_process_from_ending() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let config = root.path().join("config.toml");
    let pair = Pair::write(root.path(), "server", NAME);
    let text = std::fs::read_to_string(&config).unwrap().replace("\"20s\"", "\"1s\"") + &pair.config();
    std::fs::write(&config, text).unwrap();
    let mut process = Process::launch(hubgate(root.path(), &["serve"])).await;
    eventually("the store is ready", async || process.log().contains("the store is ready")).await;
    // Whoever opens a pipe without a writer waits, as on a network file system whose server is away.
    std::fs::remove_file(&pair.cert).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pair.cert).status().unwrap().success());
    process.signal(Signal::HUP);
    eventually("it looks", async || process.log().contains("SIGHUP")).await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("of=\"SIGHUP\"") && process.log().contains("stopped"), "{}", process.log());
}
