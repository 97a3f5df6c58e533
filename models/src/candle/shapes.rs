//! Shapes in which a GPU computes: few, for each has a recording, and near what is asked.

/// Sequences and tokens of each.
pub(super) type Shape = (usize, usize);

/// Beyond as many shapes, with padding or without, kernels are started one by one.
pub(super) const SHAPES_MAX: usize = 256;
/// Longer sequences take so long that starting their kernels does not count, and are many lengths.
pub(super) const RECORDED_TOKENS_MAX: usize = 512;

/// The shape in which a batch is computed that is as large as this.
pub(super) fn shape(sequences: usize, tokens: usize) -> Shape {
    let step = if tokens <= 128 { 16 } else { 64 };
    (sequences.next_power_of_two(), tokens.next_multiple_of(step))
}

/// A length of each [`shape`] that one sequence of at most `tokens_max` tokens may have.
pub(super) fn lengths(tokens_max: usize) -> Vec<usize> {
    let lengths = 1..=tokens_max.min(RECORDED_TOKENS_MAX);
    let mut lengths: Vec<usize> =
        lengths.map(|tokens| shape(1, tokens).1.min(tokens_max)).collect();
    lengths.dedup();
    lengths
}

#[cfg(test)]
mod tests {
    use super::{SHAPES_MAX, lengths, shape};

    #[test]
    fn shapes_are_few_and_large_enough() {
        let mut all = std::collections::BTreeSet::new();
        for (sequences, tokens) in (1..=64).flat_map(|a| (1..=512).map(move |b| (a, b))) {
            let found = shape(sequences, tokens);
            assert!(found.0 >= sequences && found.1 >= tokens);
            all.insert(found);
        }
        assert!(2 * all.len() <= SHAPES_MAX, "{}", all.len());
    }

    #[test]
    fn each_shape_of_one_sequence_is_prepared_once() {
        assert_eq!(lengths(150), [16, 32, 48, 64, 80, 96, 112, 128, 150]);
        assert_eq!(lengths(8192).len(), 8 + 6);
    }
}
