//! One spelling for what looks the same, and nothing invisible.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

/// Text in NFKC without invisible characters, white space collapsed, and how many invisible
/// characters there were. Spam hides words from filters with them.
pub(crate) fn normalize(text: &str) -> (String, usize) {
    if text.is_ascii() {
        return (collapse(text.chars().filter(|c| !is_control(*c)), text.len()), 0);
    }
    let invisible = text.chars().filter(|&c| is_invisible(c)).count();
    let visible = text.chars().filter(|&c| !is_invisible(c) && !is_control(c));
    let text = if is_nfkc_quick(text.chars()) == IsNormalized::Yes {
        collapse(visible, text.len())
    } else {
        collapse(visible.nfkc(), text.len())
    };
    (text, invisible)
}

/// Zero-width and directional characters, soft hyphen, variation selectors, tags.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn is_control(c: char) -> bool {
    c.is_control() && !c.is_whitespace()
}

/// Runs of blanks become one, runs with a line break become one line break; none at the ends.
fn collapse(text: impl Iterator<Item = char>, bytes: usize) -> String {
    let mut collapsed = String::with_capacity(bytes);
    let mut gap: Option<char> = None;
    for c in text {
        if c.is_whitespace() {
            let breaks = matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}');
            gap = Some(if breaks || gap == Some('\n') { '\n' } else { ' ' });
        } else {
            if let Some(gap) = gap.take()
                && !collapsed.is_empty()
            {
                collapsed.push(gap);
            }
            collapsed.push(c);
        }
    }
    collapsed
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn white_space_is_collapsed() {
        assert_eq!(normalize("  a \t b\r\n\r\n  c\n").0, "a b\nc");
        assert_eq!(normalize(" \n\t ").0, "");
        assert_eq!(normalize("a\0b\u{7}c").0, "abc");
    }

    #[test]
    fn disguises_are_taken_off_and_counted() {
        let disguised = "V\u{200b}i\u{ad}agra \u{ff26}\u{ff32}\u{ff25}\u{ff25} \u{fb01}ne";
        assert_eq!(normalize(disguised), ("Viagra FREE fine".to_owned(), 2));
        assert_eq!(normalize("e\u{301}te\u{301}").0, "\u{e9}t\u{e9}");
        assert_eq!(normalize("日本語 привет 😀"), ("日本語 привет 😀".to_owned(), 0));
    }
}
