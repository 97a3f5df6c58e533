//! A refusal that the client gets to read.
//!
//! A connection closed while the client still sends resets it, and with it goes the answer that the
//! client had not read yet (RFC 9112, section 9.6). So what is left of a refused request's body is
//! read and thrown away first, within limits; a client that sends more than that is cut off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

/// A body up to this size is in the kernel's buffers before anybody could refuse it.
const SENT_AT_ONCE_BYTES_MAX: u64 = 16 << 10;
/// How long the rest of a body may take, and how long a part of it.
const REST: Duration = Duration::from_secs(2);
const PART: Duration = Duration::from_millis(200);

/// The request, and its body for [`read_rest`] where some of it may not have come yet.
pub(super) fn with_rest(request: Request) -> (Request, Option<SharedBody>) {
    let small = request.body().size_hint().upper().is_some_and(|n| n <= SENT_AT_ONCE_BYTES_MAX);
    // Who expects `100 Continue` has sent nothing yet, and would if it were read.
    if small || request.headers().contains_key(header::EXPECT) {
        return (request, None);
    }
    let (head, body) = request.into_parts();
    let rest = SharedBody(Arc::new(Mutex::new(body)));
    (Request::from_parts(head, Body::new(rest.clone())), Some(rest))
}

/// Reads what is left of a refused request's body, at most `bytes_max`.
pub(super) async fn read_rest(rest: SharedBody, bytes_max: usize) {
    // Whether it ends in time or not, the answer goes out.
    let _ = tokio::time::timeout(REST, discard(rest, bytes_max)).await;
}

async fn discard(mut body: SharedBody, bytes_max: usize) {
    let mut bytes = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(PART, body.frame()).await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > bytes_max {
            return;
        }
    }
}

/// A body that a handler reads and whose rest can be read after it. The lock is never contended.
#[derive(Clone)]
pub(super) struct SharedBody(Arc<Mutex<Body>>);

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}
