//! Built children on disk, content-addressed and bounded; the least recently used go first.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::files::{sha256, write_atomically};

/// What lies beside a built child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The key that it was built for.
    pub key: String,
    /// SHA-256 of the model file.
    pub onnx_sha256: String,
    /// SHA-256 of the batch-norm statistics folded into it.
    pub statistics_sha256: String,
    /// How many images they were measured on.
    pub calibration_images: usize,
}

impl Receipt {
    /// Says what is wrong where `onnx` is not what the receipt for `key` is of.
    pub(super) fn check(&self, key: &str, onnx: &[u8]) -> Result<(), &'static str> {
        if self.key != key {
            return Err("it is another child's");
        }
        if self.onnx_sha256 != sha256(onnx) {
            return Err("its checksum is not the one beside it");
        }
        Ok(())
    }
}

/// A directory of built children, `KEY.onnx` and `KEY.json`.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limit_bytes: u64,
    keys: Mutex<BTreeSet<String>>,
    /// Set at the first failed write, so that a full disk is reported once.
    reported: AtomicBool,
}

impl Store {
    /// Opens the store in `directory`, which may not exist yet, for up to `limit_bytes`.
    #[must_use]
    pub fn open(directory: &Path, limit_bytes: u64) -> Self {
        let keys = list(directory).into_iter().map(|entry| entry.key).collect();
        Self { directory: directory.to_owned(), limit_bytes, keys: Mutex::new(keys), reported: AtomicBool::new(false) }
    }

    /// Whether `key` is there.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.keys().contains(key)
    }

    /// Whether so many bytes fit beside what is there.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        self.bytes() + bytes <= self.limit_bytes
    }

    /// Reads a built child. What is damaged is removed, and what cannot be read just now, such as for want of file descriptors, stays;
    /// both count as absent: the child will be built again.
    #[must_use]
    pub fn read(&self, key: &str) -> Option<(Vec<u8>, Receipt)> {
        if !self.contains(key) {
            return None;
        }
        match self.read_verified(key) {
            Ok(found) => {
                self.touch(key);
                Some(found)
            }
            Err(error) if is_damage(&error) => {
                tracing::warn!(key, %error, "a built child on disk is damaged; it is built again");
                self.remove(key);
                None
            }
            Err(error) => {
                tracing::warn!(key, %error, "a built child on disk cannot be read now; it is built again");
                None
            }
        }
    }

    /// Marks a built child as used just now.
    pub fn touch(&self, key: &str) {
        // Only the order in which children are dropped depends on it.
        let touched = fs::File::open(self.path(key, "onnx")).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(key, %error, "cannot mark a built child as used");
        }
    }

    fn read_verified(&self, key: &str) -> io::Result<(Vec<u8>, Receipt)> {
        let receipt: Receipt = serde_json::from_slice(&fs::read(self.path(key, "json"))?)?;
        let onnx = fs::read(self.path(key, "onnx"))?;
        receipt.check(key, &onnx).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
        Ok((onnx, receipt))
    }

    /// Keeps a built child, and drops the least recently used others until all fit. A disk that is full or read-only is
    /// reported once and otherwise ignored: the child then lives in memory.
    pub fn write(&self, key: &str, onnx: &[u8], receipt: &Receipt) {
        if let Err(error) = self.try_write(key, onnx, receipt)
            && !self.reported.swap(true, Ordering::Relaxed)
        {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "cannot keep built children on disk; serving them from memory");
        }
    }

    fn try_write(&self, key: &str, onnx: &[u8], receipt: &Receipt) -> io::Result<()> {
        if onnx.len() as u64 > self.limit_bytes {
            return Ok(());
        }
        fs::create_dir_all(&self.directory)?;
        self.make_room(onnx.len() as u64);
        // The receipt comes last: a model file without one is not listed.
        write_atomically(&self.path(key, "onnx"), onnx)?;
        write_atomically(&self.path(key, "json"), &serde_json::to_vec_pretty(receipt)?)?;
        self.keys().insert(key.to_owned());
        Ok(())
    }

    fn make_room(&self, needed: u64) {
        let mut entries = list(&self.directory);
        entries.sort_by_key(|entry| entry.used);
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if total + needed <= self.limit_bytes {
                break;
            }
            total -= entry.bytes;
            self.remove(&entry.key);
        }
    }

    /// Drops a built child.
    pub fn remove(&self, key: &str) {
        self.keys().remove(key);
        for extension in ["json", "onnx"] {
            // What is already gone need not be removed.
            let _ = fs::remove_file(self.path(key, extension));
        }
    }

    /// Bytes of all built children on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        list(&self.directory).iter().map(|entry| entry.bytes).sum()
    }

    fn path(&self, key: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{key}.{extension}"))
    }

    fn keys(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what lies there is of no use, rather than out of reach at the moment.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

struct Entry {
    key: String,
    bytes: u64,
    used: SystemTime,
}

/// The complete children in `directory`; none where it cannot be read.
fn list(directory: &Path) -> Vec<Entry> {
    let Ok(files) = fs::read_dir(directory) else { return Vec::new() };
    let entry = |file: fs::DirEntry| {
        let name = file.file_name().into_string().ok()?;
        let key = name.strip_suffix(".onnx")?.to_owned();
        let complete = directory.join(format!("{key}.json")).is_file();
        let metadata = file.metadata().ok()?;
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        complete.then_some(Entry { key, bytes: metadata.len(), used })
    };
    files.flatten().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(key: &str, onnx: &[u8]) -> Receipt {
        Receipt { key: key.into(), onnx_sha256: sha256(onnx), statistics_sha256: "s".into(), calibration_images: 3 }
    }

    #[test]
    fn what_is_written_is_found_again_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let built = directory.path().join("built");
        Store::open(&built, 1000).write("a", b"model", &receipt("a", b"model"));
        let store = Store::open(&built, 1000);
        assert!(store.contains("a") && !store.contains("b"));
        assert_eq!(store.read("a"), Some((b"model".to_vec(), receipt("a", b"model"))));
        assert_eq!(store.bytes(), 5);
    }

    #[test]
    fn damage_is_noticed_and_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 1000);
        store.write("a", b"model", &receipt("a", b"model"));
        fs::write(directory.path().join("a.onnx"), b"mod").unwrap();
        assert_eq!(store.read("a"), None);
        assert!(!store.contains("a"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_at_the_moment_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 1000);
        store.write("a", b"model", &receipt("a", b"model"));
        let [model, aside] = ["a.onnx", "aside"].map(|name| directory.path().join(name));
        fs::rename(&model, &aside).unwrap();
        // Neither absent nor damaged: a directory cannot be read as a file.
        fs::create_dir(&model).unwrap();
        assert_eq!(store.read("a"), None);
        fs::remove_dir(&model).unwrap();
        fs::rename(&aside, &model).unwrap();
        assert_eq!(store.read("a"), Some((b"model".to_vec(), receipt("a", b"model"))));
    }

    #[test]
    fn one_child_is_not_taken_for_another() {
        let directory = tempfile::tempdir().unwrap();
        Store::open(directory.path(), 1000).write("a", b"model", &receipt("a", b"model"));
        for extension in ["onnx", "json"] {
            fs::rename(directory.path().join(format!("a.{extension}")), directory.path().join(format!("b.{extension}"))).unwrap();
        }
        assert_eq!(Store::open(directory.path(), 1000).read("b"), None);
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 10);
        for (age_s, key) in [(30, "a"), (20, "b")] {
            store.write(key, b"12345", &receipt(key, b"12345"));
            let file = fs::File::open(directory.path().join(format!("{key}.onnx"))).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age_s)).unwrap();
        }
        assert!(store.read("a").is_some(), "reading makes it the most recently used");
        store.write("c", b"123", &receipt("c", b"123"));
        assert_eq!(["a", "b", "c"].map(|key| store.contains(key)), [true, false, true]);
    }

    #[test]
    fn an_unusable_directory_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let store = Store::open(&file, 1000);
        store.write("a", b"model", &receipt("a", b"model"));
        assert_eq!(store.read("a"), None);
    }
}
