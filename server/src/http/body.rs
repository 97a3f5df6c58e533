//! Reading a request's body: bounded in bytes and in time, with errors that quote nothing of it.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::App;
use crate::config::RequestLimits;
use crate::deadline::until;
use crate::error::Error;

/// The body of a call that changes what is served. Refused if another site's page sent it: that
/// could not read the answer, but would have changed things all the same. Browsers say so by
/// themselves (Fetch Metadata); programs say nothing.
async fn operators_body(request: Request, app: &Arc<App>) -> Result<Bytes, Error> {
    match request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => {}
        Some(_) => return Err(Error::OtherSite),
    }
    read(request.into_body(), &app.pipeline.limits).await
}

/// An operator's call with a JSON body, or none: then the default.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Error> {
        let bytes = operators_body(request, app).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { parse(&bytes).map(Self) }
    }
}

/// An operator's call whose body says nothing: read all the same, for a connection with an unread
/// body is closed after the answer, and with it goes the client's next request.
pub(super) struct IgnoredBody;

impl FromRequest<Arc<App>> for IgnoredBody {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Error> {
        operators_body(request, app).await.map(|_| Self)
    }
}

pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let full = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    full.and_then(|value| value.split(';').next()).map_or("", str::trim)
}

/// Absent counts as JSON: that is what every endpoint but one reads.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    media_type.is_empty()
        || media_type.eq_ignore_ascii_case("application/json")
        || media_type.ends_with("+json")
}

/// The whole body.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::BodyTimeout`], or [`Error::Malformed`] when it breaks off.
pub(super) async fn read(body: Body, limits: &RequestLimits) -> Result<Bytes, Error> {
    let collected = Limited::new(body, limits.body_bytes_max).collect();
    match until(|| Instant::now() + limits.body_timeout, collected).await {
        None => Err(Error::BodyTimeout { limit: limits.body_timeout }),
        Some(Ok(body)) => Ok(body.to_bytes()),
        Some(Err(error)) if error.is::<LengthLimitError>() => Err(Error::TooLarge {
            what: "body".to_owned(),
            size: limits.body_bytes_max + 1,
            size_max: limits.body_bytes_max,
            unit: "bytes",
        }),
        Some(Err(_)) => Err(Error::malformed("body", "a body that does not break off")),
    }
}

/// Reads JSON.
///
/// # Errors
/// [`Error::Malformed`] with the path, line and column, and what was expected there. serde's own
/// message quotes the offending value, which may be somebody's mail, so only its last part is kept.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        // Tracking the path costs time, so only a failed parse is repeated with it.
        Err(first) => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            let (path, error) = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
                Err(tracked) => (tracked.path().to_string(), tracked.into_inner()),
                // The value is fine and something follows it.
                Ok(_) => (".".to_owned(), first),
            };
            let expected = expectation(&error);
            // `?` stands for a part that was not reached.
            let path = path.trim_end_matches('?').trim_end_matches('.');
            let path = if path.is_empty() { "body".to_owned() } else { path.to_owned() };
            Err(Error::Malformed { path, expected, line: error.line(), column: error.column() })
        }
    }
}

fn expectation(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "JSON that does not break off".to_owned(),
        Category::Syntax | Category::Io => {
            let message = error.to_string();
            let surrogate =
                message.contains("surrogate") || message.contains("unexpected end of hex");
            if surrogate { "Unicode text: no lone surrogates" } else { "valid JSON" }.to_owned()
        }
        Category::Data => {
            let message = error.to_string();
            let message = message.rsplit_once(" at line ").map_or(&*message, |(head, _)| head);
            if let Some((_, expected)) = message.rsplit_once("expected ") {
                return expected.to_owned();
            }
            // `missing field` names a field of ours, never one of the client's words.
            match message.strip_prefix("missing field ") {
                Some(field) => format!("the field {field}"),
                None => "another value".to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::error::Error;
    use crate::http::ClassifyRequest;

    fn mistake(json: &str) -> (String, String) {
        match parse::<ClassifyRequest>(json.as_bytes()) {
            Err(Error::Malformed { path, expected, line, .. }) => {
                assert!(line > 0);
                (path, expected)
            }
            other => panic!("expected a mistake in {json}: {other:?}"),
        }
    }

    #[test]
    fn mistakes_say_where_and_what_but_quote_nothing() {
        let cases = [
            ("{", "body", "break off"),
            ("not json", "body", "valid JSON"),
            (r#"{"inputs":"a"} x"#, "body", "valid JSON"),
            (r#"{"model":7,"inputs":"a"}"#, "model", "string"),
            (r#"{"model":"m"}"#, "body", "`inputs`"),
            (r#"{"inputs":["a",7]}"#, "inputs[1]", "text or a mail object"),
            (r#"{"inputs":[{"subject":"SECRET","bdy":"SECRET"}]}"#, "inputs[0]", "`body`"),
            (r#"{"inputs":[{"raw":"SECRET!"}]}"#, "inputs[0]", "base64"),
            (r#"{"inputs":"a","top_k":"SECRET, expected x"}"#, "top_k", "usize"),
            (r#"{"inputs":"\ud800"}"#, "inputs", "surrogate"),
            (r#"{"inputs":"a","secret":1}"#, "", "`model`"),
        ];
        for (json, path, expected) in cases {
            let found = mistake(json);
            assert!(found.0.contains(path), "{json}: path {found:?}");
            assert!(found.1.contains(expected), "{json}: expected {found:?}");
            assert!(!found.1.contains("SECRET"), "{json}: quotes {found:?}");
        }
    }
}
