//! Back-fills: `/v1/classify/stream` and `postsort classify --stream`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::cli::{postsort, stdout};
use crate::life::metric;
use crate::server::{Server, models_dir};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn each_line_has_its_answer_in_order_and_a_bad_one_is_one_error() {
    let (server, _dir) = Server::with(&["bert"]);
    let mail = json!({"subject": "Minutes", "body": "Attached."});
    let raw = json!({"raw": "U3ViamVjdDogaGkKCmhlbGxv"});
    let body = format!("\"hello\"\n{mail}\n{raw}\n\n{{\"bdy\":1}}\n\"\"\n\"hello\"");
    let path = "/v1/classify/stream?first_index=10&top_k=1";
    let answer = server.send(path, "application/x-ndjson", body.as_bytes());
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (200, &"application/x-ndjson".parse().expect("a value"))
    );
    let found = lines(&answer.text);
    let indices: Vec<_> =
        found.iter().map(|line| line["index"].as_u64().expect("a number")).collect();
    assert_eq!(indices, [10, 11, 12, 14, 15, 16], "the empty line is counted");
    let codes: Vec<_> = found.iter().map(|line| line["error"]["code"].as_str()).collect();
    let (malformed, unusable) = (Some("malformed_request"), Some("unusable_input"));
    assert_eq!(codes, [None, None, None, malformed, unusable, None]);
    // The same answers as anywhere.
    let single = server.classify(&json!({"inputs": ["hello", mail, raw], "top_k": 1})).json();
    for (line, expected) in found.iter().zip(single["results"].as_array().expect("a list")) {
        assert_eq!(line["labels"], expected["labels"]);
        assert_eq!((&line["model"], &line["revision"]), (&single["model"], &single["revision"]));
    }
    assert_eq!(found[5]["labels"], found[0]["labels"]);
}

#[test]
fn what_cannot_begin_is_refused_as_anywhere() {
    let (server, _dir) = Server::with(&["bert"]);
    for (query, media_type, status) in [
        ("?model=nope", "application/x-ndjson", 404),
        ("?modle=bert", "application/x-ndjson", 400),
        ("?first_index=x", "application/x-ndjson", 400),
        ("", "text/html", 415),
    ] {
        let answer = server.send(&format!("/v1/classify/stream{query}"), media_type, b"\"a\"\n");
        assert_eq!(answer.status, status, "{query} {media_type}");
    }
}

/// A client that sends a mail only when it has the answer to the one before.
#[test]
fn answers_come_while_mails_are_sent() {
    let (server, _dir) = Server::with(&["bert"]);
    let mut connection = TcpStream::connect(server.address()).expect("connects");
    let head = "POST /v1/classify/stream HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.write_all(head.as_bytes()).expect("writes");
    let mut reader = BufReader::new(connection.try_clone().expect("a handle"));
    let mut next_line = || {
        let mut line = String::new();
        while !line.starts_with('{') {
            line.clear();
            assert!(reader.read_line(&mut line).expect("reads") > 0, "broke off");
        }
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    for at in 0..40 {
        let mail = format!("\"mail {at}\"\n");
        write!(connection, "{:x}\r\n{mail}\r\n", mail.len()).expect("writes");
        assert_eq!(next_line()["index"], at);
    }
    connection.write_all(b"0\r\n\r\n").expect("writes");
    let mut rest = Vec::new();
    while !rest.ends_with(b"0\r\n\r\n") {
        assert!(reader.read_until(b'\n', &mut rest).expect("reads") > 0, "broke off");
    }
}

/// More than any buffer on the way has room for: mails are read only as fast as answers are.
#[test]
fn a_reader_that_does_not_read_is_waited_for() {
    let (server, _dir) = Server::with(&["bert"]);
    let mut connection = TcpStream::connect(server.address()).expect("connects");
    let head = "POST /v1/classify/stream HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.write_all(head.as_bytes()).expect("writes");
    let wait = Some(std::time::Duration::from_millis(300));
    connection.set_write_timeout(wait).expect("sets");
    // The same mail, so that answers cost nothing but room.
    let mails = "\"a\"\n".repeat(16 << 10);
    let chunk = format!("{:x}\r\n{mails}\r\n", mails.len());
    let mut sent = 0;
    while sent < 1 << 30 {
        match connection.write(&chunk.as_bytes()[sent % chunk.len()..]) {
            Ok(bytes) => sent += bytes,
            Err(_) => break,
        }
    }
    assert!(sent < 1 << 30, "it stopped taking mails");
    drop(connection);
    assert_eq!(server.classify(&json!({"inputs": "others are served"})).status, 200);
}

#[test]
fn a_back_fill_is_never_refused_for_want_of_room_and_leaves_some() {
    let dir = models_dir(&["bert"]);
    let mut settings = crate::server::options(dir.path());
    settings.queued_jobs_max = Some(5);
    let server = Server::start(settings);
    let body: String = (0..300).map(|at| format!("\"mail number {at}\"\n")).collect();
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    server.send(
                        "/v1/classify/stream?cache=false",
                        "application/x-ndjson",
                        body.as_bytes(),
                    )
                })
            })
            .collect();
        for at in 0..50 {
            let answer = server
                .classify(&json!({"inputs": format!("urgent {at}"), "priority": "interactive"}));
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        for stream in streams {
            let found = lines(&stream.join().expect("no panic").text);
            assert_eq!(found.len(), 300);
            assert!(found.iter().all(|line| line["labels"].is_array()));
        }
    });
    let text = server.get("/metrics").text;
    assert_eq!(
        metric(&text, "postsort_inference_requests_total{model=\"bert\",outcome=\"ok\"}"),
        950.0
    );
    assert_eq!(metric(&text, "postsort_queue_jobs "), 0.0);
}

#[test]
fn the_command_reads_mbox_here_and_at_a_server_and_goes_on_where_it_stopped() {
    let (server, dir) = Server::with(&["bert"]);
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let mbox: String =
        (0..50).map(|at| format!("From a@b\nSubject: mail {at}\n\nBody {at}.\n\n")).collect();
    std::fs::write(path("mails.mbox"), mbox).expect("writes");
    let models = ["--models-dir", dir.path().to_str().expect("text")];
    let here = stdout(&[&["classify", "--stream", &path("mails.mbox")][..], &models].concat(), b"");
    let there = stdout(
        &["classify", "--stream", &path("mails.mbox"), "--server", &server.url, "--model", "bert"],
        b"",
    );
    let plain = |text: &str| -> Vec<Value> {
        let line = |line: &Value| json!([line["index"], line["labels"], line["tokens"]]);
        lines(text).iter().map(line).collect()
    };
    assert_eq!(plain(&here).len(), 50);
    assert_eq!(plain(&here), plain(&there));

    // The first 20 answers and a part of the next.
    let output = path("answers.ndjson");
    let mut begun: String = there.split_inclusive('\n').take(20).collect();
    begun.push_str("{\"index\":20,\"lab");
    std::fs::write(&output, begun).expect("writes");
    let resume = ["classify", "--stream", &path("mails.mbox"), "--output", &output, "--resume"];
    stdout(&[&resume[..], &["--server", &server.url]].concat(), b"");
    assert_eq!(plain(&std::fs::read_to_string(&output).expect("reads")), plain(&there));
    // Once more: nothing is left to do.
    stdout(&[&resume[..], &["--server", &server.url]].concat(), b"");
    assert_eq!(lines(&std::fs::read_to_string(&output).expect("reads")).len(), 50);

    let unknown = ["classify", "--stream", "-", "--server", &server.url, "--model", "nope"];
    let failed = postsort(&unknown, b"\"a\"\n");
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("unknown model"));
}
