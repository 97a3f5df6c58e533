//! The model that comes with Postsort, in its own words.

use serde_json::{Value, json};

use crate::server::{Server, options, root};

fn is_spam(result: &Value, threshold: f64) -> bool {
    let labels = result["labels"].as_array().expect("a list");
    let spam = labels.iter().find(|label| label["label"] == "spam").expect("a spam label");
    spam["score"].as_f64().expect("a score") >= threshold
}

#[test]
fn plain_personal_mail_is_no_spam_and_plain_spam_is() {
    let server = Server::start(options(&root().join("bundled")));
    let threshold = server.get("/v1/models/spam").json()["thresholds"]["spam"].as_f64();
    let threshold = threshold.expect("the manifest states a threshold");
    let ham = [
        "are we still on for lunch on Thursday?",
        "Hi Anna, the minutes of Monday's meeting are attached. Best, Tom",
        "Mum, I land at six. Can you pick me up at the airport?",
        "The build fails since this morning: undefined reference in parser.c, line 240.",
    ];
    let spam = [
        "CONGRATULATIONS!!! You have been selected to receive $1,000,000. Click here to claim your free prize now. \
         This is a limited time offer, act now! 100% guaranteed, no obligation, no credit check.",
        "Lowest mortgage rates in 40 years! Refinance now and save thousands, bad credit OK. \
         Click here for your FREE quote. To be removed from our list reply with REMOVE.",
    ];
    let classify = |texts: &[&str]| {
        let answer = server.classify(&json!({"inputs": texts}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["results"].as_array().expect("a list").clone()
    };
    for (text, result) in ham.iter().zip(classify(&ham)) {
        assert!(!is_spam(&result, threshold), "{text}: {result}");
    }
    for (text, result) in spam.iter().zip(classify(&spam)) {
        assert!(is_spam(&result, threshold), "{text}: {result}");
    }
}

/// All three by one encoder, in the precision that the spam model alone would have.
#[test]
fn the_bundled_models_share_their_encoder_and_answer_at_once() {
    let server = Server::start(options(&root().join("bundled")));
    let analyze = |input: Value| {
        let answer = server.post("/v1/analyze", &json!({"input": input}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["results"].clone()
    };
    let first = |results: &Value, model: &str| results[model]["labels"][0]["label"].clone();
    let offer = analyze(json!({
        "subject": "Lowest mortgage rates in 40 years!",
        "body": "Refinance now and save thousands, bad credit OK. Click here for your FREE quote.",
    }));
    assert_eq!(
        (first(&offer, "spam"), first(&offer, "topic")),
        (json!("spam"), json!("advertising"))
    );
    let thanks = analyze(json!("The talk was wonderful, we loved every minute of it. Thank you!"));
    assert_eq!(
        (first(&thanks, "spam"), first(&thanks, "sentiment")),
        (json!("ham"), json!("positive"))
    );
    let anger =
        analyze(json!("This is the worst product I ever bought, it broke on the first day."));
    assert_eq!(first(&anger, "sentiment"), json!("negative"));
    let models = server.get("/v1/models").json()["models"].as_array().expect("a list").clone();
    assert_eq!(models.len(), 3);
    let precision = &models[0]["precision"];
    for model in &models {
        assert!(model["shared_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{model}");
        assert_eq!(&model["precision"], precision, "{model}");
    }
}
