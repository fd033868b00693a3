//! Links to folders that lead back to where a listing already is: they are left out, and it is said once.
//! Never here: which links are followed.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// Links that are told of; of more, nobody reads.
const TOLD_MAX: usize = 100;

/// What the log was told of. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Loops {
    // Taken alone, for a moment.
    told: Arc<Mutex<HashSet<String>>>,
}

impl Loops {
    /// The folder `what` is left out of a listing. Whether the log was told, as it is once.
    pub fn cut(&self, what: &str) -> bool {
        let mut told = self.told.lock();
        let is_new = told.len() < TOLD_MAX && told.insert(what.to_owned());
        drop(told);
        if is_new {
            log::warn!(
                "{what} leads back to a folder that it lies in: it is not shown there, as the tree would have no end"
            );
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_is_told_of_once_and_not_too_many() {
        let loops = Loops::default();
        assert!(loops.cut("a/up") && !loops.clone().cut("a/up") && loops.cut("b/up"));
        let told = (0..2 * TOLD_MAX).filter(|at| loops.cut(&at.to_string())).count();
        assert_eq!(told, TOLD_MAX - 2);
    }
}
