//! Id for id against the library.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::normalizers::BertNormalizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::WordPiece;
use crate::random::Random;

fn of(library: &Tokenizer) -> Option<WordPiece> {
    WordPiece::of(library, &library.get_vocab(true))
}

/// The library, and ours.
struct Both {
    library: Tokenizer,
    ours: WordPiece,
}

impl Both {
    fn of(library: Tokenizer) -> Self {
        let ours = of(&library).expect("all of it is known");
        Self { library, ours }
    }

    fn check(&self, text: &str) {
        let expected = self.library.encode_fast(text, false).expect("encodes");
        if let Some(ids) = self.ours.ids(text) {
            assert_eq!(ids, expected.get_ids(), "{text:?} with {:?}", self.ours.normalizer);
        } else {
            let added = |token: &String| text.contains(token.as_str());
            assert!(self.ours.added.iter().any(added), "{text:?} is ours to read");
        }
    }
}

fn bundled() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundled/spam/tokenizer.json");
    let mut tokenizer = Tokenizer::from_file(path).expect("reads");
    tokenizer.with_padding(None).with_truncation(None).expect("nothing to truncate");
    tokenizer
}

/// The bundled vocabulary under every normaliser.
fn all_normalizers() -> Vec<Both> {
    let mut all = Vec::new();
    for bits in 0..24_u8 {
        let on = |bit: u8| bits >> bit & 1 == 1;
        let strip = [None, Some(false), Some(true)][usize::from(bits >> 3)];
        let mut tokenizer = bundled();
        tokenizer.with_normalizer(Some(BertNormalizer::new(on(0), on(1), strip, on(2))));
        all.push(Both::of(tokenizer));
    }
    all
}

impl Random {
    fn character(&mut self) -> char {
        let below = match self.below(10) {
            0..=3 => 0x80,
            4 | 5 => 0x250,
            6 | 7 => 0x3100,
            8 => 0x1_0000,
            _ => 0x11_0000,
        };
        char::from_u32(self.below(below) as u32).unwrap_or('\u{301}')
    }

    fn odd_text(&mut self) -> String {
        const PARTS: [&str; 24] = [
            "the",
            "Delivery",
            "naïve",
            "Grüße",
            "don't",
            " ",
            "  ",
            "\n",
            "\u{301}",
            "\u{323}",
            "\u{ad}",
            "\u{200b}",
            "[SEP",
            "[sep]",
            "##ing",
            "中文",
            "한국어",
            "İstanbul",
            "ΣΊΣΥΦΟΣ",
            "👩‍👩‍👧",
            "…",
            "\u{302e}",
            "\u{1d165}",
            "\u{0}",
        ];
        let mut text = String::new();
        for _ in 0..self.below(24) {
            match self.below(3) {
                0 => text.push(self.character()),
                1 => text.push_str(PARTS[self.below(24)]),
                _ => (0..self.below(8))
                    .for_each(|_| text.push(char::from(32 + self.below(95) as u8))),
            }
        }
        text
    }
}

#[test]
fn odd_texts() {
    let long = |length: usize| format!("{} {}", "a".repeat(length), "é".repeat(length));
    let mut texts: Vec<String> = [
        "",
        " ",
        "\n\t\r ",
        "\u{0}",
        "a\u{0}b",
        "\u{fffd}",
        "a\u{fffd}b",
        "\u{b}\u{c}a\u{b}b",
        "a\u{1c}b\u{1f}c\u{7f}d",
        "a\u{85}b\u{a0}c\u{2028}d\u{3000}e",
        "a\u{200b}b\u{200d}\u{feff}c",
        "e\u{301}\u{323} e\u{323}\u{301} \u{301}e",
        "a\u{301}\u{0}\u{323}\u{302e}\u{1d165}b",
        "İI ıi ẞß ΣΑΣ ςσ ǅ ﬁ Å Å",
        "中文字 mixed中文words \u{20000}\u{2b820}\u{2f800}",
        "한국어 \u{1112}\u{1161}\u{11ab}",
        "👩‍👩‍👧‍👦 👍🏽 ☃️",
        "¡hola! «quoted» — dash… ‘x’ ؟ 。",
        "$100 + 5% ~ ^ ` | < = >",
        "it's e-mail@example.com http://a.b/c?d=e&f",
        "[sep] [CLS [ SEP] ##ing",
        "[SEP]",
        "a[SEP]b",
        "x [CLS] y [MASK]",
        "[UNK]",
        "[PAD][PAD]",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend([99, 100, 101, 255, 256, 257, 300].map(long));
    for both in all_normalizers() {
        texts.iter().for_each(|text| both.check(text));
    }
}

#[test]
fn every_character_alone_and_within_a_word() {
    let both = Both::of(bundled());
    let cased = {
        let mut tokenizer = bundled();
        tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, Some(false), false)));
        Both::of(tokenizer)
    };
    // In debug every seventh, and all of the first two planes' beginning.
    let step = if cfg!(debug_assertions) { 7 } else { 1 };
    let all = (0..=0x10_ffff_u32).filter(|c| c % step == 0 || *c < 0x500);
    let (mut text, mut count) = (String::new(), 0);
    for c in all.filter_map(char::from_u32) {
        text.push_str(&format!("{c} a{c}b "));
        count += 1;
        if count % 64 == 0 {
            both.check(&text);
            cased.check(&text);
            text.clear();
        }
    }
    both.check(&text);
}

#[test]
fn random_texts() {
    let mut random = Random(1);
    let rounds = if cfg!(debug_assertions) { 300 } else { 10_000 };
    for both in all_normalizers() {
        (0..rounds).for_each(|_| both.check(&random.odd_text()));
    }
}

/// Ordinary mail with a few characters replaced, added, taken out or doubled.
#[test]
fn mutated_mail() {
    const MAIL: &str = "Re: Größe of your order #4711-0815 (2 × €1,204.50)\r\n\r\nHi José,\n> we've shipped \
        it: https://track.example/p?id=9f86d081884c7d659a2f&u=x%20y — don't reply!\n\n会议改到星期五 \
        [SEP] ☃️ İstanbul, ΣΊΣΥΦΟΣ; e\u{301}\u{323} Straße\u{a0}12\t--\nUnsubscribe <a href=\"#\">here</a>";
    let mut random = Random(3);
    let rounds = if cfg!(debug_assertions) { 30 } else { 2_000 };
    for both in all_normalizers() {
        for _ in 0..rounds {
            let mut text: Vec<char> = MAIL.chars().collect();
            let at = random.below(text.len());
            text.rotate_left(at);
            text.truncate(120);
            for _ in 0..=random.below(6) {
                let at = random.below(text.len());
                match random.below(4) {
                    0 => text[at] = random.character(),
                    1 => text.insert(at, random.character()),
                    2 => drop(text.remove(at)),
                    _ => text.insert(at, text[at]),
                }
            }
            both.check(&text.into_iter().collect::<String>());
        }
    }
}

/// Every tokenizer of the parity fixtures: one of BERT's is read here, any other is not.
#[test]
fn tokenizers_of_the_fixtures() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (mut random, mut known) = (Random(4), 0);
    for folder in std::fs::read_dir(fixtures).expect("lists") {
        let path = folder.expect("lists").path().join("tokenizer.json");
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let mut library = Tokenizer::from_bytes(&bytes).expect("reads");
        library.with_padding(None).with_truncation(None).expect("nothing to truncate");
        let bert =
            serde_json::to_value(library.get_model()).expect("writes")["type"] == "WordPiece";
        assert_eq!(of(&library).is_some(), bert, "{}", path.display());
        if bert {
            let both = Both::of(library);
            (0..500).for_each(|_| both.check(&random.odd_text()));
            known += 1;
        }
    }
    assert!(known > 5);
}

#[test]
fn small_vocabularies_and_limits() {
    let vocabulary = ["[UNK]", "a", "##b", "@@b", "ab", "##ba", "##", "b", "##a", "é", "##é", "#"];
    let vocabulary: BTreeMap<&str, usize> = vocabulary.into_iter().zip(10..).collect();
    let mut random = Random(2);
    for (prefix, limit) in
        [("##", 100), ("@@", 100), ("", 5), ("##", 1), ("##", 256), ("##", 0), ("##", 257)]
    {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "post_processor": null, "decoder": null,
            "normalizer": {
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": false, "lowercase": true,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": prefix,
                "max_input_chars_per_word": limit, "vocab": vocabulary,
            },
        });
        let tokenizer = Tokenizer::from_bytes(json.to_string()).expect("reads");
        if !(1..=256).contains(&limit) {
            assert!(of(&tokenizer).is_none(), "{limit} characters a word");
            continue;
        }
        let both = Both::of(tokenizer);
        for _ in 0..2000 {
            let length = random.below(12);
            let text: String =
                (0..length).map(|_| ['a', 'b', 'é', ' ', '#', '.'][random.below(6)]).collect();
            both.check(&text);
        }
    }
}

#[test]
fn what_is_not_understood_is_left_to_the_library() {
    let mut added = bundled();
    added.add_tokens(&[AddedToken::from("viagra", false)]);
    assert!(of(&added).is_none(), "matched in the normalised text");
    let normalized = |on| AddedToken::from("Qzx", false).normalized(on);
    let mut twice = bundled();
    twice.add_tokens(&[normalized(true)]);
    twice.add_special_tokens(&[normalized(false)]);
    assert!(of(&twice).is_none(), "matched in the normalised text all the same");
    // Both entries stay, the last is listed.
    let mut file = serde_json::to_value(bundled()).expect("writes");
    let entry = |normalized: bool| {
        serde_json::json!({
            "id": 1996, "content": "the", "special": false, "normalized": normalized,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    let entries = file["added_tokens"].as_array_mut().expect("a list");
    entries.extend([entry(true), entry(false)]);
    let both_ways = Tokenizer::from_bytes(file.to_string()).expect("reads");
    assert!(!both_ways.get_added_tokens_decoder()[&1996].normalized);
    assert!(of(&both_ways).is_none(), "said twice in a file");
    file["added_tokens"].as_array_mut().expect("a list").truncate(5);
    file["model"]["vocab"]["[SEPARATOR]"] = file["model"]["vocab"]["[SEP]"].clone();
    let separator = AddedToken::from("[SEPARATOR]", true);
    let mut shared = Tokenizer::from_bytes(file.to_string()).expect("reads");
    shared.add_special_tokens(&[separator]);
    assert!(of(&shared).is_none(), "two added tokens with one id");
    let mut repeated = bundled();
    let template = TemplateProcessing::builder().try_single("$A $A").expect("parses").build();
    repeated.with_post_processor(Some(template.expect("builds")));
    assert!(of(&repeated).is_none(), "a post-processor that repeats the text");
    let mut foreign = bundled();
    foreign.add_special_tokens(&[AddedToken::from("<MAIL>", true)]);
    Both::of(foreign).check("<mail> <MAI L> a");
    let mut other = bundled();
    other.with_normalizer(Some(tokenizers::normalizers::Lowercase));
    assert!(of(&other).is_none());
}

/// Every file below `POSTSORT_CORPUS`, broken UTF-8 replaced.
fn corpus_texts() -> Vec<String> {
    let corpus = std::env::var_os("POSTSORT_CORPUS").expect("POSTSORT_CORPUS=FOLDER");
    let (mut folders, mut texts) = (vec![std::path::PathBuf::from(corpus)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("lists") {
            let path = entry.expect("lists").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(path).expect("reads");
                texts.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
    texts
}

/// `POSTSORT_CORPUS=FOLDER cargo test --release -p postsort-models corpus -- --ignored --nocapture`:
/// every file below it, whole and line by line.
#[test]
#[ignore = "needs a corpus"]
fn corpus() {
    let both = Both::of(bundled());
    let texts = corpus_texts();
    for text in &texts {
        both.check(text);
        text.lines().for_each(|line| both.check(line));
    }
    println!("{} texts equal, whole and line by line", texts.len());
}

/// Median microseconds of the library and of ours, each text once through both in turn. `between`
/// runs before every one.
fn medians(both: &Both, texts: &[&str], mut between: impl FnMut()) -> [f64; 2] {
    let mut micros = [Vec::new(), Vec::new()];
    for (turn, text) in texts.iter().enumerate() {
        for way in [turn % 2, 1 - turn % 2] {
            between();
            let clock = std::time::Instant::now();
            if way == 1 {
                std::hint::black_box(both.ours.ids(text));
            } else {
                std::hint::black_box(both.library.encode_fast(*text, false).expect("encodes"));
            }
            micros[way].push(clock.elapsed().as_secs_f64() * 1e6);
        }
    }
    micros.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

/// `POSTSORT_CORPUS=FOLDER cargo test --release -p postsort-models corpus_speed -- --ignored --nocapture`:
/// what both take for whole mails, their beginnings and beginnings of 128 tokens, with the caches
/// as a loop leaves them and as a forward pass does.
#[test]
#[ignore = "needs a corpus"]
fn corpus_speed() {
    let both = Both::of(bundled());
    let texts = corpus_texts();
    let head = |text: &str, bytes: usize| text.floor_char_boundary(bytes);
    let tokens = |text: &str, wanted: usize| {
        let encoding = both.library.encode(text, false).expect("encodes");
        encoding.get_offsets().get(wanted - 1).map(|&(_, end)| end)
    };
    let (mut short, mut whole, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    for text in &texts {
        // The text of a mail begins after its fields.
        let body = text.split_once("\n\n").map_or("", |(_, body)| body);
        let start = &body[..head(body, 1500)];
        if let Some(end) = tokens(start, 128) {
            short.push(&start[..end]);
        }
        whole.push(text.as_str());
        heads.push(&text[..head(text, 1500)]);
    }
    let mut other = vec![1_u64; 4 << 20];
    let warm = || {};
    let cold = || {
        std::hint::black_box(&mut other).iter_mut().for_each(|word| *word = word.wrapping_mul(3));
    };
    for (name, texts) in [("whole", &whole), ("1500 bytes", &heads), ("128 tokens", &short)] {
        let [library, ours] = medians(&both, texts, warm);
        println!("{name}, {} mails, in a loop: {library:.1} µs, {ours:.1} µs", texts.len());
    }
    let [library, ours] = medians(&both, &short[..short.len().min(1000)], cold);
    println!("128 tokens, caches emptied before each: {library:.1} µs, {ours:.1} µs");
    let clock = std::time::Instant::now();
    let vocabulary = both.library.get_vocab(true);
    let listed = clock.elapsed();
    for _ in 0..5 {
        let clock = std::time::Instant::now();
        std::hint::black_box(WordPiece::of(&both.library, &vocabulary));
        println!("built in {:.2?} (listing the vocabulary {listed:.2?})", clock.elapsed());
    }
}
