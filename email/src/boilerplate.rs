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

/// The body without its signature and the footer that a list added. Expects single line breaks.
pub(crate) fn cut_footer(body: &str) -> &str {
    // A rule in the middle of a newsletter is no footer: only the last lines are looked at.
    let tail_start = body.rmatch_indices('\n').nth(FOOTER_LINES_MAX).map_or(0, |(at, _)| at + 1);
    let mut line_start = tail_start;
    let mut end = body.len();
    for line in body[tail_start..].split_inclusive('\n') {
        let after = &body[line_start + line.len()..];
        let is_end = match line.trim() {
            // RFC 3676, §4.3. White space at its end is gone after normalising.
            "--" => true,
            rule if is_rule(rule) => says_list(after),
            first => is_footer_start(first),
        };
        if is_end && line_start > 0 {
            end = line_start;
            break;
        }
        line_start += line.len();
    }
    cut_list_address(body[..end].trim_end())
}

/// Longest footer.
const FOOTER_LINES_MAX: usize = 16;

/// Some lists end each mail with their address and nothing else.
fn cut_list_address(body: &str) -> &str {
    match body.rsplit_once('\n') {
        Some((before, last)) if last.contains("/mailman/listinfo/") && !last.contains(' ') => {
            before.trim_end()
        }
        _ => body,
    }
}

fn is_rule(line: &str) -> bool {
    line.len() >= 5 && line.bytes().all(|b| b"-_=~*#".contains(&b))
        || line.starts_with("-----") && line.contains("groups Sponsor")
}

fn is_footer_start(line: &str) -> bool {
    const STARTS: [&str; 4] = [
        "-----BEGIN PGP SIGNATURE-----",
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
    use super::{cut_footer, strip_list_tags};

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
