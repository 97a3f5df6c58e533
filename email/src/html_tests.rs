use super::visible_text;

fn text(html: &str) -> String {
    crate::normalize::normalize(&visible_text(html, 1 << 20)).0
}

#[test]
fn blocks_entities_and_links() {
    assert_eq!(text("<p>Fish &amp; chips</p><p>caf&eacute;<br>open"), "Fish & chips\ncafé\nopen");
    assert_eq!(text("a<b>b</b>c"), "abc");
    assert_eq!(
        text(r#"<A HREF="http://paypal.com@www.evil.example:80/x?y">click</A> now"#),
        "click (evil.example) now"
    );
    assert_eq!(text("<a href='mailto:x@y.example'>write</a>"), "write");
    assert_eq!(text("<ul><li>one<li>two</ul>"), "- one\n- two");
    assert_eq!(text("<img src=x alt='Our logo'>"), "Our logo");
    assert_eq!(text("<table><tr><td>a<td>b<tr><td>c</table>"), "a b\nc");
}

#[test]
fn what_no_reader_sees_is_dropped() {
    assert_eq!(text("<style>p{color:red}</style>a<script>if(1<2)alert('x')</script>b"), "ab");
    assert_eq!(text("a<div style='display: none'>x<div>y</div>z</div>b"), "ab");
    assert_eq!(text("a<span style=\"font-size:0px\">hidden</span>b<i hidden>x</i>"), "ab");
    assert_eq!(text("a<span style='DISPLAY:none !important'>x<br>y</span>b"), "ab");
    assert_eq!(text("<head><title>t</title></head>seen<!-- not -->"), "seen");
}

#[test]
fn unclosed_elements_do_not_hide_the_rest() {
    assert_eq!(text("<head><title>t</title><meta name=x><body>seen"), "seen");
    assert_eq!(text("<head><p>seen"), "seen");
    assert_eq!(text("<p style='display:none'>x<p>seen"), "seen");
    assert_eq!(text("<td><span style='display:none'>x</td><td>seen</td>"), "seen");
    assert_eq!(text("<li hidden>x<li>seen"), "- seen");
    assert_eq!(text("<tr hidden><td>x<td>y<tr><td>seen"), "seen");
    assert_eq!(text("<noscript><b>seen</b></noscript> too"), "seen too");
    assert_eq!(text("<br hidden>seen<hr style='display:none'>too"), "seen\ntoo");
}

#[test]
fn broken_markup_is_read_somehow() {
    for html in ["<", "<a href=", "</b></b>", "&#xffffffff;", "<![CDATA[", "<!", "</", "<a b='"] {
        assert!(text(html).len() <= html.len() + 3, "{html}");
    }
    assert_eq!(text("<b>unclosed <i>tags"), "unclosed tags");
    assert_eq!(text("1 < 2 & 3 > 2"), "1 < 2 & 3 > 2");
    let deep = "<div>".repeat(100_000) + "deep";
    assert_eq!(text(&deep), "deep");
}

#[test]
fn comments_that_nothing_ends_hide_nothing() {
    assert_eq!(text("<b><!--#rotate>Terrific</b> offer"), "Terrific offer");
    assert_eq!(text("a<!-- x --><p>b<!--#echo><p>c<!--#echo>d"), "a\nb\ncd");
    assert_eq!(text("a<!-- x --!>b<!--><!--->c"), "abc");
    assert_eq!(text("a<script><!-- if (x > 1) y()</script>b"), "ab");
    assert_eq!(text("a<!--"), "a");
}

#[test]
fn of_a_page_without_text_a_picture_is_named() {
    let pictures = "<img src='http://www.shop.example/a.gif'><p><img src=http://x.example/b.gif>";
    assert_eq!(text(pictures), "(shop.example)");
    assert_eq!(text(&format!("{pictures}hello")), "hello");
    assert_eq!(
        text("<div hidden><img src=http://x.example/1></div><script src=http://y.example/>"),
        ""
    );
}

#[test]
fn output_is_bounded() {
    let html = "<p>word</p>".repeat(1000);
    assert!(visible_text(&html, 100).len() < 120);
}

#[test]
fn many_attributes_take_linear_time() {
    // Ten thousand times the attributes of any real tag; a quadratic check takes minutes.
    let attributes: String = (0..150_000).map(|n| format!(" a{n}")).collect();
    assert_eq!(text(&format!("<a{attributes}>seen")), "seen");
}
