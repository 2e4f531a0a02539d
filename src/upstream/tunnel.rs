//! A way through the egress proxy to an https target: CONNECT, spoken here so that the proxy's own answer
//! reaches the error (its status, the schemes it offers, its page).

use std::{future::poll_fn, pin::pin, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::{Error, ErrorKind, Result, USER_AGENT, connect::Io, proxy::Visit};

/// How much of a refusal is read.
const PAGE_LIMIT: usize = 64 << 10;

/// Asks the proxy at the other end of `io` for a tunnel to `target`.
pub(super) async fn open(io: Box<dyn Io>, target: &Uri, visit: Visit<'_>) -> Result<Box<dyn Io>> {
    let unreachable = |error: hyper::Error| Error::new(ErrorKind::ProxyUnreachable).because(error);
    let host = target.host().unwrap_or_default();
    let authority = format!("{host}:{}", target.port_u16().unwrap_or(443));
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(&authority)
        .header(header::HOST, &authority)
        .header(header::USER_AGENT, USER_AGENT);
    if let Some(authorization) = &visit.authorization {
        request = request.header(header::PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| Error::malformed(error.to_string()))?;

    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(unreachable)?;
    // The connection makes progress only while it is polled, and gives the socket back when it is done.
    let mut connection = pin!(connection.without_shutdown());
    let mut parts = None;
    let mut exchange = pin!(async move {
        let response = sender.send_request(request).await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(None);
        }
        let (head, body) = response.into_parts();
        Ok(Some((head, first_bytes(body).await)))
    });
    let refusal = poll_fn(|cx| {
        if parts.is_none()
            && let Poll::Ready(done) = connection.as_mut().poll(cx)
        {
            parts = Some(done);
        }
        exchange.as_mut().poll(cx)
    })
    .await?;
    if let Some((head, page)) = refusal {
        if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(visit.credentials_were_refused(&head.headers));
        }
        visit.credentials_were_good();
        let kind = ErrorKind::of_proxy(head.status, &String::from_utf8_lossy(&page));
        return Err(Error::new(kind).because(format!("CONNECT {authority}")));
    }
    visit.credentials_were_good();
    let parts = match parts {
        Some(parts) => parts,
        None => connection.await,
    }
    .map_err(unreachable)?;
    if !parts.read_buf.is_empty() {
        return Err(Error::malformed("the egress proxy sent bytes into a tunnel before TLS began"));
    }
    Ok(parts.io.into_inner())
}

/// As much of the proxy's page as arrives; one that breaks off is no less a refusal.
async fn first_bytes(mut body: Incoming) -> Bytes {
    let mut page = BytesMut::new();
    while page.len() < PAGE_LIMIT
        && let Some(Ok(frame)) = body.frame().await
    {
        page.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
    }
    page.freeze()
}
