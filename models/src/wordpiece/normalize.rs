//! What BERT's normaliser makes of a text, with the library's own Unicode tables.

use std::borrow::Cow;

use tokenizers::normalizers::BertNormalizer;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// The library's steps, in its order.
pub(super) fn normalized(normalizer: BertNormalizer, text: &str) -> Cow<'_, str> {
    let BertNormalizer { clean_text, handle_chinese_chars, strip_accents, lowercase, .. } =
        normalizer;
    let mut text = Cow::Borrowed(text);
    if clean_text {
        let kept = |&c: &char| !(c == '\0' || c == '\u{fffd}' || is_control(c));
        let blank = |c: char| if c.is_whitespace() { ' ' } else { c };
        text = text.chars().filter(kept).map(blank).collect::<String>().into();
    }
    if handle_chinese_chars && text.chars().any(is_chinese) {
        let spaced = |c: char| {
            let around = is_chinese(c).then_some(' ');
            around.into_iter().chain([c]).chain(around)
        };
        text = text.chars().flat_map(spaced).collect::<String>().into();
    }
    if strip_accents.unwrap_or(lowercase) {
        let decomposed = text.nfd().map(|(c, _)| c);
        text = decomposed.filter(|c| !c.is_mark_nonspacing()).collect::<String>().into();
    }
    if lowercase {
        text = text.chars().flat_map(char::to_lowercase).collect::<String>().into();
    }
    text
}

fn is_control(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && c.is_other()
}

pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.is_punctuation()
}

/// The blocks that BERT takes for ideographs.
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}
