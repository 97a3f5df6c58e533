//! What an operator relies on: counts that are right, probes that answer, verdicts that tell.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::life::metric;
use crate::redis::Redis;
use crate::server::{Server, models_dir, options, room_for_two};

/// Long enough for any machine; a test waits until something holds, not for a time.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Work that keeps the engine busy until its client goes away.
fn heavy(n: usize) -> Value {
    let text = format!("mail {n} ") + &"a long mail of many words ".repeat(100);
    json!({"inputs": vec![text; 90], "cache": false, "long": "window"})
}

/// Sends a request and leaves before the answer.
fn send_and_leave(server: &Server, body: &Value, stay: impl FnOnce()) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(server.address()).expect("connects");
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sends");
    stream.write_all(body.as_bytes()).expect("sends");
    stay();
}

#[test]
fn every_outcome_is_counted_once() {
    let dir = models_dir(&["bert", "distilbert"]);
    std::fs::write(dir.path().join("distilbert/tokenizer.json"), b"{}").expect("writes");
    let mut settings = options(dir.path());
    settings.queued_jobs_max = Some(100);
    settings.default_model = Some("bert".to_owned());
    let server = Server::start(settings);

    let mut sent = 0;
    let mut send = |body: Value, status: u16| {
        let answer = server.classify(&body);
        assert_eq!(answer.status, status, "{}", answer.text);
        sent += body.to_string().len();
        answer.text.len()
    };
    let mut received = send(json!({"inputs": ["a", "b", "a"]}), 200);
    received += send(json!({"inputs": "a"}), 200);
    received += send(json!({"inputs": "a", "cache": false}), 200);
    received += send(json!({"inputs": ""}), 422);
    received += send(json!({"inputs": "z", "timeout_ms": 0}), 504);
    received += send(json!({"inputs": (0..101).map(|n| format!("m{n}")).collect::<Vec<_>>()}), 429);
    received += send(json!({"model": "distilbert", "inputs": "a"}), 503);
    received += send(json!({"model": "nope", "inputs": "a"}), 404);
    received += send(json!({"model": 7}), 400);

    let leases = || metric(&server.get("/metrics").text, "postsort_model_leases{model=\"bert\"}");
    let left = heavy(0);
    send_and_leave(&server, &left, || until("the request runs", || leases() > 0.0));
    let text = || server.get("/metrics").text;
    let cancelled = "postsort_inference_requests_total{model=\"bert\",outcome=\"cancelled\"}";
    until("the client's leaving is noticed", || metric(&text(), cancelled) == 1.0);
    until("its work is given up", || leases() == 0.0);

    let text = text();
    let read = |series: &str| metric(&text, series);
    let outcomes = |model: &str| {
        ["ok", "invalid", "rejected", "expired", "cancelled", "backend"].map(|outcome| {
            read(&format!(
                "postsort_inference_requests_total{{model=\"{model}\",outcome=\"{outcome}\"}}"
            ))
        })
    };
    assert_eq!(outcomes("bert"), [3.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!(outcomes("distilbert"), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let classify = |status: u16| {
        read(&format!(
            "postsort_http_requests_total{{endpoint=\"/v1/classify\",status=\"{status}\"}}"
        ))
    };
    assert_eq!(
        [200, 400, 404, 422, 429, 499, 503, 504].map(classify),
        [3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    );
    assert_eq!(read("postsort_inference_mails_total{model=\"bert\"}"), 5.0);
    // Of three mails one is a repetition; then one is known; the third call looks nothing up.
    assert_eq!(read("postsort_result_cache_hits_total{model=\"bert\",tier=\"memory\"}"), 2.0);
    assert_eq!(read("postsort_result_cache_misses_total{model=\"bert\"}"), 2.0);
    assert_eq!(read("postsort_rejected_total{model=\"bert\",reason=\"queue_full\"}"), 1.0);
    assert_eq!(read("postsort_model_load_failures_total{model=\"distilbert\"}"), 1.0);
    assert_eq!(read("postsort_model_state{model=\"distilbert\",state=\"failed\"}"), 1.0);
    assert_eq!(read("postsort_queue_tokens{model=\"bert\"}"), 0.0);
    let total = sent + left.to_string().len();
    let bytes =
        |way: &str| read(&format!("postsort_http_{way}_bytes_total{{endpoint=\"/v1/classify\"}}"));
    assert_eq!(bytes("request"), total as f64);
    assert_eq!(bytes("response"), received as f64);
    assert_eq!(read("postsort_http_requests_in_flight{endpoint=\"/v1/classify\"}"), 0.0);
    assert_eq!(read("postsort_http_requests_in_flight{endpoint=\"/metrics\"}"), 1.0, "this one");

    let summary = server.get("/api/metrics").json();
    let bert = &summary["models"][0];
    assert_eq!((&bert["name"], &bert["cache_hits_total"]), (&json!("bert"), &json!(2)));
    assert_eq!((&bert["requests_total"], &bert["failures_total"]), (&json!(4), &json!(1)));
    let endpoints = summary["endpoints"].as_array().expect("a list");
    let classify = endpoints.iter().find(|at| at["endpoint"] == "/v1/classify").expect("asked");
    assert_eq!((&classify["requests_total"], &classify["in_flight"]), (&json!(9), &json!(0)));
}

/// Prometheus' own lint, as far as it can be said without it: every family has help and a type,
/// counters end in `_total`, histograms are cumulative, and no client can make a new series.
#[test]
fn the_exposition_is_well_formed_and_bounded() {
    let (server, _dir) = Server::with(&["bert"]);
    server.classify(&json!({"inputs": ["a", "b"]}));
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    server.get("/metrics");
    server.get("/nowhere/0");
    let before = series(&server.get("/metrics").text);
    for n in 1..20 {
        server.get(&format!("/nowhere/{n}"));
        server.classify(&json!({"model": format!("nope{n}"), "inputs": "a"}));
    }
    let text = server.get("/metrics").text;
    assert_eq!(series(&text), before + 1, "only a status of its own for unknown models");

    let mut families = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut last_bucket: Option<(String, f64)> = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(name.starts_with("postsort_") && helped.contains(name), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            let value: f64 = value.parse().expect("a number");
            let name = series.split('{').next().expect("a name");
            let stem = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|stem| families.get(*stem).is_some_and(|kind| kind == "histogram"));
            assert!(families.contains_key(stem.unwrap_or(name)), "{line} has no type");
            if let Some((head, le)) = series.split_once("le=\"") {
                assert!(le == "+Inf\"}" || le.trim_end_matches("\"}").parse::<f64>().is_ok());
                if let Some((last, below)) = &last_bucket
                    && last == head
                {
                    assert!(value >= *below, "{line} is below the bucket before it");
                }
                last_bucket = Some((head.to_owned(), value));
            }
        }
    }
    assert!(families.len() > 40, "{families:?}");
    let promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    // Prometheus need not be installed to develop.
    if let Ok(mut promtool) = promtool {
        promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("writes");
        let output = promtool.wait_with_output().expect("ends");
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}

/// The engine computes long batches, a model loads, and the probes answer all the same.
#[test]
fn probes_never_wait_for_inference_or_loading() {
    let (server, _dir) = Server::with(&["bert", "electra", "roberta-multi-label"]);
    server.classify(&json!({"model": "bert", "inputs": "a"}));
    std::thread::scope(|scope| {
        for n in 0..2 {
            let server = &server;
            scope.spawn(move || {
                let mut body = heavy(n);
                body["model"] = json!("bert");
                assert_eq!(server.classify(&body).status, 200);
            });
        }
        until("the engine is busy", || {
            server.get("/api/metrics").json()["queue"]["jobs"].as_u64() > Some(0)
        });
        scope.spawn(|| server.post("/v1/models/electra/load", &json!({})));
        let mut quickest = BTreeMap::<&str, Duration>::new();
        for _ in 0..5 {
            for path in ["/livez", "/readyz", "/health", "/api/health", "/metrics", "/api/metrics"]
            {
                let asked = Instant::now();
                assert_eq!(server.get(path).status, 200, "{path}");
                let took = asked.elapsed();
                quickest.entry(path).and_modify(|best| *best = took.min(*best)).or_insert(took);
            }
        }
        println!("quickest of five while busy: {quickest:?}");
        // Far above the 5 ms that they take, far below the seconds that they would wait for.
        for (path, took) in quickest {
            assert!(took < Duration::from_secs(1), "{path} took {took:?}");
        }
    });
}

#[test]
fn objectives_are_judged_and_told() {
    let dir = models_dir(&["bert"]);
    let mut settings = options(dir.path());
    // No answer is this fast.
    settings.slo.p95_ms = Some(1e-6);
    let server = Server::start(settings);
    let verdict = |health: &Value, slo: &str| {
        let all = health["slo"].as_array().expect("verdicts").clone();
        all.into_iter().find(|verdict| verdict["slo"] == slo).expect("the objective")
    };
    let health = server.get("/health").json();
    for slo in ["latency_p95", "errors", "availability"] {
        assert_eq!(
            (&verdict(&health, slo)["met"], &verdict(&health, slo)["value"]),
            (&json!(true), &Value::Null)
        );
    }
    assert_eq!(health["alerts"], json!([]));
    assert_eq!(server.classify(&json!({"inputs": "a"})).status, 200);
    assert_eq!(server.classify(&json!({"inputs": "b", "timeout_ms": 0})).status, 504);
    let health = server.get("/health").json();
    assert_eq!(verdict(&health, "latency_p95")["met"], false, "{health}");
    assert_eq!(verdict(&health, "errors")["value"], 0.5, "{health}");
    assert_eq!(verdict(&health, "availability")["value"], 0.5, "{health}");
    assert_eq!(verdict(&health, "memory")["met"], true, "{health}");
    let alerts: Vec<_> =
        health["alerts"].as_array().expect("a list").iter().map(|at| &at["alert"]).collect();
    assert_eq!(
        alerts,
        ["PostsortErrorBudgetBurn", "PostsortAvailabilityBudgetBurn", "PostsortLatencyBudgetBurn"]
    );
    let text = server.get("/metrics").text;
    assert_eq!(metric(&text, "postsort_slo_met{slo=\"errors\"}"), 0.0);
    assert_eq!(metric(&text, "postsort_slo_met{slo=\"memory\"}"), 1.0);
    assert_eq!(metric(&text, "postsort_ready"), 1.0);
}

#[test]
fn a_model_that_fails_is_named() {
    let dir = models_dir(&["bert", "electra"]);
    std::fs::write(dir.path().join("electra/config.json"), b"{").expect("writes");
    let server = Server::start(options(dir.path()));
    let health = server.get("/api/health").json();
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["alerts"][0]["alert"], "PostsortModelLoadFailed");
    assert_eq!(health["alerts"][0]["model"], "electra");
}

#[test]
fn looking_does_not_change_what_is_evicted() {
    let dir = models_dir(&["bert", "distilbert", "electra"]);
    let mut settings = options(dir.path());
    let budget = room_for_two(dir.path(), ["bert", "distilbert", "electra"]);
    settings.memory_bytes_max = Some(budget.to_string());
    let server = Server::start(settings);
    for (model, mails) in [("bert", 1), ("distilbert", 20)] {
        for mail in 0..mails {
            let asked = json!({"model": model, "inputs": format!("mail {mail}")});
            assert_eq!(server.classify(&asked).status, 200);
        }
    }
    // `bert` is asked for least, and would not be if this were use.
    for _ in 0..100 {
        server.get("/v1/models/bert");
    }
    let loaded = server.classify(&json!({"model": "electra", "inputs": "a"}));
    assert_eq!(loaded.status, 200, "{}", loaded.text);
    assert_eq!(server.get("/v1/models/bert").json()["state"], "unloaded");
    assert_eq!(server.get("/v1/models/distilbert").json()["state"], "ready");
}

/// Every metric that the alerts, the Grafana dashboard and the documentation name is there, and
/// every metric that is there is documented.
#[test]
fn alerts_dashboards_and_documentation_know_the_metrics() {
    let dir = models_dir(&["bert"]);
    let reference =
        "[reference]\nconfidence = 1.0\nunknown_tokens = 0.0\ntokens = 10.0\nlabels = {}\n";
    std::fs::write(dir.path().join("bert/postsort.toml"), reference).expect("writes");
    let mut settings = options(dir.path());
    settings.traces.endpoint = Some("http://127.0.0.1:1".to_owned());
    settings.store = Some(format!("sqlite:{}", dir.path().join("store.db").display()));
    let redis = Redis::start();
    let nobody = || "redis://127.0.0.1:1".to_owned();
    settings.shared_cache = Some(redis.as_ref().map_or_else(nobody, Redis::url));
    let server = Server::start(settings);
    server.classify(&json!({"inputs": "a"}));
    let mut text = server.get("/metrics").text;
    // The last to come are those of the store's upkeep.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let complete = |text: &str| {
        text.contains("postsort_store_rows")
            && (redis.is_none() || text.contains("postsort_shared_cache_exchange_"))
    };
    while !complete(&text) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
        text = server.get("/metrics").text;
    }
    let names = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("postsort_"))
            .map(str::to_owned)
            .collect()
    };
    let known: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect();
    let read =
        |path: &str| std::fs::read_to_string(crate::server::root().join(path)).expect("reads");
    // Only where the control group has limits, or Redis is installed.
    let known_here_or_elsewhere = |name: &str| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        known.contains(name)
            || stem.is_some_and(|stem| known.contains(stem))
            || name.starts_with("postsort_cgroup_")
            || (redis.is_none() && name.starts_with("postsort_shared_cache_exchange_"))
    };
    for path in
        ["deploy/prometheus/alerts.yml", "deploy/grafana/postsort.json", "docs/monitoring.md"]
    {
        let named = names(&read(path));
        assert!(named.len() > 10, "{path}: {named:?}");
        for name in named {
            assert!(known_here_or_elsewhere(&name), "{path} names {name}, which is not there");
        }
    }
    let documented = names(&read("docs/monitoring.md"));
    for name in &known {
        assert!(documented.contains(name), "{name} is not in docs/monitoring.md");
    }
    // Every alert has its words.
    let (alerts, guide) = (read("deploy/prometheus/alerts.yml"), read("docs/monitoring.md"));
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(guide.contains(&format!("### {alert}\n")), "{alert} is not in docs/monitoring.md");
        assert!(read("deploy/prometheus/tests/alerts.yml").contains(alert), "{alert} has no test");
    }
}
