//! Texts beyond the limit: what each way of reading them reads, against the tokens of the whole.

use std::path::{Path, PathBuf};

use postsort_models::{Encoded, Encoding, LoadOptions, LongText, Model, ModelFolder, Precision};
use tokenizers::Tokenizer;

const SUBJECT: &str = "Invoice overdue: order 4711";
const NAMES: [&str; 4] = ["bert", "roberta-multi-label", "xlm-roberta", "modernbert-cls"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn load(path: &Path) -> Model {
    let folder = ModelFolder::open(path).expect("opens");
    let precision = Precision::F32;
    let options = LoadOptions { precision, ..LoadOptions::default() };
    Model::load(&folder, &options).expect("loads")
}

/// Ids of all of a text, without special tokens.
fn whole(name: &str, text: &str) -> Vec<u32> {
    let mut tokenizer = Tokenizer::from_file(fixture(name).join("tokenizer.json")).expect("reads");
    tokenizer.with_padding(None).with_truncation(None).expect("nothing to truncate");
    tokenizer.encode(text, false).expect("encodes").get_ids().to_vec()
}

/// A subject and `words` numbered words.
fn mail(words: usize) -> String {
    let body: Vec<String> = (0..words).map(|at| format!("w{at}")).collect();
    format!("{SUBJECT}\n\n{}", body.join(" "))
}

/// What a window has between its two special tokens.
fn inner(encoded: &Encoded, window: usize) -> &[u32] {
    let ids = &encoded.windows[window].ids;
    &ids[1..ids.len() - 1]
}

fn counts_add_up(encoded: &Encoded, tokens_max: usize) {
    let lengths = encoded.windows.iter().map(|window| window.ids.len());
    assert!(lengths.clone().all(|length| length <= tokens_max));
    assert_eq!(lengths.sum::<usize>(), encoded.tokens);
    assert!(encoded.windows.iter().all(|window| window.ids.len() == window.type_ids.len()));
}

#[test]
fn short_text_is_read_the_same_in_every_way() {
    for name in NAMES {
        let model = load(&fixture(name));
        let tokenizer = model.tokenizer();
        for text in ["", "a", SUBJECT] {
            let plain = tokenizer.encode(text, 0, LongText::Truncate).expect("encodes");
            assert!(!plain.truncated && plain.windows.len() == 1, "{name}");
            assert_eq!(inner(&plain, 0), whole(name, text), "{name}");
            for long in [LongText::HeadTail, LongText::Window] {
                let other = tokenizer.encode(text, text.len(), long).expect("encodes");
                assert_eq!(other, plain, "{name} {long:?}");
            }
        }
    }
}

#[test]
fn head_and_tail_are_halves_of_the_room() {
    for name in NAMES {
        let model = load(&fixture(name));
        let tokens_max = model.tokenizer().tokens_max();
        let room = tokens_max - 2;
        // From just beyond the limit to far beyond what is tokenised at once.
        for words in [40, 100, 3_000] {
            let text = mail(words);
            let all = whole(name, &text);
            assert!(all.len() > room, "{name} {words}");
            let encoded = model
                .tokenizer()
                .encode(&text, SUBJECT.len(), LongText::HeadTail)
                .expect("encodes");
            counts_add_up(&encoded, tokens_max);
            assert!(encoded.truncated && encoded.windows.len() == 1);
            let (head, tail) = inner(&encoded, 0).split_at(room - room / 2);
            assert_eq!(head, &all[..room - room / 2], "{name} {words}");
            assert_eq!(tail, &all[all.len() - room / 2..], "{name} {words}");
        }
    }
}

#[test]
fn windows_overlap_and_repeat_the_subject() {
    for name in NAMES {
        let model = load(&fixture(name));
        let tokens_max = model.tokenizer().tokens_max();
        let room = tokens_max - 2;
        let subject = whole(name, SUBJECT);
        let subject = &subject[..subject.len().min(32).min(room / 4)];
        for (words, reads_all) in [(40, true), (60, true), (3_000, false)] {
            let text = mail(words);
            let all = whole(name, &text);
            let encoded =
                model.tokenizer().encode(&text, SUBJECT.len(), LongText::Window).expect("encodes");
            counts_add_up(&encoded, tokens_max);
            assert_eq!(encoded.truncated, !reads_all, "{name} {words}");
            assert_eq!(inner(&encoded, 0), &all[..room], "{name} {words}: the first is the head");
            let overlap = (room - subject.len()) / 4;
            let mut end = room;
            for window in 1..encoded.windows.len() {
                let (repeated, body) = inner(&encoded, window).split_at(subject.len());
                assert_eq!(repeated, subject, "{name} {words}");
                let start = end - overlap;
                assert_eq!(body, &all[start..start + body.len()], "{name} {words} window {window}");
                end = start + body.len();
            }
            if reads_all {
                assert_eq!(end, all.len(), "{name} {words}: the last one ends with the text");
            } else {
                assert_eq!(encoded.windows.len(), 8, "{name} {words}");
            }
            let logits =
                model.forward(&encoded.windows.iter().collect::<Vec<_>>()).expect("computes");
            assert_eq!(logits.len(), encoded.windows.len());
        }
    }
}

#[test]
fn a_text_is_skimmed_from_its_head_to_its_end() {
    let model = load(&fixture("bert"));
    let encode =
        |words, long| model.tokenizer().encode(&mail(words), SUBJECT.len(), long).expect("encodes");
    for words in [1, 40, 60, 90, 3_000] {
        let whole = encode(words, LongText::Window);
        assert_eq!(encode(words, LongText::Skim), whole, "{words}: what there is to read");
        for count in 1..=8 {
            let (read, more) = whole.clone().skimmed(count);
            let rest = whole.clone().rest(count);
            assert_eq!(read.windows.len(), whole.windows.len().min(count), "{words} {count}");
            assert_eq!(more, !rest.windows.is_empty(), "{words} {count}");
            assert_eq!(read.truncated, whole.truncated || more);
            assert_eq!(
                (read.tokens + rest.tokens, rest.truncated),
                (whole.tokens, whole.truncated)
            );
            assert_eq!(read.windows[0], whole.windows[0]);
            if count > 1 {
                assert_eq!(read.windows.last(), whole.windows.last());
            }
            let mut left = rest.windows.iter();
            let mut read = read.windows.iter().peekable();
            let in_order = |window: &Encoding| {
                read.next_if(|own| *own == window).or_else(|| left.next()) == Some(window)
            };
            assert!(whole.windows.iter().all(in_order), "{words} {count}: nothing is lost");
        }
    }
}

/// A subject that ends within a character, lies beyond the text, or is the whole of a huge text.
#[test]
fn odd_subjects_do_no_harm() {
    let model = load(&fixture("bert"));
    let text = "日本語 ".repeat(20_000);
    for subject_bytes in [0, 1, 3, text.len(), text.len() + 1, usize::MAX] {
        let encoded =
            model.tokenizer().encode(&text, subject_bytes, LongText::Window).expect("encodes");
        counts_add_up(&encoded, model.tokenizer().tokens_max());
        assert_eq!(encoded.windows.len(), 8);
        assert!(encoded.truncated);
    }
}

#[test]
fn pairs_share_the_room_however_long_they_are() {
    for name in NAMES {
        let model = load(&fixture(name));
        let tokens_max = model.tokenizer().tokens_max();
        let short = model.tokenizer().encode_pair("a", "b").expect("encodes");
        assert!(!short.truncated && short.tokens < 12, "{name}: {}", short.tokens);
        for (first, second) in [(1, 90_000), (90_000, 1), (400, 90_000), (90_000, 90_000)] {
            let encoded =
                model.tokenizer().encode_pair(&mail(first), &mail(second)).expect("encodes");
            counts_add_up(&encoded, tokens_max);
            assert_eq!(
                (encoded.tokens, encoded.truncated),
                (tokens_max, true),
                "{name} {first} {second}"
            );
        }
    }
}

#[test]
fn a_limit_in_the_manifest_counts() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for entry in std::fs::read_dir(fixture("bert")).expect("reads") {
        let entry = entry.expect("reads");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copies");
    }
    std::fs::write(dir.path().join("postsort.toml"), "tokens_max = 16").expect("writes");
    let model = load(dir.path());
    let encoded = model.tokenizer().encode(&mail(100), 0, LongText::Truncate).expect("encodes");
    assert_eq!((encoded.tokens, encoded.truncated), (16, true));
}

#[test]
fn texts_for_measuring_have_exactly_the_tokens_asked_for() {
    for name in NAMES {
        let model = load(&fixture(name));
        for tokens in [1, 2, 3, 17, model.tokenizer().tokens_max()] {
            let sequence = model.tokenizer().encode_exact(tokens);
            assert_eq!((sequence.ids.len(), sequence.type_ids.len()), (tokens, tokens), "{name}");
            assert!(model.forward(&[&sequence]).expect("computes")[0][0].is_finite(), "{name}");
        }
    }
}
