//! A short list that grows and never shrinks, read without a lock: endpoints, and the statuses of one.

use std::sync::OnceLock;

/// Up to `N` values; what is one too many shares the last place.
#[derive(Debug)]
pub(super) struct AppendList<T, const N: usize>([OnceLock<T>; N]);

impl<T, const N: usize> Default for AppendList<T, N> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; N])
    }
}

impl<T, const N: usize> AppendList<T, N> {
    /// The first value that `is` it; made and appended if there is none.
    pub(super) fn find_or_append(&self, is: impl Fn(&T) -> bool, make: impl Fn() -> T) -> &T {
        let (last, others) = self.0.split_last().unwrap_or_else(|| unreachable!("N is not 0"));
        for place in others {
            // If another thread is faster, what it appended is looked at next.
            let value = place.get_or_init(&make);
            if is(value) {
                return value;
            }
        }
        last.get_or_init(make)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map_while(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::AppendList;

    #[test]
    fn each_value_is_made_once() {
        let list = AppendList::<usize, 4>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for value in (0..3).cycle().take(300) {
                        assert_eq!(*list.find_or_append(|&known| known == value, || value), value);
                    }
                });
            }
        });
        let mut values: Vec<_> = list.iter().copied().collect();
        values.sort_unstable();
        assert_eq!(values, [0, 1, 2]);
        assert_eq!(*list.find_or_append(|&known| known == 7, || 7), 7);
        assert_eq!(*list.find_or_append(|&known| known == 8, || 8), 7, "full: the last one");
    }
}
