//! How long a client may keep us waiting, and what is none of its fault.

use http_body_util::Empty;
use hyper::{Version, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// Tiny, so that a test takes no time. Nothing below asserts how long anything took.
const SOON: Duration = Duration::from_millis(50);
/// Until a test gives up.
const PATIENCE: Duration = Duration::from_mins(1);
/// More than sockets and windows hold.
const LARGE: usize = 32 << 20;

fn short() -> ConnectionLimits {
    ConnectionLimits { connections: 8, header_timeout: SOON, idle_timeout: SOON, write_timeout: SOON }
}

/// A server whose end waits for its connections for ever.
async fn patient_at_its_end(limits: ConnectionLimits) -> Running {
    running_with(limits, Duration::from_hours(1), None).await
}

impl Running {
    /// Waits until all its connections are closed.
    async fn closes_all(self) {
        self.stop.cancel();
        time::timeout(PATIENCE, self.served).await.expect("a connection is held").unwrap();
    }
}

type Http2 = http2::SendRequest<Empty<Bytes>>;

async fn connect_http2(server: &Running) -> (Http2, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn get(sender: &mut Http2, path: &str) -> Response<Incoming> {
    let request = Request::get(format!("http://x{path}")).body(Empty::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn a_connection_that_never_asks_is_closed_and_one_whose_answer_is_late_is_not() {
    let server = running_with(short(), Duration::from_secs(5), None).await;
    let mut waiting = TcpStream::connect(server.address).await.unwrap();
    ask(&mut waiting, "/slow").await;
    server.pieces.send(Bytes::from_static(b"early")).await.unwrap();
    read_to(&mut waiting, "early").await;
    for said in ["", "PRI * HT"] {
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        silent.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Closed or reset: either way over.
        let _ = time::timeout(PATIENCE, silent.read_to_end(&mut answer)).await.expect("it is kept");
        assert!(answer.is_empty(), "{said:?}");
    }
    server.pieces.send(Bytes::from_static(b"late")).await.unwrap();
    assert!(read_to(&mut waiting, "late").await.contains("late"));
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answer_is_let_go() {
    let server = patient_at_its_end(short()).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    ask(&mut client, "/slow").await;
    server.pieces.send(Bytes::from(vec![0; LARGE])).await.unwrap();
    server.closes_all().await;
    let mut read = Vec::new();
    let _ = client.read_to_end(&mut read).await;
    assert!(read.len() < LARGE, "it was broken off");
}

#[tokio::test]
async fn a_client_that_gives_one_answer_of_http2_no_room_is_let_go() {
    let server = patient_at_its_end(short()).await;
    let (mut sender, _connection) = connect_http2(&server).await;
    let answer = get(&mut sender, "/slow").await;
    let pieces = server.pieces.clone();
    let source = tokio::spawn(async move { while pieces.send(Bytes::from(vec![0; 1 << 20])).await.is_ok() {} });
    // The connection goes on answering pings; the body is not read.
    server.closes_all().await;
    assert!(answer.into_body().collect().await.is_err(), "it was broken off");
    source.abort();
}

#[tokio::test]
async fn an_idle_connection_of_either_version_is_closed() {
    let server = patient_at_its_end(short()).await;
    let (mut sender, connection) = connect_http2(&server).await;
    let answer = get(&mut sender, "/").await;
    assert_eq!(answer.version(), Version::HTTP_2);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok tls=false");
    let ended = time::timeout(PATIENCE, connection).await.expect("it is kept");
    assert!(ended.unwrap().is_ok(), "with a goodbye, so that no request is lost");

    let mut first = TcpStream::connect(server.address).await.unwrap();
    ask(&mut first, "/").await;
    assert!(read_to(&mut first, "ok tls=false").await.starts_with("HTTP/1.1 200"));
    let closed = time::timeout(PATIENCE, read_to(&mut first, "never"));
    assert_eq!(closed.await.expect("it is kept"), "");
}

#[tokio::test]
async fn an_idle_connection_outlasts_the_time_for_a_head_and_a_slow_head_does_not() {
    let limits = ConnectionLimits { idle_timeout: Duration::from_hours(1), ..short() };
    let server = running_with(limits, Duration::from_secs(5), None).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    ask(&mut idle, "/").await;
    assert!(read_to(&mut idle, "ok tls=false").await.starts_with("HTTP/1.1 200"));
    // As long as it takes to close others.
    for asked in [false, true] {
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        if asked {
            ask(&mut slow, "/").await;
            read_to(&mut slow, "ok tls=false").await;
        }
        slow.write_all(b"GET / HT").await.unwrap();
        let mut answer = Vec::new();
        let _ = time::timeout(PATIENCE, slow.read_to_end(&mut answer)).await.expect("it is kept");
    }
    ask(&mut idle, "/").await;
    assert!(read_to(&mut idle, "ok tls=false").await.starts_with("HTTP/1.1 200"), "it was closed");
}

#[tokio::test]
async fn an_answer_of_http2_that_is_late_is_waited_for() {
    let server = patient_at_its_end(short()).await;
    let (mut sender, _connection) = connect_http2(&server).await;
    let answer = get(&mut sender, "/slow").await;
    let mut body = answer.into_body();
    server.pieces.send(Bytes::from_static(b"early")).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "early");
    // As long as it takes to close one that has nothing under way.
    let (mut idle, connection) = connect_http2(&server).await;
    drop(get(&mut idle, "/").await);
    let _ = time::timeout(PATIENCE, connection).await.expect("it is kept");
    server.pieces.send(Bytes::from_static(b"late")).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "late");
}
