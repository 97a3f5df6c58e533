use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::server::{Server, copy_folder, fixture, models_dir, options};

#[test]
fn every_mistake_has_its_error() {
    let (server, _dir) = Server::with(&["bert"]);
    let item = |input: serde_json::Value| json!({"inputs": [input]}).to_string();
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("not JSON", b"hello".to_vec(), 400, "malformed_request"),
        ("empty body", b"".to_vec(), 400, "malformed_request"),
        ("cut JSON", b"{\"inputs\": \"a".to_vec(), 400, "malformed_request"),
        ("not UTF-8", b"{\"inputs\": \"\xff\xfe\"}".to_vec(), 400, "malformed_request"),
        ("raw NUL in JSON", b"{\"inputs\": \"a\0b\"}".to_vec(), 400, "malformed_request"),
        ("lone surrogate", br#"{"inputs": "\ud800"}"#.to_vec(), 400, "malformed_request"),
        ("wrong type", b"{\"inputs\": 7}".to_vec(), 400, "malformed_request"),
        ("wrong type in list", b"{\"inputs\": [\"a\", null]}".to_vec(), 400, "malformed_request"),
        ("no inputs", b"{}".to_vec(), 400, "malformed_request"),
        ("empty list", b"{\"inputs\": []}".to_vec(), 400, "malformed_request"),
        (
            "unknown field",
            b"{\"inputs\": \"a\", \"modle\": \"x\"}".to_vec(),
            400,
            "malformed_request",
        ),
        (
            "unknown function",
            b"{\"inputs\": \"a\", \"function_to_apply\": \"max\"}".to_vec(),
            400,
            "malformed_request",
        ),
        (
            "negative top_k",
            b"{\"inputs\": \"a\", \"top_k\": -1}".to_vec(),
            400,
            "malformed_request",
        ),
        ("bad base64", item(json!({"raw": "%%%"})).into(), 400, "malformed_request"),
        (
            "raw and fields",
            item(json!({"raw": "YQ==", "body": "a"})).into(),
            400,
            "malformed_request",
        ),
        ("deep JSON", ("[".repeat(100_000)).into(), 400, "malformed_request"),
        ("empty text", item(json!("")).into(), 422, "unusable_input"),
        ("white space", item(json!(" \n\t\u{a0}")).into(), 422, "unusable_input"),
        ("NUL", item(json!("a\0b")).into(), 422, "unusable_input"),
        ("empty mail", item(json!({"subject": " "})).into(), 422, "unusable_input"),
        ("long text", item(json!("word ".repeat(300_000))).into(), 413, "too_large"),
        ("10 MB", item(json!("x".repeat(10_000_000))).into(), 413, "too_large"),
        (
            "100,000 items",
            json!({"inputs": vec!["a"; 100_000]}).to_string().into(),
            413,
            "too_large",
        ),
        (
            "unknown model",
            json!({"model": "nope", "inputs": "a"}).to_string().into(),
            404,
            "unknown_model",
        ),
        (
            "dots",
            json!({"model": "../bert", "inputs": "a"}).to_string().into(),
            404,
            "unknown_model",
        ),
        (
            "long name",
            json!({"model": "x".repeat(100_000), "inputs": "a"}).to_string().into(),
            404,
            "unknown_model",
        ),
    ];
    for (name, body, status, code) in cases {
        let answer = server.send("/v1/classify", "application/json", &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{name}: {}",
            answer.text
        );
        assert!(answer.text.len() < 2_000, "{name}: {}", answer.text);
        assert!(!answer.json()["error"]["message"].as_str().expect("a message").is_empty());
    }
    let answer = server.classify(&json!({"inputs": ["fine", "fine", ""]}));
    assert_eq!(answer.json()["error"]["details"]["index"], 2);
    let answer = server.send("/v1/classify", "text/html", b"<p>");
    assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"));
    let answer = server.get("/v1/classify");
    assert_eq!((answer.status, answer.code().as_str()), (404, "unknown_endpoint"));
    let answer = server.get("/v1/models/..%2f..%2fetc");
    assert_eq!((answer.status, answer.code().as_str()), (404, "unknown_model"));
    let answer = server.send("/v1/classify?model=bert", "message/rfc822", b" \r\n ");
    assert_eq!((answer.status, answer.code().as_str()), (422, "unusable_input"));
    assert_eq!(server.classify(&json!({"inputs": "still here"})).status, 200);
}

/// A connection closed under a client that still sends would take the answer with it.
#[test]
fn a_refusal_reaches_a_client_that_still_sends() {
    let (server, _dir) = Server::with(&["bert"]);
    let body = vec![b'x'; 20_000_000];
    for _ in 0..5 {
        for (path, media_type, status) in [
            ("/v1/classify", "application/json", 413),
            ("/v1/classify", "text/html", 415),
            ("/v1/nowhere", "application/json", 404),
            ("/predict", "application/json", 413),
        ] {
            let answer = server.send(path, media_type, &body);
            assert_eq!(answer.status, status, "{path} {media_type}: {}", answer.text);
        }
    }
}

/// A page anywhere could make a browser beside the server unload its models.
#[test]
fn another_sites_page_cannot_change_what_is_served() {
    let (server, _dir) = Server::with(&["bert"]);
    let post = |path: &str, site: &str| {
        let mut stream = TcpStream::connect(server.address()).expect("connects");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\
             sec-fetch-site: {site}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sends");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).expect("a status")
    };
    for path in ["load", "pin", "unpin", "reload", "unload", "promote", "rollback"] {
        let path = format!("/v1/models/bert/{path}");
        assert_eq!(post(&path, "cross-site"), 403, "{path}");
        assert_eq!(post(&path, "same-site"), 403, "{path}");
        assert_ne!(post(&path, "same-origin"), 403, "{path}");
    }
    assert_eq!(post("/v2/repository/models/bert/unload", "cross-site"), 403);
    assert_eq!(post("/v1/models", "cross-site"), 403);
}

#[test]
fn nul_in_a_mail_is_dropped_not_refused() {
    let (server, _dir) = Server::with(&["bert"]);
    let answer = server.send("/v1/classify?model=bert", "message/rfc822", b"Subject: a\n\nb\0c\n");
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let dir = models_dir(&["bert"]);
    let mut options = options(dir.path());
    options.body_timeout_ms = Some(100);
    let server = Server::start(options);
    let mut stream = TcpStream::connect(server.address()).expect("connects");
    stream
        .write_all(b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        .expect("sends");
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("body_timeout") {
        let read = stream.read(&mut buffer).expect("an answer");
        assert!(read > 0, "closed without an answer: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}

/// Each broken in its own way; none takes the server or the others down.
#[test]
fn broken_folders_fail_alone() {
    let dir = models_dir(&["bert"]);
    let broken = |name: &str, damage: &dyn Fn(&std::path::Path)| {
        let path = dir.path().join(name);
        copy_folder(&fixture("bert"), &path);
        damage(&path);
    };
    let edit = |path: &std::path::Path, from: &str, to: &str| {
        let config = std::fs::read_to_string(path.join("config.json")).expect("reads");
        assert!(config.contains(from), "{from} in {config}");
        std::fs::write(path.join("config.json"), config.replace(from, to)).expect("writes");
    };
    let truncate = |path: &std::path::Path, keep: f64| {
        let path = path.join("model.safetensors");
        let bytes = std::fs::read(&path).expect("reads");
        let keep = (bytes.len() as f64 * keep) as usize;
        std::fs::write(&path, &bytes[..keep]).expect("writes");
    };
    broken("no-tokenizer", &|path| {
        std::fs::remove_file(path.join("tokenizer.json")).expect("removes");
    });
    broken("no-weights", &|path| {
        std::fs::remove_file(path.join("model.safetensors")).expect("removes");
    });
    broken("pickle", &|path| {
        std::fs::rename(path.join("model.safetensors"), path.join("pytorch_model.bin"))
            .expect("renames");
    });
    broken("half-weights", &|path| truncate(path, 0.5));
    broken("no-header", &|path| truncate(path, 0.0));
    broken("garbage-weights", &|path| {
        std::fs::write(path.join("model.safetensors"), [0xff; 1000]).expect("writes");
    });
    broken("garbage-config", &|path| {
        std::fs::write(path.join("config.json"), "{").expect("writes");
    });
    broken("garbage-tokenizer", &|path| {
        std::fs::write(path.join("tokenizer.json"), "{\"model\": 1}").expect("writes");
    });
    broken("lying-layers", &|path| {
        edit(path, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
    });
    broken("lying-hidden", &|path| edit(path, "\"hidden_size\": 32", "\"hidden_size\": 64"));
    broken("lying-vocabulary", &|path| edit(path, "\"vocab_size\": ", "\"vocab_size\": 9"));
    broken("absurd-hidden", &|path| {
        edit(path, "\"hidden_size\": 32", "\"hidden_size\": 99999999999999");
    });
    broken("zero-heads", &|path| {
        edit(path, "\"num_attention_heads\": 4", "\"num_attention_heads\": 0");
    });
    broken("odd-heads", &|path| {
        edit(path, "\"num_attention_heads\": 4", "\"num_attention_heads\": 5");
    });
    broken("other-architecture", &|path| {
        edit(path, "\"model_type\": \"bert\"", "\"model_type\": \"gpt2\"");
    });
    broken("bad-manifest", &|path| {
        std::fs::write(path.join("postsort.toml"), "lnog = 1").expect("writes");
    });
    let server = Server::start(options(dir.path()));
    let reasons = [
        ("no-tokenizer", "tokenizer.json"),
        ("no-weights", "model.safetensors"),
        ("pickle", "pickle"),
        ("half-weights", "truncated"),
        ("no-header", "header"),
        ("garbage-weights", "header"),
        ("garbage-config", "config.json"),
        ("garbage-tokenizer", "tokenizer.json"),
        ("lying-layers", "encoder.layer.3"),
        ("lying-hidden", "shape"),
        ("lying-vocabulary", "shape"),
        ("absurd-hidden", "hidden_size"),
        ("zero-heads", "num_attention_heads"),
        ("odd-heads", "num_attention_heads"),
        ("other-architecture", "gpt2"),
        ("bad-manifest", "lnog"),
    ];
    for (name, reason) in reasons {
        let answer = server.classify(&json!({"model": name, "inputs": "a"}));
        assert_eq!((answer.status, answer.code().as_str()), (503, "model_load_failed"), "{name}");
        let found = answer.json()["error"]["details"]["reason"].to_string();
        assert!(found.contains(reason), "{name}: {found}");
        assert!(answer.headers.contains_key("retry-after"), "{name}");
        let shown = server.get(&format!("/v1/models/{name}")).json();
        assert_eq!(shown["state"], "failed", "{name}: {shown}");
        assert_eq!(server.classify(&json!({"model": "bert", "inputs": name})).status, 200);
    }
    assert_eq!(server.get("/health").json()["status"], "degraded");
    assert_eq!(server.get("/readyz").status, 200);
}
