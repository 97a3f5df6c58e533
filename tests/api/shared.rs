//! Answers that replicas share, and what happens when the server that has them does not work.

use std::path::Path;
use std::sync::atomic::Ordering;

use postsort_server::config::Options;
use serde_json::{Value, json};

use crate::life::metric;
use crate::redis::Redis;
use crate::server::{Server, copy_folder, fixture, models_dir, options, under_load};
use crate::store::wait_for;

fn replica(models: &Path, redis: &Redis) -> Server {
    replica_with(options(models), redis)
}

/// A replica that waits long enough for a busy machine.
fn replica_with(options: Options, redis: &Redis) -> Server {
    let server = Server::start(Options {
        shared_cache: Some(redis.url()),
        shared_cache_timeout_ms: Some(500),
        ..options
    });
    wait_for(|| up(&server));
    server
}

fn reading(server: &Server) -> Value {
    server.get("/health").json()["shared_cache"].clone()
}

fn up(server: &Server) -> bool {
    reading(server)["up"] == json!(true)
}

fn keys(redis: &Redis) -> Vec<String> {
    redis.ask(&["KEYS", "postsort:*"])
}

fn wait_for_keys(redis: &Redis, count: usize) {
    wait_for(|| keys(redis).len() == count);
}

#[test]
fn a_cold_replica_knows_what_another_has_said() {
    let Some(redis) = Redis::start() else { return };
    let models = models_dir(&["bert"]);
    let first = replica(models.path(), &redis);
    let inputs = json!({"inputs": ["a mail", "another", "a mail"]});
    let said = first.classify(&inputs).json();
    wait_for_keys(&redis, 2);
    first.classify(&json!({"inputs": "a secret", "cache": false}));

    let second = replica(models.path(), &redis);
    let answer = second.classify(&json!({"inputs": ["another", "new", "a mail"]})).json();
    let cached: Vec<&Value> = (0..3).map(|at| &answer["results"][at]["cached"]).collect();
    assert_eq!(cached, [true, false, true]);
    assert_eq!(answer["results"][0]["labels"], said["results"][1]["labels"]);
    assert_eq!(answer["results"][2]["labels"], said["results"][0]["labels"]);
    assert_eq!(answer["results"][0]["tokens"], said["results"][1]["tokens"]);
    let read = |name: &str| metric(&second.get("/metrics").text, name);
    assert_eq!(read("postsort_result_cache_hits_total{model=\"bert\",tier=\"shared\"}"), 2.0);
    assert_eq!(read("postsort_result_cache_hits_total{model=\"bert\",tier=\"memory\"}"), 0.0);
    assert_eq!(read("postsort_result_cache_misses_total{model=\"bert\"}"), 1.0);
    assert_eq!(read("postsort_shared_cache_up"), 1.0);
    // From now on they are in its own memory.
    second.classify(&inputs);
    assert_eq!(read("postsort_result_cache_hits_total{model=\"bert\",tier=\"memory\"}"), 3.0);
    assert_eq!(read("postsort_result_cache_hits_total{model=\"bert\",tier=\"shared\"}"), 2.0);
    // A third one has nothing to load a model for.
    let third = replica(models.path(), &redis);
    assert_eq!(third.classify(&inputs).json()["results"][0]["cached"], json!(true));
    assert_eq!(third.get("/health").json()["models"][0]["state"], json!("unloaded"));

    // Asked for without a trace, there is none; of no mail is there a word; and it does not stay.
    wait_for_keys(&redis, 3);
    for key in keys(&redis) {
        let seconds: u64 = redis.ask(&["TTL", &key]);
        assert!((1..=168 * 3600).contains(&seconds), "{seconds}");
        let bytes: Vec<u8> = redis.ask(&["GET", &key]);
        assert!(bytes.len() < 100, "{}", bytes.len());
    }
}

#[test]
fn what_is_not_an_answer_of_this_model_is_not_taken_for_one() {
    let Some(redis) = Redis::start() else { return };
    let models = models_dir(&["bert"]);
    let ask = |server: &Server| server.classify(&json!({"inputs": "a mail"})).json();
    let first = replica(models.path(), &redis);
    let said = ask(&first);
    wait_for_keys(&redis, 1);
    let key = keys(&redis).remove(0);
    let whole: Vec<u8> = redis.ask(&["GET", &key]);

    // Rubbish, an answer with fewer labels, one that is cut, another type, and nothing.
    let cut = "\\x01\\x00abc";
    for spoil in [
        vec!["SET", &key, "rubbish"],
        vec!["SET", &key, cut],
        vec!["SETRANGE", &key, "0", "\u{7f}"],
        vec!["SET", &key, ""],
    ] {
        let _: redis::Value = redis.ask(&spoil);
        let server = replica(models.path(), &redis);
        let answer = ask(&server);
        assert_eq!(answer["results"][0]["cached"], json!(false), "{spoil:?}");
        assert_eq!(answer["results"][0]["labels"], said["results"][0]["labels"]);
        // And it has been put right.
        wait_for(|| redis.ask::<Vec<u8>>(&["GET", &key]) == whole);
    }
    let _: redis::Value = redis.ask(&["DEL", &key]);
    let _: redis::Value = redis.ask(&["LPUSH", &key, "a list"]);
    // A server that ends at once may never write what it has said.
    let server = replica(models.path(), &redis);
    assert_eq!(ask(&server)["results"][0]["cached"], json!(false));
    wait_for(|| redis.ask::<String>(&["TYPE", &key]) == "string");

    // Another model by that name: its answers are its own. So are those of another precision.
    let precise = Options { precision: Some("f32".into()), ..options(models.path()) };
    let precise = replica_with(precise, &redis);
    assert_eq!(ask(&precise)["results"][0]["cached"], json!(false));
    wait_for_keys(&redis, 2);
    copy_folder(&fixture("electra"), &models.path().join("bert"));
    let other = replica(models.path(), &redis);
    assert_eq!(ask(&other)["results"][0]["cached"], json!(false));
    wait_for_keys(&redis, 3);
}

/// Redis is killed under load and comes back, hangs and goes on: no request fails, or waits for it for
/// longer than the limit and a handful of requests.
#[test]
fn no_request_fails_for_a_shared_cache_that_is_killed() {
    let Some(mut redis) = Redis::start() else { return };
    let models = models_dir(&["bert"]);
    let server = replica(models.path(), &redis);
    let text = |client, number| format!("mail {client} {number}");
    under_load(&server, text, |sent| {
        // Mails that are answered while `condition` comes about, and fifty more.
        let until = |condition: &dyn Fn() -> bool| {
            wait_for(condition);
            let before = sent.load(Ordering::Relaxed);
            wait_for(|| sent.load(Ordering::Relaxed) > before + 50);
        };
        until(&|| reading(&server)["written_total"].as_u64() > Some(50));
        redis.kill();
        until(&|| !up(&server));
        redis.run();
        until(&|| up(&server));
        redis.hang(true);
        until(&|| !up(&server));
        redis.hang(false);
        until(&|| up(&server));
    });
    let after = reading(&server);
    assert!(after["trips_total"].as_u64() >= Some(2), "{after}");
    assert!(after["skipped_total"].as_u64() >= Some(100), "{after}");
    let text = server.get("/metrics").text;
    // Whichever of the two was under way notices first.
    let failures = |reason: &str| -> f64 {
        let of = |command| {
            let labels = format!("{{command=\"{command}\",reason=\"{reason}\"}}");
            metric(&text, &format!("postsort_shared_cache_failures_total{labels}"))
        };
        ["get", "set"].map(of).iter().sum()
    };
    assert!(failures("failed") >= 1.0 && failures("late") >= 1.0, "{text}");
    // What was written after it came back is there.
    assert!(!keys(&redis).is_empty());
}

/// A server that takes no more is still asked.
#[test]
fn a_full_shared_cache_is_still_read() {
    let Some(redis) = Redis::start() else { return };
    let models = models_dir(&["bert"]);
    let first = replica(models.path(), &redis);
    first.classify(&json!({"inputs": "a mail"}));
    wait_for_keys(&redis, 1);
    let _: redis::Value = redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let second = replica(models.path(), &redis);
    assert_eq!(second.classify(&json!({"inputs": "another"})).status, 200);
    wait_for(|| reading(&second)["lost_failed_total"] == json!(1));
    let known = second.classify(&json!({"inputs": "a mail"})).json();
    assert_eq!(known["results"][0]["cached"], json!(true));
    assert_eq!((up(&second), &reading(&second)["trips_total"]), (true, &json!(0)));
}

#[test]
fn without_the_server_it_goes_without() {
    let models = models_dir(&["bert"]);
    // Nobody listens there.
    let shared_cache = Some("redis://user:hushhush@127.0.0.1:1".to_owned());
    let server = Server::start(Options { shared_cache, ..options(models.path()) });
    for text in ["a", "b", "a"] {
        assert_eq!(server.classify(&json!({"inputs": text})).status, 200);
    }
    wait_for(|| reading(&server)["error"].as_str().is_some_and(|error| error.contains("refused")));
    let health = server.get("/health");
    assert_eq!(health.status, 200);
    assert_eq!(reading(&server)["server"], json!("127.0.0.1:1"));
    assert!(!health.text.contains("hushhush"), "{}", health.text);
    assert_eq!(metric(&server.get("/metrics").text, "postsort_shared_cache_up"), 0.0);

    let wrong = Options { shared_cache: Some("http://hushhush".into()), ..options(models.path()) };
    let error = wrong.resolve().expect_err("no address").to_string();
    assert!(error.contains("shared_cache") && !error.contains("hushhush"), "{error}");
}
