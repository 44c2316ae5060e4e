//! Loaded networks in memory, up to a limit in bytes; the least recently used go first.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared values by key, with their sizes.
#[derive(Debug)]
pub struct MemoryCache<K, V> {
    limit_bytes: u64,
    entries: Mutex<Entries<K, V>>,
}

#[derive(Debug)]
struct Entries<K, V> {
    by_key: HashMap<K, Entry<V>>,
    bytes: u64,
    /// Counts accesses; the higher an entry's, the more recently it was used.
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    bytes: u64,
    used: u64,
}

impl<K: Copy + Eq + Hash, V> MemoryCache<K, V> {
    /// An empty cache for up to `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, entries: Mutex::new(Entries { by_key: HashMap::new(), bytes: 0, clock: 0 }) }
    }

    /// The value of `key`, which thereby becomes the most recently used.
    pub fn get(&self, key: K) -> Option<Arc<V>> {
        let mut entries = self.lock();
        entries.clock += 1;
        let clock = entries.clock;
        let entry = entries.by_key.get_mut(&key)?;
        entry.used = clock;
        Some(Arc::clone(&entry.value))
    }

    /// The value of `key`; does not count as a use.
    #[must_use]
    pub fn peek(&self, key: K) -> Option<Arc<V>> {
        self.lock().by_key.get(&key).map(|entry| Arc::clone(&entry.value))
    }

    /// Whether `key` is there; does not count as a use.
    #[must_use]
    pub fn contains(&self, key: K) -> bool {
        self.lock().by_key.contains_key(&key)
    }

    /// All keys, the least recently used first; does not count as a use.
    #[must_use]
    pub fn keys(&self) -> Vec<K> {
        let mut keys: Vec<(u64, K)> = self.lock().by_key.iter().map(|(key, entry)| (entry.used, *key)).collect();
        keys.sort_unstable_by_key(|(used, _)| *used);
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Keeps `value`, of `bytes` bytes, and drops the least recently used others until all fit. The new value stays even
    /// where it alone exceeds the limit. Returns how many were dropped.
    pub fn insert(&self, key: K, value: Arc<V>, bytes: u64) -> usize {
        let mut entries = self.lock();
        entries.remove(key);
        entries.clock += 1;
        let used = entries.clock;
        entries.bytes += bytes;
        entries.by_key.insert(key, Entry { value, bytes, used });
        entries.fit(self.limit_bytes)
    }

    /// Takes the size of every value anew, and drops the least recently used until all fit. Returns how many were dropped.
    pub fn recount(&self, bytes: impl Fn(&V) -> u64) -> usize {
        let mut entries = self.lock();
        entries.by_key.values_mut().for_each(|entry| entry.bytes = bytes(&entry.value));
        entries.bytes = entries.by_key.values().map(|entry| entry.bytes).sum();
        entries.fit(self.limit_bytes)
    }

    /// Drops `key`.
    pub fn remove(&self, key: K) {
        self.lock().remove(key);
    }

    /// Bytes kept, and how many values.
    #[must_use]
    pub fn usage(&self) -> (u64, usize) {
        let entries = self.lock();
        (entries.bytes, entries.by_key.len())
    }

    fn lock(&self) -> MutexGuard<'_, Entries<K, V>> {
        // No code that can panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash, V> Entries<K, V> {
    /// Drops the least recently used until the others fit, or one is left. Returns how many.
    fn fit(&mut self, limit_bytes: u64) -> usize {
        let mut dropped = 0;
        while self.bytes > limit_bytes && self.by_key.len() > 1 {
            let oldest = self.by_key.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            self.remove(oldest);
            dropped += 1;
        }
        dropped
    }

    fn remove(&mut self, key: K) {
        if let Some(entry) = self.by_key.remove(&key) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(limit_bytes: u64, inserts: &[(u32, u64)]) -> MemoryCache<u32, u32> {
        let cache = MemoryCache::new(limit_bytes);
        for &(key, bytes) in inserts {
            cache.insert(key, Arc::new(key), bytes);
        }
        cache
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let cache = cache(30, &[(1, 10), (2, 10), (3, 10)]);
        assert!(cache.get(1).is_some());
        assert_eq!(cache.peek(2).as_deref(), Some(&2));
        assert_eq!(cache.keys(), [2, 3, 1], "a look is no use");
        assert_eq!(cache.insert(4, Arc::new(4), 20), 2);
        assert_eq!([1, 2, 3, 4].map(|key| cache.contains(key)), [true, false, false, true]);
        assert_eq!(cache.usage(), (30, 2));
    }

    #[test]
    fn a_value_above_the_limit_stays_alone() {
        let cache = cache(5, &[(1, 3), (2, 100)]);
        assert_eq!(cache.usage(), (100, 1));
        assert!(cache.contains(2));
    }

    #[test]
    fn sizes_can_be_taken_anew() {
        let cache = cache(30, &[(1, 10), (2, 10)]);
        assert_eq!(cache.recount(|value| u64::from(*value)), 0);
        assert_eq!(cache.usage(), (3, 2));
        assert_eq!(cache.recount(|value| 10 + 10 * u64::from(*value)), 1);
        assert_eq!((cache.usage(), cache.contains(2)), ((30, 1), true), "the one used last stays");
    }

    #[test]
    fn replacing_and_removing_keep_the_sum_right() {
        let cache = cache(100, &[(1, 10), (1, 30), (2, 5)]);
        assert_eq!(cache.usage(), (35, 2));
        cache.remove(1);
        cache.remove(1);
        assert_eq!(cache.usage(), (5, 1));
    }
}
