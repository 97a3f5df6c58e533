//! Every request is counted, timed, weighed and told of, whatever endpoint it asks: one layer, for
//! each is paid for by every request.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;

use super::trace::Identity;
use super::{App, linger};
use crate::telemetry::{ByteCounter, noting};

pub(super) async fn measure(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // The route's pattern, which a client cannot make up.
    let route = request.extensions().get().map_or("unknown", MatchedPath::as_str);
    let in_flight = app.http_metrics.begin(route);
    let endpoint = in_flight.endpoint();
    let identity = Identity::of(&request);
    let request = request.map(|body| weighed(body, in_flight.request_bytes()));
    let rest_bytes_max = app.pipeline.limits.body_bytes_max.saturating_mul(4);
    let answer = linger::answered(request, next, rest_bytes_max);
    let (response, notes) = noting(identity.request_id(), answer).await;
    let mut response = response.map(|body| weighed(body, in_flight.response_bytes()));
    identity.mark(&mut response);
    let status = response.status().as_u16();
    let duration = in_flight.answered(status);
    app.tracer.tell(identity, endpoint, (status, duration), notes);
    response
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
