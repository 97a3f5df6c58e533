//! Settings that only one family has.

use serde_json::Value;

use super::Activation;
use super::fields::{Fields, SIZE_MAX};
use super::relative::Relative;
use crate::error::ModelError;

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

impl DebertaConfig {
    pub(super) fn new(fields: Fields<'_>, hidden: usize, heads: usize) -> Result<Self, ModelError> {
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
    pub(super) fn new(fields: Fields<'_>, layers: usize) -> Result<Self, ModelError> {
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
        if fields.0.get("rope_scaling").is_some_and(|scaling| !scaling.is_null()) {
            return Err(ModelError::bad_config("rope_scaling", "is not supported"));
        }
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
            let old = fields.number(old, default)?;
            nested.map_or(Ok(old), |nested| Fields(nested).number("rope_theta", old))
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
