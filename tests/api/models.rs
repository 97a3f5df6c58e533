use postsort_server::config::Options;
use serde_json::json;

use crate::server::{Server, models_dir, options, room_for_two};

#[test]
fn models_load_on_first_use_and_unload_on_demand() {
    let (server, _dir) = Server::with(&["bert", "distilbert"]);
    let state = |model: &str| server.get(&format!("/v1/models/{model}")).json();
    assert_eq!(state("bert")["state"], "unloaded");
    assert_eq!(server.classify(&json!({"model": "bert", "inputs": "a"})).status, 200);
    let bert = state("bert");
    assert_eq!((&bert["state"], &bert["loads"]), (&json!("ready"), &json!(1)));
    assert_eq!(bert["architecture"], "bert");
    assert_eq!(bert["labels"], json!(["ham", "spam", "list"]));
    assert_eq!(bert["engine"], "cpu");
    assert!(bert["kernels"].is_string());
    if bert["precision"] != "f32" {
        assert_eq!(bert["agreement"]["texts"], 256);
    }
    assert!(bert["resident_bytes"].as_u64() > Some(10_000));
    assert_eq!(state("distilbert")["state"], "unloaded", "others are left alone");
    assert_eq!(server.post("/v1/models/bert/pin", &json!({})).json()["pinned"], true);
    assert_eq!(server.post("/v1/models/bert/unpin", &json!({})).json()["pinned"], false);
    assert_eq!(server.post("/v1/models/bert/unload", &json!({})).json()["state"], "unloaded");
    assert_eq!(server.post("/v1/models/bert/load", &json!({})).json()["loads"], 2);
    assert_eq!(server.get("/v1/models").json()["models"].as_array().map(Vec::len), Some(2));
    assert_eq!(server.post("/v1/models/nope/load", &json!({})).status, 404);
}

#[test]
fn first_requests_share_one_load() {
    let (server, _dir) = Server::with(&["bert"]);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let server = &server;
            scope.spawn(move || {
                assert_eq!(server.classify(&json!({"inputs": format!("mail {n}")})).status, 200);
            });
        }
    });
    assert_eq!(server.get("/v1/models/bert").json()["loads"], 1);
}

#[test]
fn the_budget_holds() {
    let dir = models_dir(&["bert", "distilbert", "electra"]);
    let budget = room_for_two(dir.path(), ["bert", "distilbert", "electra"]);
    let mut settings = options(dir.path());
    settings.memory_bytes_max = Some(budget.to_string());
    let server = Server::start(settings);
    for model in ["bert", "distilbert", "electra", "bert"] {
        let answer = server.classify(&json!({"model": model, "inputs": "a"}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        let list = server.get("/v1/models").json();
        assert!(list["memory_used_bytes"].as_u64() <= Some(budget), "{list}");
    }
    let list = server.get("/v1/models").json();
    let evictions = |model: &serde_json::Value| model["evictions"].as_u64().expect("a count");
    let evictions: u64 = list["models"].as_array().expect("models").iter().map(evictions).sum();
    assert!(evictions >= 1, "{list}");

    let mut settings = options(dir.path());
    settings.memory_bytes_max = Some("1000".to_owned());
    let server = Server::start(settings);
    let answer = server.classify(&json!({"model": "bert", "inputs": "a"}));
    assert_eq!((answer.status, answer.code().as_str()), (507, "model_larger_than_budget"));
}

#[test]
fn preload_makes_ready_mean_loaded() {
    let dir = models_dir(&["bert", "distilbert"]);
    let mut settings = options(dir.path());
    settings.preload = Some(vec!["bert".to_owned(), "nope".to_owned()]);
    settings.default_model = Some("distilbert".to_owned());
    let server = Server::start(settings);
    assert_eq!(server.get("/readyz").status, 200, "a wrong name is no reason to serve nothing");
    assert_eq!(server.get("/v1/models/bert").json()["state"], "ready");
    assert_eq!(server.classify(&json!({"inputs": "a"})).json()["model"], "distilbert");
}

/// As model stores mount it: each model at the same place, its name is told apart from it.
#[test]
fn a_folder_that_is_a_model_goes_by_the_name_it_is_given() {
    let dir = models_dir(&["bert"]);
    let mounted = dir.path().join("bert");
    let settings = Options { default_model: Some("inbox".to_owned()), ..options(&mounted) };
    let server = Server::start(settings);
    let input = json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]});
    let answer = server.post("/v2/models/inbox/infer", &json!({"inputs": [input]}));
    assert_eq!((answer.status, &answer.json()["model_name"]), (200, &json!("inbox")));
    assert_eq!(server.classify(&json!({"inputs": "a"})).json()["model"], "inbox");
    let rescanned = server.post("/v1/models", &json!({})).json();
    assert_eq!((&rescanned["added"], &rescanned["removed"]), (&json!([]), &json!([])));
    assert_eq!(server.get("/v2/models/bert/ready").status, 404);
    let (server, _dir) = (Server::start(options(&mounted)), dir);
    assert_eq!(server.classify(&json!({"inputs": "a"})).json()["model"], "bert");
}
