//! Every request is counted, timed, weighed and told of, whatever endpoint it asks, and one that panics
//! is answered: one layer, for each is paid for by every request, in boxes and copies of what is below.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use tower::{Layer, Service};

use super::trace::Identity;
use super::{App, linger};
use crate::error::Error;
use crate::telemetry::{ByteCounter, noting, take_notes};

/// Measures what is below it.
#[derive(Clone)]
pub(super) struct MeasureLayer(pub(super) Arc<App>);

/// Measures `inner`.
#[derive(Clone)]
pub(super) struct Measured<S> {
    app: Arc<App>,
    inner: S,
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { app: Arc::clone(&self.0), inner }
    }
}

impl<S> Service<Request> for Measured<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let app = Arc::clone(&self.app);
        // The route's pattern, which a client cannot make up.
        let route = request.extensions().get().map_or("unknown", MatchedPath::as_str);
        let endpoint = app.http_metrics.endpoint(route);
        let identity = Identity::of(&request);
        let request = request.map(|body| weighed(body, app.http_metrics.request_bytes(endpoint)));
        let (request, rest) = linger::with_rest(request);
        let answer = self.inner.call(request);
        let request_id = identity.request_id();
        Box::pin(noting(request_id, async move {
            let in_flight = app.http_metrics.begin(endpoint);
            let response = match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(Ok(response)) => response,
                Err(_) => Error::Internal.into_response(),
            };
            if let Some(rest) = rest.filter(|_| !response.status().is_success()) {
                let bytes_max = app.pipeline.limits.body_bytes_max.saturating_mul(4);
                linger::read_rest(rest, bytes_max).await;
            }
            let mut response = response.map(|body| weighed(body, in_flight.response_bytes()));
            identity.mark(&mut response);
            let (endpoint, status) = (in_flight.endpoint(), response.status().as_u16());
            let duration = in_flight.answered(status);
            app.tracer.tell(identity, endpoint, (status, duration), take_notes());
            Ok(response)
        }))
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use axum::extract::Request;
    use axum::http::StatusCode;
    use axum::response::Response;
    use tower::{Layer, Service, service_fn};

    use super::{App, MeasureLayer};
    use crate::config::Options;
    use crate::pipeline::Pipeline;

    #[tokio::test]
    async fn a_panic_is_answered_and_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options { models_dir: Some(dir.path().to_owned()), ..Options::default() };
        let config = options.resolve().expect("valid settings");
        let pipeline = Arc::new(Pipeline::new(&config).expect("opens"));
        let app = App::new(pipeline, &config).expect("starts");
        let handler = |request: Request| async move {
            assert_ne!(request.uri().path(), "/", "a mistake of ours");
            Ok::<_, Infallible>(Response::default())
        };
        let mut service = MeasureLayer(Arc::clone(&app)).layer(service_fn(handler));
        let Ok(response) = service.call(Request::default()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key("x-request-id"));
        let [endpoint] = &app.http_metrics.summaries()[..] else { panic!("one endpoint") };
        assert_eq!((endpoint.totals.requests_total, endpoint.totals.failures_total), (1, 1));
        assert_eq!(endpoint.in_flight, 0);
    }
}
