//! Traces reach a collector, whole, and with no word of a mail.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Server, models_dir, options};

const PATIENCE: Duration = Duration::from_secs(60);
const CANARY: &str = "canaryword";

/// A collector: hands over the path and body of each request.
fn collector() -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let (mut path, mut length, mut line) = (String::new(), 0, String::new());
            while stream.read_line(&mut line).expect("a head") > 2 {
                if path.is_empty() {
                    path = line.split(' ').nth(1).expect("a path").to_owned();
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a body");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            stream.get_mut().write_all(answer).expect("answers");
            if tell.send((path, String::from_utf8(body).expect("text"))).is_err() {
                return;
            }
        }
    });
    (url, told)
}

#[test]
fn spans_tell_the_way_and_nothing_of_the_mail() {
    let (url, told) = collector();
    let dir = models_dir(&["bert"]);
    let mut settings = options(dir.path());
    settings.traces.endpoint = Some(url);
    // Only what the caller samples, and what fails.
    settings.traces.share = Some(0.0);
    let server = Server::start(settings);
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let send = |sampled: &str, body: Value| {
        let traceparent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{sampled}");
        let request = agent
            .post(format!("{}/v1/classify", server.url))
            .header("content-type", "application/json")
            .header("x-request-id", "mine-17")
            .header("traceparent", traceparent);
        request.send(body.to_string()).expect("an answer")
    };
    let answer = send("01", json!({"inputs": [CANARY, {"subject": CANARY, "body": CANARY}]}));
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-request-id"], "mine-17");
    let ours = answer.headers()["traceparent"].to_str().expect("text").to_owned();
    assert!(ours.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{ours}");
    assert_eq!(send("00", json!({"inputs": CANARY})).status(), 200, "nobody keeps this one");
    assert_eq!(send("01", json!({"inputs": CANARY})).status(), 200, "known already");
    assert_eq!(
        send("00", json!({"inputs": CANARY, "cache": false, "timeout_ms": 0})).status(),
        504
    );
    // Stopping sends what is queued.
    drop(server);

    let mut spans = Vec::new();
    while spans.iter().filter(|span: &&Value| span["kind"] == 2).count() < 3 {
        let (path, body) = told.recv_timeout(PATIENCE).expect("traces come");
        assert_eq!(path, "/v1/traces");
        assert!(!body.contains(CANARY), "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let found = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        spans.extend(found.as_array().expect("spans").clone());
    }
    let servers: Vec<_> = spans.iter().filter(|span| span["kind"] == 2).collect();
    assert_eq!(servers.len(), 3, "{servers:?}");
    assert!(servers.iter().all(|span| span["name"] == "POST /v1/classify"
        && span["parentSpanId"] == "00f067aa0ba902b7"
        && span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(servers[2]["status"]["code"], 2, "the deadline passed");
    let below = |parent: &Value| -> Vec<&Value> {
        spans.iter().filter(|span| span["parentSpanId"] == parent["spanId"]).collect()
    };
    let names = |server: &Value| -> Vec<&str> {
        let classify = below(server)[0];
        assert_eq!(classify["name"], "classify");
        below(classify).iter().map(|span| span["name"].as_str().expect("a name")).collect()
    };
    assert_eq!(names(servers[0]), ["decode", "cache", "load", "tokenize", "queue", "infer"]);
    assert_eq!(names(servers[1]), ["decode", "cache"], "an answer from memory");
    let nanos = |span: &Value, key: &str| -> u128 {
        span[key].as_str().expect("decimal").parse().expect("a number")
    };
    let ids: std::collections::BTreeSet<_> =
        spans.iter().map(|span| span["spanId"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), spans.len(), "no id twice");
    for span in &spans {
        assert!(nanos(span, "startTimeUnixNano") <= nanos(span, "endTimeUnixNano"), "{span}");
    }
}

#[test]
fn a_collector_that_is_away_costs_no_answer() {
    let dir = models_dir(&["bert"]);
    let mut settings = options(dir.path());
    // Nobody listens on this port.
    settings.traces.endpoint = Some("http://127.0.0.1:1".to_owned());
    settings.traces.share = Some(1.0);
    let server = Server::start(settings);
    assert_eq!(server.classify(&json!({"inputs": "a"})).status, 200);
    let started = std::time::Instant::now();
    let dropped =
        || crate::life::metric(&server.get("/metrics").text, "postsort_traces_dropped_total");
    while dropped() < 1.0 {
        assert!(started.elapsed() < PATIENCE, "never counted");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_request_id_that_could_garble_a_log_is_replaced() {
    let (server, _dir) = Server::with(&["bert"]);
    let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
    let answer = agent
        .get(format!("{}/livez", server.url))
        .header("x-request-id", "two words {\"level\":\"ERROR\"}")
        .call()
        .expect("an answer");
    let id = answer.headers()["x-request-id"].to_str().expect("text");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
}
