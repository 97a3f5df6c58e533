//! HTML to the text that a reader sees.

use std::borrow::Cow;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, State, Tokenizer};

/// The visible text of `html`, at most about `text_bytes_max` bytes, blocks on lines of their own,
/// links followed by their host. Of a page without any text, the host of its first picture.
///
/// Only the tokenizer of the HTML standard runs, not the tree builder: time and memory are linear
/// in the input, whatever the nesting. Where open and closed tags do not match, doubt makes text
/// visible, so that broken markup hides nothing from a classifier that a reader would see.
pub(crate) fn visible_text(html: &str, text_bytes_max: usize) -> String {
    // Markup is seldom more than a few times the text.
    let html = &html[..html.floor_char_boundary(text_bytes_max.saturating_mul(8))];
    let html = &*with_comments_ended(html);
    let mut page = Page { text: String::with_capacity(html.len() / 2), ..Page::default() };
    let emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: Span<()>| {
        let content = page.read(&event);
        if page.text.len() >= text_bytes_max {
            Some(Next::Stop)
        } else {
            content.map(Next::Content)
        }
    });
    let mut tokenizer = Tokenizer::new_with_emitter(html, emitter);
    while let Some(Ok(Next::Content(state))) = tokenizer.next() {
        tokenizer.set_state(state);
    }
    drop(tokenizer);
    if let Some(host) = page.picture_host.filter(|_| page.text.trim().is_empty()) {
        return format!("({host})");
    }
    page.text
}

/// A comment that nothing ends hides the rest of the page from the standard's tokenizer, and did not
/// from the programs that mail was written for: its dashes go, and it ends as a declaration does.
fn with_comments_ended(html: &str) -> Cow<'_, str> {
    let ends = |html: &str| ["-->", "--!>"].iter().filter_map(|end| html.rfind(end)).max();
    match html.rfind("<!--") {
        Some(last) if ends(&html[last..]).is_none() => {
            let (ended, open) = html.split_at(ends(&html[..last]).unwrap_or(0));
            Cow::Owned(ended.to_owned() + &open.replace("<!--", "<!"))
        }
        _ => Cow::Borrowed(html),
    }
}

enum Next {
    /// What follows a start tag is no markup.
    Content(State),
    /// The text is long enough.
    Stop,
}

#[derive(Default)]
struct Page {
    text: String,
    tag: Tag,
    /// The attribute whose value comes next.
    attribute: Attribute,
    hidden: Option<Hidden>,
    link_host: Option<String>,
    /// Of the first picture that is not hidden.
    picture_host: Option<String>,
}

/// The start tag that is being read.
#[derive(Default)]
struct Tag {
    name: Name,
    is_hidden: bool,
    href_host: Option<String>,
    source_host: Option<String>,
    alt: Option<String>,
}

#[derive(Default)]
enum Attribute {
    Href,
    Source,
    Style,
    Alt,
    #[default]
    Other,
}

/// An element that is not seen.
struct Hidden {
    element: Name,
    /// Elements open in it.
    open: Vec<Name>,
}

/// A tag name; no element's name is longer, so a longer one is cut.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Name([u8; 10]);

impl Name {
    fn new(name: &[u8]) -> Self {
        let mut short = [0; 10];
        let bytes = name.len().min(short.len());
        short[..bytes].copy_from_slice(&name[..bytes]);
        Self(short)
    }

    fn is_one_of(self, names: &[&str]) -> bool {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        names.iter().any(|name| name.as_bytes() == &self.0[..end])
    }
}

impl Page {
    /// The state for the content that follows, where that is no markup.
    fn read(&mut self, event: &CallbackEvent<'_>) -> Option<State> {
        match *event {
            CallbackEvent::String { value } => self.string(value),
            CallbackEvent::OpenStartTag { name } => {
                self.tag = Tag { name: Name::new(name), ..Tag::default() };
                self.attribute = Attribute::Other;
            }
            CallbackEvent::AttributeName { name } => {
                self.attribute = match name {
                    b"href" => Attribute::Href,
                    b"src" if self.is_first_picture() => Attribute::Source,
                    b"style" => Attribute::Style,
                    b"alt" => Attribute::Alt,
                    _ => Attribute::Other,
                };
                self.tag.is_hidden |= name == b"hidden";
            }
            CallbackEvent::AttributeValue { value } => match self.attribute {
                Attribute::Href => self.tag.href_host = host(&String::from_utf8_lossy(value)),
                Attribute::Source => self.tag.source_host = host(&String::from_utf8_lossy(value)),
                Attribute::Style => self.tag.is_hidden |= hides(value),
                Attribute::Alt => self.tag.alt = Some(String::from_utf8_lossy(value).into_owned()),
                Attribute::Other => {}
            },
            CallbackEvent::CloseStartTag { self_closing } => {
                let content = content_state(self.tag.name);
                self.start_tag(self_closing);
                return content;
            }
            CallbackEvent::EndTag { name } => self.end_tag(Name::new(name)),
            _ => {}
        }
        None
    }

    fn is_first_picture(&self) -> bool {
        self.picture_host.is_none() && self.tag.name.is_one_of(&["img"])
    }

    fn string(&mut self, value: &[u8]) {
        if self.hidden.is_some() {
            return;
        }
        // Line breaks in the source are blanks on the page.
        let blank = |c: char| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c };
        match std::str::from_utf8(value) {
            Ok(text) => self.text.extend(text.chars().map(blank)),
            Err(_) => self.text.extend(String::from_utf8_lossy(value).chars().map(blank)),
        }
    }

    fn start_tag(&mut self, self_closing: bool) {
        let tag = std::mem::take(&mut self.tag);
        let has_content = !self_closing && !tag.name.is_one_of(VOID);
        if self.hidden.as_ref().is_some_and(|hidden| hidden.ends_before(tag.name)) {
            self.hidden = None;
        }
        if let Some(hidden) = &mut self.hidden {
            if has_content && hidden.open.len() < OPEN_MAX {
                hidden.open.push(tag.name);
            }
        } else if has_content && (tag.is_hidden || tag.name.is_one_of(UNSEEN)) {
            self.hidden = Some(Hidden { element: tag.name, open: Vec::new() });
        } else {
            self.visible_start_tag(tag);
        }
    }

    fn visible_start_tag(&mut self, tag: Tag) {
        if tag.name.is_one_of(&["a"]) {
            self.link_host = tag.href_host;
        } else if tag.name.is_one_of(&["img"]) {
            self.picture_host = self.picture_host.take().or(tag.source_host);
            if let Some(alt) = tag.alt {
                self.text.push(' ');
                self.text.push_str(&alt);
                self.text.push(' ');
            }
        } else if tag.name.is_one_of(&["td", "th"]) {
            self.text.push(' ');
        } else if tag.name.is_one_of(&["li"]) {
            self.text.push_str("\n- ");
        } else if tag.name.is_one_of(BLOCKS) {
            self.text.push('\n');
        }
    }

    fn end_tag(&mut self, name: Name) {
        if let Some(hidden) = &mut self.hidden {
            if let Some(at) = hidden.open.iter().rposition(|&open| open == name) {
                hidden.open.truncate(at);
            } else if hidden.element == name {
                self.hidden = None;
                return;
            } else if name.is_one_of(BLOCKS) || name.is_one_of(&["td", "th"]) {
                // It closes something around the hidden element, and so this too.
                self.hidden = None;
            }
        }
        if self.hidden.is_some() {
            return;
        }
        if name.is_one_of(&["a"]) {
            if let Some(host) = self.link_host.take() {
                self.text.push_str(" (");
                self.text.push_str(&host);
                self.text.push_str(") ");
            }
        } else if name.is_one_of(&["td", "th"]) {
            self.text.push(' ');
        } else if name.is_one_of(BLOCKS) {
            self.text.push('\n');
        }
    }
}

impl Hidden {
    /// Whether the start of `next` closes this element, its end tag being optional.
    fn ends_before(&self, next: Name) -> bool {
        let is = |names: &[&str]| self.element.is_one_of(names);
        if is(&["head"]) {
            return !next.is_one_of(HEAD_CONTENT) && self.open.is_empty();
        }
        is(&["p"]) && next.is_one_of(BLOCKS)
            || is(&["li"]) && next.is_one_of(&["li"]) && self.open.is_empty()
            || is(&["td", "th"]) && next.is_one_of(&["td", "th", "tr"]) && self.open.is_empty()
            || is(&["tr"]) && next.is_one_of(&["tr"]) && !self.has_open("table")
            || is(&["dd", "dt"]) && next.is_one_of(&["dd", "dt"]) && self.open.is_empty()
    }

    fn has_open(&self, name: &str) -> bool {
        self.open.iter().any(|open| open.is_one_of(&[name]))
    }
}

/// As the standard has it with scripts switched off, so that the content of `noscript` is markup.
fn content_state(element: Name) -> Option<State> {
    if element.is_one_of(&["script"]) {
        Some(State::ScriptData)
    } else if element.is_one_of(&["style", "xmp", "iframe", "noembed", "noframes"]) {
        Some(State::RawText)
    } else if element.is_one_of(&["textarea", "title"]) {
        Some(State::RcData)
    } else {
        element.is_one_of(&["plaintext"]).then_some(State::PlainText)
    }
}

/// Deepest nesting that is followed inside a hidden element.
const OPEN_MAX: usize = 256;
const VOID: &[&str] = &[
    "area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "img", "input",
    "link", "meta", "param", "source", "track", "wbr",
];
const UNSEEN: &[&str] =
    &["script", "style", "head", "title", "template", "iframe", "noembed", "noframes"];
const HEAD_CONTENT: &[&str] = &[
    "base", "basefont", "bgsound", "html", "link", "meta", "noscript", "script", "style",
    "template", "title",
];
const BLOCKS: &[&str] = &[
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "br",
    "center",
    "dd",
    "div",
    "dl",
    "dt",
    "fieldset",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "html",
    "main",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "tbody",
    "tr",
    "ul",
];

/// Whether a `style` attribute makes its element invisible.
fn hides(style: &[u8]) -> bool {
    let style: String = String::from_utf8_lossy(style)
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    style.split(';').map(|rule| rule.trim_end_matches("!important")).any(|rule| {
        matches!(rule, "display:none" | "visibility:hidden" | "opacity:0" | "mso-hide:all")
            || rule.strip_prefix("font-size:").is_some_and(is_zero_length)
            || rule.strip_prefix("max-height:").is_some_and(is_zero_length)
    })
}

fn is_zero_length(length: &str) -> bool {
    matches!(length, "0" | "0px" | "0pt" | "0em" | "0%" | "1px")
}

/// The host of a link: what a reader would check before following it.
fn host(href: &str) -> Option<String> {
    const SCHEMES: [&str; 3] = ["http", "https", "ftp"];
    let (scheme, rest) = href.trim().split_once("://")?;
    if !SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let host = rest.split(['/', '?', '#']).next()?;
    // Whatever precedes `@` is a name, and a favourite disguise.
    let host = host.rsplit('@').next()?.split(':').next()?;
    let host = host.strip_prefix("www.").unwrap_or(host);
    (!host.is_empty() && host.len() <= 100).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
#[path = "html_tests.rs"]
mod tests;
