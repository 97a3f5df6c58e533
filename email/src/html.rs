//! HTML to the text that a reader sees.

use std::cell::RefCell;

use html5ever::tendril::{SliceExt, StrTendril};
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

/// The visible text of `html`, at most about `text_bytes_max` bytes, blocks on lines of their own,
/// links followed by their host.
///
/// Only the tokenizer of the HTML standard runs, not the tree builder: time and memory are linear
/// in the input, whatever the nesting.
pub(crate) fn visible_text(html: &str, text_bytes_max: usize) -> String {
    let sink = Sink {
        text: RefCell::new(String::with_capacity(html.len() / 2)),
        text_bytes_max,
        hidden: RefCell::new(None),
        link_host: RefCell::new(None),
    };
    let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(html.as_bytes().to_tendril().try_reinterpret().unwrap_or_else(|_| StrTendril::new()));
    while !input.is_empty() {
        // Scripts only suspend the tokenizer; the rest follows.
        let _ = tokenizer.feed(&input);
    }
    tokenizer.end();
    tokenizer.sink.text.take()
}

struct Sink {
    text: RefCell<String>,
    text_bytes_max: usize,
    /// The element whose content is not seen, and how many of its name are open.
    hidden: RefCell<Option<(String, usize)>>,
    link_host: RefCell<Option<String>>,
}

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        match token {
            Token::CharacterTokens(text) => self.text(&text),
            Token::TagToken(tag) => return self.tag(&tag),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl Sink {
    fn text(&self, text: &str) {
        if self.hidden.borrow().is_some() {
            return;
        }
        let mut out = self.text.borrow_mut();
        if out.len() < self.text_bytes_max {
            // Line breaks in the source are blanks on the page.
            let blank = |c: char| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c };
            out.extend(text.chars().map(blank));
        }
    }

    fn tag(&self, tag: &Tag) -> TokenSinkResult<()> {
        let name = &*tag.name;
        let opens = tag.kind == TagKind::StartTag;
        let is_void = tag.self_closing || VOID.contains(&name);
        {
            let mut hidden = self.hidden.borrow_mut();
            match hidden.as_mut() {
                Some((element, depth)) if element == name && !is_void => {
                    *depth = if opens { *depth + 1 } else { *depth - 1 };
                    if *depth == 0 {
                        *hidden = None;
                    }
                }
                None if opens && !is_void && (UNSEEN.contains(&name) || is_hidden(tag)) => {
                    *hidden = Some((name.to_owned(), 1));
                }
                _ => {}
            }
        }
        if self.hidden.borrow().is_none() {
            self.visible_tag(tag, name, opens);
        }
        match name {
            "script" if opens => TokenSinkResult::RawData(RawKind::ScriptData),
            "style" | "xmp" | "iframe" | "noembed" | "noframes" if opens => {
                TokenSinkResult::RawData(RawKind::Rawtext)
            }
            "textarea" | "title" if opens => TokenSinkResult::RawData(RawKind::Rcdata),
            _ => TokenSinkResult::Continue,
        }
    }

    fn visible_tag(&self, tag: &Tag, name: &str, opens: bool) {
        let mut out = self.text.borrow_mut();
        match name {
            "a" if opens => *self.link_host.borrow_mut() = attribute(tag, "href").and_then(host),
            "a" => {
                if let Some(host) = self.link_host.take() {
                    out.push_str(" (");
                    out.push_str(&host);
                    out.push_str(") ");
                }
            }
            "img" if opens => {
                if let Some(alt) = attribute(tag, "alt") {
                    out.push(' ');
                    out.push_str(alt);
                    out.push(' ');
                }
            }
            "td" | "th" => out.push(' '),
            "li" if opens => out.push_str("\n- "),
            _ if BLOCKS.contains(&name) => out.push('\n'),
            _ => {}
        }
    }
}

const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
];
const UNSEEN: [&str; 11] = [
    "script", "style", "head", "title", "noscript", "template", "object", "iframe", "select",
    "textarea", "noframes",
];
const BLOCKS: [&str; 30] = [
    "address", "article", "blockquote", "body", "br", "center", "dd", "div", "dl", "dt", "fieldset",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "ol", "p", "pre",
    "section", "table", "tbody", "tr", "ul",
];

fn attribute<'a>(tag: &'a Tag, name: &str) -> Option<&'a str> {
    tag.attrs.iter().find(|attribute| &*attribute.name.local == name).map(|attribute| &*attribute.value)
}

fn is_hidden(tag: &Tag) -> bool {
    if attribute(tag, "hidden").is_some() {
        return true;
    }
    let Some(style) = attribute(tag, "style") else { return false };
    let style: String =
        style.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
    style.split(';').any(|rule| {
        matches!(rule, "display:none" | "visibility:hidden" | "opacity:0" | "mso-hide:all")
            || rule.strip_prefix("font-size:").is_some_and(is_zero_length)
            || rule.strip_prefix("max-height:").is_some_and(is_zero_length)
    })
}

fn is_zero_length(length: &str) -> bool {
    let length = length.trim_end_matches("!important");
    matches!(length, "0" | "0px" | "0pt" | "0em" | "0%" | "1px")
}

/// The host of a link: what a reader would check before following it.
fn host(href: &str) -> Option<String> {
    let href = href.trim();
    let rest = href
        .split_once("://")
        .filter(|(scheme, _)| matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https" | "ftp"))?
        .1;
    let host = rest.split(['/', '?', '#']).next()?;
    // Whatever precedes `@` is a name, and a favourite disguise.
    let host = host.rsplit('@').next()?.split(':').next()?;
    let host = host.strip_prefix("www.").unwrap_or(host);
    (!host.is_empty() && host.len() <= 100).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::visible_text;

    fn text(html: &str) -> String {
        crate::normalize::normalize(&visible_text(html, 1 << 20)).0
    }

    #[test]
    fn blocks_entities_and_links() {
        assert_eq!(text("<p>Fish &amp; chips</p><p>caf&eacute;<br>open</p>"), "Fish & chips\ncafé\nopen");
        assert_eq!(text("a<b>b</b>c"), "abc");
        assert_eq!(
            text(r#"<a href="http://paypal.com@www.evil.example:80/x?y">click</a> now"#),
            "click (evil.example) now"
        );
        assert_eq!(text("<ul><li>one<li>two</ul>"), "- one\n- two");
        assert_eq!(text("<img src=x alt='Our logo'>"), "Our logo");
    }

    #[test]
    fn what_no_reader_sees_is_dropped() {
        assert_eq!(text("<style>p{color:red}</style>a<script>if(1<2)alert('x')</script>b"), "ab");
        assert_eq!(text("a<div style='display: none'>x<div>y</div>z</div>b"), "a\nb");
        assert_eq!(text("a<span style=\"font-size:0px\">hidden</span>b<i hidden>x</i>"), "ab");
        assert_eq!(text("<head><title>t</title></head>seen<!-- not -->"), "seen");
    }

    #[test]
    fn broken_markup_is_read_somehow() {
        for html in ["<", "<a href=", "<div style='display:none'>never closed", "</b></b>", "&#xffffffff;", "<![CDATA["] {
            let _ = text(html);
        }
        assert_eq!(text("<b>unclosed <i>tags"), "unclosed tags");
        let deep = "<div>".repeat(100_000) + "deep";
        assert_eq!(text(&deep), "deep");
    }

    #[test]
    fn output_is_bounded() {
        let html = "<p>word</p>".repeat(1000);
        assert!(visible_text(&html, 100).len() < 2_200);
    }
}
