//! Prometheus' text format.

use std::fmt::{Display, Write};

use super::names::{ALL, Kind};

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Text of the samples written so far.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Writes one sample of a reading; those of one name follow each other.
    pub(super) fn sample(&mut self, name: &'static str, labels: Labels<'_>, value: f64) {
        self.line(name, "", &labelled(labels), value);
    }

    /// Writes one sample, its labels as [`labelled`] writes them; `part` is that of a histogram.
    pub(super) fn line(
        &mut self,
        name: &'static str,
        part: &str,
        labels: &str,
        value: impl Display,
    ) {
        self.head(name);
        // Writing to a string cannot fail, here and below.
        let _ = match labels {
            "" => writeln!(self.text, "{name}{part} {value}"),
            _ => writeln!(self.text, "{name}{part}{{{labels}}} {value}"),
        };
    }

    /// Writes one bucket of a histogram: how many values are at most `bound`.
    pub(super) fn bucket(
        &mut self,
        name: &'static str,
        labels: &str,
        bound: impl Display,
        count: u64,
    ) {
        self.head(name);
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = writeln!(self.text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
    }

    fn head(&mut self, name: &'static str) {
        if self.name == name {
            return;
        }
        self.name = name;
        if let Some((_, kind, help)) = ALL.iter().find(|known| known.0 == name) {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// Labels as they stand between braces.
pub(super) fn labelled(labels: Labels<'_>) -> String {
    let mut text = String::new();
    for (label, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{label}=\"{}\"", escaped(value));
    }
    text
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::Exposition;
    use crate::telemetry::names;

    #[test]
    fn text_as_prometheus_reads_it() {
        let mut exposition = Exposition::default();
        exposition.sample(names::PROCESS_CPU, &[], 1.25);
        exposition.sample(names::SLO_MET, &[("slo", "a\"b")], 1.0);
        exposition.sample(names::SLO_MET, &[("slo", "c"), ("x", "d")], 0.0);
        assert_eq!(
            exposition.into_text(),
            "# HELP postsort_process_cpu_seconds_total CPU time of the process\n\
             # TYPE postsort_process_cpu_seconds_total counter\n\
             postsort_process_cpu_seconds_total 1.25\n\
             # HELP postsort_slo_met 1 if the objective is met over its window\n\
             # TYPE postsort_slo_met gauge\n\
             postsort_slo_met{slo=\"a\\\"b\"} 1\n\
             postsort_slo_met{slo=\"c\",x=\"d\"} 0\n"
        );
    }
}
