//! A Hugging Face model folder, all but its weights.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::config::{Architecture, ModelConfig};
use crate::error::ModelError;
use crate::labels::Labels;
use crate::manifest::Manifest;
use crate::parts::Parts;
use crate::tensors::{TableSpec, resolve};
use crate::tokenize::TruncationSide;
use crate::weights::WeightFiles;

/// What is known of a model before its weights are read.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    name: String,
    path: PathBuf,
    revision: String,
    computation: String,
    tokenization: [u8; 32],
    encoder: Arc<OnceLock<[u8; 32]>>,
    config: ModelConfig,
    labels: Labels,
    manifest: Manifest,
    tokens_max: usize,
    truncation_side: TruncationSide,
    pub(crate) weights: WeightFiles,
}

pub(crate) fn folder_name(path: &Path) -> String {
    let absolute = path.canonicalize();
    let path = absolute.as_deref().unwrap_or(path);
    path.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

impl ModelFolder {
    /// Reads `config.json`, the tokenizer's settings, `postsort.toml` and the weights' headers.
    ///
    /// # Errors
    /// Says which file, setting or tensor is wrong, and how.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let manifest = Manifest::read(path)?;
        let (config_bytes, config_json) = read_json::<Value>(&path.join("config.json"))?;
        let config = ModelConfig::new(&config_json)?;
        // Megabytes, of which here only counts that they are JSON.
        let (tokenizer_bytes, IgnoredAny) = read_json(&path.join("tokenizer.json"))?;
        let settings = TokenizerSettings::read(path)?;
        let weights = WeightFiles::open(path)?;
        let rows = classifier_rows(&config, &weights)?;
        let labels = Labels::new(&config_json, rows, &manifest)?;
        let tokens_max = [Some(config.tokens_max()), settings.tokens_max, manifest.tokens_max];
        let tokens_max = tokens_max.into_iter().flatten().min().unwrap_or(512);
        let mut files = blake3::Hasher::new();
        for part in [&config_bytes, &tokenizer_bytes, &settings.bytes] {
            add_part(&mut files, part);
        }
        let mut tokenization = blake3::Hasher::new();
        for part in [&tokenizer_bytes, &settings.bytes] {
            add_part(&mut tokenization, part);
        }
        tokenization.update(&tokens_max.to_le_bytes());
        let mut computation = files.clone();
        computation.update(&tokens_max.to_le_bytes());
        let computation = finished(computation, &weights);
        add_part(&mut files, &std::fs::read(path.join("postsort.toml")).unwrap_or_default());
        let revision = finished(files, &weights);
        let name = manifest.name.clone().unwrap_or_else(|| folder_name(path));
        let path = path.to_owned();
        let truncation_side = settings.truncation_side;
        Ok(Self {
            name,
            path,
            revision,
            computation,
            tokenization: *tokenization.finalize().as_bytes(),
            encoder: Arc::default(),
            config,
            labels,
            manifest,
            tokens_max,
            truncation_side,
            weights,
        })
    }

    /// Called `name`, unless its manifest names it.
    pub(crate) fn named(mut self, name: String) -> Self {
        if self.manifest.name.is_none() {
            self.name = name;
        }
        self
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// 16 hex digits that change with whatever could change an answer.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Whether what is on disk now is what was read.
    ///
    /// # Errors
    /// It cannot be read any more; see [`Self::open`].
    pub fn is_unchanged(&self) -> Result<bool, ModelError> {
        Ok(Self::open(&self.path)?.revision == self.revision)
    }

    /// 16 hex digits that change with whatever could change the logits of a sequence; not with the
    /// rest of the manifest.
    #[must_use]
    pub fn computation(&self) -> &str {
        &self.computation
    }

    /// Equal for models that make the same sequences of a text.
    #[must_use]
    pub fn tokenization(&self) -> &[u8; 32] {
        &self.tokenization
    }

    /// Digest of all that the encoder computes with, every byte of its tensors among it; `None`
    /// for an architecture that the fast engine does not know. Reads the weights once.
    ///
    /// # Errors
    /// A tensor that is missing or cannot be read.
    pub(crate) fn encoder_digest(&self) -> Result<Option<[u8; 32]>, ModelError> {
        if let Some(known) = self.encoder.get() {
            return Ok(Some(*known));
        }
        let digest = self.of_encoder(WeightFiles::digest)?;
        Ok(digest.map(|digest| *self.encoder.get_or_init(|| digest)))
    }

    /// The same of samples of its tensors: encoders that differ in it differ, and those that do not
    /// are most likely equal. Reads nothing.
    ///
    /// # Errors
    /// A tensor that is missing.
    pub(crate) fn encoder_sample(&self) -> Result<Option<[u8; 32]>, ModelError> {
        self.of_encoder(WeightFiles::sample)
    }

    /// The same as [`Self::encoder_digest`], for an encoder that was read some time ago; `None` if by its
    /// samples it is another one now.
    ///
    /// # Errors
    /// A tensor that is missing or cannot be read.
    pub(crate) fn encoder_digest_again(&self) -> Result<Option<[u8; 32]>, ModelError> {
        if let Some(known) = self.encoder.get() {
            return Ok(Some(*known));
        }
        // The head may be another one, and so tensors may have moved.
        let now = Self { weights: WeightFiles::open(&self.path)?, ..self.clone() };
        let same = now.encoder_sample()? == self.encoder_sample()?;
        if same { now.encoder_digest() } else { Ok(None) }
    }

    fn of_encoder(
        &self,
        add: impl Fn(&WeightFiles, &str, &mut blake3::Hasher) -> Result<(), ModelError>,
    ) -> Result<Option<[u8; 32]>, ModelError> {
        let config = &self.config;
        // The head's tensors are not listed, so how many labels there are does not matter.
        let Some(parts) = Parts::new(config, 1) else { return Ok(None) };
        let mut digest = blake3::Hasher::new();
        // Names every setting, a head's among them.
        digest.update(format!("{config:?}").as_bytes());
        let prefix = config.architecture.prefix();
        for (name, shape) in parts.encoder_tensors() {
            let name = resolve(&self.weights, prefix, &name, &shape)?;
            add(&self.weights, &name, &mut digest)?;
        }
        Ok(Some(*digest.finalize().as_bytes()))
    }

    /// The checked `config.json`.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The model's own settings.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Most tokens of a sequence, special tokens included: the least of what the tokenizer, the
    /// positions and the manifest allow.
    #[must_use]
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// Where a text that is too long loses its tokens.
    pub(crate) fn truncation_side(&self) -> TruncationSide {
        self.truncation_side
    }

    /// Bytes of the weights on disk.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// What the fast engine computes it with; `None` for an architecture that it does not know.
    pub(crate) fn parts(&self) -> Option<Parts> {
        Parts::new(&self.config, self.labels.names().len())
    }

    /// Bytes and numbers of a table as it is in the file; none of one that is not there.
    pub(crate) fn table_size(&self, table: &TableSpec) -> (u64, u64) {
        let (name, shape) = table.tensor();
        match resolve(&self.weights, self.config.architecture.prefix(), &name, &shape) {
            Ok(name) => {
                let bytes = self.weights.tensor_bytes(&name).unwrap_or(0);
                (bytes, shape.iter().product::<usize>() as u64)
            }
            Err(_) => (0, 0),
        }
    }
}

/// With its length, so that no byte can move from one file to the next unseen.
fn add_part(digest: &mut blake3::Hasher, part: &[u8]) {
    digest.update(&(part.len() as u64).to_le_bytes()).update(part);
}

fn finished(mut digest: blake3::Hasher, weights: &WeightFiles) -> String {
    digest.update(&weights.fingerprint).finalize().to_hex()[..16].to_owned()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<(Vec<u8>, T), ModelError> {
    let bytes = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
    let json = serde_json::from_slice(&bytes).map_err(|error| ModelError::bad_file(path, error))?;
    Ok((bytes, json))
}

/// What `tokenizer_config.json` says that `tokenizer.json` does not.
#[derive(Debug, Default)]
struct TokenizerSettings {
    bytes: Vec<u8>,
    tokens_max: Option<usize>,
    truncation_side: TruncationSide,
}

impl TokenizerSettings {
    fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let (bytes, json) = read_json::<Value>(&path)?;
        // transformers writes 10^30 where there is no limit.
        let limit = json.get("model_max_length").and_then(Value::as_f64);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 1..1e9"
        )]
        let tokens_max =
            limit.filter(|limit| (1.0..1e9).contains(limit)).map(|limit| limit as usize);
        let truncation_side = match json.get("truncation_side").and_then(Value::as_str) {
            None | Some("right") => TruncationSide::Right,
            Some("left") => TruncationSide::Left,
            Some(other) => {
                let reason = format!("`truncation_side` is `{other}`, not left or right");
                return Err(ModelError::bad_file(&path, reason));
            }
        };
        Ok(Self { bytes, tokens_max, truncation_side })
    }
}

/// How many labels there are, from the tensor that makes the logits.
fn classifier_rows(config: &ModelConfig, weights: &WeightFiles) -> Result<usize, ModelError> {
    let tensor = match config.architecture {
        Architecture::Roberta | Architecture::XlmRoberta | Architecture::Electra => {
            "classifier.out_proj.weight"
        }
        _ => "classifier.weight",
    };
    match weights.shape(tensor) {
        Some(&[rows, _]) if rows > 0 => Ok(rows),
        Some(found) => Err(ModelError::Shape {
            tensor: tensor.to_owned(),
            expected: vec![1, config.hidden],
            found: found.to_vec(),
        }),
        None => Err(ModelError::MissingTensor { tensor: tensor.to_owned() }),
    }
}
