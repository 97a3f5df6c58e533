//! Readings taken at the moment of a scrape, in Prometheus' text format.
//!
//! They bypass the recorder: its counters are whole numbers, and CPU time is not.

use std::fmt::Write;

use super::names::{ALL, Kind};

/// Text of the samples written so far.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Writes one sample; those of one name follow each other.
    pub(super) fn sample(&mut self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        if self.name != name {
            self.name = name;
            if let Some((_, kind, _, help)) = ALL.iter().find(|known| known.0 == name) {
                let kind = match kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Histogram => "histogram",
                };
                // Writing to a string cannot fail.
                let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            }
        }
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{}\"", escaped(value));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
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
