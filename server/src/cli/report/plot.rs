//! A figure over hours as SVG: lines, or areas on top of each other.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 200.0;
/// Room for the numbers on the left, the title above, the times below, the legend on the right.
const LEFT: f64 = 60.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 22.0;
const RIGHT: f64 = 150.0;
const COLORS: [&str; 8] =
    ["#24527a", "#b5462a", "#4b7f52", "#8a5a9e", "#b58a1e", "#3f8f9b", "#7a4a24", "#6b7580"];

/// Series over the same hours.
pub(super) struct Plot<'a> {
    title: &'a str,
    hours: Vec<&'a str>,
    series: Vec<(String, Vec<Option<f64>>)>,
    stacked: bool,
}

impl<'a> Plot<'a> {
    pub(super) fn new(title: &'a str, hours: impl Iterator<Item = &'a str>) -> Self {
        Self { title, hours: hours.collect(), series: Vec::new(), stacked: false }
    }

    /// Adds a series on top of those before it.
    pub(super) fn stack(&mut self, name: &str, values: impl Iterator<Item = Option<f64>>) {
        self.stacked = true;
        let below = self.series.last().map(|(_, values)| values.clone()).unwrap_or_default();
        let under = |at: usize| below.get(at).copied().flatten().unwrap_or(0.0);
        let values = values.enumerate().map(|(at, value)| value.map(|value| value + under(at)));
        self.series.push((name.to_owned(), values.collect()));
    }

    /// Adds a line; nothing is drawn where nothing is known.
    pub(super) fn line(&mut self, name: &str, values: impl Iterator<Item = Option<f64>>) {
        self.series.push((name.to_owned(), values.collect()));
    }

    #[expect(clippy::cast_precision_loss, reason = "a few hundred hours")]
    pub(super) fn into_svg(self) -> String {
        let values = || self.series.iter().flat_map(|(_, values)| values.iter().flatten());
        let top = values().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let top = if top > 0.0 { top * 1.05 } else { 1.0 };
        let last = self.hours.len().saturating_sub(1).max(1) as f64;
        let x = |at: usize| LEFT + (WIDTH - LEFT - RIGHT) * at as f64 / last;
        let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" font-size=\"11\" fill=\"#5b6875\">\
             <text x=\"{LEFT}\" y=\"14\" font-size=\"13\" fill=\"#1c2530\">{}</text>",
            escaped(self.title)
        );
        for part in 0..=2 {
            let value = top * f64::from(part) / 2.0;
            let (line, right) = (y(value), WIDTH - RIGHT);
            let _ = write!(
                svg,
                "<path d=\"M{LEFT} {line:.1}H{right}\" stroke=\"#dfe4ea\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                line + 4.0,
                shown(value)
            );
        }
        for at in [0, self.hours.len() / 2, self.hours.len().saturating_sub(1)] {
            // Months and days, hours and minutes.
            let time = self.hours.get(at).and_then(|hour| hour.get(5..16)).unwrap_or_default();
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x(at),
                HEIGHT - 6.0,
                escaped(&time.replace('T', " "))
            );
        }
        // The highest of a stack first, the lower ones over it.
        for (number, (name, values)) in self.series.iter().enumerate().rev() {
            let color = COLORS[number % COLORS.len()];
            let points: Vec<String> = values
                .iter()
                .enumerate()
                .filter_map(|(at, value)| {
                    let value = value.filter(|value| value.is_finite())?;
                    Some(format!("{:.1} {:.1}", x(at), y(value)))
                })
                .collect();
            let path = points.join("L");
            if self.stacked && !points.is_empty() {
                let (end, base) = (x(values.len().saturating_sub(1)), y(0.0));
                let _ = write!(
                    svg,
                    "<path d=\"M{path}L{end:.1} {base}L{LEFT} {base}Z\" fill=\"{color}\"/>"
                );
            }
            if let Some(only) = points.first().filter(|_| points.len() == 1) {
                let (x, y) = only.split_once(' ').unwrap_or_default();
                let _ = write!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{color}\"/>");
            } else if !points.is_empty() {
                let _ = write!(
                    svg,
                    "<path d=\"M{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
                );
            }
            if self.series.len() > 1 {
                let (x, y) = (WIDTH - RIGHT + 10.0, TOP + 10.0 + 15.0 * number as f64);
                let _ = write!(
                    svg,
                    "<text x=\"{x}\" y=\"{y}\" fill=\"{color}\">{}</text>",
                    escaped(name)
                );
            }
        }
        svg.push_str("</svg>");
        svg
    }
}

fn shown(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// As text in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
