//! A file's bytes arrive whole and in order over every kind of connection, whoever sends them.

use std::{
    fs::File,
    io::Write as _,
    task::{Context, Poll},
};

use http_body::SizeHint;

use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::body::{CHUNK_BYTES, Chunk, Chunks, FileBody, FileSpan, Taken};

/// Answers every request with the same file.
#[derive(Clone)]
struct Files(Arc<File>, u64);

/// A file in spans wherever they are taken, whether or not this file system can tell what is cached.
struct AllSpans {
    file: Arc<File>,
    offset: u64,
    end: u64,
    in_bytes: FileBody,
}

impl AllSpans {
    fn new(file: Arc<File>, end: u64) -> Self {
        Self { file: file.clone(), offset: 0, end, in_bytes: FileBody::new(file, 0..end) }
    }
}

impl Chunks for AllSpans {
    type Error = io::Error;

    fn poll_chunk(&mut self, cx: &mut Context<'_>, taken: Taken) -> Poll<Option<io::Result<Chunk>>> {
        if taken == Taken::Bytes {
            return self.in_bytes.poll_chunk(cx, taken);
        }
        let len = usize::try_from(self.end - self.offset).unwrap().min(CHUNK_BYTES);
        let span = FileSpan { file: self.file.clone(), offset: self.offset, len };
        self.offset += len as u64;
        Poll::Ready((len > 0).then_some(Ok(Chunk::Span(span))))
    }

    fn is_over(&self) -> bool {
        self.offset == self.end || self.in_bytes.is_over()
    }

    fn size_to_come(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.offset)
    }
}

impl Handle for Files {
    type Body = AllSpans;

    async fn handle(&self, _: Peer, _: Request<RequestBody>) -> Response<AllSpans> {
        Response::new(AllSpans::new(self.0.clone(), self.1))
    }

    fn turn_away(&self, _: Peer, _: Request<RequestBody>) -> Response<AllSpans> {
        Response::new(AllSpans::new(self.0.clone(), 0))
    }
}

/// More than socket buffers hold, and not a whole number of anything.
fn content() -> Vec<u8> {
    (0..24 * CHUNK_BYTES + 4711).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[5]).collect()
}

async fn serving(content: &[u8], announced: usize, tls: Option<Tls>) -> (SocketAddr, CancellationToken) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let how = Serve {
        limits: ConnectionLimits::default(),
        tls: tls.map(Arc::new),
        drain_timeout: Duration::from_secs(5),
        workers: Workers::none(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, how, Files(Arc::new(file), announced as u64), stop.clone()));
    (address, stop)
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("/").header("host", "x").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn without_tls_answers_follow_each_other_whole() {
    let content = content();
    let (address, _stop) = serving(&content, content.len(), None).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let answer = sender.send_request(request()).await.unwrap();
        assert_eq!(answer.headers()["content-length"], content.len().to_string());
        assert!(answer.into_body().collect().await.unwrap().to_bytes() == content);
        sender.ready().await.unwrap();
    }
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_one_behind_the_other() {
    let content = content();
    let (address, _stop) = serving(&content, content.len(), None).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let both = "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(both.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    let mut rest = &read[..];
    for _ in 0..2 {
        let head = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert!(rest[..head].starts_with(b"HTTP/1.1 200"));
        assert!(rest[head..][..content.len()] == content);
        rest = &rest[head + content.len()..];
    }
    assert!(rest.is_empty());
}

#[tokio::test]
async fn http2_and_tls_get_the_same_bytes() {
    let content = content();
    let (address, _stop) = serving(&content, content.len(), None).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(Request::get("http://x/").body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == content);

    let folder = tempfile::tempdir().unwrap();
    let (config, root) = write_certificate(folder.path(), "one.test");
    let (address, _stop) = serving(&content, content.len(), Tls::load(&config).unwrap()).await;
    let stream = connect_tls(address, &root, "one.test").await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request()).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == content);
}

#[tokio::test]
async fn a_file_that_is_shorter_than_announced_breaks_the_connection() {
    let content = content();
    for tls in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (config, root) = write_certificate(folder.path(), "one.test");
        let certificate = tls.then(|| Tls::load(&config).unwrap().unwrap());
        let (address, _stop) = serving(&content, content.len() + 1, certificate).await;
        let answer = if tls {
            let stream = connect_tls(address, &root, "one.test").await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request()).await.unwrap()
        } else {
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request()).await.unwrap()
        };
        assert!(answer.into_body().collect().await.is_err(), "tls: {tls}");
    }
}
