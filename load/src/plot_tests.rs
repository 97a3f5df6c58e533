use std::time::Duration;

use clap::Parser;

use super::*;
use crate::cli::Cli;
use crate::outcome::Outcome;
use crate::run::{Row, Step};
use crate::tally::Tally;

fn report(rates: &[f64], answers: u64) -> Report {
    let cli = ["postsort-load", "--url", "A<&>=http://a", "--url", "http://b", "--closed", "1"];
    let cli = Cli::try_parse_from(cli).expect("arguments");
    let row = |target: &crate::target::Target| {
        let mut tally = Tally::default();
        for ms in 1..=answers {
            tally.record(Outcome::Good, Duration::from_millis(ms), Duration::ZERO);
        }
        Row { target: target.name.clone(), tally, bulk: None }
    };
    let step = |rate: &f64| Step {
        load: Load::Open { rate: *rate, multiple: None },
        rows: cli.targets.iter().map(row).collect(),
    };
    let steps = rates.iter().map(step).collect();
    Report { mails: 1, most: None, steps, memory: Vec::new(), cli }
}

/// Every element is closed in its turn, every attribute quoted, and no number is out of bounds.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "{text}");
        let name = tag.split([' ', '/']).next().expect("a name");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        assert_eq!(tag.matches('"').count(), 2 * tag.matches('=').count(), "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let unescaped = svg.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "");
    assert!(!unescaped.contains('&'));
}

#[test]
fn rates_have_a_line_for_every_percentile() {
    let svg = svg(&report(&[20.0, 40.0, 80.0], 500));
    assert_well_formed(&svg);
    assert_eq!(svg.matches("<polyline").count(), 6);
    assert!(svg.contains("requests due a second") && svg.contains("latency since due, ms"));
    assert!(svg.contains("A&lt;&amp;&gt; p99"));
}

#[test]
fn one_load_has_a_line_for_every_target() {
    let svg = svg(&report(&[20.0], 500));
    assert_well_formed(&svg);
    assert_eq!(svg.matches("<polyline").count(), 2);
    assert!(svg.contains(">99.9<") && svg.contains("percentile of answers, %"));
}

#[test]
fn nothing_measured_is_drawn_empty() {
    for rates in [&[1.0][..], &[1.0, 2.0], &[]] {
        assert_well_formed(&svg(&report(rates, 0)));
    }
}

#[test]
fn steps_are_round() {
    for (step, expected) in [(0.7, 1.0), (1.0, 1.0), (13.0, 20.0), (300.0, 500.0), (0.03, 0.05)] {
        assert!((round_step(step) / expected - 1.0).abs() < 1e-9, "{step}");
    }
}
