//! What the bytes of a file are, and how to read any piece of them cheaply.
//!
//! Three kinds: bytes in memory, a file on disk, and pseudo-random bytes made on demand from a seed.
//! Nothing here knows of repos or of HTTP.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use sha1::Digest as _;

/// Generated content repeats one block of this many bytes, rotated differently at each place.
const BLOCK: usize = 1 << 20;

/// The bytes of one file.
#[derive(Clone, Debug)]
pub enum Content {
    /// Held in memory.
    Bytes(Bytes),
    /// Read from disk while it is served; the file must not change.
    Disk {
        /// Where it lies.
        path: Arc<Path>,
        /// Its length when it was first seen.
        size: u64,
    },
    /// Made from a seed, never held: any offset costs the same.
    Generated(Generated),
}

impl Content {
    /// `size` pseudo-random bytes: the same for the same seed, different for another one.
    pub fn generated(size: u64, seed: u64) -> Self {
        Self::Generated(Generated { size, seed, table: table_of(seed) })
    }

    /// The file at `path`, streamed from there whenever it is asked for.
    pub fn disk(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let size = fs::metadata(&path)?.len();
        Ok(Self::Disk { path: path.into(), size })
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Disk { size, .. } => *size,
            Self::Generated(generated) => generated.size,
        }
    }

    /// The bytes of `range`, clamped to the content. Blocks on disk content.
    pub fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let reader = self.open()?;
        let end = range.end.min(self.size());
        let mut at = range.start;
        let mut out = Vec::new();
        while at < end {
            let piece = reader.piece(at, end - at)?;
            at += piece.len() as u64;
            out.extend_from_slice(&piece);
        }
        Ok(out)
    }

    pub(crate) fn open(&self) -> io::Result<Reader> {
        Ok(match self {
            Self::Bytes(bytes) => Reader::Bytes(bytes.clone()),
            Self::Disk { path, .. } => Reader::Disk(Arc::new(Mutex::new(fs::File::open(path)?))),
            Self::Generated(generated) => Reader::Generated(generated.clone()),
        })
    }

    /// Sha256 of the whole content, in hex. Generated content is hashed once in a process.
    pub fn sha256(&self) -> io::Result<String> {
        static KNOWN: LazyLock<Mutex<HashMap<(u64, u64), String>>> = LazyLock::new(Mutex::default);
        let Self::Generated(generated) = self else {
            return self.hash(sha2::Sha256::new());
        };
        let key = (generated.size, generated.seed);
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(sha256) = known {
            return Ok(sha256);
        }
        let sha256 = self.hash(sha2::Sha256::new())?;
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sha256.clone());
        Ok(sha256)
    }

    /// The id git gives this content as a blob, in hex.
    pub fn blob_id(&self) -> io::Result<String> {
        let mut hasher = sha1::Sha1::new();
        hasher.update(format!("blob {}\0", self.size()));
        self.hash(hasher)
    }

    fn hash<D: sha1::Digest>(&self, mut hasher: D) -> io::Result<String> {
        let reader = self.open()?;
        let mut at = 0;
        while at < self.size() {
            let piece = reader.piece(at, (self.size() - at).min(BLOCK as u64))?;
            at += piece.len() as u64;
            hasher.update(&piece);
        }
        Ok(hex::encode(hasher.finalize()))
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}
impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}
impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}
impl<const N: usize> From<&[u8; N]> for Content {
    fn from(bytes: &[u8; N]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}
impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}
impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// Pseudo-random bytes by seed.
#[derive(Clone)]
pub struct Generated {
    size: u64,
    seed: u64,
    /// The seed's block, twice over, so that any rotation of it is one slice.
    table: Bytes,
}

impl std::fmt::Debug for Generated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generated({} bytes, seed {})", self.size, self.seed)
    }
}

impl Generated {
    /// The bytes from `at` to the end of its block at most. No copy is made.
    fn piece(&self, at: u64, max: u64) -> Bytes {
        let block = BLOCK as u64;
        // An odd factor makes the rotations of the first 2^20 blocks (one TiB) all different.
        let rotation = (at / block).wrapping_mul(0x9E37_79B1) % block;
        let within = at % block;
        let len = max.min(block - within).min(self.size - at);
        let from = usize::try_from(rotation + within).unwrap_or(0);
        self.table.slice(from..from + usize::try_from(len).unwrap_or(0))
    }
}

/// The doubled block of a seed; equal seeds share one.
fn table_of(seed: u64) -> Bytes {
    static TABLES: LazyLock<Mutex<HashMap<u64, Bytes>>> = LazyLock::new(Mutex::default);
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let table = tables.entry(seed).or_insert_with(|| {
        let mut state = seed;
        let mut block = Vec::with_capacity(2 * BLOCK);
        while block.len() < BLOCK {
            block.extend_from_slice(&splitmix(&mut state).to_le_bytes());
        }
        block.extend_from_within(..BLOCK);
        block.into()
    });
    table.clone()
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Content opened for reading at any offset.
#[derive(Clone)]
pub(crate) enum Reader {
    Bytes(Bytes),
    Disk(Arc<Mutex<fs::File>>),
    Generated(Generated),
}

impl Reader {
    /// True when a read may wait for a disk, so that it belongs on a blocking thread.
    pub(crate) fn blocks(&self) -> bool {
        matches!(self, Self::Disk(_))
    }

    /// Between 1 and `max` bytes from `at`, which must lie inside the content.
    pub(crate) fn piece(&self, at: u64, max: u64) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                let len = usize::try_from(max).unwrap_or(usize::MAX).min(bytes.len() - from);
                Ok(bytes.slice(from..from + len))
            }
            Self::Generated(generated) => Ok(generated.piece(at, max)),
            Self::Disk(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let max = max.min(BLOCK as u64);
                let mut buffer = Vec::with_capacity(usize::try_from(max).unwrap_or(BLOCK));
                file.seek(SeekFrom::Start(at))?;
                (&mut *file).take(max).read_to_end(&mut buffer)?;
                if buffer.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file on disk became shorter"));
                }
                Ok(buffer.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_content_is_the_same_however_it_is_cut() {
        let content = Content::generated(3 * BLOCK as u64 + 17, 5);
        let whole = content.read(0..content.size()).unwrap();
        assert_eq!(whole.len() as u64, content.size());
        for range in [0..1, 1_048_570..1_048_590, 2_000_000..3_145_745, 3_145_744..9_000_000] {
            let part = content.read(range.clone()).unwrap();
            let end = usize::try_from(range.end).unwrap().min(whole.len());
            assert_eq!(part, whole[usize::try_from(range.start).unwrap()..end]);
        }
        assert_ne!(whole[..BLOCK], whole[BLOCK..2 * BLOCK]);
        assert_ne!(Content::generated(100, 6).read(0..100).unwrap(), whole[..100]);
    }

    #[test]
    fn blob_id_is_the_one_git_gives() {
        assert_eq!(Content::from("").blob_id().unwrap(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(Content::from("hello\n").blob_id().unwrap(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
