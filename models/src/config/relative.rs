//! DeBERTa's relative positions: which row of the table a distance has.

/// Settings of relative attention.
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

    /// Row of the table `[2·span, hidden]` for a distance, `query - key`.
    pub(crate) fn row(&self, distance: i64) -> u32 {
        let span = i64::try_from(self.span()).unwrap_or(i64::MAX / 4);
        let bucket = self
            .buckets
            .map_or(distance, |buckets| log_bucket(distance, buckets, self.distance_max));
        u32::try_from((bucket + span).clamp(0, span * 2 - 1)).unwrap_or(0)
    }
}

/// Near distances have a bucket each, far ones share by logarithm. In f32 as in the reference:
/// the rounding decides the bucket at the borders.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "as the reference"
)]
fn log_bucket(distance: i64, buckets: usize, distance_max: usize) -> i64 {
    let middle = (buckets / 2) as i64;
    if distance.abs() <= middle {
        return distance;
    }
    let far = (distance.abs() as f32 / middle as f32).ln();
    let farthest = (((distance_max - 1) as f64 / middle as f64) as f32).ln();
    let bucket = (far / farthest * (middle - 1) as f32).ceil() as i64 + middle;
    bucket * distance.signum()
}

#[cfg(test)]
mod tests {
    use super::log_bucket;

    /// Sums of `make_log_bucket_position` in transformers 5.23 over 512 distances: one bucket off by
    /// one at any border changes them.
    #[test]
    fn buckets_are_those_of_the_reference() {
        for (buckets, distance_max, sum, last) in
            [(256, 512, 27_544_510, 255), (32, 128, 4_982_338, 42)]
        {
            let found: Vec<i64> =
                (0..512).map(|distance| log_bucket(distance, buckets, distance_max)).collect();
            let weighed: i64 = found.iter().zip(1..).map(|(bucket, at)| bucket * at).sum();
            assert_eq!(
                (weighed, found[511]),
                (sum, last),
                "{buckets} buckets up to {distance_max}"
            );
            let mirrored = (0..512).map(|distance| -log_bucket(-distance, buckets, distance_max));
            assert!(mirrored.eq(found), "the same on both sides");
        }
    }
}
