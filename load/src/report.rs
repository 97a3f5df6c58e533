//! The figures as Markdown and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::run::{Report, Row, Step};
use crate::tally::{Figure, Tally};
use crate::target::Target;

/// Tables for a person.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    let titles: Vec<_> = Tally::default().figures().iter().map(|figure| figure.title).collect();
    line(&mut text, ["target", "load"].iter().chain(&titles));
    line(&mut text, ["---", "---"].into_iter().chain(titles.iter().map(|_| "---:")));
    for step in &report.steps {
        for (name, tally) in step.rows.iter().flat_map(tallies) {
            let shown =
                tally.figures().into_iter().map(|figure| shown(figure.value, figure.decimals));
            line(&mut text, [name, step.load.to_string()].into_iter().chain(shown));
        }
    }
    if report.cli.targets.len() > 1 {
        report.steps.iter().for_each(|step| side_by_side(&mut text, step));
    }
    text.push('\n');
    for (step, (name, tally)) in each(report) {
        notes(&mut text, &format!("{name} at {}", step.load), tally);
    }
    for (process, resident) in &report.memory {
        let mib = |bytes: Option<u64>| shown(bytes.map(|bytes| bytes as f64 / 1_048_576.0), 1);
        let [start, max, end] = [resident.start, resident.max, resident.end].map(mib);
        let name = &process.name;
        let _ = writeln!(
            text,
            "- {name}: resident MiB {start} at the start, {max} at most, {end} at the end"
        );
    }
    if let Some(most) = report.most {
        let first = &report.cli.targets[0].name;
        let _ = writeln!(text, "- {first} does {most:.1} requests/s at most (closed loop)");
    }
    let seconds = report.cli.seconds;
    let _ = writeln!(text, "- {} mails, {seconds} s each, seed {}", report.mails, report.cli.seed);
    text
}

/// Everything for a program.
#[must_use]
pub fn json(report: &Report) -> String {
    let cli = &report.cli;
    let results: Vec<Value> = each(report)
        .map(|(step, (name, tally))| {
            let mut result = Map::new();
            result.insert("target".into(), json!(name));
            result.insert("load".into(), json!(step.load.to_string()));
            for figure in tally.figures() {
                let value = match figure.value {
                    Some(count) if figure.decimals == 0 => json!(count as u64),
                    value => json!(value),
                };
                result.insert(figure.key.into(), value);
            }
            result.insert("seconds".into(), json!(tally.seconds));
            result.insert("retry_after_p50_seconds".into(), json!(tally.retry_after_seconds()));
            result.insert("transport_errors".into(), json!(tally.transport));
            result.insert("reasons".into(), json!(tally.reasons));
            Value::Object(result)
        })
        .collect();
    let memory: Vec<Value> = report
        .memory
        .iter()
        .map(|(process, resident)| {
            json!({
                "name": process.name, "pid": process.pid, "start_bytes": resident.start,
                "max_bytes": resident.max, "end_bytes": resident.end,
            })
        })
        .collect();
    let target = |target: &Target| {
        json!({
            "name": target.name, "protocol": format!("{:?}", target.protocol).to_lowercase(),
            "address": target.authority(), "path": target.path,
        })
    };
    let named = |value: Option<String>| value.map(|value| value.to_lowercase());
    let json = json!({
        "settings": {
            "targets": cli.targets.iter().map(target).collect::<Vec<_>>(),
            "seconds": cli.seconds, "slice_seconds": cli.slice_seconds,
            "warm_up_seconds": cli.warm_up_seconds, "timeout_ms": cli.timeout_ms,
            "cache": cli.cache, "seed": cli.seed, "connections_max": cli.connections_max,
            "beside_bulk": cli.beside_bulk, "mails": report.mails, "model": cli.model,
            "send": named(Some(format!("{:?}", cli.send))),
            "long": named(cli.long.map(|long| format!("{long:?}"))),
            "priority": named(cli.priority.map(|priority| format!("{priority:?}"))),
        },
        "most_requests_per_second": report.most,
        "results": results,
        "memory": memory,
    });
    format!("{json:#}\n")
}

/// A row and the bulk beside it.
fn tallies(row: &Row) -> impl Iterator<Item = (String, &Tally)> {
    let bulk = row.bulk.as_ref().map(|bulk| (format!("{} (bulk)", row.target), bulk));
    std::iter::once((row.target.clone(), &row.tally)).chain(bulk)
}

fn each(report: &Report) -> impl Iterator<Item = (&Step, (String, &Tally))> {
    let rows = report.steps.iter().flat_map(|step| step.rows.iter().map(move |row| (step, row)));
    rows.flat_map(|(step, row)| tallies(row).map(move |tally| (step, tally)))
}

/// Servers as columns, and their ratios to the first.
fn side_by_side(text: &mut String, step: &Step) {
    let (first, others) = step.rows.split_first().expect("a run has a target");
    let mut head = vec![step.load.to_string(), first.target.clone()];
    for other in others {
        head.extend([other.target.clone(), format!("{} ÷ {}", other.target, first.target)]);
    }
    text.push('\n');
    line(text, &head);
    line(text, head.iter().enumerate().map(|(column, _)| if column == 0 { "---" } else { "---:" }));
    let others: Vec<Vec<Figure>> = others.iter().map(|other| other.tally.figures()).collect();
    for (index, figure) in first.tally.figures().into_iter().enumerate() {
        // The rows of what happened to nobody say nothing.
        let mut values = others.iter().map(|other| other[index].value).chain([figure.value]);
        if values.all(|value| value.is_none_or(|value| value == 0.0)) {
            continue;
        }
        let mut cells = vec![figure.title.to_owned(), shown(figure.value, figure.decimals)];
        for other in &others {
            let other = other[index].value;
            let ratio = figure.value.zip(other).filter(|(first, _)| *first > 0.0);
            cells.push(shown(other, figure.decimals));
            cells.push(shown(ratio.map(|(first, other)| other / first), 2));
        }
        line(text, &cells);
    }
}

/// What the table has no room for.
fn notes(text: &mut String, name: &str, tally: &Tally) {
    if let Some(seconds) = tally.retry_after_seconds() {
        let _ = writeln!(text, "- {name}: median Retry-After {seconds:.1} s");
    }
    for (reason, times) in &tally.reasons {
        let _ = writeln!(text, "- {name}: {times} × {reason}");
    }
    let answers = tally.latency.len();
    if (1..1000).contains(&answers) {
        let _ = writeln!(text, "- {name}: {answers} answers, too few for a p99.9");
    }
}

fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

fn line<T: AsRef<str>>(text: &mut String, cells: impl IntoIterator<Item = T>) {
    text.push('|');
    for cell in cells {
        let _ = write!(text, " {} |", cell.as_ref().replace('|', "\\|"));
    }
    text.push('\n');
}
