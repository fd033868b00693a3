//! A home in memory, for tests: it lasts as long as the test does.
//! Never here: anything that may fail.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Key, Keyed, LIMITS, Limits, Step, Swap, missing, within};
use crate::error::Result;
use crate::range::ByteRange;

/// Keys and values.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<String, Bytes>>);

impl Memory {
    /// All keys there are.
    pub fn keys(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}

impl Keyed for Memory {
    fn describe(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> &Limits {
        &LIMITS
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        let value = self.0.lock().get(key).cloned().ok_or_else(|| missing("memory", key))?;
        Ok(value.slice_ref(within(&value, range)))
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        self.0.lock().extend(entries.iter().cloned());
        Ok(())
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        let mut values = self.0.lock();
        for key in keys {
            values.remove(key);
        }
        Ok(())
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<bool>> {
        let mut values = self.0.lock();
        let swap = |swap: &Swap| {
            let step = swap.step(values.get(&swap.key).map(|value| within(value, swap.seen.range)));
            match &swap.value {
                _ if step != Step::Write => {}
                Some(value) => drop(values.insert(swap.key.clone(), value.clone())),
                None => drop(values.remove(&swap.key)),
            }
            step != Step::Leave
        };
        Ok(swaps.iter().map(swap).collect())
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        let from = super::at_least(prefix, from);
        let values = self.0.lock();
        let within = values.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let key = |(key, value): (&String, &Bytes)| Key { key: key.clone(), size_bytes: Some(value.len() as u64) };
        Ok(within.take(limit).map(key).collect())
    }
}
