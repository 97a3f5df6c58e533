//! Pieces against whole texts, with the tokenizers of the parity fixtures.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{BoundedTokenizer, TOKENIZED_BYTES_MAX, cut_after, cut_before};
use crate::random::Random;

const TOKENIZERS: [&str; 5] =
    ["bert", "roberta-multi-label", "xlm-roberta", "deberta-v3", "modernbert-cls"];

fn open(name: &str) -> BoundedTokenizer {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut tokenizer =
        tokenizers::Tokenizer::from_file(fixtures.join(name).join("tokenizer.json"))
            .expect("reads");
    tokenizer.with_padding(None).with_truncation(None).expect("nothing to truncate");
    BoundedTokenizer::new(tokenizer).expect("opens")
}

fn of_the_library(bounded: &BoundedTokenizer, text: &str) -> Vec<u32> {
    bounded.tokenizer.encode_fast(text, false).expect("encodes").get_ids().to_vec()
}

impl Random {
    /// Pieces of every kind that a mail may have, in any order.
    fn text(&mut self, bytes: usize) -> String {
        let words = [
            "the",
            "Delivery",
            "order's",
            "don't",
            "naïve",
            "Grüße",
            "4711-0815",
            "$1,204.50",
            "e\u{301}",
            "会议改到星期五下午三点",
            "ミーティング",
            "Привет",
            "שלום",
            "🎉🎉",
            "👩\u{200d}👩\u{200d}👧",
            "...",
            "!!!",
            "https://track.example/4711?x=1&y=2",
            "<a href=\"x\">",
            "&nbsp;",
            "\u{a0}",
            "\u{feff}",
            "ﬁ",
            "ﷺ",
            "\u{0}",
            "\u{200b}",
            "_____",
            "[MASK]",
            "<mask>",
            "=3D=20",
            "aGVsbG8gd29ybGQ",
        ];
        let gaps = [" ", " ", " ", " ", " ", "\n", "\r\n", "\t", "  ", "\n\n", "", "", "   \n  "];
        let mut text = String::new();
        while text.len() < bytes {
            match self.below(40) {
                0 => {
                    text.extend(char::from_u32(
                        u32::try_from(self.below(0x11_0000)).expect("fits"),
                    ));
                }
                1 => text.push_str(&"x".repeat(self.below(400))),
                2 => text.push_str(&" ".repeat(self.below(200))),
                _ => text.push_str(words[self.below(words.len())]),
            }
            text.push_str(gaps[self.below(gaps.len())]);
        }
        text
    }
}

#[test]
fn the_head_and_the_tail_are_those_of_the_whole_text() {
    let mut random = Random(7);
    for name in TOKENIZERS {
        let bounded = open(name);
        let mut cuts = 0;
        for round in 0..120 {
            let text = random.text(200 + round * 250);
            let wanted = 1 + random.below(600);
            let whole = of_the_library(&bounded, &text);
            let head = bounded.head(&text, wanted).expect("encodes");
            let compared = wanted.min(whole.len());
            assert_eq!(head.ids[..compared], whole[..compared], "{name} {round}: head of {wanted}");
            assert!(head.cut || head.ids == whole, "{name} {round}");
            let tail = bounded.tail(&text, wanted).expect("encodes");
            let (kept, all) = (tail.ids.len().min(compared), whole.len());
            assert_eq!(kept, compared, "{name} {round}: tail of {wanted}");
            assert_eq!(
                tail.ids[tail.ids.len() - kept..],
                whole[all - kept..],
                "{name} {round}: tail"
            );
            cuts += usize::from(head.cut);
        }
        assert!(cuts > 40, "{name}: only {cuts} texts were long enough to be cut");
    }
}

/// A word or a gap longer than any piece, with text behind it.
#[test]
fn runs_do_not_hide_what_follows() {
    let bounded = open("bert");
    for run in [" ", "\n", "x", "7", " \r\n", "aGVsbG8"] {
        let text = format!("before {} after", run.repeat(200_000 / run.len()));
        let whole = of_the_library(&bounded, &text);
        let head = bounded.head(&text, 100).expect("encodes");
        assert_eq!((head.ids, head.cut), (whole, false), "{run:?}");
    }
}

/// Unbounded, each of these takes seconds and up to gigabytes in optimised code.
#[test]
fn megabytes_cost_no_more_than_their_head() {
    let runs =
        ["x", "aGVsbG8gd29ybGQ1", "会议", " ", "\n", "\u{0}", "\u{301}", "-", "é", "the order is "];
    for name in TOKENIZERS {
        let bounded = open(name);
        for run in runs {
            let text = run.repeat((8 << 20) / run.len());
            let start = Instant::now();
            let head = bounded.head(&text, 510).expect("encodes");
            let tail = bounded.tail(&text, 255).expect("encodes");
            let took = start.elapsed();
            assert!(head.ids.len() <= 510 && tail.ids.len() <= 255, "{name} {run:?}");
            assert!(took < Duration::from_secs(10), "{name} {run:?}: {took:?}");
        }
    }
}

#[test]
fn cuts_fall_on_borders() {
    let text = "ab cé日x";
    for at in 0..=text.len() {
        assert!(text.is_char_boundary(cut_after(text, at)), "after {at}");
        assert!(text.is_char_boundary(cut_before(text, at)), "before {at}");
    }
    assert_eq!((cut_after(text, 1), cut_before(text, 5)), (2, 2));
    let long = "日".repeat(TOKENIZED_BYTES_MAX);
    assert_eq!(super::capped_head(&long).len(), TOKENIZED_BYTES_MAX / 3 * 3);
    assert_eq!(super::capped_tail(&long).len(), TOKENIZED_BYTES_MAX / 3 * 3);
}
