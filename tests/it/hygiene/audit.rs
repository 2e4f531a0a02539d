//! What an auditor asks: verify in parts, the manifest by filters, and a record that was changed.

use std::{fmt::Write as _, fs, time::UNIX_EPOCH};

use super::*;
use crate::support::process::set_up;

#[tokio::test]
async fn verify_goes_on_after_an_interruption_or_looks_at_a_sample() {
    let hub = models().await;
    let root = set_up(&hub, "");
    let store = root.path().join("store");
    fetched(root.path(), &[&url("a"), &url("b"), &url("c")]).await;
    let blobs = files_below(&store.join("blobs"));
    let all = blobs.len();

    // As an interruption leaves it: all but one were found whole.
    let state = root.path().join("state");
    let mut text = format!("{{\"hubgate_verify\":1,\"store\":{:?}}}\n", store.display().to_string());
    for path in &blobs[1..] {
        let metadata = path.metadata().unwrap();
        let micros = metadata.modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let name = path.file_name().unwrap().to_str().unwrap();
        writeln!(text, "{name} {} {micros}", metadata.len()).unwrap();
    }
    fs::write(&state, &text).unwrap();
    let verify = ["verify", "--state", state.to_str().unwrap()];
    let report = json(root.path(), &verify, 0);
    assert!(report["blobs"] == 1 && report["blobs_not_hashed"] == all - 1, "{report}");
    assert!(!state.exists(), "the next one begins anew");
    assert_eq!(json(root.path(), &verify, 0)["blobs"], all);

    // What was changed since is hashed again.
    fs::write(&state, &text).unwrap();
    let content = fs::read(&blobs[1]).unwrap();
    fs::remove_file(&blobs[1]).unwrap();
    fs::write(&blobs[1], vec![b'x'; content.len()]).unwrap();
    assert_eq!(json(root.path(), &verify, 1)["counts"]["altered_blob"], 1);
    // A sample of all finds it, too; one of two hashes two.
    assert_eq!(json(root.path(), &["verify", "--sample", "1000"], 1)["counts"]["altered_blob"], 1);
    fs::remove_file(&blobs[1]).unwrap();
    fs::write(&blobs[1], content).unwrap();
    let report = json(root.path(), &["verify", "--sample", "2"], 0);
    assert!(report["blobs"] == 2 && report["blobs_not_hashed"] == all - 2, "{report}");

    fs::write(&state, "precious").unwrap();
    let (code, _, complaint) = ran(root.path(), &verify);
    assert!(code == 2 && complaint.contains("remove it or name another file"), "{complaint}");
    assert_eq!(fs::read_to_string(&state).unwrap(), "precious");
    assert_eq!(ran(root.path(), &["verify", "--sample", "0"]).0, 2);
}

#[tokio::test]
async fn an_auditor_filters_the_manifest_and_sees_a_changed_record() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    let table = "/datasets/acme/table/resolve/main/README.md";
    fetched(root.path(), &[TINY, "/acme/nested/resolve/main/config.json", table]).await;
    let rows = |more: &[&str]| {
        let (code, said, complaint) = ran(root.path(), &[&["manifest", "export"], more].concat());
        assert_eq!(code, 0, "{more:?}: {complaint}");
        said.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rows(&[]).len(), 3);
    assert_eq!(rows(&["--repo", "acme/*"]).len(), 2);
    assert_eq!(rows(&["--repo", "datasets/acme/table"]), ["datasets/acme/table"]);
    assert_eq!(rows(&["--license", "mit"]), ["acme/nested"]);
    assert_eq!(rows(&["--license", "mit", "--repo", "acme/tiny"]).len(), 0);
    assert_eq!(rows(&["--since", "2999-01-01"]).len(), 0);
    assert_eq!(rows(&["--since", "2020-01-01", "--until", "2999-01-01T00:00:00Z"]).len(), 3);
    assert_eq!(ran(root.path(), &["manifest", "export", "--since", "yesterday"]).0, 2);
    assert_eq!(ran(root.path(), &["manifest", "export", "--repo", "[x"]).0, 2);

    let log = files_below(&root.path().join("store/manifest/log"));
    let text = fs::read_to_string(&log[0]).unwrap();
    fs::remove_file(&log[0]).unwrap();
    fs::write(&log[0], text.replacen("apache-2.0", "mit-0-0000", 1)).unwrap();
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(
        code == 1 && said.contains("altered log record: log of ") && said.contains("record 1 was altered"),
        "{said}"
    );
    fs::remove_file(&log[0]).unwrap();
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(
        code == 1 && said.contains("missing log record: log of ") && said.contains("record 1 is missing"),
        "{said}"
    );
}

#[tokio::test]
async fn an_auditor_sees_a_changed_or_removed_entry_of_the_audit_log() {
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, "");
    fetched(root.path(), &[TINY]).await;
    let (code, said, complaint) = ran(root.path(), &["withdraw", "acme/copy", "--reason", "to be looked at"]);
    assert_eq!(code, 0, "{said}{complaint}");
    let report = json(root.path(), &["verify"], 0);
    assert_eq!(report["audit_entries"], 1, "{report}");
    let entry = files_below(&root.path().join("store/audit")).remove(0);
    let text = fs::read_to_string(&entry).unwrap();
    fs::remove_file(&entry).unwrap();
    fs::write(&entry, text.replace("to be looked at", "nothing")).unwrap();
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(code == 1 && said.contains("altered audit entry: audit log of ") && said.contains("entry 1 was"), "{said}");
    fs::remove_file(&entry).unwrap();
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(code == 1 && said.contains("missing audit entry: audit log of ") && said.contains("entry 1 is"), "{said}");
}
