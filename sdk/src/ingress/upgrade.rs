//! Changes of protocol in routers: axum's websockets, and whatever else takes hyper's `OnUpgrade`.
//!
//! Only hyper can make one of these, and only for a connection of its own. So it gets one, in memory, with a request that
//! says no more than that the client offers a change of protocol. The request that the router sees is still ours.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use http::{HeaderMap, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tower_service::Service;

use super::{READ_LEN, response_of};
use crate::response::Response;
use crate::stream::refused;
use crate::sys::host::Exchange;
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// Bytes that wait in either direction of the connection in memory.
const DUPLEX_LEN: usize = 64 * 1024;
/// The head of an answer on it, at most.
const HEAD_MAX: usize = 16 * 1024;
/// What hyper is asked.
const OFFER: &[u8] = b"GET / HTTP/1.1\r\nhost: decurion\r\nconnection: upgrade\r\nupgrade: any\r\n\r\n";

/// Whether a client offers to change the protocol.
pub(super) fn is_offered(headers: &HeaderMap) -> bool {
    headers.contains_key(http::header::UPGRADE)
}

/// What the router makes of a request that offers a change of protocol.
pub(super) async fn answer(request: axum::extract::Request, router: Router) -> Result<Response> {
    let (mut ours, theirs) = duplex(DUPLEX_LEN);
    let (tell, mut told) = oneshot::channel();
    let once = Mutex::new(Some((request, router, tell)));
    let service = service_fn(move |mut asked: http::Request<hyper::body::Incoming>| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let on_upgrade = asked.extensions_mut().remove::<OnUpgrade>();
        async move {
            let mut answer = http::Response::new(String::new());
            if let Some((mut request, mut router, tell)) = taken {
                if let Some(on_upgrade) = on_upgrade {
                    request.extensions_mut().insert(on_upgrade);
                }
                let Ok(response) = router.call(request).await;
                *answer.status_mut() = response.status();
                let _ = tell.send(response);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(theirs), service).with_upgrades();
    let mut connection = pin!(connection);
    ours.write_all(OFFER).await?;
    let response = tokio::select! {
        biased;
        response = &mut told => response.ok(),
        _ = &mut connection => told.try_recv().ok(),
    };
    let response = response.ok_or_else(|| Error::msg("the router has dropped a request"))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response_of(response).await;
    }
    // The connection is over once it has told the router's side, which then has the rest of it.
    let (ahead, over) = tokio::join!(after_head(&mut ours), connection);
    over?;
    let ahead = ahead?;
    let mut made = Response::tunnel(move |exchange| Box::pin(tunnel(exchange, ours, ahead)));
    for (name, value) in response.headers() {
        made.append(name.as_str().as_bytes(), value.as_bytes());
    }
    Ok(made)
}

/// Reads past the head that hyper writes: what has come behind it.
async fn after_head(ours: &mut DuplexStream) -> Result<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") {
            return Ok(read.split_off(end + 4));
        }
        if ours.read_buf(&mut read).await? == 0 || read.len() > HEAD_MAX {
            return Err(Error::msg("the router's connection has ended before it changed its protocol"));
        }
    }
}

/// Carries bytes both ways, until the router's side is through.
async fn tunnel(exchange: Arc<Exchange>, io: DuplexStream, ahead: Vec<u8>) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(io);
    let inward = async {
        let place = HostWaker::new();
        let mut buffer = vec![0; READ_LEN];
        while let Ok(read @ 1..) = poll_fn(|cx| exchange.poll_read(&mut buffer, &place, cx)).await
            && to.write_all(&buffer[..read]).await.is_ok()
        {}
        // The client sends no more; what it is sent still goes out.
        let _ = to.shutdown().await;
        pending::<Infallible>().await
    };
    let outward = async {
        let place = HostWaker::new();
        let mut buffer = ahead;
        loop {
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let sent = poll_fn(|cx| exchange.poll_write(rest, &place, cx)).await.map_err(refused)?;
                rest = &rest[sent.min(rest.len())..];
            }
            exchange.flush().map_err(refused)?;
            buffer.resize(READ_LEN, 0);
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(read) => buffer.truncate(read),
            }
        }
    };
    tokio::select! {
        outcome = outward => outcome,
        never = inward => match never {},
    }
}
