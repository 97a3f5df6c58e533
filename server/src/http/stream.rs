//! `POST /v1/classify/stream`: mails as JSON lines in, answers as JSON lines out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use postsort_models::{LongText, ScoreFunction};
use serde::Deserialize;

use super::body::{media_type, parse};
use super::{App, Life, Presentation};
use crate::back_fill::BackFill;
use crate::error::Error;
use crate::input::Input;
use crate::pipeline::ClassifyOptions;

/// A sender that pauses for longer has gone away.
const IDLE: Duration = Duration::from_secs(600);
/// How often somebody who waits for the next mail looks whether the server is draining.
const LOOK: Duration = Duration::from_millis(250);
/// Answers that are ready go out together, at most so many.
const LINES_A_FRAME: usize = 64;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    /// The model; the default model unless given.
    model: Option<String>,
    /// Only the best so many labels.
    top_k: Option<usize>,
    /// `softmax`, `sigmoid` or `none`; by the model's problem type unless given.
    #[param(value_type = Option<String>)]
    function_to_apply: Option<ScoreFunction>,
    /// `truncate`, `head_tail`, `window` or `skim`; the model's way unless given.
    #[param(value_type = Option<String>)]
    long: Option<LongText>,
    /// `false`: neither look into the result cache nor write to it.
    cache: Option<bool>,
    /// Index of the first line, when a stream that broke off is taken up again.
    first_index: Option<u64>,
}

/// Classify mails without end
///
/// Each line of the body is a text or a mail object, as an item of `inputs` of `/v1/classify`. Each
/// line of the answer has the `index` of its mail and either `labels` and the rest of a result, or
/// an `error`. Answers come in order while mails are still being sent, behind all other requests;
/// mails are read as fast as answers are. Empty lines are passed over but counted.
#[utoipa::path(
    post, path = "/v1/classify/stream", tag = "classify", params(StreamQuery),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, content_type = "application/x-ndjson", body = String))
)]
pub(super) async fn classify_stream(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Error> {
    let Query(query) = Query::<StreamQuery>::try_from_uri(request.uri()).map_err(|_| {
        let known = "model, top_k, function_to_apply, long, cache, first_index";
        Error::malformed("query", known)
    })?;
    let media_type = media_type(request.headers());
    let lines = ["application/x-ndjson", "application/jsonl", "application/json", ""];
    if !lines.iter().any(|known| media_type.eq_ignore_ascii_case(known)) {
        return Err(Error::UnsupportedMediaType { supported: "application/x-ndjson" });
    }
    let said = super::call::options(request.headers())?;
    let skip_cache = query.cache.map_or(said.skip_cache, |cache| !cache);
    let options = ClassifyOptions { long: query.long, skip_cache, ..ClassifyOptions::default() };
    let presentation = Presentation::new(query.function_to_apply, query.top_k, None)?;
    let back_fill = BackFill::new(Arc::clone(&app.pipeline), query.model, options, presentation)?;
    let lines = Lines {
        body: request.into_body(),
        buffer: BytesMut::new(),
        ended: false,
        too_long: 0,
        index: query.first_index.unwrap_or(0),
        line_bytes_max: app.pipeline.limits.body_bytes_max,
        life: Arc::clone(&app.life),
    };
    let answers = back_fill.run(lines.mails()).ready_chunks(LINES_A_FRAME);
    let frames = answers.map(|lines| Ok::<_, Infallible>(Bytes::from(lines.concat())));
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((content_type, Body::from_stream(frames)).into_response())
}

/// Lines of a body that is still being sent; never more than one and a part of the next in memory.
struct Lines<B> {
    body: B,
    buffer: BytesMut,
    ended: bool,
    /// Bytes of a line over the limit that were thrown away.
    too_long: usize,
    index: u64,
    line_bytes_max: usize,
    life: Arc<Life>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> Lines<B> {
    fn mails(self) -> impl Stream<Item = (u64, Result<Input, Error>)> {
        stream::unfold(self, |mut lines| async move {
            let line = lines.next().await?;
            Some((line, lines))
        })
    }

    async fn next(&mut self) -> Option<(u64, Result<Input, Error>)> {
        let mut searched = 0;
        loop {
            let end = self.buffer[searched..].iter().position(|&byte| byte == b'\n');
            if let Some(end) = end.map(|end| searched + end) {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                searched = 0;
                if let Some(mail) = self.mail(&line) {
                    return Some(mail);
                }
                continue;
            }
            if self.buffer.len() > self.line_bytes_max {
                self.too_long += self.buffer.len();
                self.buffer.clear();
            }
            searched = self.buffer.len();
            if self.ended {
                let line = self.buffer.split();
                return self.mail(&line);
            }
            if self.life.is_draining() {
                self.ended = true;
                self.buffer.clear();
                return Some((self.index, Err(Error::Draining)));
            }
            self.read_more().await;
        }
    }

    /// A part of the body, or the end of it: also where it breaks off, or nothing comes any more.
    async fn read_more(&mut self) {
        let mut waited = Duration::ZERO;
        while waited < IDLE && !self.life.is_draining() {
            match tokio::time::timeout(LOOK, self.body.frame()).await {
                Err(_) => waited += LOOK,
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        return self.buffer.extend_from_slice(data);
                    }
                }
                Ok(_) => break,
            }
        }
        self.ended = !self.life.is_draining();
    }

    /// What a line says; nothing for an empty one.
    fn mail(&mut self, line: &[u8]) -> Option<(u64, Result<Input, Error>)> {
        let size = std::mem::take(&mut self.too_long) + line.len();
        if size == 0 && self.ended {
            return None;
        }
        let index = self.index;
        self.index += 1;
        if size > self.line_bytes_max {
            let (what, size_max) = ("line".to_owned(), self.line_bytes_max);
            return Some((index, Err(Error::TooLarge { what, size, size_max, unit: "bytes" })));
        }
        let blank = line.iter().all(u8::is_ascii_whitespace);
        (!blank).then(|| (index, parse(line)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::{Body, Bytes};
    use bytes::BytesMut;
    use futures_util::{StreamExt, stream};

    use super::Lines;
    use crate::error::Error;
    use crate::http::Life;
    use crate::input::Input;

    fn lines(parts: &[&'static str]) -> Lines<Body> {
        let parts: Vec<_> = parts.iter().map(|part| Ok::<_, Error>(Bytes::from(*part))).collect();
        Lines {
            body: Body::from_stream(stream::iter(parts)),
            buffer: BytesMut::new(),
            ended: false,
            too_long: 0,
            index: 5,
            line_bytes_max: 20,
            life: Arc::new(Life::default()),
        }
    }

    async fn read(parts: &[&'static str]) -> Vec<(u64, String)> {
        let told = |(index, mail): (u64, Result<Input, Error>)| match mail {
            Ok(Input::Text(text)) => (index, text),
            Ok(other) => (index, format!("{other:?}")),
            Err(error) => (index, error.code().to_owned()),
        };
        lines(parts).mails().map(told).collect().await
    }

    fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|&(index, text)| (index, text.to_owned())).collect()
    }

    #[tokio::test]
    async fn lines_are_lines_wherever_parts_end() {
        let expected = owned(&[(5, "one"), (6, "two"), (8, "four")]);
        assert_eq!(read(&["\"one\"\n\"two\"\n\n\"four\"\n"]).await, expected);
        assert_eq!(read(&["\"on", "e\"", "\n\"two\"\n \r\n\"fo", "", "ur\""]).await, expected);
        assert_eq!(read(&[]).await, []);
        assert_eq!(read(&["\n"]).await, []);
    }

    #[tokio::test]
    async fn a_bad_line_is_one_line() {
        let expected = owned(&[(5, "a"), (6, "malformed_request"), (7, "too_large"), (8, "b")]);
        let long = "\"123456789012345678901234567890\"\n";
        assert_eq!(read(&["\"a\"\n{nonsense\n", long, "\"b\""]).await, expected);
        let parts = ["\"a\"\n{\n", "\"1234567890123456789", "01234567890123", "\"\n\"b\"\n"];
        assert_eq!(read(&parts).await, expected);
    }

    #[tokio::test]
    async fn a_server_that_drains_says_where_it_stopped() {
        let mut open = lines(&[]);
        open.body = Body::from_stream(
            stream::iter([Ok::<_, Error>(Bytes::from("\"a\"\n\"b"))]).chain(stream::pending()),
        );
        let life = Arc::clone(&open.life);
        assert!(matches!(open.next().await, Some((5, Ok(_)))));
        life.set_draining();
        assert!(matches!(open.next().await, Some((6, Err(Error::Draining)))));
        assert!(open.next().await.is_none());
    }
}
