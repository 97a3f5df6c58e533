//! Models from a Hugging Face hub: resumed where a transfer broke off, checked against the hub's
//! checksums, complete or not there at all.
//!
//! A client of our own rather than the `hf-hub` crate: that one checks no checksum and lays files
//! out as a cache of links.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use postsort_models::Hub;
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::{Response, StatusCode, header};

use crate::error::Error;

/// Files that serving reads, beside the weights. `config.json` comes last: with it the folder is a
/// model.
const FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"];
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// How often a transfer that breaks off is taken up again.
const ATTEMPTS_MAX: u32 = 5;
const CHUNK_BYTES: usize = 256 << 10;

/// A hub.
#[derive(Debug)]
pub struct HubClient {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
    retry_wait: Duration,
}

/// A repository at one commit.
#[derive(Debug, Deserialize)]
struct Repository {
    sha: String,
    siblings: Vec<Sibling>,
}

/// A file of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

/// A large file.
#[derive(Clone, Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// How far a file is.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// Its name.
    pub file: &'a str,
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes that it has, as far as the hub says.
    pub bytes_max: u64,
}

impl HubClient {
    /// The hub of `HF_ENDPOINT`, with the token of `HF_TOKEN`; as Hugging Face's own tools have it.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint =
            variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A transfer that hangs is taken up again where it was.
            .timeout_recv_body(Some(Duration::from_secs(600)))
            .build()
            .into();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { agent, endpoint, token: variable("HF_TOKEN"), retry_wait: Duration::from_secs(1) }
    }

    /// Fetches what serving needs of the repository into `folder`; what is there already and whole
    /// is kept. The commit that was fetched.
    ///
    /// # Errors
    /// The hub cannot be reached or refuses; the repository has no safetensors; a file does not
    /// match its checksum.
    pub fn fetch(
        &self,
        hub: &Hub,
        folder: &Path,
        mut tell: impl FnMut(Progress<'_>),
    ) -> Result<String, Error> {
        let repository = self.repository(hub)?;
        for file in wanted(&repository).map_err(|reason| Error::setup(&hub.id, reason))? {
            let url = format!(
                "{}/{}/resolve/{}/{}",
                self.endpoint, hub.id, repository.sha, file.rfilename
            );
            self.file(&url, file, folder, &mut tell)?;
        }
        Ok(repository.sha)
    }

    fn repository(&self, hub: &Hub) -> Result<Repository, Error> {
        let plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
                && !part.contains("..")
        };
        if !plain(&hub.id) || !plain(&hub.revision) {
            return Err(Error::setup(&hub.id, "is no name of a repository and revision"));
        }
        let url =
            format!("{}/api/models/{}/revision/{}?blobs=true", self.endpoint, hub.id, hub.revision);
        let mut response = self.get(&url, 0)?;
        response.body_mut().read_json().map_err(|error| Error::setup(url, error))
    }

    /// `from`: how many bytes are here already.
    fn get(&self, url: &str, from: u64) -> Result<Response<ureq::Body>, Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| Error::setup(url, error))?;
        let reason = match response.status() {
            status if status.is_success() => return Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE => return Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "the hub refuses: a gated or private repository, or HF_TOKEN is wrong".to_owned()
            }
            StatusCode::NOT_FOUND => "the hub has no such repository, revision or file".to_owned(),
            status => format!("the hub answers {status}"),
        };
        Err(Error::setup(url, reason))
    }

    fn file(
        &self,
        url: &str,
        file: &Sibling,
        folder: &Path,
        tell: &mut impl FnMut(Progress<'_>),
    ) -> Result<(), Error> {
        let (name, bytes_max) = (file.rfilename.as_str(), file.bytes());
        let (target, part) = (folder.join(name), folder.join(format!("{name}.part")));
        if matches(file, &target) == Some(true) {
            tell(Progress { file: name, bytes: bytes_max, bytes_max });
            return Ok(());
        }
        let io = |error: std::io::Error| Error::setup(part.display().to_string(), error);
        let mut attempt = 1;
        loop {
            match self.transfer(url, file, &part, tell) {
                Ok(()) => break,
                // What is here is kept, for the next try or the next call.
                Err(error) if attempt == ATTEMPTS_MAX => return Err(error),
                Err(error) => tracing::warn!(%error, attempt, "transfer broke off, trying again"),
            }
            std::thread::sleep(self.retry_wait * attempt);
            attempt += 1;
        }
        if matches(file, &part) == Some(false) {
            std::fs::remove_file(&part).map_err(io)?;
            return Err(Error::setup(url, "the file does not match the hub's checksum"));
        }
        // Whoever has the old file open or mapped keeps it.
        std::fs::rename(&part, &target).map_err(io)
    }

    /// Appends to `part` what it lacks.
    fn transfer(
        &self,
        url: &str,
        file: &Sibling,
        part: &Path,
        tell: &mut impl FnMut(Progress<'_>),
    ) -> Result<(), Error> {
        let io = |error: std::io::Error| Error::setup(part.display().to_string(), error);
        let mut out = OpenOptions::new().create(true).append(true).open(part).map_err(io)?;
        let mut bytes = out.seek(SeekFrom::End(0)).map_err(io)?;
        let bytes_max = file.bytes();
        if bytes > 0 && bytes == bytes_max {
            return Ok(());
        }
        let mut response = self.get(url, bytes)?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // The hub sends it from the start, or what is here is longer than the file.
            out.set_len(0).map_err(io)?;
            bytes = 0;
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                response = self.get(url, 0)?;
            }
        }
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = body.read(&mut chunk).map_err(|error| Error::setup(url, error))?;
            if read == 0 {
                break;
            }
            out.write_all(&chunk[..read]).map_err(io)?;
            bytes += read as u64;
            tell(Progress { file: &file.rfilename, bytes, bytes_max });
        }
        out.sync_all().map_err(io)?;
        if bytes < bytes_max {
            return Err(Error::setup(url, format!("broke off after {bytes} of {bytes_max} bytes")));
        }
        Ok(())
    }
}

impl Sibling {
    fn bytes(&self) -> u64 {
        self.lfs.as_ref().map_or(self.size.unwrap_or(0), |lfs| lfs.size)
    }
}

/// The files to fetch, in order; or why the repository cannot be served.
fn wanted(repository: &Repository) -> Result<Vec<&Sibling>, String> {
    let named = |name: &str| repository.siblings.iter().find(|file| file.rfilename == name);
    let mut files = Vec::new();
    if let Some(weights) = named(WEIGHTS) {
        files.push(weights);
    } else if let Some(index) = named(WEIGHTS_INDEX) {
        let is_shard = |name: &str| {
            name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains('/')
        };
        files.extend(repository.siblings.iter().filter(|file| is_shard(&file.rfilename)));
        files.push(index);
    } else if repository.siblings.iter().any(|file| file.rfilename.ends_with(".bin")) {
        return Err("has only a pickle, which can run code when it is read; convert it to \
                    safetensors"
            .to_owned());
    } else {
        return Err("has no model.safetensors".to_owned());
    }
    for required in ["config.json", "tokenizer.json"] {
        if named(required).is_none() {
            return Err(format!("has no {required}"));
        }
    }
    files.extend(FILES.iter().filter_map(|name| named(name)));
    Ok(files)
}

/// Whether the file is what the hub says; `None` if it is not there, or the hub says nothing.
fn matches(file: &Sibling, path: &Path) -> Option<bool> {
    let length = std::fs::metadata(path).ok()?.len();
    if length != file.bytes() {
        return Some(false);
    }
    match (&file.lfs, &file.blob_id) {
        (Some(lfs), _) => Some(hex(Sha256::new(), path)?.eq_ignore_ascii_case(&lfs.sha256)),
        // git's name of a blob.
        (None, Some(blob)) => {
            let start = Sha1::new_with_prefix(format!("blob {length}\0"));
            Some(hex(start, path)?.eq_ignore_ascii_case(blob))
        }
        (None, None) => None,
    }
}

fn hex<D: Digest>(mut digest: D, path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).ok()? {
            0 => break,
            read => digest.update(&chunk[..read]),
        }
    }
    Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
