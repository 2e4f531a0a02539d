//! What the start-up probe says of a bucket's rights, rules, clock, keys and certificates, on a real MinIO
//! that has them (`tests/infra/stores.sh minio`; see [`minio`]).

use std::{os::unix::fs::FileExt as _, path::Path, process::Command, sync::Arc};

use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::TryStreamExt as _;
use http_body_util::BodyExt as _;
use hub_standin::Standin;
use hubgate::{
    hub::Sha256,
    store::{
        self, Key, Prefix, Probe, PutMode, S3Config, ServerSideEncryption, SpoolConfig, Store, StoreConfig, StoreKind,
        build,
    },
};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use crate::support::{
    process::{hubgate, set_up},
    s3::{Minio, minio},
};

async fn open(spool: &TempDir, s3: S3Config) -> Arc<dyn Store> {
    let spool = SpoolConfig { dir: spool.path().to_owned(), max_size: ByteSize::mib(256) };
    build(&StoreConfig { kind: StoreKind::S3, s3, ..StoreConfig::default() }, &spool, "test").await.unwrap()
}

async fn probe(s3: S3Config) -> store::Result<Probe> {
    open(&TempDir::new().unwrap(), s3).await.probe().await
}

/// The probe fails, and its message has all of these words.
async fn is_told(s3: S3Config, words: &[&str]) {
    let error = probe(s3).await.unwrap_err();
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}: {:?}", error.source);
}

fn user(name: &str, s3: &S3Config) -> S3Config {
    let secret = format!("{name}-secret-key").into();
    S3Config { access_key: Some(name.into()), secret_key: Some(secret), ..s3.clone() }
}

#[tokio::test]
async fn credentials_that_may_only_read_are_told_which_right_they_lack() {
    let Some(Minio { s3, .. }) = minio() else { return };
    is_told(user("reader", &s3), &["\"models\"", "cannot be used to write", "s3:PutObject"]).await;
}

#[tokio::test]
async fn refused_credentials_are_told_by_the_key_that_holds_them() {
    let Some(Minio { s3, .. }) = minio() else { return };
    is_told(user("stranger", &s3), &["does not know store.s3.access_key"]).await;
    let wrong = S3Config { secret_key: Some("wrong-secret-key".to_owned().into()), ..s3 };
    is_told(wrong, &["the secret (store.s3.secret_key or secret_key_file)"]).await;
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_named() {
    let Some(Minio { s3, .. }) = minio() else { return };
    let nowhere = S3Config { bucket: "nowhere".into(), ..s3 };
    // To those who may not see other buckets the server does not say that there is none.
    is_told(nowhere.clone(), &["\"nowhere\"", "store.s3.bucket", "no such bucket"]).await;
    let root = S3Config {
        access_key: Some("root-user".into()),
        secret_key: Some("root-user-secret".to_owned().into()),
        ..nowhere
    };
    is_told(root, &["the bucket is not there: create it, or correct store.s3.bucket"]).await;
}

#[tokio::test]
async fn a_bucket_of_good_set_up_gets_no_warning_and_one_that_keeps_versions_does() {
    let Some(Minio { s3, .. }) = minio() else { return };
    let good = probe(s3.clone()).await.unwrap();
    assert!(good.conditional_create && good.warnings.is_empty(), "{good:?}");
    let versioned = probe(S3Config { bucket: "versioned".into(), ..s3 }).await.unwrap();
    let [warning] = &versioned.warnings[..] else { panic!("{versioned:?}") };
    assert!(warning.contains("\"versioned\" keeps old versions"), "{warning}");
}

#[tokio::test]
async fn a_rule_that_would_expire_what_is_stored_is_refused_with_its_remedy() {
    let Some(Minio { s3, .. }) = minio() else { return };
    let words =
        ["\"expiring\"", "lifecycle rule", "stored files would vanish", "narrow the rule's prefix or remove it"];
    is_told(S3Config { bucket: "expiring".into(), ..s3 }, &words).await;
}

#[tokio::test]
async fn rights_to_see_the_rules_that_are_lacking_are_a_warning() {
    let Some(Minio { s3, .. }) = minio() else { return };
    let seen = probe(user("blind", &s3)).await.unwrap();
    let [lifecycle, versions] = &seen.warnings[..] else { panic!("{seen:?}") };
    assert!(lifecycle.contains("s3:GetLifecycleConfiguration"), "{lifecycle}");
    assert!(versions.contains("s3:GetBucketVersioning"), "{versions}");
}

#[tokio::test]
async fn a_clock_that_is_two_hours_off_stops_the_program_with_both_times() {
    let Some(Minio { s3, .. }) = minio() else { return };
    let hub = Standin::builder().fixtures().start().await;
    let root = set_up(&hub, &in_toml(&s3));
    let serve = hubgate(root.path(), &["serve"]);
    let mut command = Command::new("timeout");
    command.args(["60", "faketime", "--exclude-monotonic", "-f", "+2h"]).arg(serve.get_program());
    let path = std::env::var_os("PATH").unwrap();
    let output = command.args(serve.get_args()).env_clear().env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("this machine's clock and the store's differ too much: here it is"), "{said}");
    assert!(said.contains("set the clock"), "{said}");
}

fn in_toml(s3: &S3Config) -> String {
    format!(
        "store.kind = \"s3\"\nstore.s3.endpoint = {:?}\nstore.s3.bucket = {:?}\nstore.s3.prefix = {:?}\nstore.s3.access_key = {:?}\n\
         store.s3.secret_key = {:?}",
        s3.endpoint.as_deref().unwrap(),
        s3.bucket,
        s3.prefix,
        s3.access_key.as_deref().unwrap(),
        s3.secret_key.as_ref().unwrap().expose_secret(),
    )
}

/// A text that stands on the server's disk for all to read unless it is encrypted.
const PLAIN: &str = "a text that nobody may read on the disk";

fn is_on_disk(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            is_on_disk(&path)
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            bytes.windows(PLAIN.len()).any(|window| window == PLAIN.as_bytes())
        }
    })
}

#[tokio::test]
async fn what_is_to_be_encrypted_is_encrypted_on_the_servers_disk_and_read_back_as_it_was() {
    let Some(Minio { s3, data, .. }) = minio() else { return };
    let kms = ServerSideEncryption::AwsKms;
    let keys = [
        (Some(ServerSideEncryption::Aes256), None),
        (Some(kms), None),
        (Some(kms), Some("hubgate-key".to_owned())),
        // The last, since what it writes is found.
        (None, None),
    ];
    for (sse, kms_key_id) in keys {
        let is_encrypted = sse.is_some();
        let spool = TempDir::new().unwrap();
        let store = open(&spool, S3Config { sse, kms_key_id, ..s3.clone() }).await;
        store.probe().await.unwrap();
        let small = Key::policy(&Sha256::of(b"small"));
        store.put(&small, Bytes::from(PLAIN), PutMode::Create).await.unwrap();
        assert_eq!(store.get(&small, 1000).await.unwrap().unwrap(), PLAIN);
        // One that goes up whole and one in parts.
        for len in [100_000, 20 << 20] {
            let body = PLAIN.repeat(len / PLAIN.len());
            let sha256 = Sha256::of(body.as_bytes());
            let mut stage = store.stage(body.len() as u64, Some(sha256)).await.unwrap();
            stage.file().write_all_at(body.as_bytes(), 0).unwrap();
            stage.advance(body.len() as u64).await.unwrap();
            stage.commit(sha256).await.unwrap();
            let read = store.open(&Key::blob(&sha256), None).await.unwrap().unwrap();
            assert!(read.body.collect().await.unwrap().to_bytes() == body);
        }
        assert_eq!(is_on_disk(&data.join(&s3.bucket).join(&s3.prefix)), !is_encrypted, "{sse:?}");
        for key in store.list(&Prefix::all()).try_collect::<Vec<_>>().await.unwrap() {
            store.delete(&key.key).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_encrypt_is_told_by_the_key_that_asks_for_it() {
    let Some(minio) = minio() else { return };
    let words = ["store.s3.sse", "\"models\""];
    // The one that speaks https has no key.
    is_told(S3Config { sse: Some(ServerSideEncryption::Aes256), ..minio.https() }, &words).await;
    let unknown = Some("no-such-key".to_owned());
    let unknown = S3Config { sse: Some(ServerSideEncryption::AwsKms), kms_key_id: unknown, ..minio.s3 };
    is_told(unknown, &words).await;
}

#[tokio::test]
async fn a_private_authority_is_trusted_once_it_is_named() {
    let Some(minio) = minio() else { return };
    let https = minio.https();
    let seen = probe(https.clone()).await.unwrap();
    assert!(seen.warnings.is_empty(), "{seen:?}");
    let untrusted = S3Config { ca_file: None, ..https.clone() };
    is_told(untrusted, &["the server's certificate is not trusted", "store.s3.ca_file"]).await;
    // Another authority than the one that signed.
    let other = TempDir::new().unwrap();
    let ca_file = other.path().join("other.pem");
    std::fs::write(&ca_file, rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap().cert.pem()).unwrap();
    let wrong = S3Config { ca_file: Some(ca_file), ..https.clone() };
    is_told(wrong, &["the server's certificate is not trusted", "store.s3.ca_file"]).await;
    // Plain http to a port that speaks https, and the other way.
    let plain = https.endpoint.as_ref().unwrap().replace("https://", "http://");
    is_told(S3Config { endpoint: Some(plain), ..https }, &["store.s3.endpoint", "https"]).await;
    let tls = minio.s3.endpoint.as_ref().unwrap().replace("http://", "https://");
    is_told(S3Config { endpoint: Some(tls), ..minio.s3 }, &["store.s3.endpoint", "https"]).await;
}
