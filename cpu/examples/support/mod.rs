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

/// Sizes of well-known encoders: layers, hidden, heads, intermediate.
pub(crate) const SHAPES: [(&str, [usize; 4]); 4] = [
    ("minilm-l6", [6, 384, 12, 1536]),
    ("bert-tiny", [2, 128, 2, 512]),
    ("distilbert-base", [6, 768, 12, 3072]),
    ("roberta-base", [12, 768, 12, 3072]),
];

/// A classifier of two labels with generated weights.
pub(crate) fn spec([layers, hidden, heads, intermediate]: [usize; 4]) -> EncoderSpec {
    let mut state = 1;
    let s = &mut state;
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
    EncoderSpec {
        embeddings: Embeddings {
            word: tensor(s, &[1000, hidden], 0.0, 1.0),
            position: Some(tensor(s, &[512, hidden], 0.0, 0.5)),
            positions: Positions::FromZero,
            token_type: Some(tensor(s, &[2, hidden], 0.0, 0.5)),
            norm: norm(s, hidden),
            projection: None,
            norm_place: NormPlace::BeforeProjection,
        },
        layers: (0..layers)
            .map(|_| LayerSpec {
                query: linear(s, hidden, hidden),
                key: linear(s, hidden, hidden),
                value: linear(s, hidden, hidden),
                attention_output: linear(s, hidden, hidden),
                attention_pre_norm: None,
                attention_norm: Some(norm(s, hidden)),
                output_pre_norm: None,
                up: linear(s, intermediate, hidden),
                gate: None,
                down: linear(s, hidden, intermediate),
                output_norm: Some(norm(s, hidden)),
                window: None,
                rotary_base: None,
                position_key: None,
                position_query: None,
            })
            .collect(),
        final_norm: None,
        heads,
        score_terms: 1,
        relative: None,
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
        tokens_max: 512,
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
