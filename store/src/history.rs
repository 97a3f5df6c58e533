//! Verdicts, the newest first, page by page.

use std::time::{Duration, SystemTime};

use sqlx::any::AnyRow;
use sqlx::{Row, query};

use crate::id::{id_from, time_of, unix_ms};
use crate::queries as q;
use crate::record::{DigestBytes, scores_of};
use crate::{Store, StoreError};

/// Which verdicts. Of `mail`, `request_id` and `model` the first that is given is looked up; a label
/// goes with a model.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    /// Not before.
    pub since: Option<SystemTime>,
    /// Before.
    pub until: Option<SystemTime>,
    /// Those after this one on the page before: [`HistoryItem::id`] of its last.
    pub after: Option<i64>,
    /// Of this mail.
    pub mail: Option<DigestBytes>,
    /// Of this request.
    pub request_id: Option<String>,
    /// Of this model.
    pub model: Option<String>,
    /// With this best label.
    pub label: Option<String>,
    /// How many.
    pub limit: u32,
}

/// One verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryItem {
    /// Grows with time.
    pub id: i64,
    /// When it was given.
    pub at: SystemTime,
    /// The request's id.
    pub request_id: String,
    /// The mail's place in the request.
    pub item: i64,
    /// Digest of the mail's text.
    pub mail: DigestBytes,
    /// Who was asked.
    pub model: String,
    /// Its revision.
    pub revision: String,
    /// The model that answered, where it is another.
    pub answered_by: Option<String>,
    /// Labels with scores, in the model's order.
    pub labels: Vec<(String, f32)>,
    /// Score of the best label.
    pub confidence: f64,
    /// Tokens read.
    pub tokens: i64,
    /// Windows read.
    pub windows: i64,
    /// Whether a part of the text was not read.
    pub truncated: bool,
    /// Whether the answer was known already.
    pub cached: bool,
    /// Waiting for the engine, the forward pass, all of it.
    pub timings: [Duration; 3],
    /// The label that somebody said to be true.
    pub truth: Option<String>,
}

impl Store {
    /// A page of verdicts, the newest first.
    ///
    /// # Errors
    /// The store is away, or slow.
    pub async fn history(&self, filter: &HistoryFilter) -> Result<Vec<HistoryItem>, StoreError> {
        let database = self.inner.database()?;
        let since = filter.since.map_or(0, id_from);
        let until = filter.until.map_or(i64::MAX, id_from).min(filter.after.unwrap_or(i64::MAX));
        let (which, texts): (q::Query, &[&Option<String>]) = if filter.mail.is_some() {
            (q::HISTORY_MAIL, &[])
        } else if filter.request_id.is_some() {
            (q::HISTORY_REQUEST, &[&filter.request_id])
        } else if filter.model.is_some() && filter.label.is_some() {
            (q::HISTORY_LABEL, &[&filter.model, &filter.label])
        } else if filter.model.is_some() {
            (q::HISTORY_MODEL, &[&filter.model])
        } else {
            (q::HISTORY, &[])
        };
        let mut select = query(which.sql).bind(since).bind(until);
        if let Some(mail) = filter.mail {
            select = select.bind(mail.to_vec());
        }
        for text in texts {
            select = select.bind(text.as_deref());
        }
        let select = select.bind(i64::from(filter.limit));
        let mut connection = database.acquire().await?;
        let rows = database.run(which.name, select.fetch_all(&mut *connection)).await?;
        rows.iter()
            .map(|row| item(row).map_err(|error| StoreError::query(which.name, &error)))
            .collect()
    }
}

fn item(row: &AnyRow) -> Result<HistoryItem, sqlx::Error> {
    let id: i64 = row.try_get("id")?;
    let flags: i64 = row.try_get("flags")?;
    let names: Vec<String> =
        serde_json::from_str(row.try_get::<&str, _>("labels")?).unwrap_or_default();
    let scores = scores_of(&row.try_get::<Vec<u8>, _>("scores")?);
    let took = |name| {
        row.try_get::<i64, _>(name).map(|us| Duration::from_micros(us.try_into().unwrap_or(0)))
    };
    Ok(HistoryItem {
        id,
        at: time_of(id),
        request_id: row.try_get("request_id")?,
        item: row.try_get("item")?,
        mail: digest(row, "mail")?,
        model: row.try_get("model")?,
        revision: row.try_get("revision")?,
        answered_by: row.try_get("answered_by")?,
        labels: names.into_iter().zip(scores).collect(),
        confidence: row.try_get("confidence")?,
        tokens: row.try_get("tokens")?,
        windows: row.try_get("windows")?,
        truncated: flags & 1 != 0,
        cached: flags & 2 != 0,
        timings: [took("queue_us")?, took("infer_us")?, took("total_us")?],
        truth: row.try_get("truth")?,
    })
}

pub(crate) fn digest(row: &AnyRow, column: &str) -> Result<DigestBytes, sqlx::Error> {
    row.try_get::<Vec<u8>, _>(column)?
        .try_into()
        .map_err(|_| sqlx::Error::Decode("a digest has 16 bytes".into()))
}

impl HistoryItem {
    /// When it was given, in milliseconds since 1970.
    #[must_use]
    pub fn at_ms(&self) -> i64 {
        unix_ms(self.at)
    }
}
