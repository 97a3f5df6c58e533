//! Models of a shape with generated weights.

use std::sync::Arc;

use postsort_cpu::*;

/// A number in -1..1 from a counter.
fn noise(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 40) as f32 / (1 << 23) as f32) - 1.0
}

fn tensor(state: &mut u64, shape: &[usize], mean: f32, range: f32) -> TensorView {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| mean + range * noise(state)).collect();
    TensorView::from_f32(shape, &values)
}

/// What an encoder's layers are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Bert,
    ModernBert,
    Deberta,
}

/// An encoder's family and sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) family: Family,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
}

impl Shape {
    const fn new(family: Family, [layers, hidden, heads, intermediate]: [usize; 4]) -> Self {
        Self { family, layers, hidden, heads, intermediate }
    }

    pub(crate) const fn bert(sizes: [usize; 4]) -> Self {
        Self::new(Family::Bert, sizes)
    }
}

/// Shapes of well-known encoders.
pub(crate) const SHAPES: [(&str, Shape); 6] = [
    ("minilm-l6", Shape::bert([6, 384, 12, 1536])),
    ("bert-tiny", Shape::bert([2, 128, 2, 512])),
    ("distilbert-base", Shape::bert([6, 768, 12, 3072])),
    ("roberta-base", Shape::bert([12, 768, 12, 3072])),
    ("modernbert-base", Shape::new(Family::ModernBert, [22, 768, 12, 1152])),
    ("deberta-v3-small", Shape::new(Family::Deberta, [6, 768, 12, 3072])),
];

/// Longest sequence.
const TOKENS_MAX: usize = 512;
/// Relative positions on either side.
const SPAN: usize = 256;

fn linear(s: &mut u64, outputs: usize, inputs: usize) -> Linear {
    let range = 1.7 / (inputs as f32).sqrt();
    Linear {
        weight: tensor(s, &[outputs, inputs], 0.0, range),
        bias: Some(tensor(s, &[outputs], 0.0, 0.1)),
    }
}

fn norm(s: &mut u64, width: usize) -> Norm {
    Norm {
        weight: tensor(s, &[width], 1.0, 0.1),
        bias: Some(tensor(s, &[width], 0.0, 0.1)),
        eps: 1e-12,
    }
}

fn layer(s: &mut u64, shape: Shape, at: usize) -> LayerSpec {
    let Shape { family, hidden, intermediate, .. } = shape;
    let (modern, relative) = (family == Family::ModernBert, family == Family::Deberta);
    let slides = modern && !at.is_multiple_of(3);
    let rotary_base = if slides { 10_000.0 } else { 160_000.0 };
    LayerSpec {
        attention_pre_norm: (modern && at > 0).then(|| norm(s, hidden)),
        query: linear(s, hidden, hidden),
        key: linear(s, hidden, hidden),
        value: linear(s, hidden, hidden),
        attention_output: linear(s, hidden, hidden),
        attention_norm: (!modern).then(|| norm(s, hidden)),
        output_pre_norm: modern.then(|| norm(s, hidden)),
        up: linear(s, intermediate, hidden),
        gate: modern.then(|| linear(s, intermediate, hidden)),
        down: linear(s, hidden, intermediate),
        output_norm: (!modern).then(|| norm(s, hidden)),
        window: slides.then_some(64),
        rotary_base: modern.then_some(rotary_base),
        position_key: relative.then(|| linear(s, hidden, hidden)),
        position_query: relative.then(|| linear(s, hidden, hidden)),
    }
}

/// Every distance up to the half of them has a row, farther ones share the last.
fn relative_positions(s: &mut u64, hidden: usize) -> RelativePositions {
    let row = |at: usize| (at + SPAN + 1).saturating_sub(TOKENS_MAX).min(2 * SPAN - 1) as u32;
    RelativePositions {
        table: tensor(s, &[2 * SPAN, hidden], 0.0, 1.0),
        norm: Some(norm(s, hidden)),
        rows: (0..2 * TOKENS_MAX - 1).map(row).collect(),
    }
}

/// A classifier of two labels with generated weights.
pub(crate) fn spec(shape: Shape) -> EncoderSpec {
    let Shape { family, layers, hidden, heads, .. } = shape;
    let mut state = 1;
    let s = &mut state;
    let absolute = family == Family::Bert;
    EncoderSpec {
        embeddings: Embeddings {
            word: tensor(s, &[1000, hidden], 0.0, 1.0),
            position: absolute.then(|| tensor(s, &[TOKENS_MAX, hidden], 0.0, 0.5)),
            positions: Positions::FromZero,
            token_type: absolute.then(|| tensor(s, &[2, hidden], 0.0, 0.5)),
            norm: norm(s, hidden),
            projection: None,
            norm_place: NormPlace::BeforeProjection,
        },
        layers: (0..layers).map(|at| layer(s, shape, at)).collect(),
        final_norm: (family == Family::ModernBert).then(|| norm(s, hidden)),
        heads,
        score_terms: if family == Family::Deberta { 3 } else { 1 },
        relative: (family == Family::Deberta).then(|| relative_positions(s, hidden)),
        activation: Activation::Gelu,
        pooling: Pooling::FirstToken,
        head: HeadSpec {
            layers: vec![
                HeadLayer {
                    dense: linear(s, hidden, hidden),
                    activation: Some(Activation::Tanh),
                    norm: None,
                },
                HeadLayer { dense: linear(s, 2, hidden), activation: None, norm: None },
            ],
        },
        tokens_max: TOKENS_MAX,
    }
}

/// Ids and offsets of `batch` sequences of `tokens`.
pub(crate) fn batch(tokens: usize, batch: usize) -> (Vec<u32>, Vec<u32>) {
    let mut state = 5_u32;
    let id = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % 1000
    };
    let ids = (0..tokens * batch).map(id).collect();
    (ids, (0..=batch).map(|sequence| (sequence * tokens) as u32).collect())
}

/// An engine over generated weights.
pub(crate) fn engine(spec: &EncoderSpec, precision: Precision, pool: &Arc<ComputePool>) -> Engine {
    Engine::new(spec, precision, Arc::clone(pool)).expect("builds")
}
