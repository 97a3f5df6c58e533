//! Sums of verdicts and feedback by hour, and the objectives' figures.

use std::time::SystemTime;

use serde::Serialize;
use sqlx::{Row, query};

use crate::id::{unix_hour, unix_ms};
use crate::queries as q;
use crate::{ObjectivesRecord, Store, StoreError};

/// What is known of a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Verdicts by hour, revision and best label.
    pub hours: Vec<HourSum>,
    /// Feedback by model, best label and truth.
    pub confusion: Vec<ConfusionSum>,
}

/// Sums over verdicts of one hour with one best label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HourSum {
    /// Hours since 1970.
    pub hour: i64,
    /// The model.
    pub model: String,
    /// Its revision.
    pub revision: String,
    /// The best label.
    pub label: String,
    /// Mails.
    pub mails: i64,
    /// Of these, answers that were known already.
    pub cached: i64,
    /// Sum of their tokens.
    pub tokens: i64,
    /// Sum of their times, in microseconds.
    pub total_us: i64,
    /// Sum of the best labels' scores.
    pub confidence: f64,
}

/// Mails of which somebody told the true label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfusionSum {
    /// The model.
    pub model: String,
    /// What it said.
    pub predicted: String,
    /// What is true.
    pub truth: String,
    /// Mails.
    pub mails: i64,
}

/// More minutes than are kept.
const MINUTES_MAX: i64 = 1 << 20;

impl Store {
    /// Sums over the hours from `since` to `until`, of one model or of all.
    ///
    /// # Errors
    /// The store is away, or slow.
    pub async fn stats(
        &self,
        (since, until): (SystemTime, SystemTime),
        model: Option<&str>,
    ) -> Result<Stats, StoreError> {
        let database = self.inner.database()?;
        let (first, last) = (unix_hour(since), unix_hour(until) + 1);
        let ask = |which: q::Query| {
            query(which.sql).bind(first).bind(last).bind(model.unwrap_or_default().to_owned())
        };
        let mut connection = database.acquire().await?;
        let hours = ask(q::HOURS).fetch_all(&mut *connection);
        let hours = database.run(q::HOURS.name, hours).await?;
        let confusion = ask(q::CONFUSION).fetch_all(&mut *connection);
        let confusion = database.run(q::CONFUSION.name, confusion).await?;
        let hour = |row: &sqlx::any::AnyRow| -> Result<HourSum, sqlx::Error> {
            Ok(HourSum {
                hour: row.try_get("hour")?,
                model: row.try_get("model")?,
                revision: row.try_get("revision")?,
                label: row.try_get("label")?,
                mails: row.try_get("mails")?,
                cached: row.try_get("cached")?,
                tokens: row.try_get("tokens")?,
                total_us: row.try_get("total_us")?,
                confidence: row.try_get("confidence")?,
            })
        };
        let pair = |row: &sqlx::any::AnyRow| -> Result<ConfusionSum, sqlx::Error> {
            Ok(ConfusionSum {
                model: row.try_get("model")?,
                predicted: row.try_get("predicted")?,
                truth: row.try_get("truth")?,
                mails: row.try_get("mails")?,
            })
        };
        let failed = |error: sqlx::Error| StoreError::query("stats", &error);
        Ok(Stats {
            hours: hours.iter().map(hour).collect::<Result<_, _>>().map_err(failed)?,
            confusion: confusion
                .iter()
                .map(pair)
                .filter(|sum| sum.as_ref().map_or(true, |sum| sum.mails != 0))
                .collect::<Result<_, _>>()
                .map_err(failed)?,
        })
    }

    /// The objectives' figures from `since` to `until`, of all replicas.
    ///
    /// # Errors
    /// The store is away, or slow.
    pub async fn objectives_between(
        &self,
        since: SystemTime,
        until: SystemTime,
    ) -> Result<Vec<ObjectivesRecord>, StoreError> {
        let database = self.inner.database()?;
        let mut connection = database.acquire().await?;
        let select = query(q::OBJECTIVES.sql)
            .bind(unix_ms(since) / 60_000)
            .bind(unix_ms(until) / 60_000 + 1)
            .bind(MINUTES_MAX)
            .fetch_all(&mut *connection);
        let record = |row: &sqlx::any::AnyRow| -> Result<ObjectivesRecord, sqlx::Error> {
            Ok(ObjectivesRecord {
                minute: row.try_get("minute")?,
                requests: row.try_get::<i64, _>("requests")?.try_into().unwrap_or(0),
                p95_seconds: row.try_get("p95_seconds")?,
                error_share: row.try_get("error_share")?,
                memory_share: row.try_get("memory_share")?,
                availability: row.try_get("availability")?,
            })
        };
        let rows = database.run(q::OBJECTIVES.name, select).await?;
        rows.iter()
            .map(|row| record(row).map_err(|error| StoreError::query(q::OBJECTIVES.name, &error)))
            .collect()
    }
}
