//! A server in this process, and a client for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use postsort_models::{LoadOptions, Model, ModelFolder};
use postsort_server::config::{Config, Options};
use postsort_server::serve;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A running server; stops when dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A status with its headers and body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("JSON expected: {}", self.text))
    }

    /// The contract's error code.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    root().join("models/tests/fixtures").join(name)
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A models folder with these fixtures, by name.
pub(crate) fn models_dir(fixtures: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    for name in fixtures {
        copy_folder(&fixture(name), &dir.path().join(name));
    }
    dir
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("creates");
    for entry in std::fs::read_dir(from).expect("lists") {
        let path = entry.expect("lists").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a file"))).expect("copies");
    }
}

/// Changes the bytes of a tensor of a model folder.
pub(crate) fn edit_tensor(folder: &Path, name: &str, change: impl FnOnce(&mut [u8])) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("reads");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let offset = |at: usize| header[name]["data_offsets"][at].as_u64().expect(name) as usize;
    change(&mut bytes[8 + length + offset(0)..8 + length + offset(1)]);
    std::fs::write(path, bytes).expect("writes");
}

/// A model that shares neither encoder nor answers with the fixture.
pub(crate) fn copy_as_another(from: &Path, to: &Path, number: u8) {
    copy_folder(from, to);
    let name = "bert.encoder.layer.0.output.dense.bias";
    // The lowest bits of the first number.
    edit_tensor(to, name, |bytes| bytes[0] = bytes[0].wrapping_add(number + 1));
}

/// A model with the fixture's encoder and a head that says the opposite.
pub(crate) fn copy_with_another_head(from: &Path, to: &Path) {
    copy_folder(from, to);
    for name in ["classifier.weight", "classifier.bias"] {
        edit_tensor(to, name, |bytes| bytes.chunks_mut(4).for_each(|number| number[3] ^= 0x80));
    }
}

pub(crate) fn options(models_dir: &Path) -> Options {
    Options {
        models_dir: Some(models_dir.to_owned()),
        listen: Some(([127, 0, 0, 1], 0).into()),
        threads: Some(2),
        // Tests say when.
        watch_seconds: Some(0),
        // Nothing is kept between tests.
        cache_dir: Some(PathBuf::from("none")),
        store: Some("none".to_owned()),
        ..Options::default()
    }
}

/// Bytes for which two models, and not the third, fit at once.
pub(crate) fn room_for_two(models_dir: &Path, [first, second, third]: [&str; 3]) -> u64 {
    let options = LoadOptions::default();
    let open = |name: &str| ModelFolder::open(&models_dir.join(name)).expect("opens");
    let resident = |name: &str| Model::load(&open(name), &options).expect("loads").resident_bytes();
    resident(first) + resident(second) + options.resident_bytes_estimate(&open(third)) - 1
}

impl Server {
    /// Starts with these settings and waits until it is ready.
    pub(crate) fn start(options: Options) -> Self {
        Self::start_with(options, |_| ())
    }

    /// The same with what no setting can say.
    pub(crate) fn start_with(options: Options, change: impl FnOnce(&mut Config)) -> Self {
        let mut config: Config = options.resolve().expect("valid settings");
        change(&mut config);
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("threads");
            runtime.block_on(async {
                let listener = TcpListener::bind(config.listen).await.expect("a free port");
                tell.send(listener.local_addr().expect("an address")).expect("the test waits");
                let shutdown = async { drop(stopped.await) };
                serve::run(listener, &config, shutdown).await.expect("serves");
            });
        });
        let address = told.recv().expect("the server starts");
        let server =
            Self { url: format!("http://{address}"), stop: Some(stop), thread: Some(thread) };
        for _ in 0..200 {
            if server.get("/readyz").status == 200 {
                return server;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        server
    }

    /// With the fixtures of these names, and the folder that has to outlive it.
    pub(crate) fn with(fixtures: &[&str]) -> (Self, tempfile::TempDir) {
        let dir = models_dir(fixtures);
        (Self::start(options(dir.path())), dir)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        answer(agent().get(format!("{}{path}", self.url)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(path, "application/json", body.to_string().as_bytes())
    }

    pub(crate) fn send(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let request =
            agent().post(format!("{}{path}", self.url)).header("content-type", content_type);
        answer(request.send(body))
    }

    pub(crate) fn classify(&self, body: &Value) -> Answer {
        self.post("/v1/classify", body)
    }

    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }
}

/// Four clients ask for the mails of `text` (client, number), none of which may fail, while `during` goes
/// on, which sees how many were answered; the number of these.
pub(crate) fn under_load(
    server: &Server,
    text: impl Fn(usize, usize) -> String + Sync,
    during: impl FnOnce(&AtomicUsize),
) -> usize {
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (text, done, sent) = (&text, &done, &sent);
            scope.spawn(move || {
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let answer =
                        server.classify(&serde_json::json!({"inputs": text(client, number)}));
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            });
        }
        during(&sent);
        done.store(true, Ordering::Relaxed);
    });
    sent.into_inner()
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let stopped = thread.join();
            assert!(stopped.is_ok() || std::thread::panicking(), "the server stops cleanly");
        }
    }
}

fn agent() -> ureq::Agent {
    let timeout = Some(std::time::Duration::from_secs(60));
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(timeout).build().into()
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = response.expect("an answer");
    let headers = response.headers().clone();
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string().expect("text");
    Answer { status: response.status().as_u16(), headers, text }
}
