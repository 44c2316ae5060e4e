//! Files as the whole program treats them: replaced as a whole, known by their checksum.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

/// Writes `bytes` to `path`: a temporary file beside it, fsync, rename, fsync of the directory.
///
/// # Errors
/// Whatever the file system says; `path` then keeps what it held before.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_atomically(path, |temporary| std::fs::write(temporary, bytes))
}

/// As [`write_atomically`], for a file that is too large to lie in memory: `write` fills the temporary file that it is given.
///
/// # Errors
/// Whatever `write` or the file system says; `path` then keeps what it held before.
pub fn replace_atomically<E: From<io::Error>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    Ok(Staged::new(path, write)?.commit()?)
}

/// A file that lies complete beside the one that it is to replace. Whoever replaces several stages all of them first, so that a full disk
/// leaves all as they were. Dropped, it goes.
#[derive(Debug)]
#[must_use = "what is not committed goes"]
pub struct Staged {
    temporary: TempPath,
    path: PathBuf,
}

impl Staged {
    /// Lets `write` fill a temporary file that is to become `path`, and sees it onto the disk.
    ///
    /// # Errors
    /// Whatever `write` or the file system says.
    pub fn new<E: From<io::Error>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<Self, E> {
        let temporary = NamedTempFile::new_in(directory(path))?.into_temp_path();
        write(&temporary)?;
        let file = File::open(&temporary)?;
        make_readable(&file)?;
        file.sync_all()?;
        Ok(Self { temporary, path: path.to_owned() })
    }

    /// Where it lies now.
    #[must_use]
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Takes its place.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn commit(self) -> io::Result<()> {
        self.temporary.persist(&self.path).map_err(io::Error::from)?;
        File::open(directory(&self.path))?.sync_all()
    }
}

/// The directory that `path` lies in.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Lower-case hexadecimal SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal SHA-256 of a file, read piece by piece.
///
/// # Errors
/// Whatever the file system says.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            read => hash.update(&piece[..read]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Temporary files are private to their owner; what replaces a shared file must be readable as usual.
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_atomically(&path, b"a longer first version").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(sha256_of_file(&path).unwrap(), sha256(b"second"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_atomically(&path, b"first").unwrap();
        let failed = replace_atomically(&path, |temporary| {
            std::fs::write(temporary, b"half of the sec")?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write_atomically(&directory.path().join("absent/file"), b"x").is_err());
    }
}
