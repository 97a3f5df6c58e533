//! Requests of a target, rendered before the run.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use serde_json::json;

use crate::corpus::Mail;
use crate::error::Error;
use crate::target::{Protocol, Target};

const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// What `/v1/classify` is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Send {
    /// The mail as it came, `message/rfc822`
    Raw,
    /// Its text as JSON
    Text,
}

/// Which request goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)]
pub enum Priority {
    Interactive,
    Normal,
    Bulk,
}

/// What to do with text beyond the model's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Long {
    /// Overlapping windows
    Window,
    /// Keep the head
    Truncate,
    /// Keep head and tail
    #[value(name = "head_tail")]
    HeadTail,
}

/// What requests say besides the mail.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The model; the server's default unless given.
    pub model: Option<String>,
    /// Raw mail or its text.
    pub send: Send,
    /// The server's default unless given.
    pub long: Option<Long>,
    /// The server's default unless given.
    pub priority: Option<Priority>,
    /// Time limit in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Whether the server may answer from memory.
    pub cache: bool,
}

/// Every mail as a request of one target.
#[derive(Debug, Clone)]
pub struct Requests {
    uri: Uri,
    headers: HeaderMap,
    bodies: Vec<Bytes>,
}

impl Requests {
    /// Renders the mails.
    ///
    /// # Errors
    /// Where a name or path does not fit in a request line.
    pub fn new(target: &Target, mails: &[Mail], wish: &Wish) -> Result<Self, Error> {
        let raw = target.protocol == Protocol::Classify && wish.send == Send::Raw;
        let mut headers = HeaderMap::new();
        let host = HeaderValue::try_from(target.authority())
            .map_err(|e| Error::Usage(format!("{}: {e}", target.name)))?;
        headers.insert(header::HOST, host);
        let media_type = if raw { "message/rfc822" } else { "application/json" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if !wish.cache {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        if let Some(timeout_ms) = wish.timeout_ms {
            headers.insert(TIMEOUT, HeaderValue::from(timeout_ms));
        }
        if let Some(priority) = wish.priority {
            headers.insert(PRIORITY, HeaderValue::from_static(name(priority)));
        }
        let path = path(target, wish, raw);
        let uri = path.parse().map_err(|e| Error::Usage(format!("{path}: {e}")))?;
        let bodies = mails.iter().map(|mail| body(target.protocol, mail, wish, raw)).collect();
        Ok(Self { uri, headers, bodies })
    }

    /// The same with another priority.
    #[must_use]
    pub fn with_priority(&self, priority: Priority) -> Self {
        let mut requests = self.clone();
        requests.headers.insert(PRIORITY, HeaderValue::from_static(name(priority)));
        requests
    }

    /// How many mails there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a corpus is never empty")]
    pub fn len(&self) -> usize {
        self.bodies.len()
    }

    /// The request of mail `index`, which starts over after the last.
    #[must_use]
    pub fn request(&self, index: usize) -> Request<Full<Bytes>> {
        let body = self.bodies[index % self.bodies.len()].clone();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn name(priority: Priority) -> &'static str {
    match priority {
        Priority::Interactive => "interactive",
        Priority::Normal => "normal",
        Priority::Bulk => "bulk",
    }
}

fn long_name(long: Long) -> &'static str {
    match long {
        Long::Window => "window",
        Long::Truncate => "truncate",
        Long::HeadTail => "head_tail",
    }
}

fn path(target: &Target, wish: &Wish, raw: bool) -> String {
    let model = wish.model.as_deref();
    let mut path = target.path.clone().unwrap_or_else(|| match target.protocol {
        Protocol::Classify => "/v1/classify".to_owned(),
        Protocol::Tei => "/predict".to_owned(),
        Protocol::Oip => format!("/v2/models/{}/infer", model.unwrap_or("spam")),
    });
    if raw {
        let long = wish.long.map(long_name);
        for (key, value) in [("model", model), ("long", long)] {
            let Some(value) = value else { continue };
            let joint = if path.contains('?') { '&' } else { '?' };
            path = format!("{path}{joint}{key}={value}");
        }
    }
    path
}

fn body(protocol: Protocol, mail: &Mail, wish: &Wish, raw: bool) -> Bytes {
    if raw {
        return mail.raw.clone();
    }
    let text = &mail.text;
    let json = match protocol {
        Protocol::Classify => {
            let mut body = json!({"inputs": text});
            if let Some(model) = &wish.model {
                body["model"] = json!(model);
            }
            if let Some(long) = wish.long {
                body["long"] = json!(long_name(long));
            }
            body
        }
        Protocol::Tei => json!({"inputs": text, "truncate": true}),
        Protocol::Oip => json!({
            "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]
        }),
    };
    json.to_string().into()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn wish() -> Wish {
        let model = Some("spam".to_owned());
        Wish { model, send: Send::Raw, long: None, priority: None, timeout_ms: None, cache: false }
    }

    async fn rendered(target: &str, wish: &Wish) -> (Request<()>, String) {
        let mails =
            [Mail { raw: Bytes::from_static(b"Subject: a\r\n\r\nb"), text: "a \"b\"".into() }];
        let requests = Requests::new(&target.parse().expect(target), &mails, wish).expect(target);
        let (parts, body) = requests.request(7).into_parts();
        let body = body.collect().await.expect("in memory").to_bytes();
        (Request::from_parts(parts, ()), String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn a_mail_goes_as_it_came() {
        let said = Wish {
            long: Some(Long::Truncate),
            priority: Some(Priority::Bulk),
            timeout_ms: Some(500),
            ..wish()
        };
        let (request, body) = rendered("http://h:1", &said).await;
        assert_eq!(request.uri(), "/v1/classify?model=spam&long=truncate");
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("content-type"), Some("message/rfc822"));
        assert_eq!(header("x-request-timeout"), Some("500"));
        assert_eq!(header("x-priority"), Some("bulk"));
        assert_eq!(header("cache-control"), Some("no-cache"));
        assert_eq!(header("host"), Some("h:1"));
        assert_eq!(body, "Subject: a\r\n\r\nb");
    }

    #[tokio::test]
    async fn other_protocols_get_its_text() {
        let (request, body) = rendered("tei+http://h", &Wish { cache: true, ..wish() }).await;
        assert_eq!(request.uri(), "/predict");
        assert!(!request.headers().contains_key("cache-control"));
        assert_eq!(body, r#"{"inputs":"a \"b\"","truncate":true}"#);
        let (request, body) = rendered("oip+http://h", &wish()).await;
        assert_eq!(request.uri(), "/v2/models/spam/infer");
        assert!(body.contains(r#""data":["a \"b\""]"#));
        let (request, body) = rendered("http://h", &Wish { send: Send::Text, ..wish() }).await;
        assert_eq!(request.uri(), "/v1/classify");
        assert_eq!(body, r#"{"inputs":"a \"b\"","model":"spam"}"#);
    }

    #[tokio::test]
    async fn a_path_of_ones_own_is_kept() {
        let (request, _) = rendered("http://h/x?y=z", &wish()).await;
        assert_eq!(request.uri(), "/x?y=z&model=spam");
    }
}
