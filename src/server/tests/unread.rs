//! Answers that come before a request's body was read: the client gets them, whenever it looks.

use super::*;

/// More than both sockets and hyper's buffers hold: it can't be written unless somebody reads it.
const LARGE: usize = 32 << 20;

async fn server() -> Running {
    running(8, Duration::from_mins(1), None).await
}

fn head(path: &str, length: usize, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{more}\r\n")
}

/// Reads all that comes until the other side has ended.
async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.expect("the connection was reset");
    String::from_utf8(read).unwrap()
}

/// As Python's requests do: all of the body first, then a look at the answer.
async fn upload(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), length: usize) -> String {
    stream.write_all(head("/", length, "").as_bytes()).await.unwrap();
    // By now it is answered, and over as far as hyper is concerned.
    let answer = read_all(stream).await;
    stream.write_all(&vec![0; length]).await.expect("nobody reads the body");
    stream.flush().await.expect("nobody reads the body");
    answer
}

#[tokio::test]
async fn a_client_that_writes_on_after_its_answer_is_not_reset() {
    let server = server().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let answer = upload(&mut client, LARGE).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ok tls=false"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    drop(client);
    server.stop.cancel();
    server.served.await.unwrap();
}

#[tokio::test]
async fn a_client_whose_head_is_too_long_hears_so() {
    let server = server().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-long: ").await.unwrap();
    client.write_all(&vec![b'a'; LARGE]).await.expect("nobody reads the head");
    client.write_all(b"\r\n\r\n").await.expect("nobody reads the head");
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_client_that_looks_at_its_answer_last_finds_it() {
    let server = server().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(head("/", LARGE, "").as_bytes()).await.unwrap();
    client.write_all(&vec![0; LARGE]).await.expect("nobody reads the body");
    assert!(read_all(&mut client).await.contains("ok tls=false"));
}

#[tokio::test]
async fn the_same_holds_over_tls_and_for_bodies_in_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let (config, root) = write_certificate(folder.path(), "one.test");
    let server = running(8, Duration::from_mins(1), Tls::load(&config).unwrap()).await;
    let mut client = connect_tls(server.address, &root, "one.test").await.unwrap();
    let answer = upload(&mut client, LARGE).await;
    assert!(answer.contains("ok tls=true"), "{answer}");

    let mut client = connect_tls(server.address, &root, "one.test").await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    client.flush().await.unwrap();
    assert!(read_all(&mut client).await.contains("ok tls=true"));
    let chunk = [&b"100000\r\n"[..], &vec![0; 1 << 20], b"\r\n"].concat();
    for _ in 0..LARGE >> 20 {
        client.write_all(&chunk).await.expect("nobody reads the body");
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
}

#[tokio::test]
async fn a_connection_past_the_limit_is_told_so_even_while_it_uploads() {
    let server = running(1, Duration::from_secs(5), None).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    ask(&mut first, "/").await;
    read_to(&mut first, "ok tls=false").await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert!(upload(&mut second, LARGE).await.starts_with("HTTP/1.1 503"));
}

/// A body that is small, or was read, costs no connection.
#[tokio::test]
async fn a_small_body_that_nobody_reads_leaves_the_connection_for_the_next_request() {
    let server = server().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(head("/", 5, "").as_bytes()).await.unwrap();
    client.write_all(b"small").await.unwrap();
    let answer = read_to(&mut client, "ok tls=false").await;
    assert!(!answer.contains("connection: close"), "{answer}");
    client.write_all(head("/read", 1 << 20, "").as_bytes()).await.unwrap();
    client.write_all(&vec![0; 1 << 20]).await.unwrap();
    let answer = read_to(&mut client, "read 1048576").await;
    assert!(answer.contains("read 1048576") && !answer.contains("connection: close"), "{answer}");
    ask(&mut client, "/").await;
    assert!(read_to(&mut client, "ok tls=false").await.starts_with("HTTP/1.1 200"));
}

/// Some proxies put an empty body in chunks before every request.
#[tokio::test]
async fn a_small_body_in_chunks_is_as_small_as_any_other() {
    let server = server().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    for (method, body) in [("GET", "0\r\n\r\n"), ("POST", "5\r\nsmall\r\n0\r\n\r\n"), ("GET", "0\r\n\r\n")] {
        let request = format!("{method} / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to(&mut client, "ok tls=false").await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection: close"), "{method}: {answer}");
    }
    // One that goes on is let go when it turns out not to be small, and not read to its end.
    let chunk = [&b"100000\r\n"[..], &vec![0; 1 << 20], b"\r\n"].concat();
    client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    client.write_all(&chunk).await.unwrap();
    let answer = read_all(&mut client).await;
    assert!(answer.contains("ok tls=false") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_answered_and_not_asked() {
    let server = server().await;
    for length in [5, LARGE] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(head("/", length, "expect: 100-continue\r\n").as_bytes()).await.unwrap();
        let answer = read_all(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ok tls=false"), "{answer}");
    }
    // A handler that reads has it asked.
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(head("/read", 5, "expect: 100-continue\r\n").as_bytes()).await.unwrap();
    assert!(read_to(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    client.write_all(b"small").await.unwrap();
    assert!(read_to(&mut client, "read 5").await.contains("read 5"));
}

/// Neither the limits nor a stop wait for a client that was answered and goes on sending, or says nothing.
#[tokio::test]
async fn nobody_holds_a_connection_by_leaving_a_body_unsent() {
    let soon = Duration::from_millis(50);
    let limits = ConnectionLimits { connections: 8, header_timeout: soon, idle_timeout: soon, write_timeout: soon };
    let server = running_with(limits, Duration::from_hours(1), None).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    silent.write_all(head("/", LARGE, "").as_bytes()).await.unwrap();
    let mut endless = TcpStream::connect(server.address).await.unwrap();
    endless.write_all(head("/", usize::MAX / 2, "").as_bytes()).await.unwrap();
    let sending = tokio::spawn(async move { while endless.write_all(&[0; 4096]).await.is_ok() {} });
    assert!(read_all(&mut silent).await.contains("ok tls=false"));
    server.stop.cancel();
    time::timeout(Duration::from_mins(1), server.served).await.expect("a connection is held").unwrap();
    time::timeout(Duration::from_mins(1), sending).await.expect("it is read for ever").unwrap();

    let server = running(8, Duration::ZERO, None).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    silent.write_all(head("/", LARGE, "").as_bytes()).await.unwrap();
    assert!(read_all(&mut silent).await.contains("ok tls=false"));
    server.stop.cancel();
    server.served.await.unwrap();
}
