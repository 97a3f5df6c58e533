//! The server's own page at `/`, and its assets.
//!
//! Assets are in the binary, below a path that names their content: `/assets/{hash}/app.js`. One
//! hash for all of them lets modules import each other by relative paths, and lets every one be
//! kept by the browser for ever.

use std::io::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use postsort_cache::Digest;

use super::routes::Routes;
use crate::error::Error;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($name:literal: $content_type:expr),* $(,)?) => {
        &[$(($name, $content_type, include_bytes!(concat!("../../assets/", $name)))),*]
    };
}

const PAGE: &str = include_str!("../../assets/index.html");
const FILES: &[(&str, &str, &[u8])] = files! {
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "api.js": JAVASCRIPT,
    "app.js": JAVASCRIPT,
    "chart.js": JAVASCRIPT,
    "dom.js": JAVASCRIPT,
    "format.js": JAVASCRIPT,
    "history.js": JAVASCRIPT,
    "journal.js": JAVASCRIPT,
    "models.js": JAVASCRIPT,
    "status.js": JAVASCRIPT,
    "tryit.js": JAVASCRIPT,
};

/// The page may load and ask only what this server serves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page and its files, compressed once.
static ASSETS: LazyLock<Assets> = LazyLock::new(Assets::new);

struct Assets {
    hash: String,
    page: Asset,
    files: Vec<(&'static str, Asset)>,
}

struct Asset {
    content_type: &'static str,
    etag: HeaderValue,
    plain: Bytes,
    gzip: Bytes,
}

pub(super) fn routes() -> Routes {
    Routes::default().route("/", get(page)).route("/assets/{hash}/{file}", get(file))
}

async fn page(headers: HeaderMap) -> Response {
    let mut response = ASSETS.page.answer(&headers);
    let headers = response.headers_mut();
    // Asked for again each time, answered with 304 while it is the same.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn file(
    Path((hash, file)): Path<(String, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let found = ASSETS.files.iter().find(|(name, _)| *name == file && hash == ASSETS.hash);
    let Some((_, asset)) = found else { return Err(super::unknown_endpoint(method, uri).await) };
    let mut response = asset.answer(&headers);
    let for_ever = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, for_ever);
    Ok(response)
}

impl Assets {
    fn new() -> Self {
        let fields: Vec<&[u8]> =
            FILES.iter().flat_map(|(name, _, content)| [name.as_bytes(), content]).collect();
        let hash = format!("{:.16}", Digest::of(&fields));
        let page = PAGE.replace("{{assets}}", &format!("/assets/{hash}"));
        Self {
            page: Asset::new("text/html; charset=utf-8", Bytes::from(page)),
            files: FILES
                .iter()
                .map(|(name, content_type, content)| {
                    (*name, Asset::new(content_type, Bytes::from_static(content)))
                })
                .collect(),
            hash,
        }
    }
}

impl Asset {
    fn new(content_type: &'static str, plain: Bytes) -> Self {
        let etag = format!("\"{:.16}\"", Digest::of(&[&plain]));
        let etag = HeaderValue::try_from(etag).unwrap_or(HeaderValue::from_static("\"\""));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to memory cannot fail; if it did, the plain bytes would be served.
        let written = encoder.write_all(&plain).and_then(|()| encoder.finish());
        Self { content_type, etag, gzip: written.map(Bytes::from).unwrap_or_default(), plain }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let named = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.content_type)),
            (header::ETAG, self.etag.clone()),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let etag = self.etag.to_str().unwrap_or_default();
        if known.is_some_and(|known| {
            known.split(',').any(|one| matches!(one.trim(), "*") || one.trim().ends_with(etag))
        }) {
            return (StatusCode::NOT_MODIFIED, named).into_response();
        }
        let gzip = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        if reads_gzip(asked) && !self.gzip.is_empty() {
            (named, gzip, self.gzip.clone()).into_response()
        } else {
            (named, self.plain.clone()).into_response()
        }
    }
}

/// `gzip` among the accepted encodings, and not with a weight of zero.
fn reads_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.unwrap_or_default().split(',').any(|encoding| {
        let (name, weight) = encoding.split_once(';').unwrap_or((encoding, ""));
        let weight = weight.trim().strip_prefix("q=").map(str::parse::<f32>);
        matches!(name.trim(), "gzip" | "*") && !matches!(weight, Some(Ok(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, header};

    use super::{ASSETS, FILES, PAGE, reads_gzip};

    #[test]
    fn everything_that_is_named_is_there_and_small() {
        for (name, _, content) in FILES {
            let text = String::from_utf8_lossy(content);
            for import in text.lines().filter_map(|line| line.split_once(" from \"./")) {
                let imported = import.1.trim_end_matches("\";");
                assert!(FILES.iter().any(|file| file.0 == imported), "{name}: {imported}");
            }
        }
        for asset in PAGE.split("{{assets}}/").skip(1) {
            let name = asset.split('"').next().unwrap_or_default();
            assert!(FILES.iter().any(|file| file.0 == name), "{name}");
        }
        assert_eq!(ASSETS.hash.len(), 16);
        let plain: usize = ASSETS.files.iter().map(|(_, asset)| asset.plain.len()).sum();
        let gzip: usize = ASSETS.files.iter().map(|(_, asset)| asset.gzip.len()).sum();
        assert!(plain < 150 << 10 && gzip < plain / 2, "{plain} {gzip}");
    }

    #[test]
    fn encodings_are_negotiated() {
        let reads = |accepted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, accepted.parse().expect("a header"));
            reads_gzip(&headers)
        };
        assert!(reads("gzip") && reads("br, gzip;q=0.5") && reads("*"));
        assert!(!reads("br") && !reads("gzip;q=0") && !reads("identity"));
        assert!(!reads_gzip(&HeaderMap::new()));
    }
}
