mod spans;
mod unread;
mod waits;

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use super::*;

/// `/slow` answers the pieces that the test sends, `/read` how long the request's body is; everything else answers
/// "ok" without reading it.
#[derive(Clone)]
struct Answers(Arc<tokio::sync::Mutex<mpsc::Receiver<Bytes>>>);

impl Handle for Answers {
    type Body = UnsyncBoxBody<Bytes, Infallible>;

    async fn handle(&self, peer: Peer, request: Request<RequestBody>) -> Response<Self::Body> {
        if request.uri().path() == "/slow" {
            let pieces = self.0.clone();
            let stream = futures_util::stream::unfold(pieces, |pieces| async {
                let piece = pieces.lock().await.recv().await?;
                Some((Ok(Frame::data(piece)), pieces))
            });
            return Response::new(StreamBody::new(stream).boxed_unsync());
        }
        let text = if request.uri().path() == "/read" {
            format!("read {}", request.into_body().collect().await.unwrap().to_bytes().len())
        } else {
            format!("ok tls={}", peer.tls)
        };
        Response::new(http_body_util::Full::from(text).boxed_unsync())
    }

    fn turn_away(&self, _: Peer, _: Request<RequestBody>) -> Response<Self::Body> {
        let mut answer = Response::new(http_body_util::Full::from("full").boxed_unsync());
        *answer.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
        answer
    }
}

struct Running {
    address: SocketAddr,
    pieces: mpsc::Sender<Bytes>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn running(connections: usize, drain_timeout: Duration, tls: Option<Tls>) -> Running {
    let limits = ConnectionLimits { connections, ..ConnectionLimits::default() };
    running_with(limits, drain_timeout, tls).await
}

async fn running_with(limits: ConnectionLimits, drain_timeout: Duration, tls: Option<Tls>) -> Running {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let (pieces, receiver) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let how = Serve { limits, tls: tls.map(Arc::new), drain_timeout, workers: Workers::none() };
    let handler = Answers(Arc::new(tokio::sync::Mutex::new(receiver)));
    let served = tokio::spawn(serve(listener, how, handler, stop.clone()));
    Running { address, pieces, stop, served }
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
}

/// Reads until the stream holds `end` or ends.
async fn read_to(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&read).contains(end) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => read.extend_from_slice(&buffer[..length]),
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn a_connection_past_the_limit_is_told_503_and_one_after_it_is_served_again() {
    let server = running(1, Duration::from_secs(5), None).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    ask(&mut first, "/").await;
    assert!(read_to(&mut first, "ok tls=false").await.starts_with("HTTP/1.1 200"));

    let mut second = TcpStream::connect(server.address).await.unwrap();
    ask(&mut second, "/").await;
    assert!(read_to(&mut second, "full").await.starts_with("HTTP/1.1 503"));
    drop((first, second));

    // The server learns of the closed connection in its own time: until then 503 is right.
    loop {
        let mut third = TcpStream::connect(server.address).await.unwrap();
        ask(&mut third, "/").await;
        if read_to(&mut third, "\r\n").await.starts_with("HTTP/1.1 200") {
            break;
        }
    }
}

#[tokio::test]
async fn an_answer_under_way_finishes_after_stop_while_new_connections_are_refused() {
    let server = running(10, Duration::from_mins(1), None).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    ask(&mut client, "/slow").await;
    server.pieces.send(Bytes::from_static(b"first")).await.unwrap();
    read_to(&mut client, "first").await;

    server.stop.cancel();
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.pieces.send(Bytes::from_static(b"second")).await.unwrap();
    drop(server.pieces);
    assert!(read_to(&mut client, "\r\n0\r\n\r\n").await.contains("second"), "the answer ended whole");
    server.served.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_outlasts_the_drain_time_is_broken_off_visibly() {
    let server = running(10, Duration::ZERO, None).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    ask(&mut client, "/slow").await;
    server.pieces.send(Bytes::from_static(b"first")).await.unwrap();
    read_to(&mut client, "first").await;
    server.stop.cancel();
    server.served.await.unwrap();
    assert!(!read_to(&mut client, "\r\n0\r\n\r\n").await.contains("\r\n0\r\n"), "no end of the chunks");
}

fn write_certificate(folder: &std::path::Path, name: &str) -> (TlsConfig, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let config = TlsConfig { cert: Some(folder.join("cert")), key: Some(folder.join("key")), client_ca: None };
    std::fs::write(folder.join("cert"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key"), made.signing_key.serialize_pem()).unwrap();
    (config, made.cert.der().to_vec())
}

type OverTls = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect_tls(address: SocketAddr, root: &[u8], name: &'static str) -> io::Result<OverTls> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.to_vec().into()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name.try_into().unwrap(), stream).await
}

async fn shake_hands(address: SocketAddr, root: &[u8], name: &'static str) -> io::Result<String> {
    let mut stream = connect_tls(address, root, name).await?;
    ask(&mut stream, "/").await;
    Ok(read_to(&mut stream, "ok tls=true").await)
}

#[tokio::test]
async fn tls_answers_with_the_certificate_and_with_a_changed_one_after_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let (config, root) = write_certificate(folder.path(), "one.test");
    let tls = Arc::new(Tls::load(&config).unwrap().unwrap());
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let (_pieces, receiver) = mpsc::channel(1);
    let handler = Answers(Arc::new(tokio::sync::Mutex::new(receiver)));
    let how = Serve {
        limits: ConnectionLimits::default(),
        tls: Some(tls.clone()),
        drain_timeout: Duration::from_secs(5),
        workers: Workers::none(),
    };
    tokio::spawn(serve(listener, how, handler, CancellationToken::new()));
    assert!(shake_hands(address, &root, "one.test").await.unwrap().contains("ok tls=true"));

    let (_, new_root) = write_certificate(folder.path(), "two.test");
    // Clocks of file systems are coarse; the test says when the file was changed.
    let cert = std::fs::File::options().append(true).open(folder.path().join("cert")).unwrap();
    cert.set_modified(std::time::SystemTime::now() + Duration::from_secs(10)).unwrap();
    tls.reload_if_changed();
    assert!(shake_hands(address, &root, "one.test").await.is_err());
    assert!(shake_hands(address, &new_root, "two.test").await.unwrap().contains("ok tls=true"));

    let cert = folder.path().join("cert");
    let at = std::time::SystemTime::now() + Duration::from_secs(20);
    let changed_at = |at| {
        for path in [&cert, &folder.path().join("key")] {
            std::fs::File::options().append(true).open(path).unwrap().set_modified(at).unwrap();
        }
    };
    std::fs::write(&cert, "no certificate").unwrap();
    changed_at(at);
    tls.reload_if_changed();
    assert!(shake_hands(address, &new_root, "two.test").await.is_ok(), "the one before stays");
    let (_, root) = write_certificate(folder.path(), "three.test");
    changed_at(at);
    tls.reload_if_changed();
    assert!(shake_hands(address, &root, "three.test").await.is_ok(), "what was not read well is read again");
    let (_, root) = write_certificate(folder.path(), "four.test");
    changed_at(at);
    tls.reload();
    assert!(shake_hands(address, &root, "four.test").await.is_ok(), "whoever asks has them read in any case");
}

#[test]
fn a_bad_tls_section_names_the_key_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (good, _) = write_certificate(folder.path(), "one.test");
    let key_missing = TlsConfig { key: None, ..good.clone() };
    assert!(Tls::load(&key_missing).unwrap_err().to_string().contains("server.tls.key"));
    let absent = TlsConfig { cert: Some(folder.path().join("absent")), ..good };
    let error = Tls::load(&absent).unwrap_err().to_string();
    assert!(error.contains("server.tls.cert") && error.contains("absent"), "{error}");
}
