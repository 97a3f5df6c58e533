//! `config.json`, as transformers 4 and 5 write it, checked before anything is built from it.

mod family;
mod fields;
mod relative;

use serde_json::Value;

use crate::error::ModelError;
pub(crate) use family::{DebertaConfig, Family, ModernBertConfig};
use fields::Fields;
pub(crate) use relative::Relative;

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

/// No encoder comes near.
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

    /// Bytes that an engine keeps beside the weights: DeBERTa's distances, projected to keys and
    /// queries once for each layer.
    pub(crate) fn derived_bytes(&self) -> u64 {
        let Family::Deberta(DebertaConfig { head_size, relative: Some(relative), .. }) =
            &self.family
        else {
            return 0;
        };
        let kinds =
            usize::from(relative.content_to_position) + usize::from(relative.position_to_content);
        let factors =
            [self.layers, kinds, 2, relative.span(), self.heads, *head_size, size_of::<f32>()];
        factors.into_iter().fold(1, |all: u64, factor| all.saturating_mul(factor as u64))
    }

    /// Bytes of the angles that the fast engine tabulates: ModernBERT's, of every position.
    pub(crate) fn angle_bytes(&self) -> u64 {
        let Family::ModernBert(_) = self.family else { return 0 };
        // Full and sliding layers have their own.
        let factors = [2, self.tokens_max(), self.hidden / self.heads, size_of::<f32>()];
        factors.into_iter().fold(1, |all: u64, factor| all.saturating_mul(factor as u64))
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
