//! Which tensor plays which part in DeBERTa v2 and v3 (He et al. 2020 and 2021).

use crate::config::{Activation, DebertaConfig, ModelConfig};
use crate::post_norm::{self, BERT_NAMES, LayerNames};
use crate::tensors::{DenseSpec, NormSpec, TableSpec};

/// The parts of an encoder with a classifier.
///
/// States are the norm of the projected sum of words (+ places) (+ types), then go through the
/// layers; the head reads the first token's.
#[derive(Clone, Debug)]
pub(crate) struct DebertaSpec {
    pub(crate) words: TableSpec,
    pub(crate) places: Option<TableSpec>,
    pub(crate) types: Option<TableSpec>,
    /// From the embedding's width to the states', where they differ.
    pub(crate) projection: Option<DenseSpec>,
    pub(crate) norm: NormSpec,
    /// Relative positions, and their norm, if layers attend to them.
    pub(crate) distances: Option<(TableSpec, Option<NormSpec>)>,
    pub(crate) layers: Vec<LayerSpec>,
    /// Down to the logits.
    pub(crate) head: Vec<(DenseSpec, Option<Activation>)>,
}

/// A layer as BERT's, and how it attends to relative positions.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) post_norm: post_norm::LayerSpec,
    /// Relative positions as keys; the layer's own product where it is shared.
    pub(crate) position_key: Option<DenseSpec>,
    /// Relative positions as queries.
    pub(crate) position_query: Option<DenseSpec>,
}

const NAMES: LayerNames = LayerNames {
    query: "attention.self.query_proj",
    key: "attention.self.key_proj",
    value: "attention.self.value_proj",
    ..BERT_NAMES
};

impl DebertaSpec {
    /// The parts of a model with `labels` logits; `None` of one that only the reference engine
    /// computes: with a convolution, or heads that are not the states' width together.
    pub(crate) fn new(config: &ModelConfig, own: &DebertaConfig, labels: usize) -> Option<Self> {
        let (hidden, width) = (config.hidden, config.embedding);
        if own.convolution.is_some() || own.head_size * config.heads != hidden {
            return None;
        }
        let table = |name: &str, rows| TableSpec::new(format!("embeddings.{name}"), rows, width);
        let relative = own.relative.as_ref();
        let relative = relative.filter(|own| own.content_to_position || own.position_to_content);
        let distances = relative.map(|own| {
            let norm = own.norm.then(|| NormSpec::new("encoder.LayerNorm", hidden, true));
            (TableSpec::new("encoder.rel_embeddings", own.span() * 2, hidden), norm)
        });
        Some(Self {
            words: table("word_embeddings", config.vocabulary),
            places: own
                .position_biased_input
                .then(|| table("position_embeddings", config.positions)),
            types: (config.token_types > 0)
                .then(|| table("token_type_embeddings", config.token_types)),
            projection: (width != hidden)
                .then(|| DenseSpec::new("embeddings.embed_proj", width, hidden, false)),
            norm: NormSpec::new("embeddings.LayerNorm", hidden, true),
            distances,
            layers: (0..config.layers).map(|at| LayerSpec::new(config, own, at)).collect(),
            head: vec![
                (
                    DenseSpec::new("pooler.dense", own.pooler, own.pooler, true),
                    Some(own.pooler_activation),
                ),
                (DenseSpec::new("classifier", own.pooler, labels, true), None),
            ],
        })
    }

    /// Name and shape of every tensor but the head's, always in one order.
    pub(crate) fn encoder_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut found = vec![self.words.tensor()];
        for table in [&self.places, &self.types] {
            found.extend(table.as_ref().map(TableSpec::tensor));
        }
        found.extend(self.projection.iter().flat_map(DenseSpec::tensors));
        found.extend(self.norm.tensors());
        if let Some((table, norm)) = &self.distances {
            found.push(table.tensor());
            found.extend(norm.iter().flat_map(NormSpec::tensors));
        }
        for layer in &self.layers {
            found.extend(layer.post_norm.tensors());
            let positions = layer.position_key.iter().chain(&layer.position_query);
            found.extend(positions.flat_map(DenseSpec::tensors));
        }
        found
    }
}

impl LayerSpec {
    fn new(config: &ModelConfig, own: &DebertaConfig, at: usize) -> Self {
        let post_norm = post_norm::LayerSpec::new(config, &NAMES, at);
        let relative = own.relative.as_ref();
        let position = |wanted: bool, shares: bool, shared: &DenseSpec, part: &str| {
            let name = || format!("{}.{at}.attention.self.{part}", NAMES.layer);
            let own = || DenseSpec::new(name(), config.hidden, config.hidden, true);
            wanted.then(|| if shares { shared.clone() } else { own() })
        };
        Self {
            position_key: relative.and_then(|own| {
                let shared = &post_norm.key;
                position(own.content_to_position, own.share_att_key, shared, "pos_key_proj")
            }),
            position_query: relative.and_then(|own| {
                let shared = &post_norm.query;
                position(own.position_to_content, own.share_att_key, shared, "pos_query_proj")
            }),
            post_norm,
        }
    }
}
