//! What outlives the process, and what happens when the store does not.

use std::path::Path;
use std::time::{Duration, Instant};

use postsort_server::config::Options;
use serde_json::{Value, json};

use crate::cli::stdout;
use crate::life::metric;
use crate::postgres::Postgres;
use crate::server::{Server, copy_folder, fixture, models_dir, options, under_load};

fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("store.db").display())
}

fn start(models: &Path, store: &str) -> Server {
    let server = Server::start(Options { store: Some(store.to_owned()), ..options(models) });
    wait_for(|| server.get("/health").json()["store"]["up"] == json!(true));
    server
}

pub(crate) fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A page of the history, when it is as long as that: rows are written a little later.
fn history(server: &Server, query: &str, verdicts: usize) -> Value {
    let page = || server.get(&format!("/v1/history{query}")).json();
    wait_for(|| page()["verdicts"].as_array().is_some_and(|found| found.len() == verdicts));
    page()
}

#[test]
fn what_was_said_can_be_read_again_and_judged() {
    let (models, folder) =
        (models_dir(&["bert", "distilbert"]), tempfile::tempdir().expect("a folder"));
    let server = start(models.path(), &sqlite(folder.path()));
    let canary = "a canaryword in the mail";
    let answer = server.classify(&json!({"model": "bert", "inputs": [canary, "another", canary]}));
    assert_eq!(answer.status, 200);
    let request_id = answer.headers["x-request-id"].to_str().expect("text").to_owned();
    server.post("/v1/analyze", &json!({"input": canary, "models": ["bert", "distilbert"]}));

    let page = history(&server, "", 5);
    assert_eq!(page["next"], Value::Null);
    let page = history(&server, &format!("?request_id={request_id}"), 3);
    let of = |item: u64| {
        let all = page["verdicts"].as_array().expect("a list");
        all.iter().find(|verdict| verdict["item"] == item).expect("there").clone()
    };
    let (first, second, third) = (of(0), of(1), of(2));
    assert_eq!(first["mail"], third["mail"], "the same text");
    assert_ne!(first["mail"], second["mail"]);
    let said = answer.json();
    assert_eq!(first["model"], "bert");
    assert_eq!(first["revision"], said["revision"]);
    assert_eq!(first["tokens"], said["results"][0]["tokens"]);
    let (kept, told) = (&first["labels"], &said["results"][0]["labels"]);
    assert_eq!(kept[0]["label"], told[0]["label"]);
    let close = kept[0]["score"].as_f64().zip(told[0]["score"].as_f64());
    assert!(close.is_some_and(|(kept, told)| (kept - told).abs() < 1e-6), "{kept} {told}");
    assert_eq!(first["truth"], Value::Null);
    let mail = first["mail"].as_str().expect("text");
    history(&server, &format!("?mail={mail}"), 4);
    history(&server, "?model=distilbert&since=1h", 1);
    history(&server, "?model=bert&until=2020-01-01T00:00:00Z", 0);

    // Page by page there are the same, each once.
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/history?limit=2{after}")).json();
        let found = page["verdicts"].as_array().expect("a list").clone();
        seen.extend(found.into_iter().map(|verdict| verdict.to_string()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    seen.dedup();
    assert_eq!(seen.len(), 5);

    // Feedback finds the verdict even if it is still on its way into the store.
    let predicted = told[0]["label"].as_str().expect("text").to_owned();
    let other = told[1]["label"].as_str().expect("text").to_owned();
    let say = |body: Value| server.post("/v1/feedback", &body);
    let by_request = json!({"request_id": request_id, "item": 0, "model": "bert", "label": other});
    let heard = say(by_request);
    assert_eq!((heard.status, &heard.json()["agrees"]), (200, &json!(false)), "{}", heard.text);
    assert_eq!(heard.json()["predicted"], json!(predicted));
    let by_mail = json!({"mail": mail, "model": "bert", "label": predicted});
    assert_eq!(say(by_mail).json()["former"], json!(other));
    let late = server.classify(&json!({"model": "bert", "inputs": "a late mail"}));
    let late = late.headers["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(say(json!({"request_id": late, "model": "bert", "label": other})).status, 200);
    let text = server.get("/metrics").text;
    let words = ["false", "true"].map(|agreed| {
        metric(&text, &format!("postsort_feedback_total{{model=\"bert\",agreed=\"{agreed}\"}}"))
    });
    assert!(words[0] >= 1.0 && words[1] >= 1.0 && words[0] + words[1] == 3.0, "{words:?}");

    let stats = server.get("/v1/stats?since=1d").json();
    let bert = &stats["models"]["bert"];
    assert_eq!((&bert["mails"], &stats["models"]["distilbert"]["mails"]), (&json!(5), &json!(1)));
    assert_eq!((&bert["cached"], &bert["feedback"]["mails"]), (&json!(2), &json!(2)), "{stats}");
    let labels: i64 =
        bert["labels"].as_object().expect("labels").values().filter_map(Value::as_i64).sum();
    assert_eq!(labels, 5);
    assert_eq!(
        bert["hours"]
            .as_array()
            .map(|hours| hours.iter().filter_map(|hour| hour["mails"].as_i64()).sum()),
        Some(5_i64)
    );
    assert_eq!(server.get("/v1/stats?since=9999y").json()["since"], "1970-01-01T00:00:00Z");
    let alone = server.get("/v1/stats?model=distilbert").json();
    assert_eq!(alone["models"].as_object().map(serde_json::Map::len), Some(1));

    // The same as a page for people.
    let file = models.path().join("report.html");
    let file = file.to_str().expect("text");
    stdout(&["report", "--since", "1d", "--output", file, "--server", &server.url], b"");
    let page = std::fs::read_to_string(file).expect("written");
    assert!(page.contains("<h2>bert</h2>") && page.contains("<h2>distilbert</h2>"), "{page}");
    assert!(page.contains("People said what is true of 2 mails"), "{page}");

    let text = server.get("/metrics").text;
    assert_eq!(metric(&text, "postsort_store_up"), 1.0);
    assert_eq!(metric(&text, "postsort_store_lost_rows_total{reason=\"full\"}"), 0.0);
    assert!(metric(&text, "postsort_store_written_rows_total") >= 6.0);
    assert!(metric(&text, "postsort_store_query_duration_seconds_count{query=\"history\"}") >= 1.0);

    // A digest, and never a word.
    drop(server);
    for file in std::fs::read_dir(folder.path()).expect("lists") {
        let bytes = std::fs::read(file.expect("lists").path()).expect("reads");
        assert!(!bytes.windows(10).any(|part| part == b"canaryword"));
    }
}

#[test]
fn answers_survive_a_restart_unless_the_model_changes() {
    let (models, folder) = (models_dir(&["bert"]), tempfile::tempdir().expect("a folder"));
    let store = sqlite(folder.path());
    let cached = |server: &Server, text: &str| {
        let answer = server.classify(&json!({"inputs": text})).json();
        (answer["results"][0]["cached"].clone(), answer["results"][0]["labels"].clone())
    };
    let server = start(models.path(), &store);
    let (known, first) = cached(&server, "a mail");
    assert_eq!(known, json!(false));
    server.classify(&json!({"inputs": "a secret", "cache": false}));
    drop(server);

    let server = start(models.path(), &store);
    wait_for(|| server.get("/health").json()["result_cache"]["entries"] == json!(1));
    assert_eq!(cached(&server, "a mail"), (json!(true), first));
    let before = server.get("/metrics").text;
    assert_eq!(
        metric(&before, "postsort_result_cache_hits_total{model=\"bert\",tier=\"memory\"}"),
        1.0
    );
    assert_eq!(cached(&server, "a secret").0, json!(false), "asked for without a trace");
    drop(server);

    // Another model by that name: its answers are its own.
    copy_folder(&fixture("electra"), &models.path().join("bert"));
    let server = start(models.path(), &store);
    wait_for(|| server.get("/health").json()["result_cache"]["entries"] != json!(0));
    assert_eq!(cached(&server, "a mail").0, json!(false));
}

#[test]
fn bad_questions_are_told_what_is_wrong() {
    let (models, folder) = (models_dir(&["bert"]), tempfile::tempdir().expect("a folder"));
    let server = start(models.path(), &sqlite(folder.path()));
    for (path, said) in [
        ("/v1/history?limit=0", "limit"),
        ("/v1/history?limit=5000", "limit"),
        ("/v1/history?label=spam", "label"),
        ("/v1/history?mail=xyz", "mail"),
        ("/v1/history?since=yesterday", "since"),
        ("/v1/history?after=x", "after"),
        ("/v1/history?nothing=1", "query"),
        ("/v1/stats?until=soon", "until"),
    ] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (400, "malformed_request"), "{path}");
        assert_eq!(answer.json()["error"]["details"]["path"], said, "{path}");
    }
    let label =
        server.classify(&json!({"inputs": "a"})).json()["results"][0]["labels"][0]["label"].clone();
    for (body, status, code) in [
        (json!({}), 400, "malformed_request"),
        (json!({"label": "nonsense", "request_id": "a"}), 400, "malformed_request"),
        (json!({"label": label}), 400, "malformed_request"),
        (json!({"label": label, "request_id": "a", "mail": "00"}), 400, "malformed_request"),
        (json!({"label": label, "mail": "00"}), 400, "malformed_request"),
        (json!({"label": label, "request_id": "nobody's"}), 404, "unknown_verdict"),
        (json!({"label": label, "request_id": "a", "model": "nope"}), 404, "unknown_model"),
        (json!({"label": label, "reqest_id": "a"}), 400, "malformed_request"),
    ] {
        let answer = server.post("/v1/feedback", &body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
}

#[test]
fn without_a_store_mail_is_classified_and_the_rest_says_so() {
    let (server, _models) = Server::with(&["bert"]);
    assert_eq!(server.classify(&json!({"inputs": "a"})).status, 200);
    for path in ["/v1/history", "/v1/stats"] {
        assert_eq!(
            (server.get(path).status, server.get(path).code()),
            (501, "no_store".to_owned())
        );
    }
    assert_eq!(server.get("/health").json()["store"], Value::Null);
    assert!(!server.get("/metrics").text.contains("postsort_store_up"));
}

#[test]
fn a_store_that_cannot_be_opened_fails_no_request() {
    let (models, folder) = (models_dir(&["bert"]), tempfile::tempdir().expect("a folder"));
    // A folder cannot be a database.
    let store = Some(format!("sqlite:{}", folder.path().display()));
    let server = Server::start(Options { store, ..options(models.path()) });
    for text in ["a", "b", "a"] {
        assert_eq!(server.classify(&json!({"inputs": text})).status, 200);
    }
    wait_for(|| server.get("/health").json()["store"]["error"].is_string());
    let health = server.get("/health");
    assert_eq!((health.status, &health.json()["store"]["up"]), (200, &json!(false)));
    let refused = server.get("/v1/history");
    assert_eq!((refused.status, refused.code().as_str()), (503, "store_unavailable"));
    assert!(refused.headers.contains_key("retry-after"));
    let text = server.get("/metrics").text;
    assert_eq!(metric(&text, "postsort_store_up"), 0.0);
    assert!(metric(&text, "postsort_store_queued_rows") >= 3.0);
}

/// PostgreSQL is killed under load and comes back: no request fails, and no verdict is lost or there
/// twice.
#[test]
fn no_request_fails_for_a_database_that_is_killed() {
    let Some(mut postgres) = Postgres::start() else { return };
    let models = models_dir(&["bert"]);
    let server = start(models.path(), &postgres.url());
    let text = |client, number| format!("mail {client} {}", number / 2);
    let sent = under_load(&server, text, |_| {
        std::thread::sleep(Duration::from_millis(500));
        postgres.kill();
        wait_for(|| server.get("/health").json()["store"]["up"] == json!(false));
        std::thread::sleep(Duration::from_millis(500));
        postgres.run();
        wait_for(|| server.get("/health").json()["store"]["up"] == json!(true));
        std::thread::sleep(Duration::from_millis(300));
    });
    wait_for(|| server.get("/health").json()["store"]["queued_rows"] == json!(0));
    let store = &server.get("/health").json()["store"];
    let lost = [&store["lost_full_rows_total"], &store["lost_failed_rows_total"]];
    assert_eq!(lost, [&json!(0), &json!(0)]);
    assert_eq!(server.get("/v1/stats").json()["models"]["bert"]["mails"], json!(sent));
}
