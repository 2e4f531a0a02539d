//! S3 servers to test against: s3s-fs in this process, behind a real socket, and whatever real server the
//! environment names.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hubgate::store::S3Config;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::{
    auth::SimpleAuth,
    crypto::{Checksum as _, Md5},
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use uuid::Uuid;

const ACCESS_KEY: &str = "test-key";
const SECRET_KEY: &str = "test-secret";
const BUCKET: &str = "models";

/// s3s-fs on a port of its own, over a folder of its own, and what goes wrong with it.
pub(crate) struct S3sServer {
    root: TempDir,
    endpoint: String,
    faults: Arc<Faults>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct Faults {
    /// How many bodies of blobs are cut.
    cuts: AtomicU32,
    /// How many answers to the beginning of an upload are lost, and how.
    lost: AtomicU32,
    refused: AtomicBool,
    /// How many parts have a byte changed on their way.
    spoiled: AtomicU32,
    /// Whether there is no room for blobs.
    full: AtomicBool,
    /// What becomes of the next completions of uploads.
    completions: Mutex<Option<Completion>>,
    /// A file that goes as soon as an entry of the index has come.
    lost_with_index: Mutex<Option<PathBuf>>,
    /// Whether uploads are listed, which s3s-fs does not do: those in this folder.
    listing: Mutex<Option<PathBuf>>,
}

/// A completion to which the server answers that it knows of no such upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    /// It has completed it, and the answer to that was lost.
    Done,
    /// Somebody has aborted it.
    Aborted,
}

/// How many bytes of a blob go out before a cut.
pub(crate) const CUT_AFTER_BYTES: usize = 100_000;

impl S3sServer {
    pub(crate) async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    /// The same at an address that is known beforehand.
    pub(crate) async fn start_on(address: &str) -> Self {
        let root = TempDir::new().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind(address).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let faults = Arc::new(Faults::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, service, faults.clone()));
        Self { root, endpoint, faults, _accepting: accepting }
    }

    pub(crate) fn config(&self) -> S3Config {
        S3Config {
            endpoint: Some(self.endpoint.clone()),
            bucket: BUCKET.into(),
            prefix: "hub/gate".into(),
            access_key: Some(ACCESS_KEY.into()),
            secret_key: Some(SECRET_KEY.to_owned().into()),
            ..S3Config::default()
        }
    }

    /// The configuration of a gateway with this store.
    pub(crate) fn lines(&self, spool: &Path) -> String {
        let keys = format!("store.s3.access_key = {ACCESS_KEY:?}\nstore.s3.secret_key = {SECRET_KEY:?}");
        format!("{}\n{keys}", self.lines_without_keys(spool))
    }

    /// The same without the keys to it.
    pub(crate) fn lines_without_keys(&self, spool: &Path) -> String {
        let S3Config { bucket, prefix, .. } = self.config();
        format!(
            "store.kind = \"s3\"\nstore.s3.endpoint = {:?}\nstore.s3.bucket = {bucket:?}\nstore.s3.prefix = {prefix:?}\n\
             spool.dir = \"{}\"",
            self.endpoint,
            spool.display(),
        )
    }

    /// Cuts the next `times` GETs of blobs after [`CUT_AFTER_BYTES`] each.
    pub(crate) fn cut(&self, times: u32) {
        self.faults.cuts.store(times, Ordering::SeqCst);
    }

    /// Begins the next `times` uploads and loses the answers.
    pub(crate) fn lose_beginnings(&self, times: u32) {
        self.faults.lost.store(times, Ordering::SeqCst);
    }

    /// Refuses to begin uploads.
    pub(crate) fn refuse_beginnings(&self) {
        self.faults.refused.store(true, Ordering::SeqCst);
    }

    /// Changes one byte of each of the next `times` parts on their way.
    pub(crate) fn spoil_parts(&self, times: u32) {
        self.faults.spoiled.store(times, Ordering::SeqCst);
    }

    /// Takes no blob any more, as a server whose disks are full; or takes them again.
    pub(crate) fn fill_up(&self, full: bool) {
        self.faults.full.store(full, Ordering::SeqCst);
    }

    /// Knows of no such upload when the next one is completed.
    pub(crate) fn forget_upload(&self, completion: Completion) {
        *self.faults.completions.lock().unwrap() = Some(completion);
    }

    /// Loses this file of its own as soon as it has taken the next entry of the index.
    pub(crate) fn lose_with_index(&self, file: PathBuf) {
        *self.faults.lost_with_index.lock().unwrap() = Some(file);
    }

    /// Lists uploads from now on, each as begun two days ago.
    pub(crate) fn list_uploads(&self) {
        *self.faults.listing.lock().unwrap() = Some(self.root.path().to_owned());
    }

    /// How many uploads have begun and not ended.
    pub(crate) fn uploads(&self) -> usize {
        uploads_in(self.root.path()).len()
    }

    /// How many files of a part's size stand in the server's folder, as objects or as parts. (It also
    /// keeps small files of its own, which it does not remove with their objects.)
    pub(crate) fn large_files(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let large = |path: &Path| usize::from(path.metadata().unwrap().len() >= 1024 * 1024);
            paths.map(|path| if path.is_dir() { count(&path) } else { large(&path) }).sum()
        }
        count(self.root.path())
    }

    /// Makes every object below `uploads/` two days old.
    pub(crate) fn age_uploads(&self) {
        age(&self.root.path().join(BUCKET).join("hub/gate/uploads"), SystemTime::now() - Duration::from_hours(48));
    }

    /// Where the objects below the store's prefix lie as files.
    pub(crate) fn folder(&self) -> std::path::PathBuf {
        self.root.path().join(BUCKET).join("hub/gate")
    }
}

fn age(folder: &Path, then: SystemTime) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, then);
        } else {
            std::fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        }
    }
}

/// Key and id of the uploads that s3s-fs keeps in this folder.
fn uploads_in(root: &Path) -> Vec<(String, String)> {
    let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let of_name = |name: String| {
        let (_, rest) = name.split_once(".object-")?;
        let (key, id) = rest.strip_suffix(".metadata.json")?.split_once(".upload-")?;
        Some((String::from_utf8(URL_SAFE_NO_PAD.decode(key).unwrap()).unwrap(), id.to_owned()))
    };
    names.filter_map(of_name).collect()
}

async fn accept(listener: TcpListener, service: S3Service, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        let (service, faults) = (service.clone(), faults.clone());
        connections.spawn(async move {
            let answers = service_fn(move |request| answer(service.clone(), faults.clone(), request));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A connection that the test cuts, drops or lets an answer be lost on ends with an error here.
            let _ = server.serve_connection(TokioIo::new(socket), answers).await;
        });
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>>;

async fn answer(service: S3Service, faults: Arc<Faults>, request: Request<Incoming>) -> io::Result<Answer> {
    let is_blob = request.method() == Method::GET && request.uri().path().contains("/blobs/");
    let begins = request.method() == Method::POST && request.uri().query() == Some("uploads");
    let query = request.uri().query().unwrap_or_default().to_owned();
    if let Some(root) = faults.listing.lock().unwrap().as_ref()
        && request.method() == Method::GET
        && query.split('&').any(|field| field == "uploads")
    {
        return Ok(listing(root, &query));
    }
    if begins && faults.refused.load(Ordering::SeqCst) {
        return Ok(refusal(403, "AccessDenied"));
    }
    let writes = request.method() == Method::PUT || request.method() == Method::POST;
    let (is_of_blob, is_index) = (request.uri().path().contains("/blobs/"), request.uri().path().contains("/index/"));
    if writes && is_of_blob && faults.full.load(Ordering::SeqCst) {
        // MinIO's own word.
        return Ok(refusal(507, "XMinioStorageFull"));
    }
    let completes = request.method() == Method::POST && query.starts_with("uploadId=");
    let completion = if completes { faults.completions.lock().unwrap().take() } else { None };
    if completion == Some(Completion::Aborted) {
        return Ok(refusal(404, "NoSuchUpload"));
    }
    let take = |left: &AtomicU32| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    let response = if query.contains("partNumber=") && take(&faults.spoiled).is_ok() {
        let (head, body) = request.into_parts();
        let mut bytes = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
        bytes[1000] ^= 1;
        // What real servers do, and s3s-fs for whole objects only.
        if head.headers.get("content-md5").is_some_and(|told| told != &md5(&bytes)) {
            return Ok(refusal(400, "BadDigest"));
        }
        service.call(Request::from_parts(head, s3s::Body::from(bytes))).await.unwrap()
    } else {
        hyper::service::Service::call(&service, request).await.unwrap()
    };
    if completion == Some(Completion::Done) {
        let _ = response.into_body().collect().await;
        return Ok(refusal(404, "NoSuchUpload"));
    }
    if writes
        && is_index
        && let Some(file) = faults.lost_with_index.lock().unwrap().take()
    {
        std::fs::remove_file(file).unwrap();
    }
    if begins && take(&faults.lost).is_ok() {
        return Err(io::Error::other("this answer is lost"));
    }
    let is_cut = is_blob && take(&faults.cuts).is_ok();
    Ok(response.map(|body| if is_cut { cut_body(body) } else { body.map_err(Into::into).boxed_unsync() }))
}

/// As the header has it.
fn md5(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::checksum(bytes))
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
    Response::builder().status(status).body(text(body)).unwrap()
}

fn listing(root: &Path, query: &str) -> Answer {
    let prefix = query.split('&').find_map(|field| field.strip_prefix("prefix=")).unwrap_or_default();
    let prefix = prefix.replace("%2F", "/");
    let then = time::OffsetDateTime::now_utc() - time::Duration::days(2);
    let then = then.format(&time::format_description::well_known::Rfc3339).unwrap();
    let mut uploads = String::new();
    for (key, id) in uploads_in(root).into_iter().filter(|(key, _)| key.starts_with(&prefix)) {
        write!(uploads, "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{then}</Initiated></Upload>")
            .unwrap();
    }
    let all =
        format!("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>");
    Response::new(text(all))
}

fn text(text: String) -> UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}

fn cut_body(body: s3s::Body) -> UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let mut left = CUT_AFTER_BYTES;
    let cut = body.map_err(Into::into).map_frame(move |frame| {
        frame.map_data(|mut bytes: Bytes| {
            bytes.truncate(left);
            left -= bytes.len();
            bytes
        })
    });
    // The length that was announced does not come, so hyper closes the connection in the middle.
    cut.boxed_unsync()
}

/// The real server that the environment names, with a prefix of this test's own; says aloud what it does.
///
/// `HUBGATE_TEST_S3_ENDPOINT`, `_BUCKET`, `_ACCESS_KEY`, `_SECRET_KEY`, and `_CA_FILE` for https.
/// `HUBGATE_TEST_S3_REQUIRED=1` makes the absence of the first a failure.
pub(crate) fn real_server() -> Option<S3Config> {
    static SAID: Once = Once::new();
    let set = |name: &str| std::env::var(format!("HUBGATE_TEST_S3_{name}")).ok().filter(|value| !value.is_empty());
    // Not by eprintln, which a passing test keeps to itself.
    let say = |text: String| SAID.call_once(|| std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap());
    let Some(endpoint) = set("ENDPOINT") else {
        assert!(set("REQUIRED").is_none(), "HUBGATE_TEST_S3_REQUIRED is set and HUBGATE_TEST_S3_ENDPOINT is not");
        say("NOT RUN on a real S3 server: HUBGATE_TEST_S3_ENDPOINT is not set".into());
        return None;
    };
    say(format!("running on the real S3 server at {endpoint}"));
    let needed = |name: &str| set(name).unwrap_or_else(|| panic!("HUBGATE_TEST_S3_{name} is not set"));
    Some(S3Config {
        endpoint: Some(endpoint),
        bucket: needed("BUCKET"),
        prefix: format!("hubgate/test-{}", Uuid::now_v7().simple()),
        access_key: Some(needed("ACCESS_KEY")),
        secret_key: Some(needed("SECRET_KEY").into()),
        ca_file: set("CA_FILE").map(Into::into),
        ..S3Config::default()
    })
}

/// A MinIO with the set-ups of `tests/infra/minio.sh`.
pub(crate) struct Minio {
    /// Its gateway's bucket, with a prefix of this test's own.
    pub(crate) s3: S3Config,
    /// The folder where it keeps objects.
    pub(crate) data: PathBuf,
    https: String,
    ca_file: PathBuf,
}

impl Minio {
    /// Another one with the same bucket and users and no set-ups, that speaks https.
    pub(crate) fn https(&self) -> S3Config {
        let (endpoint, ca_file) = (Some(self.https.clone()), Some(self.ca_file.clone()));
        S3Config { endpoint, ca_file, ..self.s3.clone() }
    }
}

/// The MinIO that the environment names, as [`real_server`] and with `HUBGATE_TEST_MINIO_DATA`, `_HTTPS`, `_CA_FILE`.
pub(crate) fn minio() -> Option<Minio> {
    let s3 = real_server()?;
    let needed = |name: &str| std::env::var(format!("HUBGATE_TEST_MINIO_{name}")).unwrap();
    Some(Minio { s3, data: needed("DATA").into(), https: needed("HTTPS"), ca_file: needed("CA_FILE").into() })
}
