//! One spelling for what looks the same, and nothing invisible.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

/// Disguises that were taken off. Spam hides words from filters with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disguises {
    /// Characters that cannot be seen.
    pub(crate) invisible: usize,
    /// Letters of other scripts that look like Latin ones, in a word that has Latin letters, too.
    pub(crate) lookalikes: usize,
}

/// Text in NFKC without invisible characters, lookalikes within Latin words replaced, white space
/// collapsed.
pub(crate) fn normalize(text: &str) -> (String, Disguises) {
    if text.is_ascii() {
        let visible = text.chars().filter(|c| !is_control(*c));
        return (collapse(visible, text.len()), Disguises::default());
    }
    let invisible = text.chars().filter(|&c| is_invisible(c)).count();
    let visible = text.chars().filter(|&c| !is_invisible(c) && !is_control(c));
    let text = if is_nfkc_quick(text.chars()) == IsNormalized::Yes {
        collapse(visible, text.len())
    } else {
        collapse(visible.nfkc(), text.len())
    };
    let (text, lookalikes) = latinized(text);
    (text, Disguises { invisible, lookalikes })
}

/// Replaces lookalikes in words that are otherwise Latin: words of one other script are left alone.
fn latinized(text: String) -> (String, usize) {
    if !text.chars().any(|c| latin_twin(c).is_some()) {
        return (text, 0);
    }
    let (mut latin, mut replaced) = (String::with_capacity(text.len()), 0);
    for word in text.split_inclusive(|c: char| !c.is_alphabetic()) {
        let twins = word.chars().filter(|&c| latin_twin(c).is_some()).count();
        let is_latin = |c: char| c.is_ascii_alphabetic() || ('\u{c0}'..='\u{24f}').contains(&c);
        let other = |c: char| c.is_alphabetic() && !is_latin(c) && latin_twin(c).is_none();
        if twins > 0 && word.contains(is_latin) && !word.contains(other) {
            replaced += twins;
            latin.extend(word.chars().map(|c| latin_twin(c).unwrap_or(c)));
        } else {
            latin.push_str(word);
        }
    }
    (latin, replaced)
}

/// The Latin letter that a Cyrillic or Greek one looks like (Unicode TR 39, `confusables.txt`, those
/// that look the same in common fonts).
fn latin_twin(c: char) -> Option<char> {
    const CYRILLIC: [(char, char); 27] = [
        ('а', 'a'),
        ('е', 'e'),
        ('о', 'o'),
        ('р', 'p'),
        ('с', 'c'),
        ('у', 'y'),
        ('х', 'x'),
        ('і', 'i'),
        ('ј', 'j'),
        ('ѕ', 's'),
        ('һ', 'h'),
        ('ԁ', 'd'),
        ('ԛ', 'q'),
        ('ԝ', 'w'),
        ('А', 'A'),
        ('В', 'B'),
        ('Е', 'E'),
        ('К', 'K'),
        ('М', 'M'),
        ('Н', 'H'),
        ('О', 'O'),
        ('Р', 'P'),
        ('С', 'C'),
        ('Т', 'T'),
        ('Х', 'X'),
        ('І', 'I'),
        ('Ѕ', 'S'),
    ];
    const GREEK: [(char, char); 17] = [
        ('ο', 'o'),
        ('α', 'a'),
        ('ν', 'v'),
        ('ι', 'i'),
        ('Α', 'A'),
        ('Β', 'B'),
        ('Ε', 'E'),
        ('Ζ', 'Z'),
        ('Η', 'H'),
        ('Ι', 'I'),
        ('Κ', 'K'),
        ('Μ', 'M'),
        ('Ν', 'N'),
        ('Ο', 'O'),
        ('Ρ', 'P'),
        ('Τ', 'T'),
        ('Χ', 'X'),
    ];
    let table: &[(char, char)] = match c {
        '\u{370}'..='\u{3ff}' => &GREEK,
        '\u{400}'..='\u{52f}' => &CYRILLIC,
        _ => return None,
    };
    table.iter().find(|(other, _)| *other == c).map(|(_, latin)| *latin)
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
    use super::{Disguises, normalize};

    fn counts(invisible: usize, lookalikes: usize) -> Disguises {
        Disguises { invisible, lookalikes }
    }

    #[test]
    fn white_space_is_collapsed() {
        assert_eq!(normalize("  a \t b\r\n\r\n  c\n").0, "a b\nc");
        assert_eq!(normalize(" \n\t ").0, "");
        assert_eq!(normalize("a\0b\u{7}c").0, "abc");
    }

    #[test]
    fn disguises_are_taken_off_and_counted() {
        let disguised = "V\u{200b}i\u{ad}agra \u{ff26}\u{ff32}\u{ff25}\u{ff25} \u{fb01}ne";
        assert_eq!(normalize(disguised), ("Viagra FREE fine".to_owned(), counts(2, 0)));
        assert_eq!(normalize("e\u{301}te\u{301}").0, "\u{e9}t\u{e9}");
        assert_eq!(normalize("日本語 привет 😀"), ("日本語 привет 😀".to_owned(), counts(0, 0)));
        // Cyrillic а and е, Greek ο, in Latin words; a word of its own script stays.
        let disguised = "P\u{430}yp\u{430}l acc\u{3bf}unt \u{430}\u{435} мама Ω-3 naïv\u{435}";
        let honest = "Paypal account \u{430}\u{435} мама Ω-3 naïve";
        assert_eq!(normalize(disguised), (honest.to_owned(), counts(0, 4)));
        // A letter without a Latin twin: the word is not meant to be read as Latin.
        assert_eq!(normalize("xд\u{430}").1, counts(0, 0));
    }
}
