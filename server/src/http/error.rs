//! The one place that maps errors to HTTP.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::Error;

impl Error {
    /// The status that tells it.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownEndpoint { .. }
            | Self::UnknownModel { .. }
            | Self::UnknownVerdict { .. }
            | Self::UnknownRevision { .. } => StatusCode::NOT_FOUND,
            Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::OtherSite => StatusCode::FORBIDDEN,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unusable { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded { .. } | Self::NotInTime { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::LoadFailed { .. }
            | Self::NoRoom { .. }
            | Self::Superseded { .. }
            | Self::StoreAway { .. }
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoStore => StatusCode::NOT_IMPLEMENTED,
            Self::LargerThanBudget { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Inference { .. } | Self::Internal | Self::Setup { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    fn details(&self) -> Value {
        match self {
            Self::Malformed { path, expected, line, column } if *line > 0 => {
                json!({"path": path, "expected": expected, "line": line, "column": column})
            }
            Self::Malformed { path, expected, .. } => json!({"path": path, "expected": expected}),
            Self::UnknownEndpoint { method, path } => json!({"method": method, "path": path}),
            Self::UnknownModel { model }
            | Self::Superseded { model }
            | Self::UnknownVerdict { model } => json!({"model": model}),
            Self::StoreAway { reason } => json!({"reason": reason}),
            Self::UnknownRevision { model, revision } => {
                json!({"model": model, "revision": revision})
            }
            Self::Conflict { model, reason } => json!({"model": model, "reason": reason}),
            Self::TooLarge { what, size, size_max, unit } => {
                json!({"what": what, "size": size, "size_max": size_max, "unit": unit})
            }
            Self::UnsupportedMediaType { supported } => json!({"supported": supported}),
            Self::Unusable { index, reason } => json!({"index": index, "reason": reason}),
            Self::BodyTimeout { limit } => json!({"limit_ms": millis(*limit)}),
            Self::Overloaded { queued, queued_max, unit, .. } => {
                json!({"queued": queued, "queued_max": queued_max, "unit": unit})
            }
            Self::NotInTime { expected, timeout, .. } => {
                json!({"expected_ms": millis(*expected), "timeout_ms": millis(*timeout)})
            }
            Self::Deadline { timeout } => json!({"timeout_ms": millis(*timeout)}),
            Self::LoadFailed { model, reason, .. } | Self::Inference { model, reason } => {
                json!({"model": model, "reason": reason})
            }
            Self::NoRoom { model, needed_bytes, free_bytes } => {
                json!({"model": model, "needed_bytes": needed_bytes, "free_bytes": free_bytes})
            }
            Self::LargerThanBudget { model, needed_bytes, budget_bytes } => {
                json!({"model": model, "needed_bytes": needed_bytes, "budget_bytes": budget_bytes})
            }
            Self::OtherSite
            | Self::NoStore
            | Self::Draining
            | Self::Internal
            | Self::Setup { .. } => json!({}),
        }
    }

    fn contract_body(&self) -> Value {
        json!({"error": error_json(self)})
    }

    /// TEI's `ErrorResponse`: message and one of its error types.
    fn tei_body(&self) -> Value {
        let error_type = match self {
            Self::Overloaded { .. } | Self::NotInTime { .. } => "overloaded",
            Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::UnknownEndpoint { .. }
            | Self::UnknownModel { .. }
            | Self::UnknownRevision { .. }
            | Self::UnknownVerdict { .. }
            | Self::Conflict { .. }
            | Self::OtherSite
            | Self::UnsupportedMediaType { .. }
            | Self::BodyTimeout { .. } => "validation",
            Self::Unusable { .. } => "tokenizer",
            Self::NoRoom { .. }
            | Self::Superseded { .. }
            | Self::NoStore
            | Self::StoreAway { .. }
            | Self::Draining
            | Self::LoadFailed { .. } => "unhealthy",
            Self::Deadline { .. }
            | Self::LargerThanBudget { .. }
            | Self::Inference { .. }
            | Self::Internal
            | Self::Setup { .. } => "backend",
        };
        json!({"error": self.to_string(), "error_type": error_type})
    }

    /// The Open Inference Protocol's error object.
    fn oip_body(&self) -> Value {
        json!({"error": self.to_string()})
    }
}

/// Code, message and details.
pub(crate) fn error_json(error: &Error) -> Value {
    json!({"code": error.code(), "message": error.to_string(), "details": error.details()})
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.contract_body())).into_response();
        if let Some(wait) = self.retry_after() {
            // Whole seconds, and never 0: that would mean "now".
            let seconds = wait.as_secs_f64().ceil().max(1.0);
            if let Ok(value) = HeaderValue::from_str(&format!("{seconds:.0}")) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

/// On TEI's and OIP's paths an error's body is that protocol's own.
pub(super) async fn in_the_protocols_own_form(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let render: fn(&Error) -> Value = if path == "/predict"
        || path == "/info"
        || (path.starts_with("/models/") && path.ends_with("/predict"))
    {
        Error::tei_body
    } else if path == "/v2" || path.starts_with("/v2/") {
        Error::oip_body
    } else {
        return next.run(request).await;
    };
    let response = next.run(request).await;
    let Some(error) = response.extensions().get::<std::sync::Arc<Error>>().cloned() else {
        return response;
    };
    let (mut parts, _) = response.into_parts();
    let body = render(&error).to_string();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body.into())
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
