//! The bodies of answers: one type for all of them, so that the short ones cost no allocation.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, SizeHint};

use crate::{
    body::{Chunk, Chunks, Taken},
    gateway::{self, BodyError},
};

/// The body of an answer.
#[derive(Debug, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    Empty,
    /// A short one.
    Full(Bytes),
    /// A file's bytes.
    File(gateway::Body),
    /// An answer of our own routes.
    Own(axum::body::Body),
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::Full(text.into())
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full(bytes.into())
    }
}

impl Chunks for Payload {
    type Error = BodyError;

    fn poll_chunk(&mut self, cx: &mut Context<'_>, taken: Taken) -> Poll<Option<Result<Chunk, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            this @ Self::Full(_) => {
                let Self::Full(bytes) = std::mem::take(this) else { return Poll::Ready(None) };
                Poll::Ready((!bytes.is_empty()).then(|| Ok(bytes.into())))
            }
            Self::File(body) => body.poll_chunk(cx, taken),
            Self::Own(body) => {
                // axum's have no trailers.
                let bytes = |frame: http_body::Frame<Bytes>| frame.into_data().unwrap_or_default().into();
                let frame = Pin::new(body).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map(bytes).map_err(|error| BodyError(error.into()))))
            }
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::File(body) => body.is_over(),
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn size_to_come(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::File(body) => body.size_to_come(),
            Self::Own(body) => body.size_hint(),
        }
    }
}
