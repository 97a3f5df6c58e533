//! Scores that depend on where a key is seen from (DeBERTa, He et al. 2020).

use crate::simd::Simd;

/// Adds to each score what its row has for the key's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceArgs {
    /// `[rows][stride]`, the first `n` count.
    pub(crate) scores: *mut f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    /// `[rows][by_place_stride]`: what is added, by places from `first` on.
    pub(crate) by_place: *const f32,
    pub(crate) by_place_stride: usize,
    pub(crate) first: usize,
    /// Place of each key as the first row sees it, `[n]`; before them those that the next rows see,
    /// each from one further before.
    pub(crate) places: *const u32,
    /// The first row's own key; the next row's is the next one.
    pub(crate) own: usize,
    /// Keys up to this far from a row's own have places one beside another.
    pub(crate) near: usize,
}

/// # Safety
/// The CPU has the features of `S`; pointers are valid as [`PlaceArgs`] says.
#[inline(always)]
pub(crate) unsafe fn add_by_place<S: Simd>(args: &PlaceArgs) {
    // SAFETY: granted by the caller.
    unsafe {
        for row in 0..args.rows {
            let scores = args.scores.add(row * args.stride);
            let by_place = args.by_place.add(row * args.by_place_stride);
            let places = args.places.sub(row);
            let place = |key: usize| *places.add(key) as usize - args.first;
            let own = args.own + row;
            let near = own.saturating_sub(args.near)..own + args.near + 1;
            let mut key = 0;
            while key < args.n {
                let end = key + S::LANES;
                if near.start <= key && end <= near.end && end <= args.n {
                    let added = S::load(by_place.add(place(key)));
                    S::store(scores.add(key), S::add(S::load(scores.add(key)), added));
                } else {
                    for key in key..end.min(args.n) {
                        *scores.add(key) += *by_place.add(place(key));
                    }
                }
                key = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PlaceArgs;
    use crate::kernels::tests::{all, floats};

    #[test]
    fn what_is_added_is_exact() {
        for k in all() {
            for (n, near) in [(1, 0), (5, 2), (16, 3), (40, 39), (100, 20), (77, 76)] {
                // Places of distances: beyond the near ones, two share one.
                let place = |distance: isize| {
                    let far = (distance.unsigned_abs().saturating_sub(near)).div_ceil(2);
                    let size = distance.unsigned_abs().min(near) + far;
                    (100_isize + distance.signum() * size.cast_signed()) as u32
                };
                let middle = n as isize - 1;
                let places: Vec<u32> = (-middle..=middle).map(place).collect();
                for (own, rows) in [(0, n.min(8)), (n / 2, (n - n / 2).min(3)), (n - 1, 1)] {
                    let first = 7;
                    let (stride, width) = (n + 16, 200);
                    let by_place = floats(18, rows * width);
                    let mut ours = floats(19, rows * stride);
                    let before = ours.clone();
                    // SAFETY: sizes as above; distance 0 is at `middle`.
                    unsafe {
                        (k.add_by_place)(&PlaceArgs {
                            scores: ours.as_mut_ptr(),
                            stride,
                            rows,
                            n,
                            by_place: by_place.as_ptr(),
                            by_place_stride: width,
                            first,
                            places: places.as_ptr().add(n - 1 - own),
                            own,
                            near,
                        });
                    }
                    for row in 0..rows {
                        for key in 0..n {
                            let distance = key.cast_signed() - (own + row).cast_signed();
                            let at = row * width + place(distance) as usize - first;
                            let expected = before[row * stride + key] + by_place[at];
                            assert_eq!(ours[row * stride + key], expected, "{} {n}", k.level);
                        }
                    }
                }
            }
        }
    }
}
