//! Read buffers that are used again: 256 KiB each, the size at which reading a file and sending it is
//! fastest (it stays in a core's cache). The pool keeps a bounded number of them; it never limits how many
//! are out.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Length of a pooled buffer, and so the most that one read returns.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Below this a fresh allocation costs less than the pool's lock and a zeroed quarter megabyte held.
const SMALL_BYTES: usize = 16 * 1024;

/// How many idle buffers are kept (16 MiB).
const KEPT: usize = 64;

static IDLE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer to read into.
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    /// One with room for `len` bytes, of which at most [`CHUNK_BYTES`] are given.
    pub(super) fn with_room(len: usize) -> Self {
        if len <= SMALL_BYTES {
            return Self(vec![0; len].into());
        }
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(idle.unwrap_or_else(|| vec![0; CHUNK_BYTES].into()))
    }

    /// The first `len` bytes of the room, for reading into.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(self.0.len());
        &mut self.0[..len]
    }

    /// The first `len` bytes as a value; the buffer goes back to the pool when the last clone is dropped.
    pub(super) fn filled(self, len: usize) -> Bytes {
        let mut bytes = Bytes::from_owner(self);
        bytes.truncate(len);
        bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.len() == CHUNK_BYTES {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < KEPT {
                idle.push(std::mem::take(&mut self.0));
            }
        }
    }
}
