//! `GET /v1/history`: what was said of which mail, page by page. Of a mail there is but a digest.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::Uri;
use postsort_cache::Digest;
use postsort_store::{HistoryFilter, HistoryItem};
use serde::{Deserialize, Serialize};

use super::App;
use super::classify::{LabelScore, ms};
use crate::error::Error;

/// Verdicts on a page unless a limit is given, and at most.
const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// Of this model.
    model: Option<String>,
    /// With this best label; goes with a model.
    label: Option<String>,
    /// Of this mail: 32 hex digits, as `mail` in an answer of this endpoint.
    mail: Option<String>,
    /// Of this request: `x-request-id` of its answer.
    request_id: Option<String>,
    /// Not before: a time (RFC 3339) or an age (`7d`, `12h`).
    since: Option<String>,
    /// Before.
    until: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// Verdicts on a page: 100, at most 1000.
    limit: Option<u32>,
}

/// A page of verdicts.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct History {
    /// The newest first.
    verdicts: Vec<HistoryVerdict>,
    /// What `after` has to be for the next page; `null` on the last.
    next: Option<String>,
}

/// What was said of one mail.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct HistoryVerdict {
    /// When, RFC 3339.
    at: String,
    /// The request's id.
    request_id: String,
    /// The mail's place in the request.
    item: i64,
    /// Digest of the mail's text.
    mail: String,
    /// Who was asked.
    model: String,
    /// Its revision.
    revision: String,
    /// The model that answered, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_by: Option<String>,
    /// In descending score.
    labels: Vec<LabelScore>,
    /// The label that somebody said to be true.
    truth: Option<String>,
    tokens: i64,
    windows: i64,
    truncated: bool,
    cached: bool,
    timings_ms: HistoryTimings,
}

/// Milliseconds by stage.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct HistoryTimings {
    queue: f64,
    infer: f64,
    total: f64,
}

/// What was said of which mail
#[utoipa::path(
    get, path = "/v1/history", tag = "history", params(HistoryQuery),
    responses((status = 200, body = History), (status = 400, description = "malformed"),
        (status = 501, description = "no store"), (status = 503, description = "store unavailable"))
)]
pub(super) async fn history(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<History>, Error> {
    let known = "model, label, mail, request_id, since, until, after, limit";
    let Query(query) =
        Query::<HistoryQuery>::try_from_uri(&uri).map_err(|_| Error::malformed("query", known))?;
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::malformed("limit", format!("1 to {LIMIT_MAX}")));
    }
    if query.label.is_some() && query.model.is_none() {
        return Err(Error::malformed("label", "a model with it"));
    }
    let mail = query.mail.as_deref().map(|text| digest("mail", text)).transpose()?;
    let number =
        |text: &str| text.parse().map_err(|_| Error::malformed("after", "`next` of a page"));
    let filter = HistoryFilter {
        since: time("since", query.since.as_deref())?,
        until: time("until", query.until.as_deref())?,
        after: query.after.as_deref().map(number).transpose()?,
        mail,
        request_id: query.request_id,
        model: query.model,
        label: query.label,
        limit,
    };
    let items = app.pipeline.journal.store()?.history(&filter).await?;
    let full = items.len() == limit as usize;
    let next = items.last().filter(|_| full).map(|last| last.id.to_string());
    Ok(Json(History { verdicts: items.into_iter().map(HistoryVerdict::from).collect(), next }))
}

impl From<HistoryItem> for HistoryVerdict {
    fn from(item: HistoryItem) -> Self {
        let label = |(label, score)| LabelScore { label, score };
        let mut labels: Vec<LabelScore> = item.labels.into_iter().map(label).collect();
        labels.sort_by(|one, other| other.score.total_cmp(&one.score));
        let [queue, infer, total] = item.timings.map(ms);
        Self {
            at: humantime::format_rfc3339_millis(item.at).to_string(),
            request_id: item.request_id,
            item: item.item,
            mail: Digest::from_bytes(item.mail).to_string(),
            model: item.model,
            revision: item.revision,
            answered_by: item.answered_by,
            labels,
            truth: item.truth,
            tokens: item.tokens,
            windows: item.windows,
            truncated: item.truncated,
            cached: item.cached,
            timings_ms: HistoryTimings { queue, infer, total },
        }
    }
}

/// A digest as [`HistoryVerdict::mail`] has it.
pub(super) fn digest(path: &str, text: &str) -> Result<[u8; 16], Error> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits);
    number.map(u128::to_be_bytes).ok_or_else(|| Error::malformed(path, "32 hex digits"))
}

/// A time, or one that is so long ago.
pub(super) fn time(path: &str, given: Option<&str>) -> Result<Option<SystemTime>, Error> {
    let Some(given) = given else { return Ok(None) };
    // Nothing is older than that.
    let first = SystemTime::UNIX_EPOCH;
    let ago = |age: Duration| SystemTime::now().checked_sub(age).map_or(first, |at| at.max(first));
    let time = humantime::parse_duration(given).ok().map(ago);
    let time = time.or_else(|| humantime::parse_rfc3339_weak(given).ok());
    time.map(Some).ok_or_else(|| Error::malformed(path, "a time (RFC 3339) or an age (`7d`)"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{digest, time};

    #[test]
    fn times_and_ages() {
        let now = SystemTime::now();
        let week = time("since", Some("7d")).expect("an age").expect("given");
        let age = now.duration_since(week).expect("before");
        assert!(age.abs_diff(Duration::from_secs(7 * 86_400)) < Duration::from_secs(5), "{age:?}");
        let at = time("since", Some("2026-01-02T03:04:05Z")).expect("a time").expect("given");
        assert_eq!(humantime::format_rfc3339(at).to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(time("since", None).expect("none"), None);
        let ever = time("since", Some("99999999999y")).expect("an age");
        assert_eq!(ever, Some(SystemTime::UNIX_EPOCH));
        for wrong in ["yesterday", "", "-7d", "7 parsecs"] {
            assert!(time("since", Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn digests_have_32_digits() {
        let text = "00ff00000000000000000000000000a1";
        assert_eq!(digest("mail", text).expect("a digest")[1], 0xff);
        for wrong in ["", "00ff", "+0ff00000000000000000000000000a1", "zz"] {
            assert!(digest("mail", wrong).is_err(), "{wrong}");
        }
    }
}
