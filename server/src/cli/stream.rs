//! `postsort classify --stream`: a back-fill, by a running server or in this process.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::{Request, Uri};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use serde_json::Value;

use super::mails::{Mail, Mails, open};
use super::remote::refusal;
use super::{Settings, bar, runtime};
use crate::back_fill::BackFill;
use crate::error::Error;
use crate::http::Presentation;
use crate::pipeline::{ClassifyOptions, Pipeline};

/// What to read, and where answers go.
#[derive(Debug, clap::Args)]
pub(super) struct StreamOptions {
    /// Mails without end: JSON lines, an mbox, a Maildir or another folder, or - for standard input
    #[arg(long, value_name = "PATH", conflicts_with_all = ["paths", "text", "json"])]
    pub(super) stream: Option<PathBuf>,
    /// File for the answers, a JSON line each [default: standard output]
    #[arg(long, value_name = "FILE", requires = "stream")]
    output: Option<PathBuf>,
    /// Go on after the last answer in the output file
    #[arg(long, requires = "output")]
    resume: bool,
}

/// Where answers go, and how far they are.
struct Sink {
    to: Box<dyn Write>,
    bar: ProgressBar,
    answers: u64,
    failures: u64,
    /// A part of a line.
    rest: Vec<u8>,
}

impl StreamOptions {
    pub(super) fn run(
        &self,
        path: &Path,
        (model, server): (Option<String>, Option<&str>),
        settings: Settings,
    ) -> Result<(), Error> {
        let (to, first) = self.output()?;
        let Mails { mails, total, in_bytes } = open(path)?;
        let bar = bar(template(total, in_bytes), total);
        let shown = bar.clone();
        let mails = mails.map(move |mail| {
            let (mail, share) = mail?;
            shown.inc(share);
            Ok(mail)
        });
        // What was answered before is read, and passed over.
        let mails = Box::new(mails.skip(usize::try_from(first).unwrap_or(usize::MAX)));
        let mut sink = Sink { to, bar, answers: 0, failures: 0, rest: Vec::new() };
        let started = Instant::now();
        let runtime = runtime()?;
        match server {
            Some(server) => {
                runtime.block_on(remote(server, model.as_deref(), first, mails, &mut sink))?;
            }
            None => {
                let config = settings.resolve()?;
                let pipeline = Arc::new(Pipeline::new(&config)?);
                runtime.block_on(in_process(pipeline, model, first, mails, &mut sink))?;
            }
        }
        sink.end(started)
    }

    /// The output, and the index of the first mail that has no answer in it yet.
    fn output(&self) -> Result<(Box<dyn Write>, u64), Error> {
        let Some(path) = &self.output else {
            return Ok((Box::new(BufWriter::new(std::io::stdout())), 0));
        };
        let fails = |error: std::io::Error| Error::setup(path.display().to_string(), error);
        let mut options = OpenOptions::new();
        options.write(true).read(true).create(true).truncate(!self.resume);
        let mut file = options.open(path).map_err(fails)?;
        let first = if self.resume {
            let (whole_bytes, last) = last_line(&mut file).map_err(fails)?;
            file.set_len(whole_bytes).map_err(fails)?;
            file.seek(SeekFrom::End(0)).map_err(fails)?;
            match serde_json::from_slice::<Value>(&last)
                .ok()
                .and_then(|line| line["index"].as_u64())
            {
                Some(index) => index + 1,
                None if last.is_empty() => 0,
                None => {
                    return Err(Error::setup(path.display().to_string(), "has no answers in it"));
                }
            }
        } else {
            0
        };
        Ok((Box::new(BufWriter::new(file)), first))
    }
}

/// Bytes up to the end of the last whole line, and that line.
fn last_line(file: &mut File) -> std::io::Result<(u64, Vec<u8>)> {
    let (mut start, mut tail) = (file.seek(SeekFrom::End(0))?, Vec::new());
    loop {
        let mut ends = tail.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        if let Some((end, _)) = ends.next() {
            let before = ends.next().map(|(at, _)| at + 1);
            if before.is_some() || start == 0 {
                return Ok((start + end as u64 + 1, tail[before.unwrap_or(0)..end].to_vec()));
            }
        } else if start == 0 {
            return Ok((0, Vec::new()));
        }
        let more = start.min(64 << 10);
        start -= more;
        let mut part = vec![0; usize::try_from(more).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut part)?;
        part.append(&mut tail);
        tail = part;
    }
}

type Found = Box<dyn Iterator<Item = Result<Mail, Error>> + Send>;

async fn in_process(
    pipeline: Arc<Pipeline>,
    model: Option<String>,
    first: u64,
    mails: Found,
    sink: &mut Sink,
) -> Result<(), Error> {
    let back_fill =
        BackFill::new(pipeline, model, ClassifyOptions::default(), Presentation::default())?;
    let inputs = (first..).zip(mails).filter_map(|(index, mail)| {
        let input = mail.map_or_else(|error| Some(Err(error)), Mail::into_input);
        input.map(|input| (index, input))
    });
    let mut lines = std::pin::pin!(back_fill.run(stream::iter(inputs)));
    while let Some(line) = lines.next().await {
        sink.take(line.as_bytes())?;
    }
    Ok(())
}

async fn remote(
    server: &str,
    model: Option<&str>,
    first: u64,
    mails: Found,
    sink: &mut Sink,
) -> Result<(), Error> {
    let fails = |error: &dyn std::fmt::Display| Error::setup(server.to_owned(), error);
    let uri: Uri = server.parse().map_err(|e| fails(&e))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http"));
    let host = host.ok_or_else(|| fails(&"a stream goes to an http:// address"))?;
    let address = (host, uri.port_u16().unwrap_or(80));
    let connection = tokio::net::TcpStream::connect(address).await.map_err(|e| fails(&e))?;
    let io = TokioIo::new(connection);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| fails(&e))?;
    let connection = tokio::spawn(connection);

    let model = model.map(|model| format!("&model={model}")).unwrap_or_default();
    let path = format!("/v1/classify/stream?first_index={first}{model}");
    // A source that cannot be read ends the stream; what was read is answered.
    let (failed, mut failure) = tokio::sync::oneshot::channel();
    let mut failed = Some(failed);
    let frames = mails.map_while(move |mail| match mail {
        Ok(mail) => Some(Ok::<_, Infallible>(Frame::data(Bytes::from(mail.into_line())))),
        Err(error) => {
            let _ = failed.take().map(|failed| failed.send(error));
            None
        }
    });
    let request = Request::post(path)
        .header("host", uri.authority().map_or(host, |authority| authority.as_str()))
        .header("content-type", "application/x-ndjson")
        .body(StreamBody::new(stream::iter(frames)))
        .map_err(|e| fails(&e))?;
    let response = sender.send_request(request).await.map_err(|e| fails(&e))?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let text = body.collect().await.map_err(|e| fails(&e))?.to_bytes();
        let body = serde_json::from_slice(&text).unwrap_or_default();
        return Err(fails(&refusal(status, &body)));
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| fails(&sink.broke_off()))?;
        if let Some(data) = frame.data_ref() {
            sink.take(data)?;
        }
    }
    connection.abort();
    failure.try_recv().map_or(Ok(()), Err)
}

impl Sink {
    /// Parts of lines, whole ones of which are written.
    fn take(&mut self, data: &[u8]) -> Result<(), Error> {
        self.rest.extend_from_slice(data);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else { return Ok(()) };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let code = code(line);
            if code.as_deref() == Some("draining") {
                self.to.flush().map_err(|error| Error::setup("output", error))?;
                return Err(Error::setup("the server is shutting down", self.broke_off()));
            }
            self.answers += 1;
            self.failures += u64::from(code.is_some());
            self.to.write_all(line).map_err(|error| Error::setup("output", error))?;
        }
        self.bar.set_message(format!("{} answers", self.answers));
        Ok(())
    }

    fn broke_off(&self) -> String {
        format!("the stream broke off after {} answers; --resume goes on from there", self.answers)
    }

    fn end(mut self, started: Instant) -> Result<(), Error> {
        self.to.flush().map_err(|error| Error::setup("output", error))?;
        self.bar.finish_and_clear();
        let seconds = started.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = self.answers as f64 / seconds.max(1e-9);
        eprintln!(
            "{} answers, {} of them errors, in {seconds:.1} s ({rate:.0} a second)",
            self.answers, self.failures
        );
        Ok(())
    }
}

/// The error that a line tells.
fn code(line: &[u8]) -> Option<String> {
    // Answers have no such word but as a label, so few lines are parsed for nothing.
    line.windows(8).any(|part| part == b"\"error\":").then_some(())?;
    let line: Value = serde_json::from_slice(line).ok()?;
    line["error"]["code"].as_str().map(str::to_owned)
}

fn template(total: Option<u64>, in_bytes: bool) -> &'static str {
    match (total.is_some(), in_bytes) {
        (true, true) => "{wide_bar} {bytes}/{total_bytes} {msg} {elapsed} (left {eta})",
        (true, false) => "{wide_bar} {pos}/{len} {msg} {elapsed} (left {eta})",
        (false, _) => "{spinner} {bytes} {msg} {elapsed}",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{code, last_line};

    #[test]
    fn the_last_whole_line_is_found_in_a_file_of_any_length() {
        for (text, bytes, line) in [
            ("", 0, ""),
            ("{\"ind", 0, ""),
            ("one\n", 4, "one"),
            ("one\ntwo\nthr", 8, "two"),
            ("\n", 1, ""),
        ] {
            let mut file = tempfile::tempfile().expect("temporary file");
            file.write_all(text.as_bytes()).expect("writes");
            let expected = (bytes, line.as_bytes().to_vec());
            assert_eq!(last_line(&mut file).expect("reads"), expected, "{text}");
        }
        let mut file = tempfile::tempfile().expect("temporary file");
        let long = "x".repeat(200_000);
        write!(file, "a\n{long}\n{long}").expect("writes");
        let (bytes, line) = last_line(&mut file).expect("reads");
        assert_eq!((bytes, line.len()), (200_003, 200_000));
    }

    #[test]
    fn errors_are_told_from_answers() {
        assert_eq!(
            code(br#"{"index":3,"error":{"code":"draining"}}"#).as_deref(),
            Some("draining")
        );
        assert_eq!(code(br#"{"index":3,"labels":[{"label":"error","score":1.0}]}"#), None);
    }
}
