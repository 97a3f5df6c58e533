//! `GET /v1/stats`: what was said by model and hour, and how often it was right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::Uri;
use postsort_store::{ConfusionSum, HourSum, ObjectivesRecord, Stats};
use serde::{Deserialize, Serialize};

use super::App;
use super::history::time;
use crate::error::Error;

/// Unless a time is given.
const SINCE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsQuery {
    /// Of this model; of all unless given.
    model: Option<String>,
    /// Not before the hour of this time (RFC 3339) or age (`7d`, which is the default).
    since: Option<String>,
    /// Not after the hour of this time.
    until: Option<String>,
}

/// Sums by model.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) struct StatsResponse {
    /// From the hour of this time.
    pub(crate) since: String,
    /// To the hour of this.
    pub(crate) until: String,
    /// Models that were asked.
    pub(crate) models: BTreeMap<String, ModelSums>,
    /// The objectives' figures: the worst of each hour.
    pub(crate) objectives: Vec<HourObjectives>,
}

/// One model's sums.
#[derive(Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) struct ModelSums {
    /// All of it.
    #[serde(flatten)]
    pub(crate) total: Sums,
    /// Mails by revision.
    pub(crate) revisions: BTreeMap<String, i64>,
    /// What people said of it.
    pub(crate) feedback: FeedbackSums,
    /// By hour.
    pub(crate) hours: Vec<Hour>,
}

/// One hour's sums.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) struct Hour {
    /// Its begin, RFC 3339.
    pub(crate) hour: String,
    #[serde(flatten)]
    pub(crate) sums: Sums,
}

/// Sums over mails.
#[derive(Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) struct Sums {
    /// Mails.
    pub(crate) mails: i64,
    /// Of these, answers that were known already.
    pub(crate) cached: i64,
    /// Mean score of the best label.
    pub(crate) confidence_mean: f64,
    /// Mean tokens.
    pub(crate) tokens_mean: f64,
    /// Mean time in the server.
    pub(crate) latency_mean_ms: f64,
    /// Mails by best label.
    pub(crate) labels: BTreeMap<String, i64>,
}

/// What people said of a model's verdicts.
#[derive(Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) struct FeedbackSums {
    /// Mails of which somebody told the true label.
    pub(crate) mails: i64,
    /// Share of them whose best label is the true one.
    pub(crate) agreement: Option<f64>,
    /// Mails by what was said and what is true.
    pub(crate) confusion: Vec<Confusion>,
}

/// Mails of which one label was said and one is true.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) struct Confusion {
    /// What the model said.
    pub(crate) predicted: String,
    /// What is true.
    pub(crate) truth: String,
    /// Mails.
    pub(crate) mails: i64,
}

/// The worst of the objectives' figures of an hour.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct HourObjectives {
    /// Its begin, RFC 3339.
    pub(crate) hour: String,
    /// 95th percentile of the latency over five minutes.
    pub(crate) p95_seconds_max: Option<f64>,
    /// Share of requests over five minutes that failed by our fault.
    pub(crate) error_share_max: Option<f64>,
    /// Share of the memory that was resident.
    pub(crate) memory_share_max: Option<f64>,
    /// Share of requests over an hour that were answered.
    pub(crate) availability_min: Option<f64>,
}

/// What was said by model and hour, and how often it was right
#[utoipa::path(
    get, path = "/v1/stats", tag = "history", params(StatsQuery),
    responses((status = 200, body = StatsResponse), (status = 400, description = "malformed"),
        (status = 501, description = "no store"), (status = 503, description = "store unavailable"))
)]
pub(super) async fn stats(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Json<StatsResponse>, Error> {
    let Query(query) = Query::<StatsQuery>::try_from_uri(&uri)
        .map_err(|_| Error::malformed("query", "model, since, until"))?;
    let store = app.pipeline.journal.store()?;
    let until = time("until", query.until.as_deref())?.unwrap_or_else(SystemTime::now);
    let since = time("since", query.since.as_deref())?;
    let since = since.or_else(|| until.checked_sub(SINCE)).unwrap_or(SystemTime::UNIX_EPOCH);
    let stats = store.stats((since, until), query.model.as_deref()).await?;
    let objectives = store.objectives_between(since, until).await?;
    Ok(Json(StatsResponse::new((since, until), stats, &objectives)))
}

impl StatsResponse {
    /// Puts sums by label together to sums by model and hour.
    pub(crate) fn new(
        (since, until): (SystemTime, SystemTime),
        stats: Stats,
        objectives: &[ObjectivesRecord],
    ) -> Self {
        let mut by_hour = BTreeMap::<(String, i64), Vec<HourSum>>::new();
        for sum in stats.hours {
            by_hour.entry((sum.model.clone(), sum.hour)).or_default().push(sum);
        }
        let mut by_model = BTreeMap::<String, (Vec<HourSum>, Vec<Hour>)>::new();
        for ((model, hour), sums) in by_hour {
            let (all, hours) = by_model.entry(model).or_default();
            hours.push(Hour { hour: hour_name(hour), sums: Sums::of(&sums) });
            all.extend(sums);
        }
        let mut models = BTreeMap::new();
        for (model, (all, hours)) in by_model {
            let mut revisions = BTreeMap::new();
            for sum in &all {
                *revisions.entry(sum.revision.clone()).or_default() += sum.mails;
            }
            let feedback = FeedbackSums::of(&model, &stats.confusion);
            models.insert(model, ModelSums { total: Sums::of(&all), revisions, feedback, hours });
        }
        let named = |at| humantime::format_rfc3339_seconds(at).to_string();
        let objectives = HourObjectives::of(objectives);
        Self { since: named(since), until: named(until), models, objectives }
    }
}

impl Sums {
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    fn of(sums: &[HourSum]) -> Self {
        let total = |of: fn(&HourSum) -> i64| sums.iter().map(of).sum::<i64>();
        let mails = total(|sum| sum.mails);
        let mean = |sum: f64| sum / mails.max(1) as f64;
        let mut labels = BTreeMap::new();
        for sum in sums {
            *labels.entry(sum.label.clone()).or_default() += sum.mails;
        }
        Self {
            mails,
            cached: total(|sum| sum.cached),
            confidence_mean: mean(sums.iter().map(|sum| sum.confidence).sum()),
            tokens_mean: mean(total(|sum| sum.tokens) as f64),
            latency_mean_ms: mean(total(|sum| sum.total_us) as f64 / 1e3),
            labels,
        }
    }
}

impl FeedbackSums {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn of(model: &str, sums: &[ConfusionSum]) -> Self {
        let own = || sums.iter().filter(|sum| sum.model == model);
        let mails = own().map(|sum| sum.mails).sum::<i64>();
        let right =
            own().filter(|sum| sum.predicted == sum.truth).map(|sum| sum.mails).sum::<i64>();
        let pair = |sum: &ConfusionSum| Confusion {
            predicted: sum.predicted.clone(),
            truth: sum.truth.clone(),
            mails: sum.mails,
        };
        let agreement = (mails > 0).then(|| right as f64 / mails as f64);
        Self { mails, agreement, confusion: own().map(pair).collect() }
    }
}

impl HourObjectives {
    fn of(minutes: &[ObjectivesRecord]) -> Vec<Self> {
        let mut hours = BTreeMap::<i64, Self>::new();
        for record in minutes {
            let hour = record.minute.div_euclid(60);
            let worst = hours
                .entry(hour)
                .or_insert_with(|| Self { hour: hour_name(hour), ..Self::default() });
            for (worst, value) in [
                (&mut worst.p95_seconds_max, record.p95_seconds),
                (&mut worst.error_share_max, record.error_share),
                (&mut worst.memory_share_max, record.memory_share),
            ] {
                *worst = one_of(f64::max, *worst, value);
            }
            worst.availability_min = one_of(f64::min, worst.availability_min, record.availability);
        }
        hours.into_values().collect()
    }
}

/// One of two figures, either of which may be missing.
fn one_of(choose: fn(f64, f64) -> f64, one: Option<f64>, other: Option<f64>) -> Option<f64> {
    [one, other].into_iter().flatten().reduce(choose)
}

fn hour_name(hour: i64) -> String {
    let since = Duration::from_secs(u64::try_from(hour * 3600).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}
