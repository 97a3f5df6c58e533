//! Every request is counted, timed and weighed, whatever endpoint it asks.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;

use super::linger::{self, RestBytesMax};
use crate::telemetry::{ByteCounter, HttpMetrics};

pub(super) async fn measure(
    State((http, rest)): State<(Arc<HttpMetrics>, RestBytesMax)>,
    request: Request,
    next: Next,
) -> Response {
    let in_flight = http.begin(Route::of(&request).name());
    let request = request.map(|body| weighed(body, in_flight.request_bytes()));
    let response = linger::answered(request, next, rest).await;
    let response = response.map(|body| weighed(body, in_flight.response_bytes()));
    in_flight.answered(response.status().as_u16());
    response
}

/// The route's pattern, for names that a client cannot make up.
pub(super) struct Route(Option<MatchedPath>);

impl Route {
    pub(super) fn of(request: &Request) -> Self {
        Self(request.extensions().get().cloned())
    }

    pub(super) fn name(&self) -> &str {
        self.0.as_ref().map_or("unknown", MatchedPath::as_str)
    }
}

/// Counts the body's bytes: at once if its size is known, else as they come.
fn weighed(body: Body, counter: &ByteCounter) -> Body {
    if let Some(bytes) = body.size_hint().exact() {
        counter.add(bytes);
        return body;
    }
    let counter = counter.clone();
    Body::new(body.map_frame(move |frame| {
        counter.add(frame.data_ref().map_or(0, Bytes::len) as u64);
        frame
    }))
}
