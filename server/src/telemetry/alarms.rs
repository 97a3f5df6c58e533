//! What deserves an operator's eye now, judged in process: the dashboard shows it without a
//! Prometheus. Names are those of `deploy/prometheus/alerts.yml`, which judges over longer times.

use serde::Serialize;

use super::slo::Verdict;
use crate::devices::DeviceUsage;

/// Share of the budget from which memory is near it.
const NEAR_BUDGET: f64 = 0.9;
/// Share of refused requests from which shedding is told.
const SHED_SHARE: f64 = 0.01;

/// Something that holds now and should not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alarm {
    /// Its name.
    pub alert: &'static str,
    /// `critical`: users notice. `warning`: they will.
    pub severity: &'static str,
    /// The model that it is about.
    pub model: Option<String>,
    /// What holds, in a sentence.
    pub message: String,
}

/// What is judged.
#[derive(Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) reasons: &'a [&'static str],
    pub(crate) failed: &'a [(String, String)],
    pub(crate) verdicts: &'a [Verdict],
    pub(crate) devices: &'a [DeviceUsage],
    pub(crate) refused_share: f64,
    /// What is wrong with the store.
    pub(crate) store_error: Option<&'a str>,
    /// What is wrong with the shared cache.
    pub(crate) shared_error: Option<&'a str>,
}

/// All that holds, the gravest first.
pub(crate) fn alarms(situation: &Situation<'_>) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut raise = |alert, severity, model: Option<&str>, message: String| {
        alarms.push(Alarm { alert, severity, model: model.map(str::to_owned), message });
    };
    for reason in situation.reasons {
        raise("PostsortNotReady", "critical", None, format!("not ready: {reason}"));
    }
    for verdict in situation.verdicts.iter().filter(|verdict| !verdict.met) {
        let (alert, severity) = match verdict.slo {
            "latency_p95" => ("PostsortLatencyBudgetBurn", "warning"),
            "errors" => ("PostsortErrorBudgetBurn", "critical"),
            "availability" => ("PostsortAvailabilityBudgetBurn", "critical"),
            _ => ("PostsortProcessMemoryHigh", "warning"),
        };
        let shown = |value: f64| match verdict.unit {
            "seconds" => format!("{:.0} ms", value * 1e3),
            _ => format!("{:.2} %", value * 1e2),
        };
        let value = verdict.value.map_or_else(|| "unknown".to_owned(), shown);
        let (slo, well, objective) = (verdict.slo, verdict.well, shown(verdict.objective));
        let message = format!("{slo} is {value}; the objective is {well} {objective}");
        raise(alert, severity, None, message);
    }
    for (model, error) in situation.failed {
        let message = format!("failed to load: {error}");
        raise("PostsortModelLoadFailed", "critical", Some(model), message);
    }
    for DeviceUsage { device, models_bytes, budget_bytes, .. } in situation.devices {
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let used = *models_bytes as f64 / (*budget_bytes).max(1) as f64;
        if used > NEAR_BUDGET {
            let message = format!("models take {:.0} % of their budget on {device}", used * 1e2);
            raise("PostsortMemoryNearBudget", "warning", None, message);
        }
    }
    if situation.refused_share > SHED_SHARE {
        let share = situation.refused_share * 1e2;
        let message = format!("{share:.1} % of requests of the last 5 minutes were refused");
        raise("PostsortShedding", "warning", None, message);
    }
    if let Some(error) = situation.store_error {
        raise("PostsortStoreDown", "warning", None, error.to_owned());
    }
    if let Some(error) = situation.shared_error {
        raise("PostsortSharedCacheDown", "warning", None, error.to_owned());
    }
    alarms.sort_by_key(|alarm| alarm.severity);
    alarms
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Situation, alarms};
    use crate::devices::DeviceUsage;
    use crate::telemetry::{Outcome, SloOptions, SloWatch};

    #[test]
    fn each_alarm_is_raised_for_its_reason_and_none_without() {
        let devices = |models_bytes| {
            [DeviceUsage {
                device: "cuda:0".to_owned(),
                models_bytes,
                budget_bytes: 100,
                total_bytes: None,
                free_bytes: None,
            }]
        };
        let slo = SloWatch::new(SloOptions::default().resolve().expect("defaults"));
        let calm = Situation {
            reasons: &[],
            failed: &[],
            verdicts: &slo.verdicts(0.1),
            devices: &devices(80),
            refused_share: 0.0,
            store_error: None,
            shared_error: None,
        };
        assert_eq!(alarms(&calm), []);
        slo.record_at(Instant::now(), Outcome::Backend, Duration::from_secs(3));
        let storm = Situation {
            reasons: &["the server is shutting down"],
            failed: &[("spam".to_owned(), "config.json is missing".to_owned())],
            verdicts: &slo.verdicts(0.9),
            devices: &devices(95),
            refused_share: 0.02,
            store_error: Some("the store is not open"),
            shared_error: Some("connection refused"),
        };
        let found: Vec<_> = alarms(&storm).into_iter().map(|alarm| alarm.alert).collect();
        assert_eq!(
            found,
            [
                "PostsortNotReady",
                "PostsortErrorBudgetBurn",
                "PostsortAvailabilityBudgetBurn",
                "PostsortModelLoadFailed",
                "PostsortLatencyBudgetBurn",
                "PostsortProcessMemoryHigh",
                "PostsortMemoryNearBudget",
                "PostsortShedding",
                "PostsortStoreDown",
                "PostsortSharedCacheDown",
            ]
        );
    }
}
