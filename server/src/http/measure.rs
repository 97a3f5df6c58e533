//! Every request is counted, timed, weighed and told of, whatever endpoint it asks, and one that panics
//! is answered: one service around all others, without a box of its own, for each is paid for by every request.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use tower::Service;

use super::App;
use super::linger::{self, SharedBody};
use super::routes::Patterns;
use super::trace::Identity;
use crate::error::Error;
use crate::telemetry::{ByteCounter, EndpointId, Notes, Noting, notes_of, noting};

/// Measures what is below it.
#[derive(Debug)]
pub struct Measured<S> {
    own: Arc<Own>,
    inner: S,
}

/// Each connection's: requests count who uses it, and connections of two threads must not count in one place.
#[derive(Clone, Debug)]
struct Own {
    app: Arc<App>,
    patterns: Patterns,
}

pin_project! {
    /// An answer that is measured.
    pub struct MeasuredAnswer<F> {
        #[pin]
        answer: Noting<CatchUnwind<AssertUnwindSafe<F>>>,
        in_flight: InFlight,
        identity: Identity,
        // Of a body that may not be read to its end.
        rest: Option<SharedBody>,
        // A refusal, while what is left of the body is read.
        refusal: Option<Pin<Box<dyn Future<Output = Response> + Send>>>,
    }
}

/// A request being answered. Dropped unanswered, its client has gone away.
struct InFlight {
    own: Arc<Own>,
    endpoint: EndpointId,
    started: Instant,
    answered: bool,
}

impl<S> Measured<S> {
    pub(super) fn new(app: Arc<App>, patterns: Patterns, inner: S) -> Self {
        Self { own: Arc::new(Own { app, patterns }), inner }
    }
}

impl<S: Clone> Clone for Measured<S> {
    fn clone(&self) -> Self {
        Self { own: Arc::new(Own::clone(&self.own)), inner: self.inner.clone() }
    }
}

impl<S> Service<Request> for Measured<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = MeasuredAnswer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let metrics = &self.own.app.http_metrics;
        let endpoint = metrics.endpoint(self.own.patterns.of(request.uri().path()));
        let in_flight = InFlight::new(Arc::clone(&self.own), endpoint);
        let identity = Identity::of(&request);
        let request = request.map(|body| weighed(body, metrics.request_bytes(endpoint)));
        let (request, rest) = linger::with_rest(request);
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let answer = noting(identity.request_id(), answer);
        MeasuredAnswer { answer, in_flight, identity, rest, refusal: None }
    }
}

impl<F> Future for MeasuredAnswer<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = loop {
            if let Some(refusal) = this.refusal {
                break ready!(refusal.as_mut().poll(context));
            }
            let response = match ready!(this.answer.as_mut().poll(context)) {
                Ok(Ok(response)) => response,
                Err(_) => Error::Internal.into_response(),
            };
            let Some(rest) = this.rest.take().filter(|_| !response.status().is_success()) else {
                break response;
            };
            let bytes_max = this.in_flight.own.app.pipeline.limits.body_bytes_max.saturating_mul(4);
            *this.refusal = Some(Box::pin(async move {
                linger::read_rest(rest, bytes_max).await;
                response
            }));
        };
        let notes = notes_of(this.answer);
        Poll::Ready(Ok(this.in_flight.answered(this.identity, response, notes)))
    }
}

impl InFlight {
    fn new(own: Arc<Own>, endpoint: EndpointId) -> Self {
        own.app.http_metrics.begun(endpoint);
        Self { own, endpoint, started: Instant::now(), answered: false }
    }

    /// The response's head is ready.
    fn answered(&mut self, identity: &Identity, response: Response, notes: Notes) -> Response {
        let metrics = &self.own.app.http_metrics;
        let mut response =
            response.map(|body| weighed(body, metrics.response_bytes(self.endpoint)));
        identity.mark(&mut response);
        let (now, status) = (Instant::now(), response.status().as_u16());
        let took = now.saturating_duration_since(self.started);
        metrics.answered(self.endpoint, status, now, took);
        self.answered = true;
        self.own.app.tracer.tell(identity, metrics.name(self.endpoint), (status, took), notes);
        response
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.answered {
            self.own.app.http_metrics.gone(self.endpoint);
        }
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
    use tower::{Service, service_fn};

    use super::{App, Measured, Patterns};
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
        let inner = service_fn(handler);
        let mut service = Measured::new(Arc::clone(&app), Patterns::default(), inner);
        let Ok(response) = service.call(Request::default()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key("x-request-id"));
        let [endpoint] = &app.http_metrics.summaries()[..] else { panic!("one endpoint") };
        assert_eq!((endpoint.totals.requests_total, endpoint.totals.failures_total), (1, 1));
        assert_eq!(endpoint.in_flight, 0);
    }
}
