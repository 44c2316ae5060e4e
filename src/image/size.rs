//! The size that the header of an image file claims, read without a decoder: to refuse what is too large, and to tell how long
//! decoding will take.

use super::jpeg;
use super::media_type::MediaType;

/// Width and height in pixels as the first bytes of a file claim; none where they do not reach that far, or are of a kind that only a
/// decoder understands.
pub(super) fn claimed_size(media_type: MediaType, bytes: &[u8]) -> Option<(u32, u32)> {
    match media_type {
        MediaType::Jpeg => jpeg::read_header(bytes).size,
        MediaType::Png => {
            let (size, _) = bytes.get(16..24)?.as_chunks::<4>();
            Some((u32::from_be_bytes(size[0]), u32::from_be_bytes(size[1])))
        }
        MediaType::WebP => webp(bytes),
        MediaType::Gif => Some((two_bytes(bytes, 6)?, two_bytes(bytes, 8)?)),
        MediaType::Bmp => {
            let (size, _) = bytes.get(18..26)?.as_chunks::<4>();
            // A negative height counts its rows from above. Headers of OS/2 are left to the decoder.
            let ours = four_bytes(bytes, 14)? >= 40;
            ours.then(|| (i32::from_le_bytes(size[0]).unsigned_abs(), i32::from_le_bytes(size[1]).unsigned_abs()))
        }
    }
}

/// The first chunk of a WebP file says its size, in one of three ways.
fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    match bytes.get(12..16)? {
        b"VP8X" => Some((three_bytes(bytes, 24)? + 1, three_bytes(bytes, 27)? + 1)),
        b"VP8L" => {
            let packed = four_bytes(bytes, 21)?;
            Some(((packed & 0x3fff) + 1, (packed >> 14 & 0x3fff) + 1))
        }
        b"VP8 " => Some((two_bytes(bytes, 26)? & 0x3fff, two_bytes(bytes, 28)? & 0x3fff)),
        _ => None,
    }
}

fn two_bytes(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?, 0, 0]))
}

fn three_bytes(bytes: &[u8], at: usize) -> Option<u32> {
    Some(two_bytes(bytes, at)? | u32::from(*bytes.get(at + 2)?) << 16)
}

fn four_bytes(bytes: &[u8], at: usize) -> Option<u32> {
    Some(two_bytes(bytes, at)? | two_bytes(bytes, at + 2)? << 16)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ::image::{ImageFormat, RgbImage};

    use super::*;

    #[test]
    fn every_header_says_its_size() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
            for (width, height) in [(1, 1), (300, 7), (70, 513)] {
                let mut file = Vec::new();
                RgbImage::new(width, height).write_to(&mut Cursor::new(&mut file), format).unwrap();
                let media_type = MediaType::sniff(&file).unwrap();
                assert_eq!(claimed_size(media_type, &file), Some((width, height)), "{media_type}");
                for length in 0..16.min(file.len()) {
                    claimed_size(media_type, &file[..length]);
                }
            }
        }
    }

    /// Made by hand, after the container's and the lossy format's specification: no encoder at hand writes these.
    #[test]
    fn lossy_and_extended_webp_say_their_size_too() {
        let file = |fourcc: &[u8], rest: &[u8]| [b"RIFF\0\0\0\0WEBP", fourcc, b"\0\0\0\0", rest].concat();
        let extended = file(b"VP8X", &[0, 0, 0, 0, 0x2b, 1, 0, 6, 0, 0]);
        let lossy = file(b"VP8 ", &[0, 0, 0, 0x9d, 1, 0x2a, 0x2c, 1, 7, 0x40]);
        for (kind, bytes) in [("extended", extended), ("lossy", lossy)] {
            assert_eq!(claimed_size(MediaType::WebP, &bytes), Some((300, 7)), "{kind}");
        }
    }
}
