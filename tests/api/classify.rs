use postsort_server::config::Options;
use serde_json::{Value, json};

use crate::server::{Server, fixture, models_dir, options};

#[test]
fn answers_equal_transformers() {
    let dir = models_dir(&["bert"]);
    let precision = Some("f32".to_owned());
    let server = Server::start(Options { precision, ..options(dir.path()) });
    let expected = std::fs::read(fixture("bert").join("expected.json")).expect("reads");
    let expected: Vec<Value> = serde_json::from_slice(&expected).expect("parses");
    let singles: Vec<&Value> = expected.iter().filter(|case| case["pair"].is_null()).collect();
    let texts: Vec<&Value> = singles.iter().map(|case| &case["text"]).collect();
    let answer = server.classify(&json!({"inputs": texts, "function_to_apply": "none"})).json();
    assert_eq!(answer["model"], "bert");
    assert_eq!(answer["revision"].as_str().map(str::len), Some(16));
    let names = ["ham", "spam", "list"];
    for (case, result) in singles.iter().zip(answer["results"].as_array().expect("a list")) {
        assert_eq!(result["tokens"].as_u64(), case["ids"].as_array().map(|ids| ids.len() as u64));
        assert_eq!(result["windows"], 1);
        for label in result["labels"].as_array().expect("a list") {
            let at = names.iter().position(|name| label["label"] == *name).expect("a known label");
            let (found, wanted) = (label["score"].as_f64(), case["logits"][at].as_f64());
            let difference = found.expect("a number") - wanted.expect("a number");
            assert!(difference.abs() <= 1e-3, "{label} against {case}");
        }
    }
}

#[test]
fn scores_labels_and_top_k() {
    let (server, _dir) = Server::with(&["bert", "roberta-multi-label"]);
    let labels = |body: Value| -> Vec<f64> {
        let answer = server.classify(&body).json();
        let labels = answer["results"][0]["labels"].as_array().expect("a list").clone();
        labels.iter().map(|label| label["score"].as_f64().expect("a number")).collect()
    };
    let softmax = labels(json!({"model": "bert", "inputs": "lunch?"}));
    assert_eq!(softmax.len(), 3);
    assert!((softmax.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(softmax.is_sorted_by(|a, b| a >= b));
    let sigmoid = labels(json!({"model": "roberta-multi-label", "inputs": "lunch?"}));
    assert_eq!(sigmoid.len(), 5);
    assert!((sigmoid.iter().sum::<f64>() - 1.0).abs() > 1e-3, "each label on its own");
    assert_eq!(labels(json!({"model": "bert", "inputs": "lunch?", "top_k": 1})), softmax[..1]);
    assert!(labels(json!({"model": "bert", "inputs": "lunch?", "top_k": 0})).is_empty());
}

#[test]
fn mail_in_every_form_reads_the_same() {
    let (server, _dir) = Server::with(&["bert"]);
    let raw = "From: a@x.example\r\nSubject: Lunch\r\n\r\nThursday at one?\r\n";
    // "…" in base64, wrapped as mail tools do.
    let base64 = "RnJvbTogYUB4LmV4YW1wbGUNClN1YmplY3Q6IEx1bmNoDQoNClRodXJz\nZGF5IGF0IG9uZT8NCg==";
    let forms = json!([
        "Lunch\nThursday at one?",
        {"subject": "Lunch", "body": "Thursday at one?"},
        {"subject": "Lunch", "html": "<p>Thursday at <b>one</b>?</p>", "from": "a@x.example", "to": "b@y.example"},
        {"raw": base64},
    ]);
    let answer = server.classify(&json!({"inputs": forms, "cache": false})).json();
    let results = answer["results"].as_array().expect("a list");
    assert_eq!(results.len(), 4);
    let whole = server.send("/v1/classify?model=bert", "message/rfc822", raw.as_bytes()).json();
    for result in results.iter().chain([&whole["results"][0]]) {
        assert_eq!(result["labels"], results[0]["labels"]);
    }
}

#[test]
fn known_mail_is_answered_from_memory() {
    let (server, _dir) = Server::with(&["bert"]);
    let call = |body: Value| server.classify(&body).json()["results"].clone();
    let first = call(json!({"inputs": ["one", "two", "one"]}));
    let cached = |results: &Value| -> Vec<bool> {
        results.as_array().expect("a list").iter().map(|result| result["cached"] == true).collect()
    };
    assert_eq!(cached(&first), [false, false, true], "equal mails of a batch are computed once");
    let second = call(json!({"inputs": ["two", "one"], "function_to_apply": "none"}));
    assert_eq!(cached(&second), [true, true], "scores are made from kept logits");
    assert_eq!(cached(&call(json!({"inputs": ["one"], "cache": false}))), [false]);
    assert_eq!(cached(&call(json!({"inputs": ["one"], "long": "window"}))), [false]);
    let again = call(json!({"inputs": ["one"]}));
    assert_eq!(again[0]["labels"], first[0]["labels"]);
}

#[test]
fn long_mail_is_cut_or_read_in_windows() {
    let (server, _dir) = Server::with(&["bert"]);
    let long = "Please send the figures of the third quarter by Thursday. ".repeat(60);
    let call = |mode: &str| {
        let mail = json!({"subject": "Figures", "body": long});
        server.classify(&json!({"inputs": [mail], "long": mode})).json()["results"][0].clone()
    };
    let cut = call("truncate");
    assert_eq!(
        (&cut["tokens"], &cut["windows"], &cut["truncated"]),
        (&json!(64), &json!(1), &json!(true))
    );
    let both = call("head_tail");
    assert_eq!((&both["tokens"], &both["truncated"]), (&json!(64), &json!(true)));
    assert_ne!(both["labels"], cut["labels"]);
    let windows = call("window");
    assert_eq!(windows["windows"], 8);
    assert!(windows["tokens"].as_u64().expect("a number") > 400, "{windows}");
    let short = server.classify(&json!({"inputs": "short", "long": "window"})).json();
    assert_eq!(short["results"][0]["windows"], 1);
    assert_eq!(short["results"][0]["truncated"], false);
}

#[test]
fn many_at_once_all_get_their_own_answer() {
    let (server, _dir) = Server::with(&["bert", "distilbert"]);
    let ask = |model: &str, text: &str| {
        let answer = server.classify(&json!({"model": model, "inputs": text, "cache": false}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["results"][0]["labels"].clone()
    };
    let texts: Vec<String> =
        (0..200).map(|n| format!("mail number {n} about {}", n * 37 % 100)).collect();
    let alone: Vec<Value> = texts[..10].iter().map(|text| ask("bert", text)).collect();
    std::thread::scope(|scope| {
        let calls: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(n, text)| {
                let model = if n % 3 == 2 { "distilbert" } else { "bert" };
                scope.spawn(move || ask(model, text))
            })
            .collect();
        for (n, call) in calls.into_iter().enumerate() {
            let answer = call.join().expect("answered");
            if n < 10 && n % 3 != 2 {
                assert_eq!(answer, alone[n], "bit-equal, whatever else was in the batch");
            }
        }
    });
}
