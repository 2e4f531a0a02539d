#![expect(clippy::format_push_string, reason = "texts of a test's failure; speed is nothing here")]

use proptest::prelude::*;

use super::*;

/// A route as `tests/fixtures/urls.txt` writes it.
fn describe(route: &HubRoute) -> String {
    let mut text = route.name().to_owned();
    match route {
        HubRoute::Write { what, .. } => return format!("write: {what}"),
        HubRoute::Git { service, .. } => text += &format!(" {service:?}"),
        HubRoute::RepoList { kind, .. } => text += &format!(" {}", kind.plural()),
        _ => {}
    }
    if let Some(repo) = route.repo() {
        text += &format!(" {repo}");
    }
    let (revision, path) = match route {
        HubRoute::Resolve { revision, path, .. } | HubRoute::Raw { revision, path, .. } => {
            (Some(revision.to_string()), Some(path))
        }
        HubRoute::ResolveCache { commit, path, .. } => (Some(commit.to_string()), Some(path)),
        HubRoute::Tree { revision, path, .. } => (Some(revision.to_string()), path.as_ref()),
        HubRoute::RepoInfo { revision, .. } => (revision.as_ref().map(ToString::to_string), None),
        HubRoute::PathsInfo { revision, .. }
        | HubRoute::Commits { revision, .. }
        | HubRoute::XetReadToken { revision, .. } => (Some(revision.to_string()), None),
        _ => (None, None),
    };
    text += &revision.map_or_else(String::new, |revision| format!(" @ {revision}"));
    text += &path.map_or_else(String::new, |path| format!(" : {path}"));
    let query = match route {
        HubRoute::RepoInfo { query, .. } => query.to_string(),
        HubRoute::Tree { query, .. } => query.to_string(),
        HubRoute::Commits { query, .. } => query.to_string(),
        HubRoute::RepoList { query, .. } => query.to_string(),
        HubRoute::Refs { include_prs: true, .. } => "?include_prs".into(),
        _ => String::new(),
    };
    if !query.is_empty() {
        text += &format!(" {query}");
    }
    text + &route.other_reading().map_or_else(String::new, |other| format!(" (or: {})", describe(&other)))
}

fn describe_error(error: &RouteError) -> String {
    let (text, value) = match error {
        RouteError::Repo(error) => ("bad repo:".to_owned(), &error.value),
        RouteError::Revision { repo, error } => (format!("bad revision of {repo}:"), &error.value),
        RouteError::Path { repo, revision, error } => (format!("bad path of {repo} @ {revision}:"), &error.value),
    };
    format!("{text} {}", value.escape_default().to_string().replace("\\u{0}", "\\0")).trim_end().to_owned()
}

fn parse(method: &Method, url: &str) -> Result<HubRoute, RouteError> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    HubRoute::parse(method, path, query)
}

#[test]
fn every_spelling_means_what_the_table_says() {
    let table = include_str!("../../../tests/fixtures/urls.txt");
    let mut wrong = String::new();
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let (request, meaning) = line.split_once(" =>").unwrap_or_else(|| panic!("no meaning: {line}"));
        let (method, url) = request.split_once(' ').unwrap();
        let method = method.parse().unwrap();
        let parsed = parse(&method, url.trim());
        let found = parsed.as_ref().map_or_else(describe_error, describe);
        if found != meaning.trim() {
            wrong += &format!("{line}\n    but it is read as: {found}\n");
        }
        if let Ok(route) = parsed {
            let printed = parse(&route.method(), &route.to_string());
            if printed.as_ref() != Ok(&route) {
                wrong += &format!("{line}\n    is printed as {route}, which is read as {printed:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn too_long_texts_are_errors_that_name_their_part() {
    let long = "x".repeat(2000);
    let error = |url: String| parse(&Method::GET, &url).unwrap_err();
    assert!(matches!(error(format!("/org/{long}/resolve/main/f")), RouteError::Repo(_)));
    assert!(matches!(error(format!("/org/name/resolve/{long}/f")), RouteError::Revision { .. }));
    assert!(matches!(error(format!("/org/name/resolve/main/{long}")), RouteError::Path { .. }));
}

/// Texts in which the grammar's own words are frequent.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "resolve",
        "raw",
        "info",
        "refs",
        "pr",
        "convert",
        "api",
        "models",
        "datasets",
        "spaces",
        "revision",
        "tree",
        "paths-info",
        "commits",
        "auth-check",
        "xet-read-token",
        "xet-write-token",
        "git-upload-pack",
        "main",
        "gpt2",
        "lfs",
        "resolve-cache",
        "1111111111111111111111111111111111111111",
        "é",
        "%2F",
        "%72efs",
        "a b",
        "100%",
        "..",
    ];
    prop_oneof![3 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "[a-z0-9._#+%-]{1,8}"]
}

fn repo() -> impl Strategy<Value = Repo> {
    let id = prop_oneof![word(), (word(), word()).prop_map(|(owner, name)| format!("{owner}/{name}"))];
    let kind = proptest::sample::select(&RepoKind::ALL[..]);
    (kind, id).prop_filter_map("not a repo id", |(kind, id)| Repo::new(kind, &id).ok())
}

fn words_joined() -> impl Strategy<Value = String> {
    proptest::collection::vec(word(), 1..5).prop_map(|words| words.join("/"))
}

fn revision() -> impl Strategy<Value = Revision> {
    words_joined().prop_filter_map("not a revision", |text| text.parse().ok())
}

fn path() -> impl Strategy<Value = RepoPath> {
    words_joined().prop_filter_map("not a path", |text| text.parse().ok())
}

fn commit() -> impl Strategy<Value = Commit> {
    "[0-9a-f]{40}".prop_map(|text| text.parse().unwrap())
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::btree_set("[a-zA-Zé:&= +]{1,5}", 0..3).prop_map(|set| {
        set.into_iter().filter(|text| !matches!(text.to_lowercase().as_str(), "true" | "false")).collect()
    })
}

fn number() -> impl Strategy<Value = Option<u32>> {
    proptest::option::of(1..u32::MAX)
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[ -~]{1,12}")
}

fn route() -> impl Strategy<Value = HubRoute> {
    let info = (any::<bool>(), any::<bool>(), any::<bool>(), texts())
        .prop_map(|(blobs, security_status, full, expand)| InfoQuery { blobs, security_status, full, expand });
    let tree = (any::<bool>(), any::<bool>(), number(), text())
        .prop_map(|(recursive, expand, limit, cursor)| TreeQuery { recursive, expand, limit, cursor });
    let commits = (number(), number(), any::<bool>()).prop_map(|(limit, page, formatted)| CommitsQuery {
        limit,
        page,
        formatted,
    });
    let list = (text(), text(), texts(), text(), number(), any::<bool>(), text(), texts()).prop_map(
        |(search, author, filter, sort, limit, full, cursor, expand)| ListQuery {
            search,
            author,
            filter,
            sort,
            limit,
            full,
            cursor,
            expand,
        },
    );
    let service = proptest::sample::select(&[GitService::InfoRefs, GitService::UploadPack, GitService::Lfs][..]);
    prop_oneof![
        (repo(), revision(), path()).prop_map(|(repo, revision, path)| HubRoute::Resolve { repo, revision, path }),
        (repo(), revision(), path()).prop_map(|(repo, revision, path)| HubRoute::Raw { repo, revision, path }),
        (repo(), commit(), path()).prop_map(|(repo, commit, path)| HubRoute::ResolveCache { repo, commit, path }),
        (repo(), proptest::option::of(revision()), info).prop_map(|(repo, revision, query)| HubRoute::RepoInfo {
            repo,
            revision,
            query
        }),
        (repo(), revision(), proptest::option::of(path()), tree)
            .prop_map(|(repo, revision, path, query)| HubRoute::Tree { repo, revision, path, query }),
        (repo(), revision()).prop_map(|(repo, revision)| HubRoute::PathsInfo { repo, revision }),
        (repo(), any::<bool>()).prop_map(|(repo, include_prs)| HubRoute::Refs { repo, include_prs }),
        (repo(), revision(), commits).prop_map(|(repo, revision, query)| HubRoute::Commits { repo, revision, query }),
        repo().prop_map(|repo| HubRoute::AuthCheck { repo }),
        (repo(), revision()).prop_map(|(repo, revision)| HubRoute::XetReadToken { repo, revision }),
        (proptest::sample::select(&RepoKind::ALL[..]), list)
            .prop_map(|(kind, query)| HubRoute::RepoList { kind, query }),
        (repo(), service).prop_map(|(repo, service)| HubRoute::Git { repo, service }),
    ]
}

/// A raw path of the grammar's words, encoded or not, and what attackers write.
fn raw_path() -> impl Strategy<Value = String> {
    let odd = ["%2e%2e", "..", "%2f", "%5c", "", "%00", "..%2f..", ".", "%ff", "%252e%252e"];
    let segment = prop_oneof![4 => word(), 1 => proptest::sample::select(odd.to_vec()).prop_map(str::to_owned)];
    proptest::collection::vec(segment, 0..9).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn method() -> impl Strategy<Value = Method> {
    proptest::sample::select(&[Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::OPTIONS][..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_as_the_same(route in route()) {
        let printed = parse(&route.method(), &route.to_string()).unwrap();
        prop_assert!(
            printed == route || printed.other_reading().as_ref() == Some(&route),
            "{} is read as {:?}", route, printed
        );
    }

    #[test]
    fn what_is_read_is_printed_as_the_same(method in method(), path in raw_path(), query in "[a-z_=&%\\[\\]0-9]{0,20}") {
        if let Ok(route) = HubRoute::parse(&method, &path, Some(&query)) {
            prop_assert_eq!(parse(&route.method(), &route.to_string()), Ok(route));
        }
    }

    #[test]
    fn no_accepted_path_leaves_its_prefix(method in method(), path in raw_path()) {
        use std::path::{Component, Path};
        let parsed = HubRoute::parse(&method, &path, None);
        let file = match &parsed {
            Ok(HubRoute::Resolve { path, .. } | HubRoute::Raw { path, .. } | HubRoute::ResolveCache { path, .. }) => Some(path),
            Ok(HubRoute::Tree { path, .. }) => path.as_ref(),
            _ => None,
        };
        if let Some(file) = file {
            prop_assert!(Path::new(file.as_str()).components().all(|part| matches!(part, Component::Normal(_))));
            prop_assert!(!file.as_str().contains(['\\', '\0']));
        }
        if let Ok(route) = &parsed && let Some(repo) = route.repo() {
            prop_assert!(repo.id().split('/').count() <= 2 && !repo.id().contains(".."));
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(method in method(), path in any::<String>(), query in proptest::option::of(any::<String>())) {
        let _ = HubRoute::parse(&method, &path, query.as_deref());
    }
}
