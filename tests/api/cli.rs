use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::server::{Server, fixture, models_dir};

const MAIL: &[u8] = b"From: a@x.example\nSubject: [list] Lunch\n\nThursday at one?\n\n-- \nAnna\n";

pub(crate) fn postsort(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_postsort"))
        .args(arguments)
        .env("POSTSORT_LISTEN", "127.0.0.1:0")
        .env("POSTSORT_CACHE_DIR", "none")
        .env("POSTSORT_STORE", "none")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    match child.stdin.take().expect("a pipe").write_all(input) {
        // A command that refuses its flags does not read.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.expect("writes"),
    }
    child.wait_with_output().expect("ends")
}

pub(crate) fn stdout(arguments: &[&str], input: &[u8]) -> String {
    let output = postsort(arguments, input);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("JSON expected: {text}"))
}

#[test]
fn extract_shows_what_a_model_reads() {
    assert_eq!(stdout(&["extract", "-"], MAIL), "Lunch\nThursday at one?\n");
    let line = json_of(&stdout(&["extract", "--json", "-"], MAIL));
    let expected = json!({
        "path": "-", "subject": "Lunch", "text": "Lunch\nThursday at one?",
        "attachments": [], "zero_width_removed": 0, "lookalikes_replaced": 0,
    });
    assert_eq!(line, expected);
    let quoting = b"Subject: Re: Lunch\r\n\r\n> When?\r\nAt one.\r\n-- \r\nJo\r\n";
    let cut = |cuts: &str| stdout(&["extract", "--mail-cut", cuts, "-"], quoting);
    assert_eq!(cut("quotes,signature"), "Re: Lunch\nAt one.\n");
    assert_eq!(cut("none"), "Re: Lunch\n> When?\nAt one.\n--\nJo\n");
    assert!(!postsort(&["extract", "--mail-cut", "all", "-"], MAIL).status.success());
    assert!(!postsort(&["extract", "-"], b" \n").status.success());
    assert!(!postsort(&["extract", "/nowhere"], b"").status.success());
}

#[test]
fn logits_equal_transformers() {
    let expected = std::fs::read(fixture("bert").join("expected.json")).expect("reads");
    let expected: Vec<Value> = serde_json::from_slice(&expected).expect("parses");
    let folder = fixture("bert");
    let folder = folder.to_str().expect("text");
    let arguments = ["logits", "--model-dir", folder, "--precision", "f32"];
    let lines: String =
        expected[..3].iter().map(|case| json!({"text": case["text"]}).to_string() + "\n").collect();
    for (line, case) in stdout(&arguments, lines.as_bytes()).lines().zip(&expected) {
        let line = json_of(line);
        assert_eq!(line["tokens"].as_u64(), case["ids"].as_array().map(|ids| ids.len() as u64));
        for at in 0..3 {
            let difference = line["logits"][at].as_f64().expect("a number")
                - case["logits"][at].as_f64().expect("a number");
            assert!(difference.abs() <= 1e-3);
        }
    }
    assert!(!postsort(&arguments, b"not json\n").status.success());
}

#[test]
fn classify_here_and_there_agree() {
    let (server, dir) = Server::with(&["bert"]);
    let dir = dir.path().to_str().expect("text");
    let here = json_of(&stdout(&["classify", "-", "--json", "--models-dir", dir], MAIL));
    let there = json_of(&stdout(&["classify", "-", "--json", "--server", &server.url], MAIL));
    assert_eq!(here["results"][0]["labels"], there["results"][0]["labels"]);
    let table = stdout(&["classify", "--text", "lunch?", "--models-dir", dir], b"");
    let label =
        server.classify(&json!({"inputs": "lunch?"})).json()["results"][0]["labels"][0]["label"]
            .clone();
    assert!(table.contains(label.as_str().expect("text")), "{table}");
    let wrong = postsort(&["classify", "--text", "x", "--model", "nope", "--models-dir", dir], b"");
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("nope"));
}

#[test]
fn models_and_preload_drive_a_server() {
    let (server, dir) = Server::with(&["bert", "distilbert"]);
    let url = server.url.as_str();
    let list = json_of(&stdout(
        &["models", "list", "--json", "--models-dir", dir.path().to_str().expect("text")],
        b"",
    ));
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    assert!(stdout(&["preload", "bert", "--pin", "--server", url], b"").contains("ready"));
    let bert = server.get("/v1/models/bert").json();
    assert_eq!((&bert["state"], &bert["pinned"]), (&json!("ready"), &json!(true)));
    assert!(stdout(&["models", "unload", "bert", "--server", url], b"").contains("unloaded"));
    assert!(stdout(&["models", "list", "--server", url], b"").contains("distilbert"));
    assert!(!postsort(&["preload", "bert", "no/pe", "--server", url], b"").status.success());
}

#[test]
fn bench_measures_the_shapes_asked_for() {
    let dir = models_dir(&["bert"]);
    let dir = dir.path().to_str().expect("text");
    let arguments = [
        "bench",
        "--models-dir",
        dir,
        "--model",
        "bert",
        "--tokens",
        "8,16",
        "--batch",
        "2",
        "--json",
    ];
    let report = json_of(&stdout(&arguments, b""));
    let shapes = report["shapes"].as_array().expect("a list");
    assert_eq!(shapes.len(), 2);
    for (shape, tokens) in shapes.iter().zip([8, 16]) {
        assert_eq!((&shape["tokens"], &shape["batch"]), (&json!(tokens), &json!(2)));
        let ms = |key: &str| shape[key].as_f64().expect("a number");
        assert!(
            0.0 < ms("min_ms")
                && ms("min_ms") <= ms("median_ms")
                && ms("median_ms") <= ms("p99_ms")
        );
    }
    let arguments = ["bench", "--models-dir", dir, "--tokens", "9999"];
    assert!(!postsort(&arguments, b"").status.success(), "more tokens than positions");
}

#[test]
fn doctor_names_what_is_wrong() {
    let dir = models_dir(&["bert"]);
    let path = dir.path().to_str().expect("text");
    let well = stdout(&["doctor", "--models-dir", path], b"");
    assert!(well.contains("ok    bert"), "{well}");
    std::fs::remove_file(dir.path().join("bert/tokenizer.json")).expect("removes");
    let ill = postsort(&["doctor", "--models-dir", path], b"");
    assert!(!ill.status.success());
    assert!(String::from_utf8_lossy(&ill.stdout).contains("tokenizer.json"));
}

/// The real process: SIGTERM lets the request that runs finish, and no log line, at the most
/// talkative level, has a word of a mail.
#[test]
fn drains_at_sigterm_and_logs_no_mail() {
    let dir = models_dir(&["bert"]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_postsort"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--models-dir",
            dir.path().to_str().expect("text"),
            "--slow-request-ms",
            "0",
        ])
        .env("POSTSORT_LOG", "trace")
        .env("POSTSORT_CACHE_DIR", "none")
        .env("POSTSORT_STORE", format!("sqlite:{}", dir.path().join("store.db").display()))
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut log = std::io::BufReader::new(child.stderr.take().expect("a pipe"));
    let mut first = String::new();
    std::io::BufRead::read_line(&mut log, &mut first).expect("a greeting");
    let url = first
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .expect("an address")
        .to_owned();
    let rest = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut log, &mut text).expect("a log");
        text
    });
    let send = |body: String| {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let answer = agent
            .post(format!("{url}/v1/classify"))
            .header("content-type", "application/json")
            .send(body);
        let mut answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
    };
    let canary = "canaryword";
    let bodies = [
        (200, json!({"inputs": [canary, {"subject": canary, "body": canary}]}).to_string()),
        (400, format!("{{\"inputs\": \"{canary}")),
        (400, json!({"inputs": "a", "top_k": canary}).to_string()),
        (400, json!({"inputs": [{"subject": canary, "sbject": canary}]}).to_string()),
        (422, json!({"inputs": format!("{canary}\0")}).to_string()),
        (413, json!({"inputs": canary.repeat(200_000)}).to_string()),
    ];
    for (status, body) in bodies {
        let (found, answer) = send(body);
        assert_eq!(found, status, "{answer}");
        assert!(!answer.contains(canary), "errors quote nothing: {answer}");
    }
    std::thread::scope(|scope| {
        let long = json!({"inputs": vec!["a long mail ".repeat(200); 8], "cache": false, "long": "window"});
        let running = scope.spawn(move || send(long.to_string()));
        std::thread::sleep(std::time::Duration::from_millis(60));
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
        assert_eq!(running.join().expect("answered").0, 200, "what was accepted is answered");
    });
    assert!(child.wait().expect("ends").success());
    let log = rest.join().expect("a log");
    assert!(log.contains("draining"), "{log}");
    assert!(log.contains("slow request") && log.contains("infer_ms"), "{log}");
    assert!(!log.contains(canary), "{log}");
}
