//! A client that shows what came over the wire, also when it broke off.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Status 0 is no answer at all.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body is shorter than announced.
    pub broken: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub async fn get(base: &str, path: &str) -> Reply {
    request("GET", base, path, &[], "").await
}

pub async fn head(base: &str, path: &str) -> Reply {
    request("HEAD", base, path, &[], "").await
}

pub async fn request(method: &str, base: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let host = base.strip_prefix("http://").unwrap();
    let Ok(mut socket) = TcpStream::connect(host).await else {
        return Reply::default();
    };
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("content-length: {}\r\n\r\n{body}", body.len());
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // A reset in the middle is a broken reply like any other; one that neither ends nor breaks is a defect.
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), socket.read_to_end(&mut all)).await;
    assert!(read.is_ok(), "{method} {path} neither ended nor broke");
    let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Reply::default();
    };
    let text = String::from_utf8_lossy(&all[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers =
        lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut reply = Reply { status, headers: headers.collect(), body: all[end + 4..].to_vec(), broken: false };
    let announced = reply.header("content-length").parse().unwrap_or(reply.body.len());
    reply.broken = method != "HEAD" && reply.body.len() != announced;
    reply
}
