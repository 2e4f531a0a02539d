//! The bench's client for large bodies: N connections read the same URL at once, each on a thread of its own.
//!
//! It must not be the bottleneck: plain blocking reads into one quarter megabyte that stays in the core's
//! cache, and a CRC-64 over it, which costs a tenth of the read itself. `--sha256` is for the untimed passes
//! that tie the CRC to the digest. Speaks just enough HTTP/1.1, follows no redirect, and never writes a file.

use std::{
    error::Error,
    io::{self, Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::Barrier,
    thread,
    time::Instant,
};

use clap::Parser;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use sha2::{Digest as _, Sha256};

/// Whatever went wrong; it is only printed.
type Failure = Box<dyn Error + Send + Sync>;

const BUFFER_BYTES: usize = 256 * 1024;
const LONGEST_HEAD_BYTES: usize = 64 * 1024;

/// Reads a URL over some connections at once, and prints what came as one line of JSON.
#[derive(Parser)]
struct Args {
    /// Connections, each reading the whole answer once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Value of a Range header.
    #[arg(long)]
    range: Option<String>,
    /// Hash with SHA-256 beside the CRC.
    #[arg(long)]
    sha256: bool,
    /// `http://host:port/path`.
    url: String,
}

/// One answer, read to its end.
struct Answer {
    status: u16,
    bytes: u64,
    /// From the start of all connections to this one's first byte of the body, and to its last.
    first_byte_s: f64,
    seconds: f64,
    crc64: u64,
    sha256: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match read_all(&args) {
        Ok(answers) => {
            println!("{}", report(&answers));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-reader: {}: {error}", args.url);
            ExitCode::FAILURE
        }
    }
}

fn read_all(args: &Args) -> Result<Vec<Answer>, Failure> {
    let (host, path) = split(&args.url)?;
    let range = args.range.as_ref().map(|range| format!("Range: {range}\r\n")).unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench-reader\r\n{range}Connection: close\r\n\r\n");
    let streams: Vec<TcpStream> = (0..args.connections).map(|_| TcpStream::connect(host)).collect::<Result<_, _>>()?;
    // All connections stand before the clock starts.
    let (begin, start) = (Barrier::new(args.connections), std::sync::OnceLock::new());
    thread::scope(|scope| {
        let readers: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                scope.spawn(|| {
                    let buffer = vec![0; BUFFER_BYTES];
                    begin.wait();
                    let start = *start.get_or_init(Instant::now);
                    read_one(stream, &request, start, args.sha256, buffer)
                })
            })
            .collect();
        let joined =
            readers.into_iter().map(|reader| reader.join().unwrap_or_else(|_| Err("a reader panicked".into())));
        joined.collect()
    })
}

fn split(url: &str) -> Result<(&str, &str), &'static str> {
    let rest = url.strip_prefix("http://").ok_or("only http:// URLs")?;
    let slash = rest.find('/').ok_or("a URL with a path")?;
    Ok(rest.split_at(slash))
}

fn read_one(
    mut stream: TcpStream,
    request: &str,
    start: Instant,
    sha256: bool,
    mut buffer: Vec<u8>,
) -> Result<Answer, Failure> {
    stream.write_all(request.as_bytes())?;
    let (head, mut filled) = read_head(&mut stream, &mut buffer)?;
    let text = str::from_utf8(&buffer[..head])?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status line")?;
    let length: u64 = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or("an answer without Content-Length")?;
    buffer.copy_within(head..filled, 0);
    filled -= head;

    let mut crc = Crc::new(CrcAlgorithm::Crc64Nvme);
    let mut sha = sha256.then(Sha256::new);
    let (mut bytes, mut first_byte) = (0, None);
    loop {
        if filled > 0 {
            first_byte.get_or_insert_with(Instant::now);
            crc.update(&buffer[..filled]);
            if let Some(sha) = &mut sha {
                sha.update(&buffer[..filled]);
            }
            bytes += filled as u64;
        }
        if bytes >= length {
            break;
        }
        filled = retried(|| stream.read(&mut buffer))?;
        if filled == 0 {
            return Err(format!("the body ended after {bytes} of {length} bytes").into());
        }
    }
    let end = Instant::now();
    Ok(Answer {
        status,
        bytes,
        first_byte_s: first_byte.unwrap_or(end).duration_since(start).as_secs_f64(),
        seconds: end.duration_since(start).as_secs_f64(),
        crc64: crc.finalize(),
        sha256: sha.map(|sha| hex::encode(sha.finalize())),
    })
}

/// Reads until the head is whole: its length, and how much of the buffer is filled.
fn read_head(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(usize, usize), Failure> {
    let mut filled = 0;
    loop {
        if let Some(at) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok((at + 4, filled));
        }
        if filled >= LONGEST_HEAD_BYTES {
            return Err("a head of more than 64 KiB".into());
        }
        let read = retried(|| stream.read(&mut buffer[filled..]))?;
        if read == 0 {
            return Err("the connection ended before an answer".into());
        }
        filled += read;
    }
}

fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn report(answers: &[Answer]) -> serde_json::Value {
    let slowest = answers.iter().map(|answer| answer.seconds).fold(0.0, f64::max);
    let bytes: u64 = answers.iter().map(|answer| answer.bytes).sum();
    let answers: Vec<_> = answers
        .iter()
        .map(|answer| {
            serde_json::json!({
                "status": answer.status, "bytes": answer.bytes, "first_byte_s": answer.first_byte_s,
                "seconds": answer.seconds, "crc64": format!("{:016x}", answer.crc64), "sha256": answer.sha256,
            })
        })
        .collect();
    serde_json::json!({ "seconds": slowest, "bytes": bytes, "answers": answers })
}
