//! An encoder as the engine is told of it: tensors and settings, no names.

use crate::tensor::TensorView;

/// Precision of the matrix products; sums, norms and softmax are f32 in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single.
    F32,
    /// bfloat16 operands.
    Bf16,
    /// 8-bit operands: weights with a scale a column, activations with a scale a row; in attention
    /// queries and keys, with a scale a head each, but neither shares nor values.
    Int8,
}

/// A dense layer: `x·weightᵀ + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: TensorView,
    /// `[outputs]`.
    pub bias: Option<TensorView>,
}

/// A layer norm.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: TensorView,
    /// `[width]`.
    pub bias: Option<TensorView>,
    /// Added to the variance.
    pub eps: f32,
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Which rows of the position table tokens get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// 0, 1, 2, …
    FromZero,
    /// RoBERTa: counted from the row after the padding token's; a padding token that stands in the
    /// text gets the padding token's row and is not counted.
    AfterPadding {
        /// Id of the padding token.
        padding: u32,
    },
}

/// Which comes first where embeddings are projected to the states' width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// The norm, over the tables' width (ELECTRA).
    BeforeProjection,
    /// The projection; the norm is over the states' width (DeBERTa).
    AfterProjection,
}

/// From ids to the first states.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// `[vocabulary, width]`.
    pub word: TensorView,
    /// `[positions, width]`.
    pub position: Option<TensorView>,
    /// Which rows of `position` are used.
    pub positions: Positions,
    /// `[types, width]`; with one row every token is of that type.
    pub token_type: Option<TensorView>,
    /// Over the sum.
    pub norm: Norm,
    /// `[hidden, width]`, where the widths differ.
    pub projection: Option<Linear>,
    /// Where the norm is among them.
    pub norm_place: NormPlace,
}

/// Relative positions, which content attends to and which attend to content (DeBERTa, He et al.
/// 2020).
#[derive(Clone, Debug)]
pub struct RelativePositions {
    /// `[rows, hidden]`.
    pub table: TensorView,
    /// Of the table's rows.
    pub norm: Option<Norm>,
    /// Row of each distance `query - key`, from `1 - tokens_max` to `tokens_max - 1`; ascending.
    pub rows: Vec<u32>,
}

/// One encoder layer. BERT has its norms after the residuals, ModernBERT before the products.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Of what queries, keys and values are made of; the residual passes it by.
    pub attention_pre_norm: Option<Norm>,
    /// `[hidden, hidden]`.
    pub query: Linear,
    /// `[hidden, hidden]`.
    pub key: Linear,
    /// `[hidden, hidden]`.
    pub value: Linear,
    /// `[hidden, hidden]`.
    pub attention_output: Linear,
    /// After the attention's residual.
    pub attention_norm: Option<Norm>,
    /// Of what goes into the feed-forward part; the residual passes it by.
    pub output_pre_norm: Option<Norm>,
    /// `[intermediate, hidden]`, activated.
    pub up: Linear,
    /// `[intermediate, hidden]`: what the activated part is multiplied by (GeGLU, Shazeer 2020).
    pub gate: Option<Linear>,
    /// `[hidden, intermediate]`.
    pub down: Linear,
    /// After the feed-forward residual.
    pub output_norm: Option<Norm>,
    /// Farthest token that a token sees on either side; all without it.
    pub window: Option<usize>,
    /// Queries and keys are rotated by their position (Su et al. 2021): the base of the angles.
    pub rotary_base: Option<f64>,
    /// `[hidden, hidden]`: relative positions as keys, which queries attend to.
    pub position_key: Option<Linear>,
    /// `[hidden, hidden]`: relative positions as queries, which attend to keys.
    pub position_query: Option<Linear>,
}

/// What heads read of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's state.
    FirstToken,
    /// The mean of all tokens' states.
    Mean,
}

/// A dense layer of a head, with what follows it.
#[derive(Clone, Debug)]
pub struct HeadLayer {
    /// `[outputs, inputs]`.
    pub dense: Linear,
    /// Of its results.
    pub activation: Option<Activation>,
    /// Of the activated results.
    pub norm: Option<Norm>,
}

/// Dense layers from a sequence's state down to the logits.
#[derive(Clone, Debug)]
pub struct HeadSpec {
    /// The last one's outputs are the logits.
    pub layers: Vec<HeadLayer>,
}

/// A whole classifier.
#[derive(Clone, Debug)]
pub struct EncoderSpec {
    /// From ids to the first states.
    pub embeddings: Embeddings,
    /// Encoder layers, at least one.
    pub layers: Vec<LayerSpec>,
    /// Of what the last layer gives.
    pub final_norm: Option<Norm>,
    /// Attention heads; divides the hidden size.
    pub heads: usize,
    /// Scores are divided by the root of as many head sizes: 1, and in DeBERTa 1 more for each kind
    /// of relative positions.
    pub score_terms: usize,
    /// Relative positions, which layers may project.
    pub relative: Option<RelativePositions>,
    /// Of the feed-forward part.
    pub activation: Activation,
    /// What heads read.
    pub pooling: Pooling,
    /// From a sequence's state to logits.
    pub head: HeadSpec,
    /// Longest sequence that the model has positions for.
    pub tokens_max: usize,
}

/// Sequences one after another, without padding.
#[derive(Clone, Copy, Debug)]
pub struct TokenBatch<'a> {
    /// `[tokens]`.
    pub ids: &'a [u32],
    /// `[tokens]`, or empty for all 0.
    pub type_ids: &'a [u32],
    /// `[sequences + 1]`: where sequences begin, and the end; begins with 0.
    pub offsets: &'a [u32],
}

impl TokenBatch<'_> {
    pub(crate) fn sequences(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }
}
