//! Answers of mails as JSON: into memory that most of them fit, for what grows is copied each time.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::Error;

/// An answer about one mail by a model of a dozen labels.
const BODY_BYTES: usize = 1024;

/// Like axum's.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(BODY_BYTES);
        if serde_json::to_writer(&mut body, &self.0).is_err() {
            return Error::Internal.into_response();
        }
        let mut response = Response::new(Body::from(body));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}
