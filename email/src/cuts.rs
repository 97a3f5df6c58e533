//! What is cut from a body because it says nothing of the mail; which of it, one may choose.

use std::fmt;
use std::str::FromStr;

use crate::boilerplate::{Ending, cut_list_address, ending_starts};

/// What is cut from a body, beside markup and what cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuts {
    /// What follows `--`, and PGP signatures.
    pub signature: bool,
    /// What a mailing list adds at the end of a body, and its tag in the subject.
    pub footer: bool,
    /// "This e-mail and any attachment are confidential …" at the end.
    pub disclaimer: bool,
    /// Lines quoted from another mail, the line that says whose they are, and what follows
    /// "Original Message".
    pub quotes: bool,
}

impl Default for Cuts {
    /// Quotes stay: without them many answers say nothing.
    fn default() -> Self {
        Self { signature: true, footer: true, disclaimer: true, quotes: false }
    }
}

impl Cuts {
    /// Nothing.
    pub const NONE: Self =
        Self { signature: false, footer: false, disclaimer: false, quotes: false };
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signature, footer, disclaimer, quotes } = *self;
        let all = [
            (signature, "signature"),
            (footer, "footer"),
            (disclaimer, "disclaimer"),
            (quotes, "quotes"),
        ];
        let chosen: Vec<&str> =
            all.into_iter().filter(|(is_cut, _)| *is_cut).map(|(_, name)| name).collect();
        f.write_str(if chosen.is_empty() { "none" } else { "" })?;
        f.write_str(&chosen.join(","))
    }
}

impl FromStr for Cuts {
    type Err = String;

    /// Names separated by commas, or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut cuts = Self::NONE;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "signature" => cuts.signature = true,
                "footer" => cuts.footer = true,
                "disclaimer" => cuts.disclaimer = true,
                "quotes" => cuts.quotes = true,
                "none" => {}
                other => {
                    let known = "signature, footer, disclaimer, quotes, none";
                    return Err(format!("`{other}` is none of {known}"));
                }
            }
        }
        Ok(cuts)
    }
}

/// The body without what `cuts` says; all of it where nothing would be left. Expects single line
/// breaks.
pub(crate) fn cut(body: &str, cuts: Cuts) -> String {
    let mut end = body.len();
    for (at, ending) in ending_starts(body) {
        let is_cut = match ending {
            Ending::Signature => cuts.signature,
            Ending::Footer => cuts.footer,
            Ending::Disclaimer => cuts.disclaimer,
        };
        if is_cut && at > 0 {
            end = end.min(at);
        }
    }
    let mut kept = body[..end].trim_end();
    if cuts.footer {
        kept = cut_list_address(kept);
    }
    if !cuts.quotes {
        return kept.to_owned();
    }
    let own = without_quotes(kept);
    if own.is_empty() { kept.to_owned() } else { own }
}

fn without_quotes(body: &str) -> String {
    let mut own: Vec<&str> = Vec::new();
    for line in body.lines() {
        if is_original_message(line) {
            break;
        }
        if line.starts_with('>') {
            // "On Monday Jo wrote:", on one line or two.
            let wrapped = own.len() >= 2 && !own[own.len() - 1].starts_with("On ");
            if own.last().is_some_and(|line| says_who(line)) {
                own.pop();
                if wrapped && own.last().is_some_and(|line| line.starts_with("On ")) {
                    own.pop();
                }
            }
            continue;
        }
        own.push(line);
    }
    own.join("\n").trim().to_owned()
}

fn says_who(line: &str) -> bool {
    let line = line.trim_end();
    line.ends_with(':')
        && ["wrote", "writes", "schrieb", "said", "a écrit", "escribió"]
            .iter()
            .any(|verb| line.trim_end_matches([':', ' ']).ends_with(verb))
}

fn is_original_message(line: &str) -> bool {
    let inner = line.trim_matches(['-', '_', ' ', '=']);
    inner.len() + 4 <= line.len()
        && ["original message", "forwarded message", "ursprüngliche nachricht"]
            .iter()
            .any(|sign| inner.eq_ignore_ascii_case(sign))
}

#[cfg(test)]
mod tests {
    use super::{Cuts, cut};

    #[test]
    fn each_part_is_cut_where_that_is_chosen() {
        let body = "On Monday Jo wrote:\n> Lunch?\nYes.\n--\nJane";
        assert_eq!(cut(body, Cuts::default()), "On Monday Jo wrote:\n> Lunch?\nYes.");
        assert_eq!(cut(body, Cuts::NONE), body);
        assert_eq!(cut(body, Cuts { quotes: true, ..Cuts::default() }), "Yes.");
        let quotes = Cuts { quotes: true, ..Cuts::NONE };
        assert_eq!(cut(body, quotes), "Yes.\n--\nJane");
        assert_eq!(cut("> only\n> quoted", quotes), "> only\n> quoted", "something is left");
        let wrapped = "Fine.\nOn Monday, 3 June 2002,\nJo <jo@x.example> wrote:\n> When?\nAt one.";
        assert_eq!(cut(wrapped, quotes), "Fine.\nAt one.");
        let below = "Fine.\n-----Original Message-----\nFrom: Jo\nWhen?";
        assert_eq!(cut(below, quotes), "Fine.");
        assert_eq!(cut("Note:\n> quoted", quotes), "Note:", "no verb");
    }

    #[test]
    fn disclaimers_are_cut_and_talk_of_them_stays() {
        let body = "See you.\nThis e-mail and any attachments are confidential and intended solely\n\
                    for the addressee. If you have received this in error, notify the sender.";
        assert_eq!(cut(body, Cuts::default()), "See you.");
        assert_eq!(cut(body, Cuts { disclaimer: false, ..Cuts::default() }), body);
        let notice = "Done.\nCONFIDENTIALITY NOTICE: privileged, for the intended recipient only.";
        assert_eq!(cut(notice, Cuts::default()), "Done.");
        for talk in [
            "This e-mail is confidential, as I said, but do tell Jo.",
            "Hi\nThis message is short.\nBye",
            "This e-mail is confidential and intended solely for you.",
        ] {
            assert_eq!(cut(talk, Cuts::default()), talk);
        }
    }

    #[test]
    fn choices_are_written_and_read() {
        for text in ["none", "signature,footer,disclaimer", "quotes"] {
            assert_eq!(text.parse::<Cuts>().map(|cuts| cuts.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("signature, footer,disclaimer".parse(), Ok(Cuts::default()));
        assert!("signatures".parse::<Cuts>().is_err());
    }
}
