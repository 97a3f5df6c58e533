//! Ways in beside HTTP/1.1 over TCP.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::server::{Server, models_dir, options};

#[test]
fn a_socket_in_the_file_system_serves_the_same() {
    let dir = models_dir(&["bert"]);
    let path = dir.path().join("postsort.sock");
    let mut settings = options(dir.path());
    settings.listen_unix = Some(path.clone());
    let server = Server::start(settings);
    let body = json!({"inputs": "hello"}).to_string();
    let mut socket = UnixStream::connect(&path).expect("connects");
    write!(
        socket,
        "POST /v1/classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("reads");
    let (head, answer) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    let over_tcp = server.classify(&json!({"inputs": "hello"})).json();
    assert_eq!(answer["results"][0]["labels"], over_tcp["results"][0]["labels"]);
    drop(server);
    assert!(!path.exists(), "removed at the end");
}

#[test]
fn http2_without_tls_answers_many_at_once_over_one_connection() {
    let (server, _dir) = Server::with(&["bert"]);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address()).await.expect("connects");
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("shakes hands");
        tokio::spawn(connection);
        let ask = |at: usize| {
            let mut sender = sender.clone();
            let body = json!({"inputs": format!("mail {at}")}).to_string();
            let request = hyper::Request::post(format!("{}/v1/classify", server.url))
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .expect("a request");
            async move {
                let response = sender.send_request(request).await.expect("an answer");
                assert_eq!(response.status(), 200);
                let body = response.into_body().collect().await.expect("a body").to_bytes();
                serde_json::from_slice::<Value>(&body).expect("JSON")
            }
        };
        let answers = futures_util::future::join_all((0..64).map(ask)).await;
        for (at, answer) in answers.iter().enumerate() {
            let alone = ask(at).await;
            assert_eq!(answer["results"][0]["labels"], alone["results"][0]["labels"]);
        }
    });
}

#[test]
fn headers_say_what_a_body_cannot() {
    let (server, _dir) = Server::with(&["bert"]);
    let ask = |path: &str, name: &str, value: &str| {
        let text = format!("{path} {value}");
        let body = match path {
            "/v2/models/bert/infer" => {
                json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]})
            }
            _ => json!({"inputs": text}),
        };
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.post(format!("{}{path}", server.url)).header(name, value);
        request.send_json(body).expect("an answer").status().as_u16()
    };
    for path in ["/v1/classify", "/predict", "/v2/models/bert/infer"] {
        assert_eq!(ask(path, "x-request-timeout", "0"), 504, "{path}");
        assert_eq!(ask(path, "x-request-timeout", "soon"), 400, "{path}");
        assert_eq!(ask(path, "x-priority", "vip"), 400, "{path}");
        assert_eq!(ask(path, "x-priority", "bulk"), 200, "{path}");
    }
    let raw = |query: &str| {
        server.send(&format!("/v1/classify?{query}"), "message/rfc822", b"Subject: a\n\nb").status
    };
    assert_eq!(raw("model=bert&timeout_ms=0&cache=false"), 504);
    assert_eq!(raw("model=bert&priority=interactive&long=window&top_k=1"), 200);
    assert_eq!(raw("model=bert&prio=interactive"), 400);
}
