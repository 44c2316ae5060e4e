//! Bytes taken from the front, with an error where they end early.

use super::{ImportError, broken};

/// What is left to read.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn byte(&mut self) -> Result<u8, ImportError> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A length of `width` bytes, little-endian.
    pub(super) fn length(&mut self, width: usize) -> Result<usize, ImportError> {
        Ok(self.take(width)?.iter().rev().fold(0, |length, &byte| length << 8 | usize::from(byte)))
    }

    pub(super) fn line(&mut self) -> Result<String, ImportError> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| broken("a name without an end"))?;
        let line = self.take(length + 1)?;
        String::from_utf8(line[..length].to_vec()).map_err(|_| broken("a name that is not UTF-8"))
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ImportError> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| broken("an early end"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}
