//! Models come and go under load, and nothing is lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postsort_models::{LoadOptions, ModelFolder};
use serde_json::json;

use crate::life::metric;
use crate::server::{Server, copy_as_another, fixture, models_dir, options, room_for_two};

#[test]
fn requests_that_wait_are_answered_while_their_model_is_unloaded() {
    let (server, _dir) = Server::with(&["bert"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (server, over) = (&server, &over);
                scope.spawn(move || {
                    for n in 0..50 {
                        let inputs = [format!("{client} {n}"), format!("{n} of {client}")];
                        let answer = server.classify(&json!({"inputs": inputs}));
                        assert_eq!(answer.status, 200, "{}", answer.text);
                    }
                    over.store(true, Ordering::Relaxed);
                })
            })
            .collect();
        while !over.load(Ordering::Relaxed) {
            assert_eq!(server.post("/v1/models/bert/unload", &json!({})).status, 200);
        }
        clients.into_iter().for_each(|client| client.join().expect("no failure"));
    });
    let shown = server.get("/v1/models/bert").json();
    assert!(shown["loads"].as_u64() > Some(1), "{shown}");
}

/// Twelve models in the room for two, asked for all at once: each waits for its turn.
#[test]
fn no_request_fails_for_want_of_room() {
    let dir = models_dir(&["bert", "distilbert", "electra"]);
    let budget = room_for_two(dir.path(), ["bert", "distilbert", "electra"]);
    let names: Vec<String> = (0..12).map(|n| format!("model-{n}")).collect();
    for (number, name) in names.iter().enumerate() {
        copy_as_another(&fixture("bert"), &dir.path().join(name), number as u8);
    }
    let mut settings = options(dir.path());
    settings.memory_bytes_max = Some(budget.to_string());
    let server = Server::start(settings);
    std::thread::scope(|scope| {
        for name in &names {
            let server = &server;
            scope.spawn(move || {
                for n in 0..5 {
                    let asked = json!({"model": name, "inputs": format!("{n} to {name}")});
                    let answer = server.classify(&asked);
                    assert_eq!(answer.status, 200, "{name}: {}", answer.text);
                }
            });
        }
        for _ in 0..20 {
            let used = server.get("/v1/models").json()["memory_used_bytes"].as_u64();
            assert!(used <= Some(budget), "{used:?} of {budget}");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let text = server.get("/metrics").text;
    let evicted: f64 = names
        .iter()
        .map(|name| {
            let labels = format!("{{model=\"{name}\",reason=\"budget\"}}");
            metric(&text, &format!("postsort_evictions_total{labels}"))
        })
        .sum();
    let list = server.get("/v1/models").json();
    assert!(evicted >= 9.0, "{evicted}: {list}");
}

#[test]
fn a_model_larger_than_the_budget_evicts_nothing() {
    let dir = models_dir(&["bert", "deberta-v2-conv"]);
    let estimate = |name: &str| {
        let folder = ModelFolder::open(&dir.path().join(name)).expect("opens");
        LoadOptions::default().resident_bytes_estimate(&folder)
    };
    let budget = estimate("deberta-v2-conv");
    assert!(budget < estimate("bert"), "the engine of the larger one wants room to work");
    let mut settings = options(dir.path());
    settings.memory_bytes_max = Some(budget.to_string());
    let server = Server::start(settings);
    let ask = |model: &str| server.classify(&json!({"model": model, "inputs": "a"}));
    assert_eq!(ask("deberta-v2-conv").status, 200);
    let answer = ask("bert");
    assert_eq!((answer.status, answer.code().as_str()), (507, "model_larger_than_budget"));
    assert_eq!(server.get("/v1/models/deberta-v2-conv").json()["state"], "ready");
}

/// Disks fail and people delete: the model that it hits fails, with its reason, and no other.
#[test]
fn a_folder_that_breaks_after_it_was_found_fails_alone() {
    let dir = models_dir(&["bert", "distilbert", "electra", "roberta-f16"]);
    let server = Server::start(options(dir.path()));
    let path = |file: &str| dir.path().join(file);
    let weights = std::fs::read(path("distilbert/model.safetensors")).expect("reads");
    std::fs::write(path("distilbert/model.safetensors"), &weights[..weights.len() / 2])
        .expect("writes");
    std::fs::remove_dir_all(path("electra")).expect("removes");
    // What cannot be read at all, as from a bad sector.
    std::fs::remove_file(path("roberta-f16/model.safetensors")).expect("removes");
    std::fs::create_dir(path("roberta-f16/model.safetensors")).expect("creates");
    for (model, reason) in
        [("distilbert", "truncated"), ("electra", "electra"), ("roberta-f16", "safetensors")]
    {
        let answer = server.classify(&json!({"model": model, "inputs": "a"}));
        assert_eq!((answer.status, answer.code().as_str()), (503, "model_load_failed"), "{model}");
        let found = answer.json()["error"]["details"]["reason"].to_string();
        assert!(found.contains(reason), "{model}: {found}");
        assert_eq!(server.classify(&json!({"model": "bert", "inputs": model})).status, 200);
    }
    assert_eq!(
        server.get("/v1/models").json()["memory_used_bytes"],
        server.get("/v1/models/bert").json()["resident_bytes"],
        "nothing is left of what failed"
    );
    std::fs::write(path("distilbert/model.safetensors"), &weights).expect("writes");
    assert_eq!(server.post("/v1/models/distilbert/unload", &json!({})).status, 200);
    let mended = server.classify(&json!({"model": "distilbert", "inputs": "a"}));
    assert_eq!(mended.status, 200, "unload forgets the failure: {}", mended.text);
}

/// Head and body in two packets, as many clients send them: the connection stays.
#[test]
fn a_body_that_says_nothing_does_not_cost_the_connection() {
    let (server, _dir) = Server::with(&["bert"]);
    let mut stream = TcpStream::connect(server.address()).expect("connects");
    stream.set_nodelay(true).expect("sets");
    for path in ["/v1/models/bert/load", "/v1/models/bert/pin", "/v2/repository/index"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sends");
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(b"{}").expect("sends");
        let (mut text, mut buffer) = (String::new(), [0; 8192]);
        while !text.ends_with('}') && !text.ends_with(']') {
            let read = stream.read(&mut buffer).expect("an answer");
            assert!(read > 0, "{path}: closed after {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
    }
}

#[test]
fn manifests_pin_and_idle_models_go() {
    let dir = models_dir(&["bert", "distilbert"]);
    std::fs::write(
        dir.path().join("bert/postsort.toml"),
        "pinned = true\nwarm_up = [\"Are we on for lunch?\", \"\"]\n",
    )
    .expect("writes");
    let mut settings = options(dir.path());
    settings.idle_unload_seconds = Some(1);
    let server = Server::start(settings);
    let state = |model: &str| server.get(&format!("/v1/models/{model}")).json();
    assert_eq!(
        (&state("bert")["state"], &state("bert")["pinned"]),
        (&json!("ready"), &json!(true))
    );
    assert_eq!(server.classify(&json!({"model": "distilbert", "inputs": "a"})).status, 200);
    assert_eq!(state("distilbert")["state"], "ready");
    for _ in 0..100 {
        if state("distilbert")["state"] == "unloaded" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(state("distilbert")["state"], "unloaded");
    assert_eq!(state("bert")["state"], "ready", "pinned");
    let text = server.get("/metrics").text;
    let evicted = "postsort_evictions_total{model=\"distilbert\",reason=\"idle\"}";
    assert_eq!(metric(&text, evicted), 1.0);
}
