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
    /// The first value that `is` it, and its place; made and appended if there is none.
    pub(super) fn find_or_append(
        &self,
        is: impl Fn(&T) -> bool,
        make: impl Fn() -> T,
    ) -> (usize, &T) {
        let (last, others) = self.0.split_last().unwrap_or_else(|| unreachable!("N is not 0"));
        for (at, place) in others.iter().enumerate() {
            // If another thread is faster, what it appended is looked at next.
            let value = place.get_or_init(&make);
            if is(value) {
                return (at, value);
            }
        }
        (others.len(), last.get_or_init(make))
    }

    /// The value at a place that [`Self::find_or_append`] gave.
    pub(super) fn at(&self, place: usize) -> &T {
        self.0[place].get().unwrap_or_else(|| unreachable!("places are given when they are filled"))
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
                        let is = |&known: &usize| known == value;
                        let (place, &found) = list.find_or_append(is, || value);
                        assert_eq!((found, *list.at(place)), (value, value));
                    }
                });
            }
        });
        let mut values: Vec<_> = list.iter().copied().collect();
        values.sort_unstable();
        assert_eq!(values, [0, 1, 2]);
        assert_eq!(list.find_or_append(|&known| known == 7, || 7), (3, &7));
        assert_eq!(list.find_or_append(|&known| known == 8, || 8), (3, &7), "full: the last one");
    }
}
