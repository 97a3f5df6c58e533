//! Fetching from a hub: a server here that behaves like one.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::server::{Server, fixture, options};

/// One repository, `team/mail`, at one commit.
#[derive(Default)]
struct Hub {
    files: HashMap<String, Vec<u8>>,
    /// Answers to a file break off after so many bytes, so many times.
    breaks: Mutex<(usize, usize)>,
    /// Sent in place of the weights.
    instead: Option<Vec<u8>>,
    token: Option<String>,
    /// File and first byte of each request.
    asked: Mutex<Vec<(String, usize)>>,
}

impl Hub {
    fn of(fixture_name: &str) -> Self {
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(fixture(fixture_name)).expect("lists") {
            let path = entry.expect("lists").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            files.insert(name, std::fs::read(&path).expect("reads"));
        }
        Self { files, ..Self::default() }
    }

    /// Serves until the process ends; its address.
    fn serve(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let hub = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = Arc::clone(&hub);
                std::thread::spawn(move || hub.answer(stream));
            }
        });
        format!("http://{address}")
    }

    fn siblings(&self) -> Value {
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            // As the hub does it: weights as large files, the rest in git.
            if name.ends_with(".safetensors") {
                let sha256 = hex(&Sha256::digest(bytes));
                json!({"rfilename": name, "size": bytes.len(), "blobId": "0".repeat(40),
                       "lfs": {"sha256": sha256, "size": bytes.len(), "pointerSize": 134}})
            } else {
                let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
                blob.extend(bytes);
                let blob = hex(&sha1::Sha1::digest(&blob));
                json!({"rfilename": name, "size": bytes.len(), "blobId": blob})
            }
        };
        self.files.iter().map(sibling).collect()
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut send = |status: &str, extra: &str, length: usize, body: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{extra}connection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        };
        let token = self.token.as_ref().map(|token| format!("authorization: bearer {token}\r\n"));
        if token.is_some_and(|token| !head.contains(&token)) {
            return send("401 Unauthorized", "", 0, b"");
        }
        if path == "/api/models/team/mail/revision/main?blobs=true" {
            let body = json!({"sha": "c0ffee", "siblings": self.siblings()}).to_string();
            return send("200 OK", "", body.len(), body.as_bytes());
        }
        let name = path.strip_prefix("/team/mail/resolve/c0ffee/").unwrap_or_default();
        let Some(bytes) = self.files.get(name) else { return send("404 Not Found", "", 0, b"") };
        let bytes = self.instead.as_ref().filter(|_| name == "model.safetensors").unwrap_or(bytes);
        let range = head.split("range: bytes=").nth(1).and_then(|range| range.split('-').next());
        let from: usize = range.and_then(|from| from.parse().ok()).unwrap_or(0);
        self.asked.lock().expect("a list").push((name.to_owned(), from));
        let rest = &bytes[from.min(bytes.len())..];
        let mut breaks = self.breaks.lock().expect("numbers");
        let sent = if name.ends_with(".safetensors") && breaks.1 > 0 {
            breaks.1 -= 1;
            &rest[..breaks.0.min(rest.len())]
        } else {
            rest
        };
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let extra = format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        send(status, if from > 0 { &extra } else { "" }, rest.len(), sent);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A models folder with nothing but a manifest that names the hub's repository.
fn wanting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::create_dir(dir.path().join("mail")).expect("creates");
    let manifest = "pinned = true\n[hub]\nid = \"team/mail\"\n";
    std::fs::write(dir.path().join("mail/postsort.toml"), manifest).expect("writes");
    dir
}

fn preload(endpoint: &str, token: &str, dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postsort"))
        .args(["preload", "mail", "--fetch-into", dir.to_str().expect("text")])
        .args(more)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_TOKEN", token)
        .output()
        .expect("runs")
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_model_is_fetched_loaded_and_pinned_on_a_running_server() {
    let hub = Hub { token: Some("secret".to_owned()), ..Hub::of("bert") };
    *hub.breaks.lock().expect("numbers") = (50_000, 3);
    let (hub, dir) = (Arc::new(hub), wanting());
    let endpoint = hub.serve();
    let server = Server::start(options(dir.path()));
    let shown = server.get("/v1/models/mail").json();
    assert_eq!(shown["state"], "failed");
    assert!(shown["last_error"].as_str().is_some_and(|e| e.contains("team/mail")), "{shown}");

    let refused = error(&preload(&endpoint, "wrong", dir.path(), &["--server", &server.url]));
    assert!(refused.contains("HF_TOKEN"), "{refused}");
    let done = preload(&endpoint, "secret", dir.path(), &["--pin", "--server", &server.url]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(told.contains("c0ffee") && told.contains("ready"), "{told}");
    // Taken up where it broke off, three times.
    let asked = hub.asked.lock().expect("a list");
    let from = |(name, from): &(String, usize)| (name == "model.safetensors").then_some(*from);
    let froms: Vec<usize> = asked.iter().filter_map(from).collect();
    assert_eq!(froms, [0, 50_000, 100_000, 150_000]);
    assert_eq!(asked.last().map(|(name, _)| name.as_str()), Some("config.json"), "complete or not");
    let shown = server.get("/v1/models/mail").json();
    assert_eq!((&shown["state"], &shown["pinned"]), (&json!("ready"), &json!(true)));
    let fetched = std::fs::read(dir.path().join("mail/model.safetensors")).expect("reads");
    assert!(fetched == std::fs::read(fixture("bert").join("model.safetensors")).expect("reads"));
    assert!(!dir.path().join("mail/model.safetensors.part").exists());
}

#[test]
fn shards_are_fetched_too() {
    let (hub, dir) = (Arc::new(Hub::of("distilbert-shards")), wanting());
    let done = preload(&hub.serve(), "", dir.path(), &["--fetch-only"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let server = Server::start(options(dir.path()));
    assert_eq!(server.classify(&json!({"model": "mail", "inputs": "hello"})).status, 200);
}

#[test]
fn what_is_not_what_the_hub_says_is_not_taken() {
    let good = Hub::of("bert");
    let mut wrong = good.files["model.safetensors"].clone();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    let (hub, dir) = (Arc::new(Hub { instead: Some(wrong), ..good }), wanting());
    let told = error(&preload(&hub.serve(), "", dir.path(), &["--fetch-only"]));
    assert!(told.contains("checksum"), "{told}");
    let left: Vec<_> = std::fs::read_dir(dir.path().join("mail")).expect("lists").collect();
    assert_eq!(left.len(), 1, "only the manifest: {left:?}");
}

#[test]
fn what_cannot_be_served_is_not_fetched() {
    let without = |name: &str, more: Option<&str>| {
        let mut hub = Hub::of("bert");
        hub.files.remove(name);
        hub.files.extend(more.map(|name| (name.to_owned(), b"\x80\x02}q\0.".to_vec())));
        let (hub, dir) = (Arc::new(hub), wanting());
        let told = error(&preload(&hub.serve(), "", dir.path(), &["--fetch-only"]));
        assert!(hub.asked.lock().expect("a list").is_empty(), "nothing was fetched in vain");
        told
    };
    assert!(without("model.safetensors", Some("pytorch_model.bin")).contains("pickle"));
    assert!(without("model.safetensors", None).contains("model.safetensors"));
    assert!(without("tokenizer.json", None).contains("tokenizer.json"));
    let told = error(&preload("http://127.0.0.1:1", "", wanting().path(), &["--fetch-only"]));
    assert!(told.contains("127.0.0.1:1"), "{told}");
}
