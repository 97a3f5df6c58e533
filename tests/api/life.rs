use serde_json::json;

use crate::server::{Server, models_dir, options};

/// The value of the first series that starts so.
pub(crate) fn metric(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(series));
    let line = line.unwrap_or_else(|| panic!("{series} in {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn counters_count_what_happened() {
    let (server, _dir) = Server::with(&["bert"]);
    for text in ["a", "b", "a"] {
        assert_eq!(server.classify(&json!({"inputs": text})).status, 200);
    }
    assert_eq!(server.classify(&json!({"inputs": ["a", "c"]})).status, 200);
    assert_eq!(server.classify(&json!({"inputs": ""})).status, 422);
    assert_eq!(server.classify(&json!({"inputs": "z", "timeout_ms": 0})).status, 504);
    assert_eq!(server.classify(&json!({"model": "nope", "inputs": "a"})).status, 404);
    let text = server.get("/metrics").text;
    let read = |series: &str| metric(&text, series);
    let classify = |status: u16| {
        read(&format!(
            "postsort_http_requests_total{{endpoint=\"/v1/classify\",status=\"{status}\"}}"
        ))
    };
    assert_eq!([200, 422, 504, 404].map(classify), [4.0, 1.0, 1.0, 1.0]);
    let outcome = |outcome: &str| {
        read(&format!("postsort_inference_requests_total{{model=\"bert\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!(
        ["ok", "invalid", "expired", "backend", "rejected"].map(outcome),
        [4.0, 1.0, 1.0, 0.0, 0.0]
    );
    assert_eq!(read("postsort_result_cache_hits_total{model=\"bert\",tier=\"memory\"}"), 2.0);
    assert_eq!(read("postsort_result_cache_misses_total{model=\"bert\"}"), 3.0);
    assert_eq!(
        read("postsort_inference_duration_seconds_count{model=\"bert\",stage=\"total\"}"),
        4.0
    );
    assert_eq!(
        read("postsort_inference_duration_seconds_count{model=\"bert\",stage=\"infer\"}"),
        3.0
    );
    assert_eq!(read("postsort_batch_jobs_sum{model=\"bert\"}"), 3.0);
    assert_eq!(read("postsort_queue_tokens{model=\"bert\"}"), 0.0);
    assert_eq!(read("postsort_model_state{model=\"bert\",state=\"ready\"}"), 1.0);
    assert_eq!(read("postsort_model_load_duration_seconds_count{model=\"bert\"}"), 1.0);
    assert!(read("postsort_model_resident_bytes{model=\"bert\",device=\"cpu\"}") > 1e4);
    assert!(read("postsort_memory_budget_bytes{device=\"cpu\"}") > 1e6);
    assert!(read("postsort_process_resident_bytes") > 1e6);
    assert_eq!(read("postsort_result_cache_entries"), 3.0);
}

#[test]
fn health_tells_percentiles_and_memory() {
    let (server, _dir) = Server::with(&["bert"]);
    assert_eq!(server.get("/livez").text, "ok\n");
    for n in 0..20 {
        server.classify(&json!({"inputs": format!("mail {n}")}));
    }
    for path in ["/health", "/api/health"] {
        let health = server.get(path).json();
        assert_eq!(health["status"], "ok");
        let minute = &health["models"][0]["last_minute"];
        assert_eq!(minute["requests"], 20);
        assert!(minute["p99_ms"].as_f64() >= minute["p50_ms"].as_f64());
        assert_eq!(minute["error_rate"], 0.0);
        assert!(health["memory"]["process_bytes"].as_u64() > Some(1 << 20));
        assert_eq!(health["result_cache"]["entries"], 20);
    }
}

#[test]
fn overload_is_told_at_once_with_a_time_to_come_back() {
    let dir = models_dir(&["bert"]);
    let mut settings = options(dir.path());
    settings.queued_jobs_max = Some(2);
    let server = Server::start(settings);
    assert_eq!(server.classify(&json!({"inputs": ["a", "b"]})).status, 200);
    let answer = server.classify(&json!({"inputs": ["c", "d", "e"]}));
    assert_eq!((answer.status, answer.code().as_str()), (429, "overloaded"));
    let wait: u64 = answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..60).contains(&wait));
    assert_eq!(
        server.classify(&json!({"inputs": ["a", "b", "a"]})).status,
        200,
        "known mail is never shed"
    );
    let text = server.get("/metrics").text;
    assert_eq!(metric(&text, "postsort_rejected_total{model=\"bert\",reason=\"queue_full\"}"), 1.0);
    assert_eq!(server.classify(&json!({"inputs": "c"})).status, 200, "the places were given back");
}

#[test]
fn the_api_is_described() {
    let (server, _dir) = Server::with(&["bert"]);
    let api = server.get("/openapi.json").json();
    for path in
        ["/v1/classify", "/v1/models/{model}", "/predict", "/v2/models/{model}/infer", "/health"]
    {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    let schema = &api["components"]["schemas"]["ClassifyRequest"]["properties"];
    assert!(schema["inputs"].is_object() && schema["timeout_ms"].is_object(), "{schema}");
    let page = server.get("/docs/");
    assert_eq!(page.status, 200);
    assert!(page.text.contains("swagger"), "{}", page.text);
}

#[test]
fn request_ids_come_back() {
    let (server, _dir) = Server::with(&["bert"]);
    assert!(server.get("/livez").headers.contains_key("x-request-id"));
}
