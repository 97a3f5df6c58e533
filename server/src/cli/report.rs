//! `postsort report`: what a server's store knows of a time, as one HTML file that needs nothing else.

mod plot;

use std::fmt::Write;
use std::path::PathBuf;

use super::remote::{Server, call};
use crate::error::Error;
use crate::http::{HourObjectives, ModelSums, StatsResponse};
use plot::{Plot, escaped};

#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// From the hour of this time (RFC 3339) or age
    #[arg(long, default_value = "7d", value_name = "TIME|AGE")]
    since: String,
    /// To the hour of this time or age [default: now]
    #[arg(long, value_name = "TIME|AGE")]
    until: Option<String>,
    /// The file to write
    #[arg(long, short, default_value = "postsort-report.html", value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    server: Server,
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
    padding:0 1rem;color:#1c2530}h2{margin-top:2.5rem;border-bottom:1px solid #cfd6de}\
    table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}svg{width:100%;height:auto}\
    .quiet{color:#5b6875}";

impl Report {
    pub(super) fn run(self) -> Result<(), Error> {
        let mut path = format!("/v1/stats?since={}", query_value(&self.since));
        if let Some(until) = &self.until {
            let _ = write!(path, "&until={}", query_value(until));
        }
        let answer = call(&self.server.server, &path, None)?;
        let stats: StatsResponse = serde_json::from_value(answer)
            .map_err(|e| Error::setup(format!("{}{path}", self.server.server), e))?;
        std::fs::write(&self.output, page(&stats))
            .map_err(|e| Error::setup(self.output.display().to_string(), e))?;
        super::print(&self.output.display().to_string())
    }
}

/// As it may stand in a query.
fn query_value(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The whole page.
fn page(stats: &StatsResponse) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Postsort report</title>\
         <style>{STYLE}</style><h1>Postsort report</h1><p class=\"quiet\">{} to {}, by hour (UTC)</p>",
        escaped(&stats.since),
        escaped(&stats.until),
    );
    if stats.models.is_empty() {
        page.push_str("<p>No model was asked.</p>");
    }
    for (name, sums) in &stats.models {
        model(&mut page, name, sums);
    }
    objectives(&mut page, &stats.objectives);
    page.push_str("</html>\n");
    page
}

// Writing to a string cannot fail.
fn model(page: &mut String, name: &str, sums: &ModelSums) {
    let total = &sums.total;
    let _ = write!(page, "<h2>{}</h2><table>", escaped(name));
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let cached = total.cached as f64 / total.mails.max(1) as f64;
    for (what, value) in [
        ("mails", total.mails.to_string()),
        ("known already", format!("{:.1} %", cached * 1e2)),
        ("mean score of the first label", format!("{:.3}", total.confidence_mean)),
        ("mean tokens", format!("{:.0}", total.tokens_mean)),
        ("mean time", format!("{:.2} ms", total.latency_mean_ms)),
    ] {
        let _ = write!(page, "<tr><th>{what}</th><td class=\"n\">{value}</td></tr>");
    }
    for (revision, mails) in &sums.revisions {
        let revision = escaped(revision);
        let _ =
            write!(page, "<tr><th>by revision {revision}</th><td class=\"n\">{mails}</td></tr>");
    }
    page.push_str("</table>");
    let hours = || sums.hours.iter().map(|hour| hour.hour.as_str());
    let mut volume = Plot::new("mails an hour, by first label", hours());
    #[expect(clippy::cast_precision_loss, reason = "a plot")]
    for label in total.labels.keys() {
        let of = |hour: &crate::http::Hour| {
            Some(hour.sums.labels.get(label).copied().unwrap_or(0) as f64)
        };
        volume.stack(label, sums.hours.iter().map(of));
    }
    page.push_str(&volume.into_svg());
    let mut latency = Plot::new("mean time, ms", hours());
    latency.line("time", sums.hours.iter().map(|hour| Some(hour.sums.latency_mean_ms)));
    page.push_str(&latency.into_svg());
    let mut confidence = Plot::new("mean score of the first label", hours());
    confidence.line("score", sums.hours.iter().map(|hour| Some(hour.sums.confidence_mean)));
    page.push_str(&confidence.into_svg());
    let feedback = &sums.feedback;
    if let Some(agreement) = feedback.agreement {
        let _ = write!(
            page,
            "<p>People said what is true of {} mails: <b>{:.1} %</b> agree.</p><table><tr><th>said</th>\
             <th>true</th><th>mails</th></tr>",
            feedback.mails,
            agreement * 1e2
        );
        for pair in &feedback.confusion {
            let (predicted, truth) = (escaped(&pair.predicted), escaped(&pair.truth));
            let _ = write!(
                page,
                "<tr><td>{predicted}</td><td>{truth}</td><td class=\"n\">{}</td></tr>",
                pair.mails
            );
        }
        page.push_str("</table>");
    }
}

fn objectives(page: &mut String, hours: &[HourObjectives]) {
    if hours.is_empty() {
        return;
    }
    page.push_str("<h2>Objectives: the worst of each hour</h2>");
    type Figure = fn(&HourObjectives) -> Option<f64>;
    let figures: [(&str, Figure); 4] = [
        ("p95 of the latency, ms", |hour| hour.p95_seconds_max.map(|seconds| seconds * 1e3)),
        ("failed requests, %", |hour| hour.error_share_max.map(|share| share * 1e2)),
        ("memory, %", |hour| hour.memory_share_max.map(|share| share * 1e2)),
        ("answered requests, %", |hour| hour.availability_min.map(|share| share * 1e2)),
    ];
    for (title, figure) in figures {
        let mut plot = Plot::new(title, hours.iter().map(|hour| hour.hour.as_str()));
        plot.line(title, hours.iter().map(figure));
        page.push_str(&plot.into_svg());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{page, query_value};

    #[test]
    fn a_page_has_every_model_and_nothing_that_runs() {
        let sums = json!({"mails": 3, "cached": 1, "confidence_mean": 0.9, "tokens_mean": 12.0,
            "latency_mean_ms": 4.5, "labels": {"<script>alert(1)</script>": 1, "ham": 2}});
        let mut hour = sums.clone();
        hour["hour"] = json!("2026-01-01T00:00:00Z");
        let mut model = sums;
        model["revisions"] = json!({"00ff": 3});
        model["hours"] = json!([hour]);
        model["feedback"] = json!({"mails": 2, "agreement": 0.5,
            "confusion": [{"predicted": "ham", "truth": "spam", "mails": 1}]});
        let objectives = json!([{"hour": "2026-01-01T00:00:00Z", "p95_seconds_max": 0.012,
            "error_share_max": null, "memory_share_max": 0.1, "availability_min": 1.0}]);
        let stats = json!({"since": "a", "until": "b", "models": {"spam & co": model},
            "objectives": objectives});
        let page = page(&serde_json::from_value(stats).expect("statistics"));
        assert!(page.contains("<h2>spam &amp; co</h2>") && page.contains("<b>50.0 %</b> agree"));
        assert!(!page.contains("<script") && !page.contains("NaN") && !page.contains("inf"));
        assert_eq!(page.matches("<svg").count(), 3 + 4);
        assert_eq!(query_value("2026-01-01 00:00+1"), "2026-01-01%2000:00%2B1");
    }
}
