//! What mail programs and lists add, which says nothing of the mail.

/// The subject without `[list]` tags.
pub(crate) fn strip_list_tags(subject: &str) -> String {
    let mut stripped = String::with_capacity(subject.len());
    let mut rest = subject;
    while let Some(open) = rest.find('[') {
        let (head, tail) = rest.split_at(open);
        stripped.push_str(head);
        let near = &tail.as_bytes()[..tail.len().min(LIST_NAME_BYTES_MAX + 2)];
        let close = near.iter().position(|&byte| byte == b']');
        let Some(close) = close.filter(|&close| is_list_name(&tail[1..close])) else {
            stripped.push('[');
            rest = &tail[1..];
            continue;
        };
        rest = tail[close + 1..].trim_start();
    }
    stripped.push_str(rest);
    stripped.trim().to_owned()
}

const LIST_NAME_BYTES_MAX: usize = 30;

/// List names are short words such as `Razor-users` or `ILUG`; `[50% off]` is none.
fn is_list_name(name: &str) -> bool {
    (2..=LIST_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_. ".contains(&b))
        && name.bytes().any(|b| b.is_ascii_alphabetic())
}

/// What stands at the end of a body and says nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Signature,
    Footer,
    Disclaimer,
}

/// Where the endings of a body begin; of each kind the first is what counts. Expects single line
/// breaks.
pub(crate) fn ending_starts(body: &str) -> impl Iterator<Item = (usize, Ending)> {
    // A rule in the middle of a newsletter is no footer: only the last lines are looked at.
    let tail_start = body.rmatch_indices('\n').nth(FOOTER_LINES_MAX).map_or(0, |(at, _)| at + 1);
    let mut line_start = tail_start;
    body[tail_start..].split_inclusive('\n').filter_map(move |line| {
        let (start, after) = (line_start, &body[line_start + line.len()..]);
        line_start += line.len();
        let ending = match line.trim() {
            // RFC 3676, §4.3. White space at its end is gone after normalising.
            "--" | "-----BEGIN PGP SIGNATURE-----" => Ending::Signature,
            rule if is_rule(rule) && says_list(after) => Ending::Footer,
            first if is_footer_start(first) => Ending::Footer,
            first if is_disclaimer(first, after) => Ending::Disclaimer,
            _ => return None,
        };
        Some((start, ending))
    })
}

/// Longest footer.
const FOOTER_LINES_MAX: usize = 16;

/// Some lists end each mail with their address and nothing else.
pub(crate) fn cut_list_address(body: &str) -> &str {
    match body.rsplit_once('\n') {
        Some((before, last)) if last.contains("/mailman/listinfo/") && !last.contains(' ') => {
            before.trim_end()
        }
        _ => body,
    }
}

/// Begins as disclaimers do, and goes on as they do.
fn is_disclaimer(line: &str, after: &str) -> bool {
    const STARTS: [&str; 9] = [
        "this e-mail",
        "this email",
        "this message",
        "this communication",
        "this transmission",
        "the information in this",
        "the information contained in this",
        "confidentiality notice",
        "disclaimer",
    ];
    const SIGNS: [&str; 11] = [
        "confidential",
        "privileged",
        "intended recipient",
        "intended solely",
        "intended only",
        "addressee",
        "unauthori",
        "disclos",
        "in error",
        "notify the sender",
        "virus",
    ];
    let starts =
        |start: &&str| line.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
    if !STARTS.iter().any(starts) {
        return false;
    }
    let rest = &after[..after.floor_char_boundary(DISCLAIMER_BYTES)];
    let text = format!("{line} {rest}").to_ascii_lowercase();
    SIGNS.iter().filter(|sign| text.contains(**sign)).count() >= 2
}

/// So much of what follows its first line is looked at.
const DISCLAIMER_BYTES: usize = 600;

fn is_rule(line: &str) -> bool {
    line.len() >= 5 && line.bytes().all(|b| b"-_=~*#".contains(&b))
        || line.starts_with("-----") && line.contains("groups Sponsor")
}

fn is_footer_start(line: &str) -> bool {
    const STARTS: [&str; 3] = [
        "This SF.NET email is sponsored by:",
        "To unsubscribe from this group, send an email to:",
        "------------------------ Yahoo! Groups Sponsor",
    ];
    STARTS
        .iter()
        .any(|start| line.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)))
}

fn says_list(footer: &str) -> bool {
    const SIGNS: [&str; 9] = [
        "mailing list",
        "/mailman/",
        "listinfo",
        "lists.sourceforge.net",
        "yahoogroups",
        "list maintainer",
        "lists.",
        "majordomo",
        "sponsored by",
    ];
    let footer = footer.to_ascii_lowercase();
    SIGNS.iter().any(|sign| footer.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::strip_list_tags;
    use crate::cuts::{Cuts, cut};

    fn cut_footer(body: &str) -> String {
        cut(body, Cuts::default())
    }

    #[test]
    fn list_tags_go_and_offers_stay() {
        assert_eq!(strip_list_tags("[ILUG] Re: kernel"), "Re: kernel");
        assert_eq!(strip_list_tags("Re: [Razor-users] [Spam] hello"), "Re: hello");
        assert_eq!(strip_list_tags("[50% off!] today"), "[50% off!] today");
        assert_eq!(strip_list_tags("open [ended"), "open [ended");
        assert_eq!(strip_list_tags("[]"), "[]");
        assert_eq!(strip_list_tags("[日本] x"), "[日本] x");
    }

    #[test]
    fn footers_and_signatures_are_cut() {
        let text = "Hello\nsee you\n-- \nJane".replace("-- ", "--");
        assert_eq!(cut_footer(&text), "Hello\nsee you");
        let list = "Hi all\n_______________________________________________\n\
                    Razor-users mailing list\nhttps://lists.sourceforge.net/lists/listinfo/razor";
        assert_eq!(cut_footer(list), "Hi all");
        let sponsor = "Hi\n-------------------------------------------------------\n\
                       This sf.net email is sponsored by: ThinkGeek\nWelcome to geek heaven.";
        assert_eq!(cut_footer(sponsor), "Hi");
    }

    #[test]
    fn rules_inside_a_newsletter_stay() {
        let letter = "News\n----------\nFirst story\n----------\nSecond story";
        assert_eq!(cut_footer(letter), letter);
        assert_eq!(cut_footer("--\nall signature"), "--\nall signature");
        assert_eq!(cut_footer(""), "");
        let early = "Hi\n--\n".to_owned() + &"more\n".repeat(40) + "end";
        assert_eq!(cut_footer(&early), early);
        assert_eq!(cut_footer("Hi\nhttp://xent.com/mailman/listinfo/fork"), "Hi");
        assert_eq!(
            cut_footer("http://xent.com/mailman/listinfo/fork"),
            "http://xent.com/mailman/listinfo/fork"
        );
    }
}
