//! Several models, one mail: what they share is done once, and changes no answer.

use std::path::Path;

use postsort_server::config::Options;
use serde_json::{Value, json};

use crate::life::metric;
use crate::server::{
    Server, copy_as_another, copy_folder, copy_with_another_head, fixture, models_dir, options,
};

const MAIL: &str = "Re: invoice 4711\nPlease pay by Friday. The parcel left on Monday! Regards, Jo";

/// `bert`, and `other` with the same encoder and another head.
fn two_heads() -> tempfile::TempDir {
    let dir = models_dir(&["bert"]);
    copy_with_another_head(&fixture("bert"), &dir.path().join("other"));
    dir
}

fn manifest(dir: &Path, model: &str, text: &str) {
    std::fs::write(dir.join(model).join("postsort.toml"), text).expect("writes");
}

fn read(server: &Server, series: &str) -> f64 {
    metric(&server.get("/metrics").text, series)
}

#[test]
fn heads_of_one_encoder_cost_one_pass() {
    let dir = two_heads();
    let server = Server::start(options(dir.path()));
    for model in ["bert", "other"] {
        assert_eq!(server.post(&format!("/v1/models/{model}/load"), &json!({})).status, 200);
    }
    let shown = |model: &str| server.get(&format!("/v1/models/{model}")).json();
    let (first, second) = (shown("bert"), shown("other"));
    assert_eq!(first["encoder"], second["encoder"]);
    assert!(first["encoder"].is_string() && first["revision"] != second["revision"]);
    // In memory once: all models' parts add up to what is used.
    let bytes = |model: &Value, key: &str| model[key].as_u64().expect("a number");
    let used = server.get("/v1/models").json()["memory_used_bytes"].as_u64().expect("a number");
    assert!(bytes(&first, "shared_bytes") > bytes(&first, "resident_bytes") / 2);
    let sum = bytes(&first, "resident_bytes") + bytes(&second, "resident_bytes");
    assert!(used.abs_diff(sum) <= 1, "{used} of {sum}");

    let answer = server.post("/v1/analyze", &json!({"input": MAIL})).json();
    assert_eq!(read(&server, "postsort_state_cache_misses_total{model=\"bert\"}"), 1.0);
    assert_eq!(read(&server, "postsort_state_cache_hits_total{model=\"other\"}"), 1.0);
    // Within one request also if it passes the caches by.
    let mut uncached = json!({"input": MAIL, "cache": false});
    let fresh = server.post("/v1/analyze", &uncached).json();
    assert_eq!(fresh["results"]["other"]["labels"], answer["results"]["other"]["labels"]);
    assert_eq!(read(&server, "postsort_state_cache_misses_total{model=\"bert\"}"), 2.0);
    assert_eq!(read(&server, "postsort_state_cache_hits_total{model=\"other\"}"), 2.0);
    uncached["models"] = json!(["other"]);
    assert_eq!(server.post("/v1/analyze", &uncached).status, 200);
    assert_eq!(read(&server, "postsort_state_cache_misses_total{model=\"other\"}"), 1.0);
    // Minutes later, and by itself, the same.
    let later = json!({"model": "bert", "inputs": "A later mail"});
    assert_eq!(server.classify(&later).json()["results"][0]["cached"], false);
    let answered = server.classify(&json!({"model": "other", "inputs": "A later mail"})).json();
    assert_eq!(answered["results"][0]["cached"], false, "another model's answer is not its own");
    assert_eq!(answered["timings_ms"]["infer"], 0.0, "{answered}");
    assert_eq!(read(&server, "postsort_state_cache_hits_total{model=\"other\"}"), 3.0);

    // The answers are those that each gives alone.
    for model in ["bert", "other"] {
        let (alone, _dir) = alone(dir.path(), model);
        let own = alone.classify(&json!({"model": model, "inputs": MAIL})).json();
        assert_eq!(answer["results"][model]["labels"], own["results"][0]["labels"], "{model}");
        assert_eq!(answer["results"][model]["revision"], own["revision"]);
        let later = alone.classify(&json!({"model": model, "inputs": "A later mail"})).json();
        if model == "other" {
            assert_eq!(answered["results"][0]["labels"], later["results"][0]["labels"]);
        }
        assert_eq!(
            read(&alone, &format!("postsort_state_cache_misses_total{{model=\"{model}\"}}")),
            0.0
        );
    }

    // What they share stays as long as one of them does.
    assert_eq!(server.post("/v1/models/bert/unload", &json!({})).status, 200);
    let other = shown("other");
    assert_eq!(bytes(&other, "resident_bytes"), {
        server.get("/v1/models").json()["memory_used_bytes"].as_u64().expect("a number")
    });
    let fresh = server.classify(&json!({"model": "other", "inputs": MAIL, "cache": false})).json();
    assert_eq!(fresh["results"][0]["labels"], answer["results"]["other"]["labels"]);
    assert_eq!(server.post("/v1/models/other/unload", &json!({})).status, 200);
    assert_eq!(server.get("/v1/models").json()["memory_used_bytes"], 0);
}

/// The same model in a server of its own.
fn alone(dir: &Path, model: &str) -> (Server, tempfile::TempDir) {
    let own = tempfile::tempdir().expect("temporary folder");
    copy_folder(&dir.join(model), &own.path().join(model));
    (Server::start(options(own.path())), own)
}

#[test]
fn many_requests_for_both_heads_at_once() {
    let dir = two_heads();
    let server = Server::start(options(dir.path()));
    let expected: Vec<Value> = ["bert", "other"]
        .iter()
        .map(|model| {
            server.classify(&json!({"model": model, "inputs": MAIL, "cache": false})).json()
        })
        .map(|answer| answer["results"][0]["labels"].clone())
        .collect();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, expected) = (&server, &expected);
            scope.spawn(move || {
                for n in 0..20 {
                    let input =
                        if n % 2 == 0 { MAIL.to_owned() } else { format!("{n} of {client}") };
                    let answer = server.post("/v1/analyze", &json!({"input": input}));
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    let results = &answer.json()["results"];
                    if n % 2 == 0 {
                        assert_eq!(results["bert"]["labels"], expected[0]);
                        assert_eq!(results["other"]["labels"], expected[1]);
                    }
                    assert_ne!(results["bert"]["labels"], results["other"]["labels"]);
                }
            });
        }
    });
}

#[test]
fn equal_tokenizers_are_asked_once_and_encoders_by_themselves() {
    let dir = models_dir(&["bert", "roberta-multi-label"]);
    copy_as_another(&fixture("bert"), &dir.path().join("near"), 3);
    let server = Server::start(options(dir.path()));
    let answer = server.post("/v1/analyze", &json!({"input": MAIL, "top_k": 1})).json();
    let shown = |model: &str| server.get(&format!("/v1/models/{model}")).json()["encoder"].clone();
    assert_ne!(shown("bert"), shown("near"), "a byte is another");
    for model in ["bert", "near", "roberta-multi-label"] {
        let own =
            server.classify(&json!({"model": model, "inputs": MAIL, "cache": false, "top_k": 1}));
        assert_eq!(answer["results"][model]["labels"], own.json()["results"][0]["labels"]);
        assert_eq!(answer["results"][model]["labels"].as_array().map(Vec::len), Some(1));
    }
    assert!(answer["timings_ms"]["total"].as_f64() > Some(0.0));
}

#[test]
fn one_model_that_fails_spoils_no_other() {
    let dir = models_dir(&["bert"]);
    copy_folder(&fixture("bert"), &dir.path().join("broken"));
    std::fs::write(dir.path().join("broken/config.json"), "{}").expect("writes");
    let server = Server::start(options(dir.path()));
    let answer = server.post("/v1/analyze", &json!({"input": MAIL}));
    assert_eq!(answer.status, 200);
    let results = &answer.json()["results"];
    assert_eq!(results["broken"]["error"]["code"], "model_load_failed");
    assert!(results["bert"]["labels"].is_array());

    let mistake = |body: Value| {
        let answer = server.post("/v1/analyze", &body);
        (answer.status, answer.code())
    };
    assert_eq!(mistake(json!({"input": MAIL, "models": ["no"]})), (404, "unknown_model".into()));
    assert_eq!(mistake(json!({"input": MAIL, "models": []})), (400, "malformed_request".into()));
    assert_eq!(mistake(json!({"models": ["bert"]})), (400, "malformed_request".into()));
    assert_eq!(mistake(json!({"input": [MAIL]})), (400, "malformed_request".into()));
    assert_eq!(mistake(json!({"input": " "})), (422, "unusable_input".into()));
    assert_eq!(
        mistake(json!({"input": MAIL, "abstain_below": 2})),
        (400, "malformed_request".into())
    );
    assert_eq!(server.send("/v1/analyze", "text/html", b"x").status, 415);
    let raw = b"Subject: Lunch\r\n\r\nAt one?\r\n";
    let answer = server.send("/v1/analyze?models=bert", "message/rfc822", raw);
    assert_eq!(answer.json()["results"].as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(server.send("/v1/analyze?model=bert", "message/rfc822", raw).status, 400);
}

#[test]
fn a_long_text_is_read_whole_only_in_doubt() {
    let dir = two_heads();
    // Scores lie above 0, and at least one is below 1: the one has no doubt of anything, the other of all.
    for (model, confidence_min) in [("bert", "0.0"), ("other", "1.0")] {
        let skim = format!("[skim]\nwindows = 3\nconfidence_min = {confidence_min}\n");
        manifest(dir.path(), model, &format!("long = \"skim\"\naggregation = \"mean\"\n{skim}"));
    }
    let server = Server::start(options(dir.path()));
    for model in ["bert", "other"] {
        assert_eq!(server.post(&format!("/v1/models/{model}/load"), &json!({})).status, 200);
    }
    let words: Vec<String> = (0..230).map(|at| format!("w{at}")).collect();
    let mail = json!({"subject": "Figures", "body": words.join(" ")});
    let answer = server.post("/v1/analyze", &json!({"input": mail})).json();
    let (sure, unsure) = (&answer["results"]["bert"], &answer["results"]["other"]);
    assert_eq!((&sure["windows"], &sure["truncated"]), (&json!(3), &json!(true)), "{answer}");
    // What is read first is read once for both, and the rest only for the one in doubt.
    let count =
        |name: &str, label: &str| read(&server, &format!("postsort_{name}_total{{{label}}}"));
    let both =
        |name: &str| ["bert", "other"].map(|model| count(name, &format!("model=\"{model}\"")));
    assert_eq!(both("state_cache_misses").iter().sum::<f64>(), 2.0);
    assert_eq!(both("state_cache_hits").iter().sum::<f64>(), 1.0);
    assert_eq!(count("skimmed_mails", "model=\"bert\",escalated=\"false\""), 1.0);
    assert_eq!(count("skimmed_mails", "model=\"other\",escalated=\"true\""), 1.0);

    // In doubt the answer is that of all windows.
    let ask = |model: &str, input: &Value, long: &str| {
        let asked = json!({"model": model, "inputs": [input], "long": long});
        server.classify(&asked).json()["results"][0].clone()
    };
    let whole = ask("other", &mail, "window");
    for key in ["windows", "tokens", "truncated"] {
        assert_eq!(unsure[key], whole[key], "{key}");
    }
    assert!(whole["windows"].as_u64() > Some(3), "{whole}");
    for (own, other) in unsure["labels"]
        .as_array()
        .expect("a list")
        .iter()
        .zip(whole["labels"].as_array().expect("a list"))
    {
        assert_eq!(own["label"], other["label"]);
        let score = |label: &Value| label["score"].as_f64().expect("a number");
        assert!((score(own) - score(other)).abs() < 1e-5, "{unsure} {whole}");
    }
    // What fits is read as ever, and nothing of it is counted.
    let short = json!("Lunch at one?");
    for model in ["bert", "other"] {
        assert_eq!(ask(model, &short, "skim")["labels"], ask(model, &short, "window")["labels"]);
    }
    assert_eq!(count("skimmed_mails", "model=\"other\",escalated=\"true\""), 1.0);
}

#[test]
fn a_cheaper_model_answers_where_it_is_sure() {
    let dir = two_heads();
    let inputs = [MAIL, "Lunch at one?", "WIN A PRIZE", "会议", "x"];
    let path = dir.path();
    let labels = |server: &Server, model: &str| {
        let answer = server.classify(&json!({"model": model, "inputs": inputs, "cache": false}));
        answer.json()["results"].as_array().expect("a list").clone()
    };
    let (cheap, own, limit) = {
        let server = Server::start(options(path));
        let (cheap, own) = (labels(&server, "other"), labels(&server, "bert"));
        let mut scores: Vec<f64> =
            cheap.iter().filter_map(|result| result["labels"][0]["score"].as_f64()).collect();
        scores.sort_by(f64::total_cmp);
        (cheap, own, f64::midpoint(scores[1], scores[2]))
    };
    let cascade = |limit: f64| format!("[cascade]\nfirst = \"other\"\nconfidence_min = {limit}\n");
    manifest(path, "bert", &cascade(limit));
    let server = Server::start(options(path));
    let found = labels(&server, "bert");
    let mut spared = 0;
    for ((found, cheap), own) in found.iter().zip(&cheap).zip(&own) {
        let sure = cheap["labels"][0]["score"].as_f64() >= Some(limit);
        spared += usize::from(sure);
        assert_eq!(found["labels"], if sure { cheap } else { own }["labels"]);
        assert_eq!(found["model"], if sure { json!("other") } else { Value::Null });
    }
    assert_eq!(spared, 3);
    let mails = |escalated: bool| {
        read(
            &server,
            &format!("postsort_cascade_mails_total{{model=\"bert\",escalated=\"{escalated}\"}}"),
        )
    };
    assert_eq!((mails(false), mails(true)), (3.0, 2.0));
    assert_eq!(server.get("/v1/models/bert").json()["cascade"]["first"], "other");
    // Asked by analyze it is the same; alone the cheap one answers for itself.
    let analyzed = server.post("/v1/analyze", &json!({"input": inputs[0]})).json();
    assert_eq!(analyzed["results"]["bert"]["labels"], found[0]["labels"]);

    // One that fails, that is not there or that has other labels is not asked.
    std::fs::write(path.join("other/tokenizer.json"), "{}").expect("writes");
    let server = Server::start(options(path));
    assert_eq!(labels(&server, "bert"), own);
    drop(server);
    manifest(path, "bert", &cascade(0.0).replace("other", "nobody"));
    let server = Server::start(options(path));
    assert_eq!(labels(&server, "bert")[0]["labels"], own[0]["labels"]);
}

#[test]
fn an_explanation_is_what_the_score_loses() {
    let (server, _dir) = Server::with(&["bert", "roberta-multi-label"]);
    for model in ["bert", "roberta-multi-label"] {
        let ask = |text: &str, explain: bool| {
            let asked = json!({"model": model, "inputs": {"body": text, "subject": "Hi"}, "explain": explain});
            server.classify(&asked).json()["results"][0].clone()
        };
        let body = "Please pay by Friday. The parcel left on Monday! Regards, Jo";
        let answer = ask(body, true);
        let explanation = &answer["explanation"];
        assert_eq!(explanation["label"], answer["labels"][0]["label"]);
        assert_eq!(explanation["score"], answer["labels"][0]["score"]);
        assert_eq!(explanation["complete"], true);
        let mut parts = explanation["parts"].as_array().expect("a list").clone();
        let weight = |part: &Value| part["weight"].as_f64().expect("a number");
        assert!(parts.is_sorted_by(|a, b| weight(a).abs() >= weight(b).abs()));
        parts.sort_by_key(|part| part["start"].as_u64());
        let text: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        assert_eq!(text, format!("Hi\n{body}"), "nothing is left out");
        // Each weight is what a client would find by leaving the part out.
        let part = &parts[1];
        let without = body.replace(part["text"].as_str().expect("a text"), "");
        let left = ask(&without, false);
        let same = |label: &&Value| label["label"] == explanation["label"];
        let left = left["labels"].as_array().expect("a list").iter().find(same).cloned();
        let left = left.expect("the label")["score"].as_f64().expect("a number");
        let found = answer["labels"][0]["score"].as_f64().expect("a number") - left;
        assert!((found - weight(part)).abs() < 1e-6, "{found} {part}");
        assert!(!explanation["words"].as_array().expect("a list").is_empty());
    }
    assert!(server.classify(&json!({"model": "bert", "inputs": MAIL})).json()["results"][0]["explanation"].is_null());
    let many = vec![MAIL; 17];
    let refused = server.classify(&json!({"model": "bert", "inputs": many, "explain": true}));
    assert_eq!((refused.status, refused.code()), (413, "too_large".to_owned()));
}

#[test]
fn verdicts_follow_thresholds_and_doubts() {
    let dir = models_dir(&["bert", "roberta-multi-label"]);
    let settings = || Options { precision: Some("f32".to_owned()), ..options(dir.path()) };
    let ask = |server: &Server, more: Value| {
        let mut body = json!({"model": "bert", "inputs": MAIL});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        server.classify(&body).json()["results"][0].clone()
    };
    let server = Server::start(settings());
    let plain = ask(&server, json!({}));
    let (first, last) = (&plain["labels"][0], &plain["labels"][2]);
    assert_eq!(plain["verdict"], json!([first["label"]]));
    assert!(plain["abstained"].is_null(), "nobody set a limit");
    let doubtful = ask(&server, json!({"abstain_below": 0.999}));
    assert_eq!((&doubtful["verdict"], &doubtful["abstained"]), (&json!([]), &json!(true)));
    assert_eq!(doubtful["labels"], plain["labels"], "what it thought is told all the same");
    assert_eq!(ask(&server, json!({"abstain_below": 0.01}))["abstained"], false);
    let wrong = server.classify(&json!({"model": "bert", "inputs": MAIL, "abstain_below": -1}));
    assert_eq!((wrong.status, wrong.code()), (400, "malformed_request".to_owned()));
    let many = server.classify(&json!({"model": "roberta-multi-label", "inputs": MAIL})).json();
    let many = &many["results"][0];
    let above = |label: &&Value| label["score"].as_f64() >= Some(0.5);
    let above = many["labels"].as_array().expect("a list").iter().filter(above).count();
    assert_eq!(many["verdict"].as_array().map(Vec::len), Some(above));
    drop(server);

    let low = last["score"].as_f64().expect("a number") * 0.9;
    let name = last["label"].as_str().expect("a text");
    manifest(dir.path(), "bert", &format!("abstain_below = 0.999\n[thresholds]\n{name} = {low}\n"));
    let server = Server::start(settings());
    assert_eq!(ask(&server, json!({}))["abstained"], true);
    assert_eq!(ask(&server, json!({"abstain_below": 0.0}))["verdict"], json!([name]));
    assert_eq!(server.get("/v1/models/bert").json()["abstain_below"], 0.999);
}

#[test]
fn drift_is_told_from_the_reference() {
    let dir = models_dir(&["bert"]);
    let reference = "[reference]\nconfidence = 1.0\nunknown_tokens = 0.0\ntokens = 10.0\n\
                     [reference.labels]\nham = 1.0\n";
    manifest(dir.path(), "bert", reference);
    let server = Server::start(options(dir.path()));
    assert!(
        !server.get("/metrics").text.contains("postsort_answer_confidence_mean{"),
        "no mail yet"
    );
    let inputs = ["Lunch at one?", "Lunch at one?", MAIL, "☃ ☃ ☃"];
    let answer = server.classify(&json!({"inputs": inputs})).json();
    let results = answer["results"].as_array().expect("a list");
    let ham = results.iter().filter(|result| result["labels"][0]["label"] == "ham").count() as f64;
    let tokens: u64 = results.iter().filter_map(|result| result["tokens"].as_u64()).sum();
    let series = |name: &str| read(&server, &format!("postsort_{name}"));
    assert_eq!(series("answer_mails{model=\"bert\"}"), 4.0, "known mails count, too");
    assert_eq!(series("answer_label_share{model=\"bert\",label=\"ham\"}"), ham / 4.0);
    assert_eq!(series("answer_tokens_mean{model=\"bert\"}"), tokens as f64 / 4.0);
    assert!(series("answer_unknown_token_share{model=\"bert\"}") > 0.0, "a snowman");
    assert!((series("drift{model=\"bert\",of=\"labels\"}") - (1.0 - ham / 4.0)).abs() < 1e-9);
    let confidence = series("answer_confidence_mean{model=\"bert\"}");
    assert!((series("drift{model=\"bert\",of=\"confidence\"}") - (1.0 - confidence)).abs() < 1e-6);
    let summary = server.get("/api/metrics").json();
    assert_eq!(summary["models"][0]["answers"]["mails"], 4);
    assert!(summary["models"][0]["answers"]["drift"]["tokens"].is_number());
}
