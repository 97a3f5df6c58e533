//! Which parts of a text moved the score: the text is read again without each of them (occlusion,
//! Zeiler and Fergus 2014), first in sentences, then, of the one that moved it most, in words.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use postsort_email::ModelText;

use super::{Answer, ClassifyOptions, Request, Timings, Verdict};
use crate::catalog::Version;
use crate::error::Error;
use crate::input::Readable;

/// Engine time that the explanations of one request may take, about.
const EXPLAIN_TIME: Duration = Duration::from_millis(400);
/// Parts that a text is cut into at each of the two steps.
const PARTS_MAX: usize = 16;
/// Fewer would say nothing.
const PARTS_MIN: usize = 4;

/// What moved a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Position of the label whose score is explained: the best one.
    pub label: usize,
    /// Its score with the whole text.
    pub score: f32,
    /// Sentences, the one that moved the score most first.
    pub parts: Vec<Part>,
    /// Words of that one, in the same order.
    pub words: Vec<Part>,
    /// Whether there was time for both.
    pub complete: bool,
}

/// A part of the text that the model reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Where it is, in bytes.
    pub range: Range<usize>,
    /// What it says.
    pub text: String,
    /// What the score loses without it: above zero where it speaks for the label.
    pub weight: f32,
}

impl Request {
    /// Explains the answers as far as there is time. That it cannot be done spoils no answer.
    pub(super) async fn explain(
        &mut self,
        version: &Arc<Version>,
        texts: &[Readable],
        answers: &mut [Answer],
    ) {
        let (pipeline, entry) = (Arc::clone(&self.pipeline), Arc::clone(&self.entry));
        // What is left out makes texts that nobody sends.
        let options = ClassifyOptions { skip_cache: true, explain: false, ..self.options };
        let (deadline, timings, lapped) = (self.deadline, Timings::default(), self.lapped);
        let mut beside =
            Self { pipeline, entry, options, deadline, timings, lapped, encodings: None };
        let time = EXPLAIN_TIME / u32::try_from(answers.len()).unwrap_or(u32::MAX);
        for (text, answer) in texts.iter().zip(answers) {
            let Readable::One(text) = text else { continue };
            answer.explanation =
                beside.explained(version, text, &answer.verdict, time).await.map(Arc::new);
        }
    }

    async fn explained(
        &mut self,
        version: &Arc<Version>,
        text: &ModelText,
        verdict: &Verdict,
        time: Duration,
    ) -> Option<Explanation> {
        let (label, score) = (verdict.first, verdict.confidence);
        // Half of the time for each step; every part costs about one reading of the whole text.
        let sequence = version.cost.sequence(verdict.tokens / verdict.windows.max(1));
        let once =
            sequence * u32::try_from(verdict.windows).unwrap_or(u32::MAX) + version.cost.pass();
        let count = (time / 2).as_nanos() / once.as_nanos().max(1);
        let count = usize::try_from(count).unwrap_or(PARTS_MAX).clamp(PARTS_MIN, PARTS_MAX);
        let all = 0..text.text.len();
        let sentences = cut(&text.text, all, count, ends_sentence);
        let parts = self.weights(version, text, sentences, (label, score)).await.ok()?;
        let mut explanation =
            Explanation { label, score, parts, words: Vec::new(), complete: false };
        if let Some(most) = explanation.parts.first() {
            let words = cut(&text.text, most.range.clone(), count, ends_word);
            if let Ok(words) = self.weights(version, text, words, (label, score)).await {
                (explanation.words, explanation.complete) = (words, true);
            }
        }
        Some(explanation)
    }

    /// What the label's score loses without each part.
    async fn weights(
        &mut self,
        version: &Arc<Version>,
        text: &ModelText,
        parts: Vec<Range<usize>>,
        (label, score): (usize, f32),
    ) -> Result<Vec<Part>, Error> {
        let texts = parts.iter().map(|part| Readable::One(without(text, part))).collect();
        let long = self.options.long.unwrap_or(version.folder.manifest().long);
        let ours = (0..parts.len()).map(|at| (at, None)).collect();
        let verdicts = self.compute(version, &Arc::new(texts), long, ours).await?;
        let (labels, manifest) = (version.folder.labels(), version.folder.manifest());
        let mut found = Vec::with_capacity(parts.len());
        for (range, (_, verdict)) in parts.into_iter().zip(verdicts) {
            let function = labels.default_function();
            let scores = labels.scores(&verdict.logits, function, manifest.temperature);
            let left = scores.iter().find(|other| other.index == label);
            let weight = score - left.map_or(score, |left| left.score);
            found.push(Part { text: text.text[range.clone()].to_owned(), range, weight });
        }
        found.sort_by_key(|part| Reverse(ordered(part.weight)));
        Ok(found)
    }
}

/// Scores as whole numbers, for sorting: the largest first, whatever their sign says.
fn ordered(weight: f32) -> u32 {
    weight.abs().to_bits()
}

/// The text without a part of it.
fn without(text: &ModelText, part: &Range<usize>) -> ModelText {
    let subject = 0..text.subject_bytes;
    let lost = part.end.min(subject.end).saturating_sub(part.start);
    let text = [&text.text[..part.start], &text.text[part.end..]].concat();
    ModelText { text, subject_bytes: subject.end - lost }
}

fn ends_sentence(before: char, after: char) -> bool {
    before == '\n'
        || matches!(before, '.' | '!' | '?' | '。' | '！' | '？') && after.is_whitespace()
}

fn ends_word(before: char, after: char) -> bool {
    before.is_whitespace() && !after.is_whitespace()
}

/// Cuts `range` of a text into at most `count` parts of about equal length, where `ends` allows it
/// between two characters; parts without any letter or digit join the one before them, or after the first.
fn cut(
    text: &str,
    range: Range<usize>,
    count: usize,
    ends: fn(char, char) -> bool,
) -> Vec<Range<usize>> {
    let (mut parts, mut start) = (Vec::<Range<usize>>::new(), range.start);
    let whole = &text[range.clone()];
    let least = whole.len().div_ceil(count.max(1));
    let pairs = whole.char_indices().zip(whole.chars().skip(1));
    for ((at, before), after) in pairs {
        let end = range.start + at + before.len_utf8();
        let left = count.saturating_sub(parts.len());
        if left > 1 && end - start >= least && ends(before, after) {
            parts.push(start..end);
            start = end;
        }
    }
    parts.push(start..range.end);
    let says = |part: &Range<usize>| text[part.clone()].contains(char::is_alphanumeric);
    let mut joined = Vec::<Range<usize>>::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if !says(&part) => last.end = part.end,
            _ => joined.push(part),
        }
    }
    joined.retain(|part| !part.is_empty());
    if joined.len() > 1 && !says(&joined[0]) {
        let start = joined.remove(0).start;
        joined[0].start = start;
    }
    joined
}

#[cfg(test)]
mod tests {
    use postsort_email::ModelText;

    use super::{cut, ends_sentence, ends_word, without};

    #[test]
    fn texts_are_cut_between_sentences() {
        let text = "You won\nClaim it now! It is 3.5 million. ---\nBye";
        let parts = |count| -> Vec<&str> {
            let parts = cut(text, 0..text.len(), count, ends_sentence);
            parts.into_iter().map(|part| &text[part]).collect()
        };
        assert_eq!(parts(100), ["You won\n", "Claim it now!", " It is 3.5 million. ---\n", "Bye"]);
        assert_eq!(parts(2).len(), 2);
        assert_eq!(parts(2).concat(), text, "nothing is lost");
        assert_eq!(parts(1), [text]);
        assert!(cut("", 0..0, 4, ends_sentence).is_empty());
        let words = cut(text, 8..21, 9, ends_word);
        assert_eq!(
            words.iter().map(|part| &text[part.clone()]).collect::<Vec<_>>(),
            ["Claim ", "it ", "now!"]
        );
        let parts = cut(" I love it", 0..10, 9, ends_word);
        assert_eq!(parts, [0..3, 3..8, 8..10], "a blank alone is no word");
        let chinese = "会议。改到星期五！好";
        let parts = cut(chinese, 0..chinese.len(), 9, ends_word);
        assert_eq!(parts.len(), 1, "no blanks");
    }

    #[test]
    fn what_is_left_out_may_be_of_the_subject() {
        let text = ModelText { text: "Prize\nClaim it".to_owned(), subject_bytes: 5 };
        let left = without(&text, &(0..6));
        assert_eq!((left.text.as_str(), left.subject_bytes), ("Claim it", 0));
        let left = without(&text, &(3..8));
        assert_eq!((left.text.as_str(), left.subject_bytes), ("Priaim it", 3));
        let left = without(&text, &(6..14));
        assert_eq!((left.text.as_str(), left.subject_bytes), ("Prize\n", 5));
    }
}
