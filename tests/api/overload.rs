//! More than the engine can do, from many clients at once.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;

use crate::life::metric;
use crate::server::{Server, models_dir, options};

/// Whatever becomes of a request under overload, it is told so, once, and counted so.
#[test]
fn every_request_is_answered_refused_or_expired_and_counted() {
    let dir = models_dir(&["bert", "distilbert"]);
    let mut settings = options(dir.path());
    settings.queued_jobs_max = Some(200);
    let server = Server::start(settings);
    for model in ["bert", "distilbert"] {
        // Costs are known from here on.
        assert_eq!(server.classify(&json!({"model": model, "inputs": "first"})).status, 200);
    }
    let told = Mutex::new(BTreeMap::<(u16, String), usize>::new());
    std::thread::scope(|scope| {
        for client in 0..16 {
            let (server, told) = (&server, &told);
            scope.spawn(move || {
                for round in 0..12 {
                    let text = |at: usize| format!("mail {client} {round} {at} ").repeat(40);
                    let inputs: Vec<String> = (0..40).map(text).collect();
                    let model = ["bert", "distilbert"][client % 2];
                    let priority = ["interactive", "normal", "bulk"][round % 3];
                    let timeout_ms = [5, 50, 30_000][client % 3];
                    let answer = server.classify(&json!({
                        "model": model, "inputs": inputs, "priority": priority,
                        "timeout_ms": timeout_ms,
                    }));
                    match answer.status {
                        200 => {
                            assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(40));
                        }
                        429 => {
                            assert_eq!(answer.code(), "overloaded", "{}", answer.text);
                            let wait = answer.headers["retry-after"].to_str().expect("text");
                            assert!(
                                wait.parse::<u64>().is_ok_and(|seconds| (1..60).contains(&seconds))
                            );
                            let details = &answer.json()["error"]["details"];
                            assert!(details["queued"].is_u64() || details["expected_ms"].is_u64());
                        }
                        504 => assert_eq!(answer.code(), "deadline_exceeded"),
                        other => panic!("{other}: {}", answer.text),
                    }
                    let mut told = told.lock().expect("no panic");
                    *told.entry((answer.status, model.to_owned())).or_default() += 1;
                }
            });
        }
    });
    let told = told.into_inner().expect("no panic");
    assert_eq!(told.values().sum::<usize>(), 16 * 12);
    let text = server.get("/metrics").text;
    for model in ["bert", "distilbert"] {
        let told = |status: u16| told.get(&(status, model.to_owned())).copied().unwrap_or(0) as f64;
        let outcome = |outcome: &str| {
            metric(
                &text,
                &format!(
                    "postsort_inference_requests_total{{model=\"{model}\",outcome=\"{outcome}\"}}"
                ),
            )
        };
        assert_eq!(
            [outcome("ok") - 1.0, outcome("rejected"), outcome("expired")],
            [200, 429, 504].map(told)
        );
        let rejected: f64 = ["queue_full", "not_in_time"]
            .map(|reason| {
                metric(
                    &text,
                    &format!("postsort_rejected_total{{model=\"{model}\",reason=\"{reason}\"}}"),
                )
            })
            .iter()
            .sum();
        assert_eq!(rejected, told(429));
        assert_eq!(metric(&text, &format!("postsort_queue_tokens{{model=\"{model}\"}}")), 0.0);
    }
    assert_eq!(metric(&text, "postsort_queue_jobs "), 0.0);
    assert_eq!(metric(&text, "postsort_backlog_seconds "), 0.0);
}

#[test]
fn what_a_pass_takes_is_measured_when_a_model_is_loaded() {
    let (server, _dir) = Server::with(&["bert"]);
    let cost = || server.get("/v1/models/bert").json()["cost"].clone();
    assert!(cost().is_null(), "nothing was measured yet");
    server.classify(&json!({"inputs": "hello"}));
    let cost = cost();
    assert!(cost["pass_us"].as_f64() > Some(0.0), "{cost}");
    assert!(cost["tokens_128_us"].as_f64() > cost["pass_us"].as_f64(), "{cost}");
    assert!(cost["scale"].as_f64() > Some(0.0), "{cost}");
}
