//! `config.json`, as transformers 4 and 5 write it, checked before anything is built from it.

use serde_json::Value;

use crate::error::ModelError;

/// Encoder families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Devlin et al. 2018.
    Bert,
    /// Sanh et al. 2019.
    DistilBert,
    /// Liu et al. 2019.
    Roberta,
    /// Conneau et al. 2019.
    XlmRoberta,
    /// Clark et al. 2020.
    Electra,
    /// He et al. 2020 and 2021: DeBERTa v2 and v3.
    DebertaV2,
    /// Warner et al. 2024.
    ModernBert,
}

impl Architecture {
    fn of(config: &Value) -> Result<Self, ModelError> {
        let name = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        Ok(match name {
            "bert" => Self::Bert,
            "distilbert" => Self::DistilBert,
            "roberta" => Self::Roberta,
            "xlm-roberta" => Self::XlmRoberta,
            "electra" => Self::Electra,
            "deberta-v2" => Self::DebertaV2,
            "modernbert" => Self::ModernBert,
            _ => {
                let supported =
                    "bert, distilbert, roberta, xlm-roberta, electra, deberta-v2, modernbert";
                let reason = format!("is `{name}`; supported are {supported}");
                return Err(ModelError::bad_config("model_type", reason));
            }
        })
    }

    /// What tensor names begin with in a checkpoint with a head.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::DistilBert => "distilbert.",
            Self::Roberta | Self::XlmRoberta => "roberta.",
            Self::Electra => "electra.",
            Self::DebertaV2 => "deberta.",
            Self::ModernBert => "model.",
        }
    }
}

/// Activation functions by their names in `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), exact.
    Gelu,
    /// x·Φ(x) by tanh.
    GeluTanh,
    /// max(0, x).
    Relu,
    /// x·σ(x).
    Silu,
    /// tanh.
    Tanh,
}

impl Activation {
    fn of(config: &Value, field: &str, default: &str) -> Result<Self, ModelError> {
        let name = config.get(field).and_then(Value::as_str).unwrap_or(default);
        Ok(match name {
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            _ => return Err(ModelError::bad_config(field, format!("`{name}` is not supported"))),
        })
    }
}

/// The sizes that all families have, and the family's own settings.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of a token's state.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Rows of the token embedding.
    pub vocabulary: usize,
    /// Width of an embedding, where it differs from the state's.
    pub embedding: usize,
    /// Rows of the position embedding, or the longest sequence where there is none.
    pub positions: usize,
    /// Rows of the token type embedding; 0 without one.
    pub token_types: usize,
    /// Added to the variance in layer norms.
    pub norm_eps: f64,
    /// Of the feed-forward part.
    pub activation: Activation,
    /// The padding token, which RoBERTa counts positions from.
    pub padding: u32,
    pub(crate) family: Family,
}

/// What only one family has.
#[derive(Clone, Debug)]
pub(crate) enum Family {
    PostNorm,
    Deberta(DebertaConfig),
    ModernBert(ModernBertConfig),
}

#[derive(Clone, Debug)]
pub(crate) struct DebertaConfig {
    pub(crate) head_size: usize,
    /// Scores are divided by the root of this many head sizes.
    pub(crate) score_terms: usize,
    pub(crate) relative: Option<Relative>,
    pub(crate) position_biased_input: bool,
    pub(crate) convolution: Option<(usize, usize, Activation)>,
    pub(crate) pooler_activation: Activation,
    pub(crate) pooler: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Relative {
    pub(crate) buckets: Option<usize>,
    pub(crate) distance_max: usize,
    pub(crate) share_att_key: bool,
    pub(crate) content_to_position: bool,
    pub(crate) position_to_content: bool,
    pub(crate) norm: bool,
}

impl Relative {
    /// Distances on either side that have an embedding.
    pub(crate) fn span(&self) -> usize {
        self.buckets.unwrap_or(self.distance_max)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ModernBertConfig {
    /// For each layer whether it sees only a window.
    pub(crate) sliding: Vec<bool>,
    /// Farthest token that a sliding layer sees.
    pub(crate) distance_max: usize,
    pub(crate) theta_full: f64,
    pub(crate) theta_sliding: f64,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) norm_bias: bool,
    pub(crate) mean_pooling: bool,
    pub(crate) classifier_bias: bool,
    pub(crate) classifier_activation: Activation,
}

/// Beyond these a config lies: no encoder comes near, and sizes may be multiplied without overflow.
const SIZE_MAX: usize = 1 << 24;
const LAYERS_MAX: usize = 512;

impl ModelConfig {
    /// Reads and checks `config.json`.
    pub(crate) fn new(config: &Value) -> Result<Self, ModelError> {
        let architecture = Architecture::of(config)?;
        let fields = Fields(config);
        let distil = architecture == Architecture::DistilBert;
        let name =
            |usual: &'static str, distilled: &'static str| if distil { distilled } else { usual };
        let hidden = fields.size(name("hidden_size", "dim"), None)?;
        let modern = architecture == Architecture::ModernBert;
        let deberta = architecture == Architecture::DebertaV2;
        let heads = fields.size(name("num_attention_heads", "n_heads"), None)?;
        if hidden % heads != 0 {
            let reason = format!("{heads} does not divide the hidden size {hidden}");
            return Err(ModelError::bad_config(name("num_attention_heads", "n_heads"), reason));
        }
        let layers = fields.size(name("num_hidden_layers", "n_layers"), None)?;
        if layers > LAYERS_MAX {
            return Err(ModelError::bad_config("num_hidden_layers", format!("{layers} is absurd")));
        }
        let kind = fields.text("position_embedding_type").unwrap_or("absolute");
        if !deberta && kind != "absolute" {
            return Err(ModelError::bad_config(
                "position_embedding_type",
                format!("`{kind}` is not supported"),
            ));
        }
        let activation = if modern {
            Activation::of(config, "hidden_activation", "gelu")?
        } else {
            Activation::of(config, name("hidden_act", "activation"), "gelu")?
        };
        let norm_field = if modern { "norm_eps" } else { "layer_norm_eps" };
        let norm_default = match architecture {
            Architecture::DebertaV2 => 1e-7,
            Architecture::ModernBert => 1e-5,
            _ => 1e-12,
        };
        let roberta = matches!(architecture, Architecture::Roberta | Architecture::XlmRoberta);
        let padding = fields.count("pad_token_id", if roberta { 1 } else { 0 })?;
        let family = match architecture {
            Architecture::DebertaV2 => Family::Deberta(DebertaConfig::new(fields, hidden, heads)?),
            Architecture::ModernBert => {
                if (hidden / heads) % 2 != 0 {
                    let reason =
                        format!("{heads} gives heads of odd width, which cannot be rotated");
                    return Err(ModelError::bad_config("num_attention_heads", reason));
                }
                Family::ModernBert(ModernBertConfig::new(fields, layers)?)
            }
            _ => Family::PostNorm,
        };
        let has_embedding_size = deberta || architecture == Architecture::Electra;
        Ok(Self {
            architecture,
            hidden,
            layers,
            heads,
            intermediate: fields.size(name("intermediate_size", "hidden_dim"), None)?,
            vocabulary: fields.size("vocab_size", None)?,
            embedding: if has_embedding_size {
                fields.size("embedding_size", Some(hidden))?
            } else {
                hidden
            },
            positions: fields.size("max_position_embeddings", Some(512))?,
            token_types: match architecture {
                Architecture::DistilBert | Architecture::ModernBert => 0,
                Architecture::DebertaV2 => fields.count("type_vocab_size", 0)?,
                _ => fields.count("type_vocab_size", 2)?,
            },
            norm_eps: fields.number(norm_field, norm_default)?,
            activation,
            padding: u32::try_from(padding).unwrap_or(0),
            family,
        })
    }

    /// Longest sequence that has positions.
    #[must_use]
    pub fn tokens_max(&self) -> usize {
        match self.architecture {
            // Positions are counted from the one after the padding token's.
            Architecture::Roberta | Architecture::XlmRoberta => {
                self.positions.saturating_sub(self.padding as usize + 1)
            }
            _ => self.positions,
        }
    }
}

impl DebertaConfig {
    fn new(fields: Fields<'_>, hidden: usize, heads: usize) -> Result<Self, ModelError> {
        let kinds: Vec<&str> = match fields.0.get("pos_att_type") {
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            // Old checkpoints have one text.
            Some(Value::String(kinds)) => kinds.split('|').map(str::trim).collect(),
            _ => Vec::new(),
        };
        let norm = fields.text("norm_rel_ebd").unwrap_or("none").to_lowercase();
        let distance = fields.0.get("max_relative_positions").and_then(Value::as_i64).unwrap_or(-1);
        let positions = fields.size("max_position_embeddings", Some(512))?;
        let buckets = fields.0.get("position_buckets").and_then(Value::as_i64).unwrap_or(-1);
        let positive =
            |number: i64| usize::try_from(number).ok().filter(|&n| (1..=SIZE_MAX).contains(&n));
        let relative = fields.flag("relative_attention", false).then(|| Relative {
            buckets: positive(buckets),
            distance_max: positive(distance).unwrap_or(positions),
            share_att_key: fields.flag("share_att_key", false),
            content_to_position: kinds.contains(&"c2p"),
            position_to_content: kinds.contains(&"p2c"),
            norm: norm.split('|').any(|kind| kind.trim() == "layer_norm"),
        });
        let convolution = match fields.count("conv_kernel_size", 0)? {
            0 => None,
            size if size % 2 == 1 => Some((
                size,
                fields.size("conv_groups", Some(1))?,
                Activation::of(fields.0, "conv_act", "tanh")?,
            )),
            size => {
                return Err(ModelError::bad_config(
                    "conv_kernel_size",
                    format!("{size} is not odd"),
                ));
            }
        };
        Ok(Self {
            head_size: fields.size("attention_head_size", Some(hidden / heads))?,
            score_terms: 1 + ["c2p", "p2c"].iter().filter(|kind| kinds.contains(kind)).count(),
            relative,
            position_biased_input: fields.flag("position_biased_input", true),
            convolution,
            pooler_activation: Activation::of(fields.0, "pooler_hidden_act", "gelu")?,
            pooler: fields.size("pooler_hidden_size", Some(hidden))?,
        })
    }
}

impl ModernBertConfig {
    fn new(fields: Fields<'_>, layers: usize) -> Result<Self, ModelError> {
        let sliding = match fields.0.get("layer_types").and_then(Value::as_array) {
            Some(kinds) if kinds.len() == layers => kinds
                .iter()
                .map(|kind| match kind.as_str() {
                    Some("sliding_attention") => Ok(true),
                    Some("full_attention") => Ok(false),
                    _ => Err(ModelError::bad_config("layer_types", "has an unknown kind")),
                })
                .collect::<Result<_, _>>()?,
            Some(kinds) => {
                let reason = format!("has {} entries for {layers} layers", kinds.len());
                return Err(ModelError::bad_config("layer_types", reason));
            }
            None => {
                let every = fields.size("global_attn_every_n_layers", Some(3))?;
                (0..layers).map(|layer| layer % every != 0).collect()
            }
        };
        // transformers 5 nests the angles by the layers' kind; 4 had two plain numbers.
        let theta = |kind: &str, old: &str, default: f64| {
            let nested = fields.0.get("rope_parameters").and_then(|all| all.get(kind));
            if let Some(scheme) =
                nested.and_then(|all| all.get("rope_type")).and_then(Value::as_str)
                && scheme != "default"
            {
                let reason = format!("`{scheme}` is not supported");
                return Err(ModelError::bad_config("rope_parameters", reason));
            }
            let theta = nested.and_then(|all| all.get("rope_theta")).and_then(Value::as_f64);
            theta.map_or_else(|| fields.number(old, default), Ok)
        };
        let mean_pooling = match fields.text("classifier_pooling").unwrap_or("cls") {
            "cls" => false,
            "mean" => true,
            other => {
                let reason = format!("`{other}` is not supported");
                return Err(ModelError::bad_config("classifier_pooling", reason));
            }
        };
        Ok(Self {
            sliding,
            distance_max: fields.size("local_attention", Some(128))? / 2,
            theta_full: theta("full_attention", "global_rope_theta", 160_000.0)?,
            theta_sliding: theta("sliding_attention", "local_rope_theta", 10_000.0)?,
            attention_bias: fields.flag("attention_bias", false),
            mlp_bias: fields.flag("mlp_bias", false),
            norm_bias: fields.flag("norm_bias", false),
            mean_pooling,
            classifier_bias: fields.flag("classifier_bias", false),
            classifier_activation: Activation::of(fields.0, "classifier_activation", "gelu")?,
        })
    }
}

/// Typed reading of a JSON object.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str)
    }

    fn flag(&self, field: &str, default: bool) -> bool {
        self.0.get(field).and_then(Value::as_bool).unwrap_or(default)
    }

    fn number(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0)
                .ok_or_else(|| ModelError::bad_config(field, "is not a number above 0")),
        }
    }

    /// Zero allowed.
    fn count(&self, field: &str, default: usize) -> Result<usize, ModelError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .filter(|&number| number <= SIZE_MAX)
                .ok_or_else(|| {
                    ModelError::bad_config(field, format!("is not a number up to {SIZE_MAX}"))
                }),
        }
    }

    fn size(&self, field: &str, default: Option<usize>) -> Result<usize, ModelError> {
        match (self.0.get(field), default) {
            (None | Some(Value::Null), None) => Err(ModelError::bad_config(field, "is missing")),
            (_, default) => match self.count(field, default.unwrap_or(0))? {
                0 => Err(ModelError::bad_config(field, "is 0")),
                size => Ok(size),
            },
        }
    }
}
