//! Several devices: where models go, and what happens where memory runs out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postsort_models::{LoadOptions, Model, ModelFolder};
use serde_json::{Value, json};

use crate::life::metric;
use crate::server::{Server, copy_as_another, fixture, models_dir, options, under_load};
use crate::simulated::{Simulated, TOKEN_BYTES};

const PLENTY: u64 = 1 << 30;

/// Models `a`, `b` and `c` of one architecture, none like another.
fn three() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        copy_as_another(&fixture("bert"), &dir.path().join(name), number as u8);
    }
    dir
}

/// A server with the device beside its CPU.
fn server_on(dir: &tempfile::TempDir, device: &Simulated, budget_bytes: u64) -> Server {
    Server::start_with(options(dir.path()), |config| {
        config.devices = config.devices.clone().with(Arc::new(device.clone()), budget_bytes);
    })
}

fn ask(server: &Server, model: &str, text: &str) -> Value {
    let answer = server.classify(&json!({"model": model, "inputs": [text], "cache": false}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["results"][0]["labels"].clone()
}

/// Tokens of a text.
fn tokens(server: &Server, text: &str) -> u64 {
    let answer = server.classify(&json!({"model": "a", "inputs": [text]})).json();
    answer["results"][0]["tokens"].as_u64().expect("a number")
}

fn shown(server: &Server, model: &str) -> Value {
    server.get(&format!("/v1/models/{model}")).json()
}

/// Times that the device had no memory, by what was done: evicted, split, fell back.
fn out_of_memory(server: &Server) -> [f64; 3] {
    let text = server.get("/metrics").text;
    ["evicted", "split", "fell_back"].map(|action| {
        let labels = format!("{{device=\"cuda:0\",action=\"{action}\"}}");
        metric(&text, &format!("postsort_device_out_of_memory_total{labels}"))
    })
}

fn resident_bytes(server: &Server, model: &str) -> [f64; 2] {
    let text = server.get("/metrics").text;
    ["cpu", "cuda:0"].map(|device| {
        let labels = format!("{{model=\"{model}\",device=\"{device}\"}}");
        metric(&text, &format!("postsort_model_resident_bytes{labels}"))
    })
}

fn evicted_for_want_of_memory(server: &Server, model: &str) -> f64 {
    let labels = format!("{{model=\"{model}\",reason=\"out_of_memory\"}}");
    metric(&server.get("/metrics").text, &format!("postsort_evictions_total{labels}"))
}

#[test]
fn models_go_where_manifests_and_room_say() {
    let dir = models_dir(&["bert", "distilbert", "electra", "modernbert-cls"]);
    let manifest = |model: &str, text: &str| {
        std::fs::write(dir.path().join(model).join("postsort.toml"), text).expect("writes");
    };
    manifest("distilbert", "device = \"cpu\"\n");
    manifest("electra", "device = \"cuda:7\"\n");
    let size = |model: &str| {
        let folder = ModelFolder::open(&dir.path().join(model)).expect("opens");
        LoadOptions::default().resident_bytes_estimate(&folder)
    };
    let budget = size("bert").max(size("modernbert-cls")) - 1;
    let (larger, smaller) =
        if size("bert") > budget { ("bert", "modernbert-cls") } else { ("modernbert-cls", "bert") };
    let device = Simulated::new(PLENTY, Duration::ZERO);
    let server = server_on(&dir, &device, budget);
    for model in ["bert", "distilbert", "modernbert-cls"] {
        ask(&server, model, "Are we on for lunch?");
    }
    assert_eq!(shown(&server, smaller)["device"], "cuda:0");
    assert_eq!(shown(&server, larger)["device"], "cpu", "it could never fit on the device");
    assert_eq!(shown(&server, "distilbert")["device"], "cpu", "its manifest says so");
    let answer = server.classify(&json!({"model": "electra", "inputs": "a"}));
    assert_eq!(answer.status, 503, "{}", answer.text);
    let reason = answer.json()["error"]["details"]["reason"].to_string();
    assert!(reason.contains("cuda:7") && reason.contains("cpu, cuda:0"), "{reason}");
    // The bytes of each are where it is.
    assert!(
        resident_bytes(&server, smaller)[1] > 0.0 && resident_bytes(&server, smaller)[0] == 0.0
    );
    assert!(resident_bytes(&server, larger)[0] > 0.0 && resident_bytes(&server, larger)[1] == 0.0);
    let list = server.get("/v1/models").json();
    let usage = |at: usize, key: &str| list["devices"][at][key].as_u64().expect(key);
    assert_eq!(usage(1, "models_bytes"), device.models_bytes());
    assert_eq!((usage(1, "budget_bytes"), usage(1, "total_bytes")), (budget, PLENTY));
    let cpu_bytes: u64 = [larger, "distilbert"]
        .iter()
        .map(|model| shown(&server, model)["resident_bytes"].as_u64().expect("bytes"))
        .sum();
    assert_eq!(usage(0, "models_bytes"), cpu_bytes);
    let text = server.get("/metrics").text;
    let read = |name: &str| metric(&text, &format!("{name}{{device=\"cuda:0\"}}"));
    assert_eq!(read("postsort_memory_budget_bytes"), budget as f64);
    assert_eq!(read("postsort_memory_used_bytes"), device.models_bytes() as f64);
    assert_eq!(read("postsort_device_memory_bytes"), PLENTY as f64);
    assert_eq!(read("postsort_device_memory_free_bytes"), (PLENTY - device.models_bytes()) as f64);
}

#[test]
fn a_full_device_evicts_nothing_from_the_cpu() {
    let dir = three();
    std::fs::write(dir.path().join("c/postsort.toml"), "device = \"cpu\"\n").expect("writes");
    let folder = ModelFolder::open(&dir.path().join("a")).expect("opens");
    let own = Model::load(&folder, &LoadOptions::default()).expect("loads").resident_bytes();
    let estimate = LoadOptions::default().resident_bytes_estimate(&folder);
    let device = Simulated::new(PLENTY, Duration::ZERO);
    // Room for one.
    let server = server_on(&dir, &device, own + estimate - 1);
    for model in ["c", "a", "b"] {
        ask(&server, model, "Are we on for lunch?");
    }
    let state = |model: &str| shown(&server, model)["state"].clone();
    assert_eq!([state("a"), state("b"), state("c")], ["unloaded", "ready", "ready"]);
    let evicted = "postsort_evictions_total{model=\"a\",reason=\"budget\"}";
    assert_eq!(metric(&server.get("/metrics").text, evicted), 1.0);
    assert_eq!(out_of_memory(&server), [0.0; 3], "the budget held");
}

#[test]
fn a_load_without_memory_evicts_an_idle_model_and_succeeds() {
    let dir = three();
    std::fs::write(dir.path().join("c/postsort.toml"), "device = \"cpu\"\n").expect("writes");
    let (plain, device) =
        (Server::start(options(dir.path())), Simulated::new(PLENTY, Duration::ZERO));
    let server = server_on(&dir, &device, PLENTY);
    ask(&server, "a", "first");
    ask(&server, "c", "first");
    // Too little for another one beside `a`, enough in its place.
    device.leave(device.models_bytes() / 2 + 600 * TOKEN_BYTES);
    let text = "Are we still on for lunch on Thursday?";
    assert_eq!(ask(&server, "b", text), ask(&plain, "b", text));
    assert_eq!(shown(&server, "b")["device"], "cuda:0");
    assert_eq!(shown(&server, "a")["state"], "unloaded");
    assert_eq!(shown(&server, "c")["state"], "ready", "elsewhere");
    assert_eq!(out_of_memory(&server), [1.0, 0.0, 0.0]);
    assert_eq!(evicted_for_want_of_memory(&server, "a"), 1.0);
}

#[test]
fn a_load_that_finds_no_memory_goes_to_the_cpu_and_comes_back_when_asked() {
    let dir = three();
    let (plain, device) =
        (Server::start(options(dir.path())), Simulated::new(PLENTY, Duration::ZERO));
    let server = server_on(&dir, &device, PLENTY);
    device.leave(0);
    for text in ["one", "two", "three"] {
        assert_eq!(ask(&server, "a", text), ask(&plain, "a", text));
    }
    let model = shown(&server, "a");
    assert_eq!((&model["device"], &model["state"]), (&json!("cpu"), &json!("ready")));
    assert_eq!((model["loads"].as_u64(), device.passes()), (Some(1), 0));
    assert!(model["last_error"].to_string().contains("out of memory"), "{model}");
    assert_eq!(out_of_memory(&server), [0.0, 0.0, 1.0], "it is not tried again for each request");
    assert!(resident_bytes(&server, "a")[0] > 0.0);
    assert_eq!(server.get("/health").json()["status"], "ok", "it answers");
    let failed = "postsort_model_load_failures_total{model=\"a\"}";
    assert_eq!(metric(&server.get("/metrics").text, failed), 0.0);

    device.leave_all();
    assert_eq!(shown(&server, "a")["device"], "cpu", "it stays until it is dropped there");
    assert_eq!(server.post("/v1/models/a/unload", &json!({})).status, 200);
    assert_eq!(server.get("/v1/models").json()["devices"][0]["models_bytes"], 0);
    assert_eq!(ask(&server, "a", "four"), ask(&plain, "a", "four"));
    assert_eq!(shown(&server, "a")["device"], "cuda:0");
    assert_eq!(shown(&server, "a")["last_error"], Value::Null);
}

#[test]
fn a_batch_without_memory_evicts_idle_models_first() {
    let dir = three();
    let (plain, device) =
        (Server::start(options(dir.path())), Simulated::new(PLENTY, Duration::ZERO));
    let server = server_on(&dir, &device, PLENTY);
    for model in ["a", "b", "c"] {
        ask(&server, model, "first");
    }
    assert_eq!(server.post("/v1/models/c/pin", &json!({})).status, 200);
    device.leave(0);
    let text = "Are we still on for lunch on Thursday?";
    assert_eq!(ask(&server, "a", text), ask(&plain, "a", text));
    assert_eq!(out_of_memory(&server), [1.0, 0.0, 0.0]);
    assert_eq!(evicted_for_want_of_memory(&server, "b"), 1.0);
    assert_eq!(shown(&server, "a")["device"], "cuda:0");
    assert_eq!(shown(&server, "c")["state"], "ready", "pinned");
}

#[test]
fn a_batch_without_memory_is_split_and_no_answer_changes() {
    let dir = three();
    // Passes that are dear by themselves are made large.
    let device = Simulated::new(PLENTY, Duration::from_millis(20));
    let (plain, server) = (Server::start(options(dir.path())), server_on(&dir, &device, PLENTY));
    ask(&server, "a", "first");
    let texts: Vec<String> = (0..16).map(|n| format!("{n} mails before {n} o'clock")).collect();
    let body = json!({"model": "a", "inputs": texts, "cache": false});
    let labels = |server: &Server| -> Vec<Value> {
        let answer = server.classify(&body);
        assert_eq!(answer.status, 200, "{}", answer.text);
        let results = answer.json()["results"].clone();
        results.as_array().expect("a list").iter().map(|one| one["labels"].clone()).collect()
    };
    let whole = labels(&server);
    assert_eq!(out_of_memory(&server), [0.0; 3]);
    // Enough for two of them.
    device
        .leave(2 * TOKEN_BYTES * texts.iter().map(|text| tokens(&server, text)).max().expect("16"));
    let split = labels(&server);
    assert_eq!((&split, &split), (&whole, &labels(&plain)), "bit for bit");
    let [evicted, halved, fell_back] = out_of_memory(&server);
    assert_eq!((evicted, fell_back), (0.0, 0.0));
    assert!(halved >= 3.0, "{halved}");
    assert_eq!(resident_bytes(&server, "a")[0], 0.0, "nothing went to the CPU");
}

#[test]
fn a_mail_without_memory_is_read_on_the_cpu_and_the_next_is_not() {
    let dir = three();
    let (plain, device) =
        (Server::start(options(dir.path())), Simulated::new(PLENTY, Duration::ZERO));
    let server = server_on(&dir, &device, PLENTY);
    ask(&server, "a", "first");
    let (short, long) = ("to him", "a long mail of many words ".repeat(20));
    device.leave(TOKEN_BYTES * tokens(&server, short));
    let passes = device.passes();
    for text in [short, &long, short] {
        assert_eq!(ask(&server, "a", text), ask(&plain, "a", text), "{text}");
    }
    assert_eq!(out_of_memory(&server), [0.0, 0.0, 1.0]);
    assert_eq!(device.passes(), passes + 2, "the short ones");
    let model = shown(&server, "a");
    assert_eq!(model["device"], "cuda:0");
    assert!(resident_bytes(&server, "a").iter().all(|&bytes| bytes > 0.0), "both copies");
    let by_device = model["resident_bytes_by_device"].as_object().expect("a map");
    assert_eq!(by_device.keys().collect::<Vec<_>>(), ["cpu", "cuda:0"]);

    // Both in one request.
    let answer = server.classify(&json!({"model": "a", "inputs": [short, long], "cache": false}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    let results = answer.json()["results"].clone();
    assert_eq!(results[0]["labels"], ask(&plain, "a", short));
    assert_eq!(results[1]["labels"], ask(&plain, "a", &long));

    // Unloaded it is nowhere.
    assert_eq!(server.post("/v1/models/a/unload", &json!({})).status, 200);
    let devices = server.get("/v1/models").json()["devices"].clone();
    assert_eq!((&devices[0]["models_bytes"], &devices[1]["models_bytes"]), (&json!(0), &json!(0)));
    assert_eq!(device.models_bytes(), 0);
}

#[test]
fn a_cpu_without_room_for_the_copy_is_told_and_other_models_answer() {
    let dir = three();
    std::fs::write(dir.path().join("c/postsort.toml"), "device = \"cpu\"\npinned = true\n")
        .expect("writes");
    let folder = ModelFolder::open(&dir.path().join("c")).expect("opens");
    let estimate = LoadOptions::default().resident_bytes_estimate(&folder);
    let device = Simulated::new(PLENTY, Duration::ZERO);
    let mut settings = options(dir.path());
    settings.memory_bytes_max = Some(estimate.to_string());
    let server = Server::start_with(settings, |config| {
        config.devices = config.devices.clone().with(Arc::new(device.clone()), PLENTY);
    });
    ask(&server, "a", "first");
    device.leave(0);
    let answer = server.classify(&json!({"model": "a", "inputs": "second"}));
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_room_for_model"));
    ask(&server, "c", "second");
    device.leave_all();
    ask(&server, "a", "second");
}

#[test]
fn another_revision_takes_the_place_of_a_model_on_the_cpu_and_leaves_nothing_there() {
    let dir = three();
    let device = Simulated::new(PLENTY, Duration::ZERO);
    let server = server_on(&dir, &device, PLENTY);
    device.leave(0);
    ask(&server, "a", "first");
    assert_eq!(shown(&server, "a")["device"], "cpu");
    device.leave_all();
    copy_as_another(&fixture("bert"), &dir.path().join("new"), 77);
    std::fs::rename(
        dir.path().join("new/model.safetensors"),
        dir.path().join("a/model.safetensors"),
    )
    .expect("renames");
    std::fs::remove_dir_all(dir.path().join("new")).expect("removes");
    let answer = server.post("/v1/models/a/reload", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    ask(&server, "a", "second");
    let model = shown(&server, "a");
    assert_eq!((&model["device"], &model["loads"]), (&json!("cuda:0"), &json!(2)));
    assert_eq!(resident_bytes(&server, "a")[0], 0.0);
    assert_eq!(server.get("/v1/models").json()["devices"][0]["models_bytes"], 0);
}

/// Somebody else takes the device's memory and gives it back, again and again.
#[test]
fn no_request_fails_while_memory_comes_and_goes() {
    let dir = three();
    let (plain, device) =
        (Server::start(options(dir.path())), Simulated::new(PLENTY, Duration::ZERO));
    let mut settings = options(dir.path());
    settings.default_model = Some("a".to_owned());
    let server = Server::start_with(settings, |config| {
        config.devices = config.devices.clone().with(Arc::new(device.clone()), PLENTY);
    });
    let text = |client: usize, number: usize| format!("mail {number} of {client}");
    let answered = under_load(&server, text, |sent| {
        for round in 1..=8 {
            ask(&server, "b", &format!("round {round}"));
            let seen = sent.load(Ordering::Relaxed);
            while sent.load(Ordering::Relaxed) < seen + 10 {
                // What an eviction has freed is taken, too.
                device.leave(if round % 2 == 0 { 0 } else { 9 * TOKEN_BYTES });
                std::thread::sleep(Duration::from_millis(1));
            }
            device.leave_all();
        }
    });
    assert!(answered >= 80);
    let [evicted, split, fell_back] = out_of_memory(&server);
    assert!(evicted >= 1.0 && fell_back >= 1.0, "{evicted} {split} {fell_back}");
    for number in 0..5 {
        let text = text(0, number);
        let known = server.classify(&json!({"model": "a", "inputs": [text]})).json();
        assert_eq!(known["results"][0]["labels"], ask(&plain, "a", &text), "from memory, too");
    }
}
