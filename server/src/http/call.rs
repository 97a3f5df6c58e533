//! What a request's headers say of how to classify: the same for every protocol.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Query, Request};
use axum::http::{HeaderMap, HeaderName, header};
use postsort_models::LongText;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};

use super::App;
use super::body::{is_json, media_type, parse, read};
use crate::error::Error;
use crate::input::Input;
use crate::pipeline::ClassifyOptions;
use crate::scheduler::Priority;

const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// A JSON body, and what the headers say.
pub(super) struct Call<T> {
    pub(super) body: T,
    pub(super) options: ClassifyOptions,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Call<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Error> {
        let options = options(request.headers())?;
        if !is_json(request.headers()) {
            return Err(Error::UnsupportedMediaType { supported: "application/json" });
        }
        let bytes = read(request.into_body(), &app.pipeline.limits).await?;
        Ok(Self { body: parse(&bytes)?, options })
    }
}

/// A call by JSON, or by one whole message as `message/rfc822` whose query, of the keys `known`, says
/// the rest.
pub(super) async fn message_or_json<T: DeserializeOwned, Q: DeserializeOwned>(
    request: Request,
    app: &Arc<App>,
    known: &str,
    call: impl FnOnce(Q, Input) -> T,
) -> Result<T, Error> {
    let limits = &app.pipeline.limits;
    if media_type(request.headers()).eq_ignore_ascii_case("message/rfc822") {
        let Query(query) = Query::<Q>::try_from_uri(request.uri())
            .map_err(|_| Error::malformed("query", known))?;
        let raw = read(request.into_body(), limits).await?;
        Ok(call(query, Input::Raw(raw.to_vec())))
    } else if is_json(request.headers()) {
        parse(&read(request.into_body(), limits).await?)
    } else {
        let supported = "application/json and message/rfc822";
        Err(Error::UnsupportedMediaType { supported })
    }
}

/// What a call says of how to classify, over what its headers say.
pub(super) struct Said {
    pub(super) long: Option<LongText>,
    pub(super) priority: Option<Priority>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) cache: Option<bool>,
    pub(super) explain: Option<bool>,
}

impl Said {
    pub(super) fn over(self, headers: ClassifyOptions) -> ClassifyOptions {
        ClassifyOptions {
            long: self.long,
            priority: self.priority.unwrap_or(headers.priority),
            timeout: self.timeout_ms.map(Duration::from_millis).or(headers.timeout),
            skip_cache: self.cache.map_or(headers.skip_cache, |cache| !cache),
            explain: self.explain.unwrap_or(false),
            ..headers
        }
    }
}

/// `X-Request-Timeout`: milliseconds, or a number with `ms` or `s`; `X-Priority`: as in the body;
/// `Cache-Control`: `no-cache` or `no-store`.
///
/// # Errors
/// [`Error::Malformed`] that names the header.
pub(super) fn options(headers: &HeaderMap) -> Result<ClassifyOptions, Error> {
    let timeout = said(headers, &TIMEOUT, timeout, "milliseconds, or a number with `ms` or `s`")?;
    let priority = said(headers, &PRIORITY, priority, "`interactive`, `normal` or `bulk`")?;
    let cache = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let skip_cache =
        cache.is_some_and(|value| value.contains("no-cache") || value.contains("no-store"));
    let priority = priority.unwrap_or_default();
    Ok(ClassifyOptions { timeout, priority, skip_cache, ..ClassifyOptions::default() })
}

fn said<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: fn(&str) -> Option<T>,
    expected: &str,
) -> Result<Option<T>, Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|value| parse(value.trim()));
    parsed.map(Some).ok_or_else(|| Error::malformed(format!("header {name}"), expected))
}

fn timeout(text: &str) -> Option<Duration> {
    let number = |text: &str| text.trim_end().parse::<u64>().ok();
    match text.strip_suffix("ms") {
        Some(millis) => number(millis).map(Duration::from_millis),
        None => match text.strip_suffix('s') {
            Some(seconds) => number(seconds).map(Duration::from_secs),
            None => number(text).map(Duration::from_millis),
        },
    }
}

fn priority(text: &str) -> Option<Priority> {
    let name = text.to_ascii_lowercase();
    let name: StrDeserializer<'_, serde::de::value::Error> = name.as_str().into_deserializer();
    Priority::deserialize(name).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderMap;

    use super::options;
    use crate::scheduler::Priority;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn headers_say_how() {
        let plain = options(&HeaderMap::new()).expect("nothing said");
        assert_eq!(
            (plain.timeout, plain.priority, plain.skip_cache),
            (None, Priority::Normal, false)
        );
        for (value, millis) in [("250", 250), ("250ms", 250), ("2 s", 2000), ("0", 0)] {
            let said = options(&headers(&[("x-request-timeout", value)])).expect(value);
            assert_eq!(said.timeout, Some(Duration::from_millis(millis)), "{value}");
        }
        let said = options(&headers(&[("x-priority", "Bulk"), ("cache-control", "no-store")]));
        let said = said.expect("valid");
        assert_eq!((said.priority, said.skip_cache), (Priority::Bulk, true));
    }

    #[test]
    fn mistakes_name_the_header() {
        for (name, value) in [
            ("x-request-timeout", "soon"),
            ("x-request-timeout", "-1"),
            ("x-request-timeout", "1.5"),
            ("x-request-timeout", ""),
            ("x-request-timeout", "99999999999999999999"),
            ("x-priority", "vip"),
        ] {
            let error = options(&headers(&[(name, value)])).expect_err(value);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
