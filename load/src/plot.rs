//! Latencies as an SVG: against the rate where there are several, else against the percentile.

use std::fmt::Write as _;

use crate::run::{Load, Report};

const SIZE: (f64, f64) = (860.0, 460.0);
/// Left, top, right and bottom of the plot within the picture.
const FRAME: (f64, f64, f64, f64) = (70.0, 40.0, 640.0, 400.0);
/// Told apart with colour blindness, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/// Percentiles of a plot against rates, and how their lines are dashed.
const DASHES: [(f64, &str, &str); 3] =
    [(0.5, "p50", "none"), (0.95, "p95", "7 4"), (0.99, "p99", "2 3")];

struct Line {
    name: String,
    colour: &'static str,
    dash: &'static str,
    /// The axis' value and milliseconds.
    points: Vec<(f64, f64)>,
}

struct Axis {
    title: &'static str,
    ticks: Vec<(f64, String)>,
    low: f64,
    high: f64,
}

/// The picture.
#[must_use]
pub fn svg(report: &Report) -> String {
    match report.steps.len() {
        0 | 1 => draw("Latency by percentile", &percentile_axis(), &by_percentile(report)),
        _ => draw("Latency by rate", &rate_axis(report), &by_rate(report)),
    }
}

fn by_rate(report: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, target) in report.cli.targets.iter().enumerate() {
        for (share, percentile, dash) in DASHES {
            let point = |step: &crate::run::Step| {
                Some((rate(step.load), step.rows[index].tally.latency_ms(share)?))
            };
            let mut points: Vec<_> = report.steps.iter().filter_map(point).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let name = format!("{} {percentile}", target.name);
            lines.push(Line { name, colour: COLOURS[index % COLOURS.len()], dash, points });
        }
    }
    lines
}

fn by_percentile(report: &Report) -> Vec<Line> {
    let rows = report.steps.iter().flat_map(|step| &step.rows).enumerate();
    rows.map(|(index, row)| {
        let latency = &row.tally.latency;
        // Beyond the last answer there is nothing to draw.
        let nines_max = (latency.len().max(1) as f64).log10().min(4.0);
        let nines = (0..=160).map(|step| f64::from(step) / 40.0).take_while(|n| *n <= nines_max);
        let points =
            nines.filter_map(|n| Some((n, row.tally.latency_ms(1.0 - 10f64.powf(-n))?))).collect();
        let colour = COLOURS[index % COLOURS.len()];
        Line { name: row.target.clone(), colour, dash: "none", points }
    })
    .collect()
}

fn rate(load: Load) -> f64 {
    match load {
        Load::Open { rate, .. } => rate,
        Load::Closed { connections } => connections as f64,
    }
}

fn rate_axis(report: &Report) -> Axis {
    let high = report.steps.iter().map(|step| rate(step.load)).fold(0.0, f64::max) * 1.05;
    let step = round_step(high / 6.0);
    let ticks = (0..).map(|tick| f64::from(tick) * step).take_while(|tick| *tick <= high);
    let ticks = ticks.map(|tick| (tick, number(tick))).collect();
    Axis { title: "requests due a second", ticks, low: 0.0, high }
}

/// As many nines as the percentile has: 90 % is 1, 99 % is 2.
fn percentile_axis() -> Axis {
    let shares =
        [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")];
    let nines = |share: f64| -(1.0_f64 - share).log10();
    let ticks = shares.map(|(share, label)| (nines(share), label.to_owned())).to_vec();
    Axis { title: "percentile of answers, %", ticks, low: 0.0, high: 4.0 }
}

fn latency_axis(lines: &[Line]) -> Axis {
    let values = lines.iter().flat_map(|line| &line.points).map(|point| point.1.max(1e-3));
    let (low, high) =
        values.fold((f64::MAX, 0.0_f64), |(low, high), ms| (low.min(ms), high.max(ms)));
    let (low, high) = if high == 0.0 { (1.0, 10.0) } else { (low / 1.2, high * 1.2) };
    let decades = low.log10().floor() as i32..=high.log10().floor() as i32;
    let ticks = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
    let ticks = ticks.filter(|ms| (low..=high).contains(ms));
    let ticks = ticks.map(|ms| (ms.log10(), number(ms))).collect();
    Axis { title: "latency since due, ms", ticks, low: low.log10(), high: high.log10() }
}

fn draw(title: &str, horizontal: &Axis, lines: &[Line]) -> String {
    let vertical = latency_axis(lines);
    let (left, top, right, bottom) = FRAME;
    let x = |value: f64| {
        left + (value - horizontal.low) / (horizontal.high - horizontal.low) * (right - left)
    };
    let y = |value: f64| {
        bottom - (value - vertical.low) / (vertical.high - vertical.low) * (bottom - top)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
         font-size=\"13\" fill=\"#333\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        SIZE.0, SIZE.1
    );
    text(&mut svg, (left, top - 16.0), "start", "font-weight=\"bold\"", title);
    for (value, label) in &horizontal.ticks {
        stroke(&mut svg, (x(*value), top), (x(*value), bottom));
        text(&mut svg, (x(*value), bottom + 18.0), "middle", "", label);
    }
    for (value, label) in &vertical.ticks {
        stroke(&mut svg, (left, y(*value)), (right, y(*value)));
        text(&mut svg, (left - 8.0, y(*value) + 4.0), "end", "", label);
    }
    text(&mut svg, ((left + right) / 2.0, bottom + 42.0), "middle", "", horizontal.title);
    let middle = (top + bottom) / 2.0;
    let turned = format!("transform=\"rotate(-90 18 {middle})\"");
    text(&mut svg, (18.0, middle), "middle", &turned, vertical.title);
    for (index, line) in lines.iter().enumerate() {
        let style = format!(
            "fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\"",
            line.colour, line.dash
        );
        let mut points = String::new();
        for (value, ms) in &line.points {
            let _ = write!(points, "{:.1},{:.1} ", x(*value), y(ms.max(1e-3).log10()));
        }
        let _ = writeln!(svg, "<polyline {style} points=\"{}\"/>", points.trim_end());
        let row = top + 10.0 + 20.0 * index as f64;
        let _ = writeln!(svg, "<path {style} d=\"M{} {row}h28\"/>", right + 16.0);
        text(&mut svg, (right + 52.0, row + 4.0), "start", "", &line.name);
    }
    svg.push_str("</svg>\n");
    svg
}

fn stroke(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<path stroke=\"#ddd\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, more: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let space = if more.is_empty() { "" } else { " " };
    let (x, y) = at;
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{space}{more}>{text}</text>"
    );
}

/// The next of 1, 2, 5, 10, … above.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.max(1e-9).log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * decade >= step).unwrap_or(10.0);
    digit * decade
}

/// Without needless decimals.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
