//! The server's own page: its headers here, its looks and hands in `scripts/dashboard-check`.

use crate::server::Server;

#[test]
fn the_page_is_served_whole_and_kept_by_browsers() {
    let (server, _dir) = Server::with(&["bert"]);
    let page = server.get("/");
    let header = |name: &str| page.headers[name].to_str().expect("text").to_owned();
    assert_eq!((page.status, header("content-type").as_str()), (200, "text/html; charset=utf-8"));
    assert_eq!(header("cache-control"), "no-cache");
    assert!(header("content-security-policy").contains("default-src 'none'"));
    let mut bytes = page.text.len();
    let mut assets = 0;
    for path in page.text.split('"').filter(|part| part.starts_with("/assets/")) {
        let asset = server.get(path);
        assert_eq!(asset.status, 200, "{path}");
        let kept = asset.headers["cache-control"].to_str().expect("text");
        assert!(kept.contains("immutable"), "{path}: {kept}");
        assert!(!asset.text.contains("http://") || asset.text.contains("www.w3.org"), "{path}");
        bytes += asset.text.len();
        assets += 1;
    }
    assert!(assets >= 10 && bytes < 150 << 10, "{assets} assets of {bytes} bytes");

    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let ask = |name: &str, value: &str| {
        agent.get(format!("{}/", server.url)).header(name, value).call().expect("an answer")
    };
    assert_eq!(ask("if-none-match", &header("etag")).status(), 304);
    let zipped = ask("accept-encoding", "br, gzip");
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
    assert!(!page.headers.contains_key("content-encoding"));
    assert_eq!(server.get("/assets/0000000000000000/app.js").status, 404, "an old page's asset");
}
