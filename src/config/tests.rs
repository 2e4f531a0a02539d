use std::fmt::Write as _;

use figment::value::Value;

use super::{effective::Line, *};

fn sources(file: Option<&str>, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> (Sources, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    // Always a file of the test's own, so that no ./config.toml is read.
    std::fs::write(&path, file.unwrap_or("")).unwrap();
    let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
    let environment = own(variables).into_iter().collect();
    (Sources { file: Some(path), environment, flags: own(flags) }, folder)
}

fn loaded(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Loaded {
    let (sources, _folder) = sources(Some(file), variables, flags);
    load(&sources).unwrap()
}

fn problem(file: &str, variables: &[(&str, &str)]) -> String {
    let (sources, folder) = sources(Some(file), variables, &[]);
    let text = load(&sources).unwrap_err().to_string();
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file_and_that_over_defaults() {
    let file = "[server]\nlisten = '1.1.1.1:1'\n[upstream]\nconnections = 7\noffline = true\n";
    let config = |variables, flags| loaded(file, variables, flags).config;
    let only_file = config(&[], &[]);
    assert_eq!(only_file.server.listen, "1.1.1.1:1");
    assert_eq!(only_file.upstream.connections, 7);
    assert_eq!(only_file.log.filter, "info");
    let variables = [("HUBGATE_SERVER__LISTEN", "2.2.2.2:2"), ("HUBGATE_UPSTREAM__CONNECTIONS", "8")];
    let with_environment = config(&variables, &[]);
    assert_eq!(with_environment.server.listen, "2.2.2.2:2");
    assert_eq!(with_environment.upstream.connections, 8);
    assert!(with_environment.upstream.offline);
    assert_eq!(config(&variables, &[("server.listen", "3.3.3.3:3")]).server.listen, "3.3.3.3:3");
}

#[test]
fn a_flag_may_be_written_as_in_the_file_or_without_quotes() {
    let contact = |value: &str| loaded("", &[], &[("policy.contact", value)]).config.policy.contact.unwrap();
    for (written, meant) in [
        ("me@example.com", "me@example.com"),
        ("\"me@example.com\"", "me@example.com"),
        ("'me \"too\"'", "me \"too\""),
        ("\"a\\u0062\"", "ab"),
        ("\"half", "\"half"),
        ("\"a\" and \"b\"", "\"a\" and \"b\""),
        ("12", "12"),
    ] {
        assert_eq!(contact(written), meant, "{written}");
    }
    let flags = [("upstream.allowed_hosts", "['a', \"b\"]"), ("upstream.offline", "true"), ("limits.burst", "7")];
    let config = loaded("", &[], &flags).config;
    assert_eq!(config.upstream.allowed_hosts, ["a", "b"]);
    assert!(config.upstream.offline);
    assert_eq!(config.limits.burst.get(), 7);
}

#[test]
fn environment_values_become_what_the_key_wants() {
    let variables = [
        ("HUBGATE_SERVER__TLS__CERT", ""),
        ("HUBGATE_SERVER__TRUSTED_PROXIES", "[\"10.0.0.0/8\", \"::1\"]"),
        ("HUBGATE_STORE__S3__BUCKET", "123"),
        ("HUBGATE_STORE__S3__PATH_STYLE", "false"),
        ("HUBGATE_FILL__VERIFY_FIRST", "1MiB"),
        ("HUBGATE_LIMITS__BURST", "5"),
        (
            "HUBGATE_AUTH__CLIENTS",
            "[{name=\"ci\", token_sha256=\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"}]",
        ),
        // What Kubernetes sets for a service named hubgate.
        ("HUBGATE_PORT", "tcp://10.0.0.1:8080"),
        ("HUBGATE_SERVICE_HOST", "10.0.0.1"),
    ];
    let config = loaded("", &variables, &[]).config;
    assert_eq!(config.server.tls.cert, None);
    assert_eq!(config.server.trusted_proxies, ["10.0.0.0/8", "::1"]);
    assert_eq!(config.store.s3.bucket, "123");
    assert!(!config.store.s3.path_style);
    assert_eq!(config.fill.verify_first.as_u64(), 1 << 20);
    assert_eq!(config.limits.burst.get(), 5);
    assert_eq!(&*config.auth.clients[0].name, "ci");
}

#[test]
fn the_plain_mirrors_names_keep_working() {
    let variables = [
        ("HF_TOKEN", "hf_mirror"),
        ("HF_REPOS", "org/name, datasets/org/data"),
        ("MINIO_ENDPOINT", "minio:9000"),
        ("MINIO_ACCESS_KEY", "key"),
        ("MINIO_SECRET_KEY", "secret"),
        ("MINIO_BUCKET", "models"),
        ("MINIO_PREFIX", "mirror"),
        ("https_proxy", "http://proxy:3128"),
        ("HTTPS_PROXY", "http://other:3128"),
        ("NO_PROXY", ""),
    ];
    let loaded = loaded("", &variables, &[]);
    let config = &loaded.config;
    assert_eq!(config.store.kind, StoreKind::S3);
    assert_eq!(config.store.s3.endpoint.as_deref(), Some("http://minio:9000"));
    assert_eq!(config.store.s3.bucket, "models");
    assert_eq!(config.publish.prefix.as_deref(), Some("mirror"));
    assert!(config.upstream.token.is_some());
    assert_eq!(loaded.proxy_env.https_proxy.as_deref(), Some("http://proxy:3128"));
    assert_eq!(loaded.proxy_env.no_proxy, None);
    assert!(!loaded.lists.is_empty());
    assert_eq!(super::tests::loaded("[store]\nkind = 'local'", &variables, &[]).config.store.kind, StoreKind::Local);
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_a_remedy() {
    for (file, says) in [
        ("[server]\nlisen = 'x'", "config.toml: server.lisen: unknown key; [server] has listen,"),
        ("[sever]\n", "config.toml: sever: unknown key; the top has server,"),
        ("[upstream]\nconnections = 'many'", "config.toml: upstream.connections: found string \"many\""),
        (
            "[upstream]\nread_timeout = '10 parsecs'",
            "config.toml: upstream.read_timeout: \"10 parsecs\" is no duration",
        ),
        ("[upstream]\non_gone = 'maybe'", "config.toml: upstream.on_gone: \"maybe\": write serve or refuse"),
        ("[server]\n\nlisten = ", "config.toml: line 3: "),
        ("[server]\nlisten = '8080'", "server.listen: \"8080\": write host:port"),
        ("[server]\npublic_url = 'hub'", "server.public_url: \"hub\": "),
        ("[server.tls]\ncert = '/nowhere'\nkey = '/nowhere'", "server.tls.cert: /nowhere: "),
        ("[store]\nkind = 's3'", "store.s3.bucket: name the bucket"),
        ("[store]\nkind = 's3'\ns3.bucket = 'my models'", "store.s3.bucket: \"my models\" is no name of a bucket"),
        ("[store]\nkind = 's3'\ns3.bucket = 'models/x'", "and store.s3.prefix for what follows a slash"),
        ("[server.limits]\nwrite_timeout = '0s'", "server.limits.write_timeout: 0s"),
        ("[server.limits]\nidle_timeout = '0s'", "server.limits.idle_timeout: 0s"),
        ("[server]\ncors_origins = ['https://a.example/']", "server.cors_origins: \"https://a.example/\""),
        ("[log]\nfilter = 'hubgate=loud'", "log.filter: \"hubgate=loud\": "),
        ("[auth]\nanonymous = false", "auth.anonymous: false serves nobody"),
        ("[auth]\nclients = [{ name = 'x' }]", "token_sha256 is missing"),
        (
            "[auth]\nadmins = [{ name = 'x', token_sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' }]",
            "auth.admins: token_sha256 of \"x\" is that of an empty token",
        ),
    ] {
        let text = problem(file, &[]);
        assert!(text.contains(says), "{file:?}: {text}");
    }
    let text = problem("", &[("HUBGATE_UPSTREAM__CONECTIONS", "5")]);
    assert!(text.starts_with("HUBGATE_UPSTREAM__CONECTIONS: unknown key; [upstream] has endpoint,"), "{text}");
    let absent = Sources { file: Some("/nowhere/config.toml".into()), ..Sources::default() };
    assert!(load(&absent).unwrap_err().to_string().starts_with("/nowhere/config.toml: "));
}

#[test]
fn a_secret_that_is_set_twice_is_named_with_both_its_places() {
    let token = problem("[upstream]\ntoken_file = '/run/token'", &[("HF_TOKEN", "hush")]);
    let expected = "upstream.token (from HF_TOKEN of the environment or .env) and upstream.token_file (from config.toml): \
                    set one of them";
    assert_eq!(token, expected);
    let file = "[store]\nkind = 's3'\n[store.s3]\nbucket = 'models'\naccess_key = 'a'\nsecret_key = 'hush'";
    let key = problem(file, &[("HUBGATE_STORE__S3__SECRET_KEY_FILE", "/run/key")]);
    assert!(
        key.contains("(from config.toml) and store.s3.secret_key_file (from HUBGATE_STORE__S3__SECRET_KEY_FILE of")
    );
    let password = [("HUBGATE_UPSTREAM__PROXY_PASSWORD", "hush"), ("HUBGATE_UPSTREAM__PROXY_PASSWORD_FILE", "/x")];
    let text = problem("", &password);
    assert!(text.contains("(from HUBGATE_UPSTREAM__PROXY_PASSWORD of") && !text.contains("hush"), "{text}");
}

#[test]
fn no_secret_is_ever_shown() {
    let secret = "hush-hush";
    for (file, variables) in [
        (format!("[upstream]\ntoken = ['{secret}']"), vec![]),
        (format!("[upstream]\ntoken = '{secret}\n"), vec![]),
        (format!("[store.s3]\nsecret_key = {{ a = '{secret}' }}"), vec![]),
        (String::new(), vec![("HUBGATE_UPSTREAM__PROXY_PASSWORD", format!("[\"{secret}\"]"))]),
    ] {
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let text = problem(&file, &variables);
        assert!(!text.contains(secret), "{text}");
    }
    let variables = [("HF_TOKEN", secret), ("HUBGATE_UPSTREAM__PROXY", "http://me:hush-hush@proxy:3128")];
    for (proxy, shows) in [
        ("http://me:hush@hush-hush@proxy:3128", "proxy = \"http://(hidden)@proxy:3128\""),
        ("me:hush-hush@proxy:3128", "proxy = \"(hidden)@proxy:3128\""),
    ] {
        let shown = loaded("", &[("HUBGATE_UPSTREAM__PROXY", proxy)], &[]).effective();
        assert!(shown.contains(shows) && !shown.contains("hush"), "{shown}");
    }
    let shown = loaded("[store.s3]\nsecret_key = 'hush-hush'\naccess_key = 'a'", &variables, &[]);
    assert!(!shown.effective().contains(secret), "{}", shown.effective());
    assert!(!format!("{:?}", shown.config).contains("secret_key: Some(hush"), "{:?}", shown.config);
}

#[test]
fn copies_never_overlap_the_stores_own_keys() {
    for (own, copies, good) in [
        ("", "models", true),
        ("", "blobs", false),
        ("", "manifest/x", false),
        ("", "", false),
        ("hubgate", "models", true),
        ("hubgate", "hubgate", false),
        ("hubgate", "hubgate/models", true),
        ("hubgate", "hubgate/blobs/x", false),
        ("a/hubgate", "a", false),
        ("a/hubgate", "/a/hubgate-2/", true),
    ] {
        let file = format!(
            "[store]\nkind = 's3'\n[store.s3]\nbucket = 'bucket'\nprefix = '{own}'\n[publish]\nprefix = '{copies}'"
        );
        let (sources, _folder) = sources(Some(&file), &[], &[]);
        assert_eq!(load(&sources).is_ok(), good, "{own:?} and {copies:?}");
    }
}

#[test]
fn the_effective_configuration_says_where_each_value_comes_from() {
    let loaded = loaded("[upstream]\noffline = true", &[("HUBGATE_LOG__FORMAT", "json")], &[("limits.burst", "9")]);
    let text = loaded.effective();
    for line in [
        "format = \"json\"  # from the environment",
        "burst = \"9\"  # from --set",
        "#token is not set",
        "kind = \"local\"",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    assert!(
        text.lines().any(|line| line.starts_with("offline = true  # from ") && line.ends_with("config.toml")),
        "{text}"
    );
}

#[test]
fn the_example_is_the_defaults_and_names_every_key() {
    let example = loaded(effective::EXAMPLE, &[], &[]);
    assert_eq!(format!("{:?}", example.config), format!("{:?}", loaded("", &[], &[]).config));

    let mut named = std::collections::BTreeSet::new();
    let mut section = "";
    let mut dict = String::new();
    for line in effective::lines(effective::EXAMPLE) {
        match line {
            Line::Section(name) => {
                section = name;
                writeln!(dict, "[{name}]").unwrap();
            }
            Line::Key { name, value, .. } => {
                named.insert(format!("{section}.{name}"));
                writeln!(dict, "{name} = {value}").unwrap();
            }
        }
    }
    // Keys without a default are in the example in a form that can be read.
    let table: toml::Table = dict.parse().unwrap();
    Value::serialize(table).unwrap().deserialize::<Config>().unwrap();
    let known = keys("");
    assert_eq!(named, known);
}

/// The keys that serde knows, by what it says when it is given one that it doesn't.
fn keys(section: &str) -> std::collections::BTreeSet<String> {
    let unknown = format!("{section}{}there_is_no_such_key", if section.is_empty() { "" } else { "." });
    let flags = [(unknown, String::new())];
    let figment = Figment::new().merge(Layer::new("test", environment::flags(&flags).unwrap()));
    match figment.extract::<Config>().unwrap_err().kind {
        Kind::UnknownField(_, known) => known
            .iter()
            .flat_map(|key| {
                let path = if section.is_empty() { (*key).to_owned() } else { format!("{section}.{key}") };
                let below = keys(&path);
                if below.is_empty() { [path].into() } else { below }
            })
            .collect(),
        // Something that is no section.
        _ => std::collections::BTreeSet::new(),
    }
}

#[test]
fn a_name_with_one_underscore_too_few_is_pointed_out_and_kubernetes_names_are_not() {
    let variables =
        [("HUBGATE_STORE_S3_BUCKET", "x"), ("HUBGATE_STORE_SERVICE_HOST", "10.0.0.1"), ("HUBGATE_LOG_FILTER", "")];
    let expected = "HUBGATE_STORE_S3_BUCKET: two underscores stand between the parts: write HUBGATE_STORE__S3__BUCKET";
    assert_eq!(problem("", &variables), expected);
    assert_eq!(
        problem("", &[("HUBGATE_SPOOL__MAX_SIZE", "banana")]),
        "HUBGATE_SPOOL__MAX_SIZE: \"banana\" is no size: write 64MiB or 100GB"
    );
}
