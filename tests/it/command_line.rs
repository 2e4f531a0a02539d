//! The program itself: its exit codes, and what it says.

use std::{
    io::Read as _,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use hub_standin::Standin;

use crate::support::{
    process::{self, Process, set_up},
    s3::S3sServer,
};

fn hubgate(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hubgate"));
    command.args(arguments).current_dir(folder).env_clear();
    command
}

fn ran(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = hubgate(folder, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn a_bad_configuration_is_exit_2_and_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), "[server]\nlisen = 'x'\n").unwrap();
    for command in [&["serve"][..], &["check-config"], &["healthcheck"], &["verify"]] {
        let (code, _, complaint) = ran(folder.path(), command);
        assert_eq!(code, 2, "{command:?}");
        assert!(complaint.contains("config.toml: server.lisen: unknown key"), "{complaint}");
    }
    assert_eq!(ran(folder.path(), &["no-such-command"]).0, 2);
}

#[test]
fn check_config_says_what_holds_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), "[upstream]\ntoken = 'hf_hush'\nconnections = 7\n").unwrap();
    let (code, said, complaint) = ran(folder.path(), &["check-config", "--set", "log.format=json"]);
    assert_eq!(code, 0, "{complaint}");
    assert!(said.contains("connections = 7  # from config.toml") && said.contains("format = \"json\"  # from --set"));
    assert!(!said.contains("hf_hush") && said.contains("token = \"(hidden)\""), "{said}");
    std::fs::write(folder.path().join("config.toml"), "[upstream]\nendpoint = 'ftp://hub'\n").unwrap();
    let (code, _, complaint) = ran(folder.path(), &["check-config"]);
    assert_eq!(code, 2);
    assert!(complaint.contains("upstream.endpoint"), "{complaint}");
}

#[test]
fn a_proxy_without_its_scheme_is_a_setup_error_and_a_flag_may_be_quoted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    let (code, _, complaint) = ran(folder.path(), &["check-config", "--set", "upstream.proxy=proxy:3128"]);
    assert_eq!(code, 2);
    assert!(complaint.contains("upstream.proxy: no scheme") && complaint.contains("http://host:port"), "{complaint}");
    let (code, said, complaint) =
        ran(folder.path(), &["check-config", "--set", "upstream.proxy=\"http://proxy:3128\""]);
    assert_eq!(code, 0, "{complaint}");
    assert!(said.contains("proxy = \"http://proxy:3128\"  # from --set"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_to_a_bucket_come_from_the_environment_where_the_configuration_has_none() {
    let hub = Standin::builder().fixtures().start().await;
    let (server, spool) = (S3sServer::start().await, tempfile::tempdir().unwrap());
    let root = set_up(&hub, &server.lines_without_keys(spool.path()));
    let with = |secret: &str, arguments: &[&str]| {
        let mut command = process::hubgate(root.path(), arguments);
        command.env("AWS_ACCESS_KEY_ID", "test-key").env("AWS_SECRET_ACCESS_KEY", secret);
        command
    };
    let serving = Process::run(with("test-secret", &["serve"])).await;
    let answer = serving.client.get("/acme/tiny/resolve/main/config.json").await.unwrap();
    assert_eq!(answer.body, hub.bytes("acme/tiny", "main", "config.json"), "{}", answer.text());
    serving.kill().await;
    for (secret, code) in [("test-secret", 0), ("another", 2)] {
        let output = with(secret, &["verify"]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{secret}: {said}");
    }
}

/// A bare image has none, and the SDK would only say that a certificate is not trusted.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_certificate_authorities_is_told_so_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    let address = a_server_that_nobody_vouches_for().await;
    let config = format!(
        "[store]\nkind = 's3'\n[store.s3]\nendpoint = 'https://{address}'\nbucket = 'models'\naccess_key = 'key'\n\
         secret_key = 'secret'\n"
    );
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let bare = |arguments: &[&str]| {
        let output = hubgate(folder.path(), arguments).env("SSL_CERT_FILE", "/nowhere/ca.pem").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, complaint) = bare(&["check-config"]);
    assert_eq!(code, 0, "{complaint}");
    for words in ["this machine has no certificate authorities", "ca-certificates", "SSL_CERT_FILE", "store.s3.ca_file"]
    {
        assert!(complaint.contains(words), "{words}: {complaint}");
    }
    let (code, complaint) = bare(&["verify"]);
    assert_ne!(code, 0);
    let asked = complaint.find("certificate is not trusted").expect(&complaint);
    assert!(complaint[..asked].contains("no certificate authorities"), "said at the start: {complaint}");
    assert!(complaint[asked..].contains("ca-certificates"), "and when it is asked: {complaint}");

    for settled in ["store.s3.endpoint=http://127.0.0.1:9", "store.kind=local"] {
        let (_, complaint) = bare(&["check-config", "--set", settled]);
        assert!(!complaint.contains("authorities"), "{settled}: {complaint}");
    }
}

/// An https server with a certificate of its own making.
async fn a_server_that_nobody_vouches_for() -> std::net::SocketAddr {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(acceptor.accept(stream));
        }
    });
    address
}

/// What the gateway can't learn of a repo is the answer, not a fault in the log.
#[tokio::test(flavor = "multi_thread")]
async fn explain_of_a_gated_repo_says_why_on_standard_output_alone() {
    let hub = Standin::builder().fixtures().start().await;
    let root = crate::support::process::set_up(&hub, "");
    let output = crate::support::process::hubgate(root.path(), &["policy", "explain", "acme/gated"]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (said, complaint) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("gated") && said.contains("not known"), "{said}");
    assert_eq!(complaint, "");
}

#[test]
fn a_bad_policy_is_exit_2_and_named_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    std::fs::write(folder.path().join("policy/repos.toml"), "[[allow]]\nrepo = 'acme/*'\nrevison = ['x']\n").unwrap();
    for command in [&["policy", "check"][..], &["check-config"], &["serve"], &["policy", "explain", "acme/x"]] {
        let (code, _, complaint) = ran(folder.path(), command);
        assert_eq!(code, 2, "{command:?}: {complaint}");
        assert!(complaint.contains("repos.toml:3"), "{complaint}");
    }
}

#[test]
fn explain_says_why_not_without_asking_anybody_and_is_exit_1() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    let (code, said, _) = ran(folder.path(), &["policy", "explain", "acme/tiny@v1.0"]);
    assert_eq!(code, 1);
    assert!(said.contains("acme/tiny") && said.contains("acme/tiny"), "{said}");
    let (code, said, _) = ran(folder.path(), &["policy", "explain", "--json", "datasets/acme/table"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["verdict"]), (1, &serde_json::json!("refused")));
    assert_eq!(ran(folder.path(), &["policy", "explain", "a b"]).0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_in_and_the_program_tells_of_it() {
    let hub = Standin::builder().fixtures().start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = "[licenses]\nallow = ['apache-2.0']\n[[allow]]\nname = 'acme'\nrepo = 'acme/*'\n";
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    std::fs::write(folder.path().join("policy/policy.toml"), policy).unwrap();
    // The system chooses a free port; whoever takes it before hubgate makes this test fail loudly.
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "[server]\nlisten = '{listen}'\n[upstream]\nendpoint = '{}'\nproxy = 'none'\nallow_private = true\nallowed_hosts = ['{}']\n",
        hub.hub_url(),
        hub.cdn_address()
    );
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let mut serving = hubgate(folder.path(), &["serve"]).stderr(Stdio::piped()).spawn().unwrap();

    while ran(folder.path(), &["healthcheck", "--ready"]).0 != 0 {
        assert!(serving.try_wait().unwrap().is_none(), "it ended");
    }
    assert_eq!(ran(folder.path(), &["healthcheck"]), (0, "ok\n".into(), String::new()));
    let client = crate::support::client::Client::new(&format!("http://{listen}"));
    let answer = client.get("/acme/tiny/resolve/main/model.safetensors").await.unwrap();
    assert_eq!(answer.body, hub.bytes("acme/tiny", "main", "model.safetensors"));

    let ended = Command::new("kill").args(["-TERM", &serving.id().to_string()]).status().unwrap();
    assert!(ended.success());
    let mut log = String::new();
    serving.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(serving.wait().unwrap().code(), Some(0), "{log}");
    assert!(log.contains("route=resolve") && log.contains("cache=fill") && log.contains("stopped"), "{log}");
    assert_eq!(ran(folder.path(), &["healthcheck"]).0, 1);

    hub.stop().await;
    let sha256 = hub.sha256("acme/tiny", "main", "model.safetensors");
    let (code, said, _) = ran(folder.path(), &["manifest", "list"]);
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    assert!(said.contains("acme/tiny") && said.contains("model.safetensors"), "{said}");
    let script = format!("{} manifest list", env!("CARGO_BIN_EXE_hubgate"));
    let typescript = Command::new("script").args(["-qec", &script, "/dev/null"]).current_dir(folder.path()).output();
    let shown = String::from_utf8(typescript.unwrap().stdout).unwrap();
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("TIME  WHAT  REPO@COMMIT  PATH"), "on a terminal: {shown}");
    let (_, csv, _) = ran(folder.path(), &["manifest", "export", "--format", "csv"]);
    assert!(csv.starts_with("repo,revision,sha256,size,license,") && csv.contains(&sha256), "{csv}");
    let (code, said, complaint) = ran(folder.path(), &["verify"]);
    assert_eq!(code, 0, "{said}{complaint}");
    assert!(said.ends_with("all is well\n"), "{said}");
    let (code, said, _) = ran(folder.path(), &["policy", "explain", "acme/tiny"]);
    assert_eq!(code, 0, "from what is stored: {said}");

    let blob = folder.path().join("hubgate-data/blobs/sha256").join(&sha256[..2]).join(&sha256);
    let mut permissions = std::fs::metadata(&blob).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&blob, permissions).unwrap();
    std::fs::write(&blob, "not it").unwrap();
    let (code, said, _) = ran(folder.path(), &["verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 1, "{said}");
    assert!(report["findings"].to_string().contains(&sha256), "{said}");
}

#[test]
fn a_new_token_is_printed_once_with_the_line_that_lets_it_in() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said, _) = ran(folder.path(), &["token", "new", "alice", "--scopes", "request,audit", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let token = said["token"].as_str().unwrap();
    assert!(token.starts_with("hg_") && token.len() >= 64, "{token}");
    let sha256 = hubgate::hub::Sha256::of(token.as_bytes()).to_string();
    assert_eq!((code, said["token_sha256"].as_str()), (0, Some(sha256.as_str())));
    let config = format!("[auth]\n{}\n", said["config"].as_str().unwrap());
    assert!(config.contains("name = \"alice\"") && config.contains(r#"scopes = ["request", "audit"]"#), "{config}");
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let (code, said, complaint) = ran(folder.path(), &["check-config"]);
    assert_eq!(code, 0, "{complaint}");
    assert!(!said.contains(&sha256), "{said}");
    let (code, said, _) = ran(folder.path(), &["token", "new", "bob"]);
    assert!(code == 0 && said.contains("[auth]\nadmins = [{ name = \"bob\""), "{said}");
    for bad in [&["token", "new", "a b"][..], &["token", "new", "x", "--scopes", "read"]] {
        assert_eq!(ran(folder.path(), bad).0, 2, "{bad:?}");
    }
}

#[test]
fn a_place_without_a_store_proves_nothing_and_none_is_made_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    let store = folder.path().join("hubgate-data");
    let commands = [&["verify"][..], &["verify", "--repair"], &["manifest", "list"], &["manifest", "export"], &["gc"]];
    for made in [false, true] {
        if made {
            std::fs::create_dir(&store).unwrap();
        }
        for command in commands {
            let (code, said, complaint) = ran(folder.path(), command);
            assert_eq!((code, said.as_str()), (2, ""), "{command:?}: {complaint}");
            assert!(complaint.contains("holds no hubgate store"), "{complaint}");
            assert!(complaint.contains("hubgate-data") && complaint.contains("store.local.path"), "{complaint}");
            let left = std::fs::read_dir(&store).map_or(0, Iterator::count);
            assert_eq!((store.exists(), left), (made, 0), "{command:?}");
        }
    }
}

#[test]
fn a_copy_that_may_only_be_read_is_verified_and_listed_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    let store = folder.path().join("hubgate-data");
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("layout.json"), "{\"layout\":1}\n").unwrap();
    for command in [&["verify"][..], &["manifest", "list"]] {
        let (code, said, complaint) = ran(folder.path(), command);
        assert_eq!(code, 0, "{command:?}: {said}{complaint}");
        let left: Vec<_> = std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["layout.json"], "{command:?}");
    }
}

#[test]
fn a_store_of_another_layout_is_left_as_it_is_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("hubgate-data");
    std::fs::create_dir_all(folder.path().join("policy")).unwrap();
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("layout.json"), "{\"layout\":2}").unwrap();
    std::fs::write(folder.path().join("config.toml"), "publish.prefix = \"mirror\"").unwrap();
    for command in [
        &["publish", "acme/tiny"][..],
        &["publish", "--unpublish", "acme/tiny"],
        &["withdraw", "acme/tiny", "--reason", "bad", "--purge"],
        &["sync", "--repo", "acme/tiny"],
        &["gc", "--apply"],
        &["verify", "--repair"],
        &["manifest", "list"],
    ] {
        let (code, said, complaint) = ran(folder.path(), command);
        assert_eq!((code, said.as_str()), (2, ""), "{command:?}: {complaint}");
        assert!(complaint.contains("this store has layout 2, and this hubgate knows layout 1"), "{complaint}");
        let left = std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
        let left: Vec<_> = left.filter(|path| path.is_file()).filter(|path| !path.ends_with(".in-use")).collect();
        assert_eq!(left, [store.join("layout.json")], "{command:?}");
    }
}
