//! What an answer is worth.

use std::time::Duration;

use hyper::StatusCode;

use crate::pool::Answer;

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// An answer, in time.
    Good,
    /// An answer after the time limit.
    Late,
    /// Refused for load: 429 or 503.
    Shed {
        /// When to come back, if the server says so.
        retry_after_seconds: Option<f64>,
    },
    /// Taken, and given up by the server: 408 or 504.
    Expired,
    /// Any other status, or a success that holds no score.
    Error(String),
    /// No whole answer.
    Transport(String),
}

/// Judges what came back `latency` after the request was sent.
#[must_use]
pub fn judge(
    answer: Result<Answer, String>,
    latency: Duration,
    limit: Option<Duration>,
) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(cause) => return Outcome::Transport(cause),
    };
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Outcome::Shed { retry_after_seconds: answer.retry_after_seconds }
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Outcome::Expired,
        status if !status.is_success() => Outcome::Error(status.as_u16().to_string()),
        status if !holds_score(&answer.body) => {
            Outcome::Error(format!("{} without a score", status.as_u16()))
        }
        _ if limit.is_some_and(|limit| latency > limit) => Outcome::Late,
        _ => Outcome::Good,
    }
}

/// Whether this could be JSON with a score in it: `"score":`, `"scores"` or `"outputs"`, as
/// classify, TEI and the Open Inference Protocol have it.
fn holds_score(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    let has = |name: &[u8]| body.windows(name.len()).any(|part| part == name);
    let closed =
        matches!((body.first(), body.last()), (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')));
    closed && (has(b"\"score") || has(b"\"outputs\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &'static str, latency_ms: u64) -> Outcome {
        let status = StatusCode::from_u16(status).expect("status");
        let answer = Answer { status, retry_after_seconds: Some(2.0), body: body.into() };
        let limit = Some(Duration::from_millis(100));
        judge(Ok(answer), Duration::from_millis(latency_ms), limit)
    }

    #[test]
    fn an_answer_holds_a_score_and_is_in_time() {
        let bodies = [
            r#"{"results":[{"score":1}]}"#,
            r#" [{"score":0.9}] "#,
            r#"{"outputs":[{"name":"p"}]}"#,
        ];
        for body in bodies {
            assert_eq!(judged(200, body, 100), Outcome::Good, "{body}");
            assert_eq!(judged(200, body, 101), Outcome::Late, "{body}");
        }
        for body in ["", "ok", "{}", r#"{"score":1"#] {
            assert_eq!(
                judged(200, body, 1),
                Outcome::Error("200 without a score".into()),
                "{body}"
            );
        }
    }

    #[test]
    fn statuses_are_told_apart() {
        for status in [429, 503] {
            assert_eq!(judged(status, "", 1), Outcome::Shed { retry_after_seconds: Some(2.0) });
        }
        for status in [408, 504] {
            assert_eq!(judged(status, "", 1), Outcome::Expired);
        }
        for status in [302, 400, 500] {
            assert_eq!(judged(status, r#"{"score":1}"#, 1), Outcome::Error(status.to_string()));
        }
        let failed = judge(Err("connection closed".into()), Duration::ZERO, None);
        assert_eq!(failed, Outcome::Transport("connection closed".into()));
    }
}
