use serde_json::{Value, json};

use crate::server::Server;

#[test]
fn tei_shapes() {
    let (server, _dir) = Server::with(&["bert", "bert-relu-one-label"]);
    let start = |inputs: Value| {
        let answer = server.post("/models/bert/predict", &json!({"inputs": inputs}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let text = start(json!("lunch?"));
    assert_eq!(text.as_array().map(Vec::len), Some(3), "labels of one text");
    assert!(text[0]["score"].as_f64() >= text[1]["score"].as_f64());
    let pair = start(json!(["lunch?", "yes"]));
    assert_eq!(pair.as_array().map(Vec::len), Some(3), "two texts in a list are a pair");
    assert_ne!(pair, text);
    let batch = start(json!([["lunch?"], ["lunch?", "yes"]]));
    assert_eq!(batch, json!([text, pair]));
    let raw = server
        .post("/models/bert/predict", &json!({"inputs": "lunch?", "raw_scores": true}))
        .json();
    let softmax: f64 = raw
        .as_array()
        .expect("a list")
        .iter()
        .map(|l| l["score"].as_f64().expect("a number").exp())
        .sum();
    let first = raw[0]["score"].as_f64().expect("a number").exp() / softmax;
    assert!((first - text[0]["score"].as_f64().expect("a number")).abs() < 1e-5);
}

#[test]
fn tei_headers_and_errors() {
    let (server, _dir) = Server::with(&["bert"]);
    let answer = server.post("/predict", &json!({"inputs": "are we on?"}));
    for name in [
        "x-compute-type",
        "x-compute-tokens",
        "x-compute-characters",
        "x-total-time",
        "x-inference-time",
        "x-queue-time",
        "x-tokenization-time",
    ] {
        assert!(answer.headers.contains_key(name), "{name}");
    }
    assert_eq!(answer.headers["x-compute-characters"], "10");
    let long = "word ".repeat(500);
    let answer = server.post("/predict", &json!({"inputs": long}));
    assert_eq!(answer.status, 413, "TEI refuses what it may not cut");
    assert_eq!(answer.json()["error_type"], "validation");
    assert!(answer.json()["error"].is_string());
    assert_eq!(server.post("/predict", &json!({"inputs": long, "truncate": true})).status, 200);
    assert_eq!(server.post("/predict", &json!({"inputs": 7})).status, 400);
    assert_eq!(server.post("/predict", &json!({"inputs": ""})).json()["error_type"], "tokenizer");
    assert_eq!(server.post("/models/nope/predict", &json!({"inputs": "a"})).status, 404);
    let info = server.get("/info").json();
    assert_eq!(info["max_input_length"], 64);
    assert_eq!(info["model_type"]["classifier"]["id2label"]["1"], "spam");
}

#[test]
fn open_inference_protocol() {
    let (server, _dir) = Server::with(&["bert"]);
    assert_eq!(server.get("/v2").json()["name"], "postsort");
    assert_eq!(server.get("/v2/health/live").status, 200);
    assert_eq!(server.get("/v2/health/ready").status, 200);
    let metadata = server.get("/v2/models/bert").json();
    let version = metadata["versions"][0].as_str().expect("a version").to_owned();
    assert_eq!(metadata["inputs"], json!([{"name": "text", "datatype": "BYTES", "shape": [-1]}]));
    assert_eq!(
        server.get(&format!("/v2/models/bert/versions/{version}/ready")).json()["ready"],
        true
    );
    assert_eq!(server.get("/v2/models/bert/versions/0/ready").status, 404);

    let tensor = |data: Value| json!({"name": "text", "shape": [data.as_array().map_or(0, Vec::len)], "datatype": "BYTES", "data": data});
    let call = json!({"id": "7", "inputs": [tensor(json!(["lunch?", "click here"]))]});
    let answer = server.post("/v2/models/bert/infer", &call).json();
    assert_eq!((&answer["id"], &answer["model_version"]), (&json!("7"), &json!(version)));
    let scores = &answer["outputs"][0];
    assert_eq!((&scores["name"], &scores["shape"]), (&json!("scores"), &json!([2, 3])));
    let labels = &answer["outputs"][1];
    assert_eq!((&labels["name"], &labels["shape"]), (&json!("label"), &json!([2])));
    let ours = server.classify(&json!({"inputs": ["lunch?", "click here"]})).json();
    for at in 0..2 {
        let best = &ours["results"][at]["labels"][0];
        assert_eq!(labels["data"][at], best["label"]);
        let row: Vec<f64> =
            (0..3).map(|l| scores["data"][at * 3 + l].as_f64().expect("a number")).collect();
        let max = row.iter().copied().fold(0.0, f64::max);
        assert!((max - best["score"].as_f64().expect("a number")).abs() < 1e-6);
    }
    let only = json!({"inputs": [tensor(json!(["a"]))], "outputs": [{"name": "label"}]});
    assert_eq!(
        server.post("/v2/models/bert/infer", &only).json()["outputs"].as_array().map(Vec::len),
        Some(1)
    );

    let wrong = [
        json!({"inputs": []}),
        json!({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}),
        json!({"inputs": [{"name": "text", "shape": [1], "datatype": "FP32", "data": ["a"]}]}),
        json!({"inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "data": ["a"]}]}),
        json!({"inputs": [{"name": "text", "shape": [u64::MAX, 2], "datatype": "BYTES", "data": ["a"]}]}),
        json!({"inputs": [tensor(json!(["a"]))], "outputs": [{"name": "x"}]}),
    ];
    for call in wrong {
        let answer = server.post("/v2/models/bert/infer", &call);
        assert_eq!(answer.status, 400, "{call}: {}", answer.text);
        assert!(answer.json()["error"].is_string(), "the protocol's own form: {}", answer.text);
    }
    let late = json!({"inputs": [tensor(json!(["not known yet"]))], "parameters": {"timeout": 0}});
    assert_eq!(server.post("/v2/models/bert/infer", &late).status, 504);

    let state = |server: &Server| {
        server.post("/v2/repository/index", &json!({})).json()[0]["state"].clone()
    };
    assert_eq!(state(&server), "READY");
    assert_eq!(server.post("/v2/repository/models/bert/unload", &json!({})).status, 200);
    assert_eq!(state(&server), "UNAVAILABLE");
    assert_eq!(server.post("/v2/repository/models/bert/load", &json!({})).status, 200);
    assert_eq!(state(&server), "READY");
    assert_eq!(server.get("/v2/models/bert/stats").json()["model_stats"][0]["loads"], 2);
}
