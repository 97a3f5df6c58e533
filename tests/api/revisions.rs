//! Revisions: picked up, changed, tried, taken back; never mixed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::life::metric;
use crate::server::{Server, copy_folder, fixture, models_dir, options};

/// A bert that leans to the label of this number: another revision with other answers.
fn leaning(path: &Path, label: usize) {
    copy_folder(&fixture("bert"), path);
    let weights = path.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("reads");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let names: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let bias = &names["classifier.bias"];
    assert_eq!(bias["dtype"], "F32");
    let start = 8 + header + bias["data_offsets"][0].as_u64().expect("an offset") as usize;
    bytes[start + 4 * label..][..4].copy_from_slice(&20.0_f32.to_le_bytes());
    // By rename, as whoever replaces weights that are in use has to.
    let aside = path.join("aside");
    std::fs::write(&aside, bytes).expect("writes");
    std::fs::rename(aside, weights).expect("renames");
}

fn first_label(answer: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&answer["revision"]), text(&answer["results"][0]["labels"][0]["label"]))
}

/// Revisions `v9` and `v10`, leaning to the first and the second label.
fn two_revisions() -> (Server, tempfile::TempDir) {
    let dir = models_dir(&[]);
    leaning(&dir.path().join("mail/v9"), 0);
    leaning(&dir.path().join("mail/v10"), 1);
    (Server::start(options(dir.path())), dir)
}

fn ask(server: &Server, text: &str) -> (String, String) {
    let answer = server.classify(&json!({"model": "mail", "inputs": text}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    first_label(&answer.json())
}

fn reload(server: &Server, body: &Value) -> crate::server::Answer {
    server.post("/v1/models/mail/reload", body)
}

#[test]
fn the_last_revision_answers_until_another_is_chosen() {
    let (server, dir) = two_revisions();
    let shown = server.get("/v1/models/mail").json();
    assert_eq!(shown["revisions"]["label"], "v10", "after v9: {shown}");
    assert_eq!(shown["revisions"]["available"], json!(["v9", "v10"]));
    let (newer, label) = ask(&server, "hello");
    assert_eq!(label, "spam");
    let answer = reload(&server, &json!({"revision": "v9"}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    let shown = answer.json();
    assert_eq!((&shown["state"], &shown["revisions"]["label"]), (&json!("ready"), &json!("v9")));
    assert_eq!(shown["revisions"]["previous"]["revision"], newer.as_str());
    let (older, label) = ask(&server, "hello");
    assert_eq!(label, "ham", "not what the other revision said of the same mail");
    assert_ne!(older, newer);

    // Chosen is chosen, whatever comes.
    leaning(&dir.path().join("mail/v11"), 2);
    assert_eq!(server.post("/v1/models", &json!({})).status, 200);
    assert_eq!(ask(&server, "hello").1, "ham");
    let answer = server.post("/v1/models/mail/rollback", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(ask(&server, "hello"), (newer, "spam".to_owned()));
    assert_eq!(ask(&server, "bye").1, "spam");
    // Until the folder is followed again.
    assert_eq!(reload(&server, &json!({})).json()["revisions"]["label"], "v11");
    assert_eq!(ask(&server, "hello").1, "list");
    let text = server.get("/metrics").text;
    assert_eq!(metric(&text, "postsort_model_switches_total{model=\"mail\"}"), 3.0);
    let loads = server.get("/v1/models/mail").json()["loads"].clone();
    assert_eq!(loads, 4, "v10, v9, v10 again and v11, each counted once");

    for (body, status, code) in [
        (json!({"revision": "v8"}), 404, "unknown_revision"),
        (json!({"revision": "../mail/v9"}), 404, "unknown_revision"),
        (json!({"revision": 9}), 400, "malformed_request"),
        (json!({"shadow": 1.5}), 400, "malformed_request"),
    ] {
        let answer = reload(&server, &body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
    assert_eq!(ask(&server, "hello").1, "list", "none of these changed anything");
}

#[test]
fn a_file_can_name_the_revision_and_a_broken_one_is_passed_over() {
    let dir = models_dir(&[]);
    leaning(&dir.path().join("mail/v1"), 0);
    leaning(&dir.path().join("mail/v2"), 1);
    std::fs::create_dir(dir.path().join("mail/v3")).expect("creates");
    std::fs::write(dir.path().join("mail/v3/config.json"), "{").expect("writes");
    let server = Server::start(options(dir.path()));
    assert_eq!(ask(&server, "hello").1, "spam", "v3 cannot be read");
    std::fs::write(dir.path().join("mail/current"), "v1\n").expect("writes");
    assert_eq!(server.post("/v1/models", &json!({})).json()["changed"], json!(["mail"]));
    assert_eq!(ask(&server, "hello").1, "ham");
    std::fs::remove_file(dir.path().join("mail/current")).expect("removes");
    std::os::unix::fs::symlink("v2", dir.path().join("mail/current")).expect("links");
    server.post("/v1/models", &json!({}));
    assert_eq!(ask(&server, "hello").1, "spam");
}

#[test]
fn folders_that_come_change_and_go_are_picked_up() {
    let dir = models_dir(&["bert"]);
    let mut settings = options(dir.path());
    settings.watch_seconds = Some(1);
    let server = Server::start(settings);
    let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
        let waited = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            holds()
        });
        assert!(waited, "{what}");
    };
    leaning(&dir.path().join("mail"), 0);
    let status = || server.classify(&json!({"model": "mail", "inputs": "hello"})).status;
    wait_for("a new folder", &|| status() == 200);
    let (first, _) = ask(&server, "hello");
    leaning(&dir.path().join("mail"), 1);
    wait_for("a changed folder", &|| ask(&server, "hello").1 == "spam");
    assert_ne!(ask(&server, "hello").0, first);
    assert_eq!(server.get("/v1/models/mail").json()["state"], "ready", "loaded before it answered");
    let answer = server.post("/v1/models/mail/rollback", &json!({}));
    assert_eq!((answer.status, answer.code().as_str()), (409, "conflict"), "it was overwritten");

    std::fs::write(dir.path().join("mail/config.json"), "{").expect("writes");
    wait_for("the new one is refused", &|| {
        server.get("/v1/models/mail").json()["revisions"]["last_change_error"]
            .as_str()
            .is_some_and(|error| error.contains("config.json"))
    });
    assert_eq!(ask(&server, "hello").1, "spam", "the old one answers on");
    std::fs::remove_dir_all(dir.path().join("mail")).expect("removes");
    wait_for("a removed folder", &|| status() == 404);
    assert_eq!(server.classify(&json!({"model": "bert", "inputs": "a"})).status, 200);
    let text = server.get("/metrics").text;
    assert_eq!(metric(&text, "postsort_model_state{model=\"mail\",state=\"ready\"}"), 0.0);
}

#[test]
fn a_folder_replaced_while_it_was_not_in_memory_is_read_as_it_is() {
    let dir = models_dir(&[]);
    leaning(&dir.path().join("mail"), 0);
    let server = Server::start(options(dir.path()));
    leaning(&dir.path().join("mail"), 1);
    assert_eq!(ask(&server, "hello").1, "spam", "without a second look at the folder");
    server.post("/v1/models/mail/unload", &json!({}));
    std::fs::remove_dir_all(dir.path().join("mail")).expect("removes");
    let answer = server.classify(&json!({"model": "mail", "inputs": "new"}));
    assert_eq!((answer.status, answer.code().as_str()), (503, "model_load_failed"));
    assert_eq!(
        server.classify(&json!({"model": "mail", "inputs": "hello"})).status,
        200,
        "what is known needs no model"
    );
}

#[test]
fn a_revision_is_tried_before_it_answers() {
    let (server, _dir) = two_revisions();
    assert_eq!(ask(&server, "hello").1, "spam");
    let shown = reload(&server, &json!({"revision": "v9", "shadow": 0.5})).json();
    assert_eq!(shown["revisions"]["label"], "v10", "it does not answer");
    assert_eq!(shown["revisions"]["shadow"]["label"], "v9");
    for n in 0..20 {
        assert_eq!(ask(&server, &format!("mail {n}")).1, "spam");
    }
    let shadow = || server.get("/v1/models/mail").json()["revisions"]["shadow"].clone();
    for _ in 0..200 {
        if shadow()["mails"] == 10 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((&shadow()["mails"], &shadow()["agreement"]), (&json!(10), &json!(0.0)));
    let text = server.get("/metrics").text;
    let counted = "postsort_shadow_mails_total{model=\"mail\",agreed=\"false\"}";
    assert_eq!(metric(&text, counted), 10.0);
    assert_eq!(
        metric(&text, "postsort_inference_requests_total{model=\"mail\",outcome=\"ok\"}"),
        21.0,
        "what is tried is not counted as asked"
    );
    assert_eq!(server.post("/v1/models/mail/promote", &json!({})).status, 200);
    assert_eq!((ask(&server, "hello").1.as_str(), shadow()), ("ham", Value::Null));
    assert_eq!(server.post("/v1/models/mail/promote", &json!({})).status, 409);
    // A trial is given up by the same call that takes a change back.
    reload(&server, &json!({"revision": "v10", "shadow": 1.0}));
    assert_eq!(server.post("/v1/models/mail/rollback", &json!({})).status, 200);
    assert_eq!((ask(&server, "bye").1.as_str(), shadow()), ("ham", Value::Null));
}

/// Whoever asks while a model is taken away gets an answer or a clear error, and it can come back.
#[test]
fn a_model_that_is_removed_under_load_and_comes_back() {
    let dir = models_dir(&["bert"]);
    leaning(&dir.path().join("mail"), 0);
    let server = Server::start(options(dir.path()));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (server, over) = (&server, &over);
                scope.spawn(move || {
                    let mut seen = std::collections::BTreeSet::new();
                    for n in 0.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        let asked = json!({"model": "mail", "inputs": format!("{client} {n}")});
                        seen.insert(server.classify(&asked).status);
                    }
                    seen
                })
            })
            .collect();
        for _ in 0..10 {
            std::fs::rename(dir.path().join("mail"), dir.path().join(".away")).expect("renames");
            let changes = server.post("/v1/models", &json!({})).json();
            std::fs::rename(dir.path().join(".away"), dir.path().join("mail")).expect("renames");
            let more = server.post("/v1/models", &json!({})).json();
            let expected = [json!(["mail"]), json!(["mail"])];
            if [&changes["removed"], &more["added"]] != expected.each_ref() {
                over.store(true, Ordering::Relaxed);
                panic!("{changes} {more}");
            }
            // A load that began before may still fail, and is remembered for a second.
            let asked = json!({"model": "mail", "inputs": "hello"});
            let back = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                server.classify(&asked).status == 200
            });
            if !back {
                over.store(true, Ordering::Relaxed);
            }
            assert!(back, "it is back");
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().expect("answers");
            assert!(seen.iter().all(|status| matches!(status, 200 | 404 | 503)), "{seen:?}");
        }
    });
    assert_eq!(server.classify(&json!({"model": "bert", "inputs": "a"})).status, 200);
}

/// Twenty changes under load: no request fails, none is answered by two revisions.
#[test]
fn no_request_fails_or_is_mixed_while_revisions_change() {
    let (server, _dir) = two_revisions();
    let known = |label: &str| {
        reload(&server, &json!({"revision": label}));
        ask(&server, "warm")
    };
    let known = [known("v9"), known("v10")];
    let over = AtomicBool::new(false);
    let answered: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (server, over, known) = (&server, &over, &known);
                scope.spawn(move || {
                    let mut answered = 0;
                    while !over.load(Ordering::Relaxed) {
                        // A mail that comes again, and new ones.
                        let inputs =
                            ["hello".to_owned(), format!("{client} {answered}"), "bye".to_owned()];
                        let answer = server.classify(&json!({"model": "mail", "inputs": inputs}));
                        assert_eq!(answer.status, 200, "{}", answer.text);
                        let answer = answer.json();
                        let (_, label) = known
                            .iter()
                            .find(|(revision, _)| answer["revision"] == revision.as_str())
                            .expect("one of the two");
                        for result in answer["results"].as_array().expect("results") {
                            assert_eq!(result["labels"][0]["label"], label.as_str(), "mixed");
                        }
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for change in 0..20 {
            let label = ["v9", "v10"][change % 2];
            let answer = reload(&server, &json!({"revision": label}));
            assert_eq!(answer.status, 200, "{}", answer.text);
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("no failure")).sum()
    });
    assert!(answered > 40, "{answered} requests are no load");
    let shown = server.get("/v1/models/mail").json();
    let list = server.get("/v1/models").json();
    assert_eq!(list["memory_used_bytes"], shown["resident_bytes"], "the old ones are gone");
}

#[test]
fn of_two_changes_at_once_one_is_refused_or_comes_second() {
    let (server, _dir) = two_revisions();
    ask(&server, "hello");
    std::thread::scope(|scope| {
        let changes = ["v9", "v10", "v9", "v10"].map(|label| {
            let server = &server;
            scope.spawn(move || reload(server, &json!({"revision": label})))
        });
        for change in changes {
            let answer = change.join().expect("answers");
            assert!(matches!(answer.status, 200 | 409), "{}", answer.text);
        }
    });
    let shown = server.get("/v1/models/mail").json();
    let expected = if shown["revisions"]["label"] == "v9" { "ham" } else { "spam" };
    assert_eq!(ask(&server, "new").1, expected);
}
