//! Calibration images: a seeded choice, kept in a file beside the model.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use super::batches::append_planar;
use super::error::DataError;
use super::rng::{Purpose, rng};
use crate::image::{Patch, ShapeError};

/// The one tensor in the file.
const TENSOR: &str = "images";

/// `count` different indices below `len` (all of them if there are fewer), in the order that calibration reads them.
pub fn calibration_indices(len: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut rng = rng(Purpose::Calibration, seed, 0, 0);
    rand::seq::index::sample(&mut rng, len, count.min(len)).into_vec()
}

/// Patches of one size, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchSet {
    /// Side in pixels.
    pub size: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Number of patches, at least 1.
    pub count: usize,
    /// `[count, channels, size, size]`: channel by channel, unlike a [`Patch`].
    pub data: Vec<u8>,
}

impl PatchSet {
    /// Collects patches, which must be alike in side and channels.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] for a patch that differs from the first, or if there are none.
    pub fn from_patches(patches: &[Patch]) -> Result<Self, ShapeError> {
        let first = patches.first().ok_or(ShapeError {
            what: "patches",
            actual: 0,
            expected: 1,
        })?;
        let bytes = first.size as usize * first.size as usize * first.channels;
        let mut data = Vec::with_capacity(bytes * patches.len());
        for patch in patches {
            let checks = [
                ("side of a patch", patch.size as usize, first.size as usize),
                ("channels of a patch", patch.channels, first.channels),
                ("bytes of a patch", patch.data.len(), bytes),
            ];
            if let Some(&(what, actual, expected)) = checks
                .iter()
                .find(|(_, actual, expected)| actual != expected)
            {
                return Err(ShapeError {
                    what,
                    actual,
                    expected,
                });
            }
            append_planar(patch, &mut data);
        }
        Ok(Self {
            size: first.size,
            channels: first.channels,
            count: patches.len(),
            data,
        })
    }

    /// Patch `index`, or `None` beyond the end.
    pub fn patch(&self, index: usize) -> Option<Patch> {
        let plane = self.size as usize * self.size as usize;
        let planar = self
            .data
            .chunks_exact((plane * self.channels).max(1))
            .nth(index)?;
        let mut data = vec![0; planar.len()];
        for (channel, values) in planar.chunks_exact(plane).enumerate() {
            for (target, value) in data
                .iter_mut()
                .skip(channel)
                .step_by(self.channels)
                .zip(values)
            {
                *target = *value;
            }
        }
        Some(Patch {
            size: self.size,
            channels: self.channels,
            data,
        })
    }

    /// SHA-256 of the shape and the pixels, as 64 hex digits. It does not depend on how the file is laid out.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!(
            "{}x{}x{}x{}\n",
            self.count, self.channels, self.size, self.size
        ));
        hash.update(&self.data);
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Writes the set as a safetensors file, through a temporary name, so that the file is whole or not there.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]; [`DataError::Format`] if the bytes do not fit the sizes.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let format = |problem: String| DataError::Format {
            path: path.to_owned(),
            problem,
        };
        let shape = vec![
            self.count,
            self.channels,
            self.size as usize,
            self.size as usize,
        ];
        let view = TensorView::new(Dtype::U8, shape, &self.data)
            .map_err(|error| format(error.to_string()))?;
        let bytes = safetensors::serialize([(TENSOR, view)], None)
            .map_err(|error| format(error.to_string()))?;
        write_whole(path, &bytes).map_err(|source| DataError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads a set that [`Self::write`] wrote.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]; [`DataError::Format`] if the file is no safetensors file, or its tensor is not `images`, of
    /// bytes, in the shape `[N, 1 or 3, S, S]`.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let format = |problem: String| DataError::Format {
            path: path.to_owned(),
            problem,
        };
        let bytes = fs::read(path).map_err(|source| DataError::Io {
            path: path.to_owned(),
            source,
        })?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| format(format!("not a whole safetensors file ({error})")))?;
        let names = tensors.names();
        let [TENSOR] = names[..] else {
            return Err(format(format!(
                "tensors {names:?}; calibration images need one, called {TENSOR:?}"
            )));
        };
        let view = tensors
            .tensor(TENSOR)
            .map_err(|error| format(error.to_string()))?;
        let shape = view.shape();
        let (&[count, channels @ (1 | 3), height, width], Dtype::U8) = (shape, view.dtype()) else {
            return Err(format(format!(
                "tensor {TENSOR:?} is {:?} {shape:?}; it must be U8 [N, 1 or 3, S, S]",
                view.dtype()
            )));
        };
        let size = u32::try_from(height)
            .ok()
            .filter(|_| height == width && height * count > 0);
        let size = size.ok_or_else(|| {
            format(format!(
                "shape {shape:?}; the images must be square and not empty"
            ))
        })?;
        Ok(Self {
            size,
            channels,
            count,
            data: view.data().to_vec(),
        })
    }
}

/// Writes beside the target, then renames.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn set(channels: usize) -> PatchSet {
        let patch = |start: u8| Patch {
            size: 2,
            channels,
            data: (start..start + 4 * channels as u8).collect(),
        };
        PatchSet::from_patches(&[patch(0), patch(100)]).expect("alike")
    }

    #[test]
    fn stored_planar_returned_interleaved() {
        assert_eq!(set(3).data[..12], [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
        assert_eq!(
            set(3).patch(1).map(|patch| patch.data),
            Some((100..112).collect())
        );
        assert_eq!(set(3).patch(2), None);
    }

    #[test]
    fn patches_must_be_alike() {
        let patch = Patch {
            size: 2,
            channels: 1,
            data: vec![0; 4],
        };
        let cases = [
            (vec![], "patches"),
            (
                vec![
                    patch.clone(),
                    Patch {
                        size: 1,
                        ..patch.clone()
                    },
                ],
                "side of a patch",
            ),
            (
                vec![
                    patch.clone(),
                    Patch {
                        channels: 3,
                        ..patch.clone()
                    },
                ],
                "channels of a patch",
            ),
            (
                vec![Patch {
                    data: vec![0; 3],
                    ..patch
                }],
                "bytes of a patch",
            ),
        ];
        for (patches, what) in cases {
            assert_eq!(PatchSet::from_patches(&patches).expect_err(what).what, what);
        }
    }

    #[test]
    fn written_read_and_hashed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("calibration.safetensors");
        for channels in [1, 3] {
            set(channels).write(&path).expect("writes");
            assert_eq!(PatchSet::read(&path).expect("reads"), set(channels));
        }
        assert_eq!(
            fs::read_dir(dir.path()).expect("lists").count(),
            1,
            "a temporary file stayed behind"
        );

        // printf '1x1x1x1\n\007' | sha256sum
        let one = PatchSet {
            size: 1,
            channels: 1,
            count: 1,
            data: vec![7],
        };
        assert_eq!(
            one.sha256(),
            "f730dccc1c2aa0d07aa8214022105e62d90e9e20cbcc7683c0d89826b46f8f2b"
        );
        let reshaped = PatchSet {
            size: 1,
            channels: 1,
            count: 4,
            data: vec![0; 4],
        };
        let square = PatchSet {
            size: 2,
            channels: 1,
            count: 1,
            data: vec![0; 4],
        };
        assert_ne!(reshaped.sha256(), square.sha256());
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("calibration.safetensors");
        let file = |name: &str, dtype, shape: &[usize], bytes: usize| {
            let data = vec![0; bytes];
            let view = TensorView::new(dtype, shape.to_vec(), &data).expect("a tensor");
            safetensors::serialize([(name, view)], None).expect("serialises")
        };
        let good = file(TENSOR, Dtype::U8, &[1, 1, 2, 2], 4);
        let cases = [
            (
                good[..good.len() - 1].to_vec(),
                "not a whole safetensors file",
            ),
            (vec![], "not a whole safetensors file"),
            (
                file("pictures", Dtype::U8, &[1, 1, 2, 2], 4),
                "one, called \"images\"",
            ),
            (
                file(TENSOR, Dtype::F32, &[1, 1, 1, 1], 4),
                "F32 [1, 1, 1, 1]",
            ),
            (
                file(TENSOR, Dtype::U8, &[1, 2, 2, 1], 4),
                "must be U8 [N, 1 or 3, S, S]",
            ),
            (
                file(TENSOR, Dtype::U8, &[4], 4),
                "must be U8 [N, 1 or 3, S, S]",
            ),
            (file(TENSOR, Dtype::U8, &[1, 1, 4, 1], 4), "must be square"),
            (
                file(TENSOR, Dtype::U8, &[0, 1, 2, 2], 0),
                "must be square and not empty",
            ),
        ];
        for (bytes, expected) in cases {
            fs::write(&path, bytes).expect("writes");
            let message = PatchSet::read(&path).expect_err(expected).to_string();
            assert!(
                message.contains(expected) && message.contains("calibration.safetensors"),
                "{message}"
            );
        }
        assert!(matches!(
            PatchSet::read(&dir.path().join("none")),
            Err(DataError::Io { .. })
        ));
    }

    #[test]
    fn calibration_indices_are_seeded_and_distinct() {
        let indices = calibration_indices(1000, 64, 7);
        assert_eq!(indices, calibration_indices(1000, 64, 7));
        assert_ne!(indices, calibration_indices(1000, 64, 8));
        assert!(indices.iter().all(|index| *index < 1000));
        assert_eq!(indices.iter().collect::<HashSet<_>>().len(), 64);
        assert_eq!(calibration_indices(5, 64, 7).len(), 5);
        assert!(calibration_indices(0, 64, 7).is_empty());
    }
}
