//! Which server is asked, and in whose protocol.

use std::str::FromStr;

use hyper::Uri;

/// How a request and its answer look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `POST /v1/classify`.
    Classify,
    /// `POST /predict`, as text-embeddings-inference has it.
    Tei,
    /// `POST /v2/models/{model}/infer`, the Open Inference Protocol.
    Oip,
}

/// A server: `[NAME=][tei+|oip+|classify+]http://HOST[:PORT][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// How tables call it; `HOST:PORT` unless given.
    pub name: String,
    /// Unless given, [`Protocol::Classify`].
    pub protocol: Protocol,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    /// 80 unless given.
    pub port: u16,
    /// Path that stands in for the protocol's own.
    pub path: Option<String>,
}

impl Target {
    /// `HOST:PORT`, as the header `Host` has it.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A query may hold `=` as well, a name holds no `://`.
        let (name, url) = match text.split_once('=') {
            Some((name, url)) if !name.contains("://") => (Some(name), url),
            _ => (None, text),
        };
        let protocols =
            [("tei+", Protocol::Tei), ("oip+", Protocol::Oip), ("classify+", Protocol::Classify)];
        let (protocol, url) = protocols
            .into_iter()
            .find_map(|(prefix, protocol)| Some((protocol, url.strip_prefix(prefix)?)))
            .unwrap_or((Protocol::Classify, url));
        let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
        let host = match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) => host.trim_matches(['[', ']']).to_owned(),
            _ => return Err(format!("{url}: expected [NAME=][tei+|oip+]http://HOST[:PORT]")),
        };
        let path = uri.path_and_query().map(ToString::to_string).filter(|path| path != "/");
        let mut target =
            Self { name: String::new(), protocol, host, port: uri.port_u16().unwrap_or(80), path };
        target.name = match name {
            Some("") => return Err(format!("{text}: a name is empty")),
            Some(name) => name.to_owned(),
            None => target.authority(),
        };
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Target {
        text.parse().expect(text)
    }

    #[test]
    fn a_bare_url_is_classify() {
        let target = parse("http://127.0.0.1:8080");
        assert_eq!(target.name, "127.0.0.1:8080");
        assert_eq!((target.protocol, target.port), (Protocol::Classify, 8080));
        assert_eq!(target.path, None);
    }

    #[test]
    fn names_protocols_and_paths() {
        let target = parse("TEI=tei+http://host/models/spam/predict?a=b");
        assert_eq!((target.name.as_str(), target.protocol), ("TEI", Protocol::Tei));
        assert_eq!((target.host.as_str(), target.port), ("host", 80));
        assert_eq!(target.path.as_deref(), Some("/models/spam/predict?a=b"));
        assert_eq!(parse("oip+http://h:1/").protocol, Protocol::Oip);
        assert_eq!(parse("http://h:1/p?model=x").path.as_deref(), Some("/p?model=x"));
        assert_eq!(parse("http://[::1]:7").authority(), "[::1]:7");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "host", "A=", "https://h", "=http://h", "tei+ftp://h", "A=tei+B"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
