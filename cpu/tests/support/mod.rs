//! Generated models, and a forward pass written out plainly in f64.

use std::sync::Arc;

use postsort_cpu::*;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// About normal.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.bits() >> 11) as f64 / (1_u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }

    pub(crate) fn tensor(&mut self, shape: &[usize], mean: f32, deviation: f32) -> TensorView {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| mean + deviation * self.normal()).collect();
        TensorView::from_f32(shape, &values)
    }

    pub(crate) fn linear(&mut self, outputs: usize, inputs: usize) -> Linear {
        let deviation = 1.0 / (inputs as f32).sqrt();
        Linear {
            weight: self.tensor(&[outputs, inputs], 0.0, deviation),
            bias: Some(self.tensor(&[outputs], 0.0, 0.1)),
        }
    }

    pub(crate) fn norm(&mut self, width: usize) -> Norm {
        Norm {
            weight: self.tensor(&[width], 1.0, 0.1),
            bias: Some(self.tensor(&[width], 0.0, 0.1)),
            eps: 1e-12,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) vocabulary: usize,
    pub(crate) positions: usize,
    pub(crate) types: usize,
    pub(crate) embedding: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) labels: usize,
    pub(crate) activation: Activation,
    pub(crate) roberta: bool,
    pub(crate) modern: Option<Pooling>,
    /// Whether queries attend to positions, and positions to keys.
    pub(crate) relative: Option<[bool; 2]>,
}

/// Distances on either side that have a relative position of their own in generated models.
const NEAR: usize = 24;
/// Relative positions on either side; beyond the near ones two distances share one.
const SPAN: usize = 120;

impl Shape {
    pub(crate) const fn bert(
        hidden: usize,
        heads: usize,
        intermediate: usize,
        layers: usize,
    ) -> Self {
        Self {
            vocabulary: 200,
            positions: 320,
            types: 2,
            embedding: hidden,
            hidden,
            heads,
            intermediate,
            layers,
            labels: 3,
            activation: Activation::Gelu,
            roberta: false,
            modern: None,
            relative: None,
        }
    }

    /// DeBERTa: relative positions, and embeddings that are projected before their norm.
    pub(crate) const fn deberta(
        hidden: usize,
        heads: usize,
        intermediate: usize,
        layers: usize,
        relative: [bool; 2],
    ) -> Self {
        let bert = Self::bert(hidden, heads, intermediate, layers);
        Self { types: 0, embedding: hidden + 8, relative: Some(relative), ..bert }
    }

    fn relative_positions(&self, r: &mut Random, tokens_max: usize) -> RelativePositions {
        let row = |distance: isize| {
            let size = distance.unsigned_abs();
            let size = size.min(NEAR) + size.saturating_sub(NEAR).div_ceil(2);
            let row = SPAN.cast_signed() + distance.signum() * size.cast_signed();
            row.clamp(0, 2 * SPAN.cast_signed() - 1) as u32
        };
        let farthest = tokens_max.cast_signed() - 1;
        RelativePositions {
            table: r.tensor(&[2 * SPAN, self.hidden], 0.1, 1.0),
            norm: Some(r.norm(self.hidden)),
            rows: (-farthest..=farthest).map(row).collect(),
        }
    }

    /// ModernBERT: norms before the products, gates, rotary positions, windows in two of three
    /// layers.
    pub(crate) const fn modern(
        hidden: usize,
        heads: usize,
        intermediate: usize,
        layers: usize,
        pooling: Pooling,
    ) -> Self {
        let bert = Self::bert(hidden, heads, intermediate, layers);
        Self { types: 0, modern: Some(pooling), ..bert }
    }

    fn modern_layer(&self, r: &mut Random, at: usize) -> LayerSpec {
        let (h, i) = (self.hidden, self.intermediate);
        LayerSpec {
            attention_pre_norm: (at > 0).then(|| r.norm(h)),
            query: r.linear(h, h),
            key: r.linear(h, h),
            value: r.linear(h, h),
            attention_output: r.linear(h, h),
            attention_norm: None,
            output_pre_norm: Some(r.norm(h)),
            up: r.linear(i, h),
            gate: Some(r.linear(i, h)),
            down: Linear { bias: None, ..r.linear(h, i) },
            output_norm: None,
            window: (!at.is_multiple_of(3)).then_some(9 * at),
            rotary_base: Some(if at.is_multiple_of(3) { 160_000.0 } else { 10_000.0 }),
            position_key: None,
            position_query: None,
        }
    }

    pub(crate) fn spec(&self, seed: u64) -> EncoderSpec {
        let mut r = Random(seed);
        let (h, i) = (self.hidden, self.intermediate);
        let bert_layer = |r: &mut Random| LayerSpec {
            query: r.linear(h, h),
            key: r.linear(h, h),
            value: r.linear(h, h),
            attention_output: r.linear(h, h),
            attention_pre_norm: None,
            attention_norm: Some(r.norm(h)),
            output_pre_norm: None,
            up: r.linear(i, h),
            gate: None,
            down: r.linear(h, i),
            output_norm: Some(r.norm(h)),
            window: None,
            rotary_base: None,
            position_key: self.relative.and_then(|[key, _]| key.then(|| r.linear(h, h))),
            position_query: self.relative.and_then(|[_, query]| query.then(|| r.linear(h, h))),
        };
        let tokens_max = self.positions - if self.roberta { 2 } else { 0 };
        EncoderSpec {
            embeddings: Embeddings {
                word: r.tensor(&[self.vocabulary, self.embedding], 0.0, 1.0),
                position: (self.modern.is_none() && self.relative.is_none())
                    .then(|| r.tensor(&[self.positions, self.embedding], 0.0, 0.5)),
                positions: if self.roberta {
                    Positions::AfterPadding { padding: 1 }
                } else {
                    Positions::FromZero
                },
                token_type: (self.types > 0)
                    .then(|| r.tensor(&[self.types, self.embedding], 0.0, 0.5)),
                norm: r.norm(if self.relative.is_some() { h } else { self.embedding }),
                projection: (self.embedding != h).then(|| r.linear(h, self.embedding)),
                norm_place: match self.relative {
                    Some(_) => NormPlace::AfterProjection,
                    None => NormPlace::BeforeProjection,
                },
            },
            layers: (0..self.layers)
                .map(|at| match self.modern {
                    Some(_) => self.modern_layer(&mut r, at),
                    None => bert_layer(&mut r),
                })
                .collect(),
            final_norm: self.modern.map(|_| r.norm(h)),
            heads: self.heads,
            score_terms: 1 + self
                .relative
                .map_or(0, |kinds| kinds.into_iter().filter(|kind| *kind).count()),
            relative: self.relative.map(|_| self.relative_positions(&mut r, tokens_max)),
            activation: self.activation,
            pooling: self.modern.unwrap_or(Pooling::FirstToken),
            head: HeadSpec {
                layers: vec![
                    HeadLayer {
                        dense: r.linear(h, h),
                        activation: Some(Activation::Tanh),
                        norm: self.modern.map(|_| r.norm(h)),
                    },
                    HeadLayer { dense: r.linear(self.labels, h), activation: None, norm: None },
                ],
            },
            tokens_max,
        }
    }
}

/// A batch that owns its parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) ids: Vec<u32>,
    pub(crate) type_ids: Vec<u32>,
    pub(crate) offsets: Vec<u32>,
}

impl Batch {
    pub(crate) fn random(shape: &Shape, lengths: &[usize], seed: u64) -> Self {
        let mut r = Random(seed);
        let mut batch = Self { offsets: vec![0], ..Self::default() };
        for &length in lengths {
            for _ in 0..length {
                batch.ids.push(r.below(shape.vocabulary) as u32);
                batch.type_ids.push(r.below(shape.types.max(1)) as u32);
            }
            batch.offsets.push(batch.ids.len() as u32);
        }
        batch
    }

    pub(crate) fn view(&self) -> TokenBatch<'_> {
        TokenBatch { ids: &self.ids, type_ids: &self.type_ids, offsets: &self.offsets }
    }

    pub(crate) fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// One of its sequences alone.
    pub(crate) fn alone(&self, sequence: usize) -> Self {
        let range = self.offsets[sequence] as usize..self.offsets[sequence + 1] as usize;
        Self {
            ids: self.ids[range.clone()].to_vec(),
            type_ids: self.type_ids[range.clone()].to_vec(),
            offsets: vec![0, range.len() as u32],
        }
    }
}

pub(crate) fn run(engine: &Engine, batch: &Batch) -> Vec<f32> {
    let mut logits = vec![f32::NAN; batch.sequences() * engine.labels()];
    engine.forward(batch.view(), &mut logits).expect("runs");
    logits
}

fn values(tensor: &TensorView) -> Vec<f64> {
    let mapped = Arc::clone(&tensor.owner).map().expect("lies in memory");
    let bytes = &(*mapped).as_ref()[tensor.range.clone()];
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect()
}

type Rows = Vec<Vec<f64>>;

fn linear(own: &Linear, x: &Rows) -> Rows {
    let [outputs, inputs] = own.weight.shape[..] else { panic!("not a matrix") };
    let (weight, bias) = (values(&own.weight), own.bias.as_ref().map(values));
    let row = |x: &Vec<f64>| {
        let dot = |output: usize| {
            let weight = &weight[output * inputs..][..inputs];
            let sum: f64 = weight.iter().zip(x).map(|(w, x)| w * x).sum();
            sum + bias.as_ref().map_or(0.0, |bias| bias[output])
        };
        (0..outputs).map(dot).collect()
    };
    x.iter().map(row).collect()
}

fn norm(own: &Norm, x: &Rows) -> Rows {
    let (weight, bias) = (values(&own.weight), own.bias.as_ref().map(values));
    let row = |x: &Vec<f64>| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let deviation = (variance + f64::from(own.eps)).sqrt();
        let normed = |(at, x): (usize, &f64)| {
            (x - mean) / deviation * weight[at] + bias.as_ref().map_or(0.0, |bias| bias[at])
        };
        x.iter().enumerate().map(normed).collect()
    };
    x.iter().map(row).collect()
}

/// erf by its series and its continued fraction.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let size = x.abs();
    let mut fraction = 0.0;
    for n in (1..60).rev() {
        fraction = f64::from(n) / 2.0 / (size + fraction);
    }
    let tail = (-x * x).exp() / ((size + fraction) * std::f64::consts::PI.sqrt());
    (1.0 - tail) * x.signum()
}

pub(crate) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2_f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

fn apply(activation: Activation, x: &mut Rows) {
    x.iter_mut().flatten().for_each(|x| *x = activate(activation, *x));
}

fn add(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

/// Turns each head's pairs by their positions.
fn rotate(base: f64, heads: usize, x: &mut Rows) {
    for (place, row) in x.iter_mut().enumerate() {
        let size = row.len() / heads;
        for head in row.chunks_mut(size) {
            for pair in 0..size / 2 {
                let angle = place as f64 / base.powf(2.0 * pair as f64 / size as f64);
                let (a, b) = (head[pair], head[pair + size / 2]);
                head[pair] = a * angle.cos() - b * angle.sin();
                head[pair + size / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    }
}

fn attention(spec: &EncoderSpec, layer: &LayerSpec, x: &Rows) -> Rows {
    let (mut q, mut k) = (linear(&layer.query, x), linear(&layer.key, x));
    let v = linear(&layer.value, x);
    if let Some(base) = layer.rotary_base {
        rotate(base, spec.heads, &mut q);
        rotate(base, spec.heads, &mut k);
    }
    let table = spec.relative.as_ref().map(|relative| {
        let table = values(&relative.table);
        let rows: Rows = table.chunks(x[0].len()).map(<[f64]>::to_vec).collect();
        relative.norm.as_ref().map_or_else(|| rows.clone(), |own| norm(own, &rows))
    });
    let projected = |own: &Option<Linear>| Some(linear(own.as_ref()?, table.as_ref()?));
    let (position_k, position_q) =
        (projected(&layer.position_key), projected(&layer.position_query));
    let row = |query: usize, key: usize| {
        let relative = spec.relative.as_ref().expect("has relative positions");
        relative.rows[spec.tokens_max - 1 + query - key] as usize
    };
    let window = layer.window.unwrap_or(usize::MAX);
    let (tokens, hidden) = (q.len(), q[0].len());
    let size = hidden / spec.heads;
    let mut out = vec![vec![0.0; hidden]; tokens];
    for head in 0..spec.heads {
        let part = head * size..(head + 1) * size;
        for query in 0..tokens {
            let product =
                |a: &[f64], b: &[f64]| -> f64 { part.clone().map(|at| a[at] * b[at]).sum() };
            let dot = |key: usize| {
                let to_position =
                    position_k.as_ref().map(|own| product(&q[query], &own[row(query, key)]));
                let from_position =
                    position_q.as_ref().map(|own| product(&k[key], &own[row(query, key)]));
                product(&q[query], &k[key])
                    + to_position.unwrap_or(0.0)
                    + from_position.unwrap_or(0.0)
            };
            let divisor = ((size * spec.score_terms) as f64).sqrt();
            let score = |key: usize| match query.abs_diff(key) <= window {
                true => dot(key) / divisor,
                false => f64::NEG_INFINITY,
            };
            let scores: Vec<f64> = (0..tokens).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = shares.iter().sum();
            for at in part.clone() {
                out[query][at] = (0..tokens).map(|key| shares[key] * v[key][at]).sum::<f64>() / sum;
            }
        }
    }
    out
}

/// Logits of one sequence.
pub(crate) fn reference(spec: &EncoderSpec, ids: &[u32], type_ids: &[u32]) -> Vec<f64> {
    let own = &spec.embeddings;
    let width = own.word.shape[1];
    let word = values(&own.word);
    let row = |table: &[f64], row: usize| table[row * width..][..width].to_vec();
    let mut x: Rows = ids.iter().map(|&id| row(&word, id as usize)).collect();
    if let Some(table) = &own.position {
        let table = values(table);
        let mut counted = 0;
        for (at, (x, &id)) in x.iter_mut().zip(ids).enumerate() {
            let position = match own.positions {
                Positions::FromZero => at,
                Positions::AfterPadding { padding } if id == padding => padding as usize,
                Positions::AfterPadding { padding } => {
                    counted += 1;
                    padding as usize + counted
                }
            };
            x.iter_mut().zip(row(&table, position)).for_each(|(x, p)| *x += p);
        }
    }
    if let Some(table) = &own.token_type {
        let table = values(table);
        for (x, &id) in x.iter_mut().zip(type_ids) {
            x.iter_mut().zip(row(&table, id as usize)).for_each(|(x, t)| *x += t);
        }
    }
    if own.norm_place == NormPlace::BeforeProjection {
        x = norm(&own.norm, &x);
    }
    if let Some(projection) = &own.projection {
        x = linear(projection, &x);
    }
    if own.norm_place == NormPlace::AfterProjection {
        x = norm(&own.norm, &x);
    }
    let normed = |own: &Option<Norm>, x: &Rows| match own {
        Some(own) => norm(own, x),
        None => x.clone(),
    };
    for layer in &spec.layers {
        let mixed = attention(spec, layer, &normed(&layer.attention_pre_norm, &x));
        x = normed(&layer.attention_norm, &add(&x, &linear(&layer.attention_output, &mixed)));
        let input = normed(&layer.output_pre_norm, &x);
        let mut wide = linear(&layer.up, &input);
        apply(spec.activation, &mut wide);
        if let Some(gate) = &layer.gate {
            let gates = linear(gate, &input);
            wide.iter_mut().flatten().zip(gates.iter().flatten()).for_each(|(x, g)| *x *= g);
        }
        x = normed(&layer.output_norm, &add(&x, &linear(&layer.down, &wide)));
    }
    x = normed(&spec.final_norm, &x);
    let mut state = match spec.pooling {
        Pooling::FirstToken => vec![x[0].clone()],
        Pooling::Mean => {
            let mean = |at: usize| x.iter().map(|x| x[at]).sum::<f64>() / x.len() as f64;
            vec![(0..x[0].len()).map(mean).collect()]
        }
    };
    for layer in &spec.head.layers {
        state = linear(&layer.dense, &state);
        if let Some(activation) = layer.activation {
            apply(activation, &mut state);
        }
        state = normed(&layer.norm, &state);
    }
    state.remove(0)
}
