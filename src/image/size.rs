//! The size that the header of an image file claims, read without a decoder: to refuse what is too large, and to tell how long
//! decoding will take. Where a file has a size for the whole and one for the picture inside, the larger counts: a decoder may believe either.

use super::jpeg;
use super::media_type::MediaType;

/// What an animation's frame begins with: its place, its size, how long it is shown.
const FRAME_HEADER_BYTES: usize = 16;

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
        MediaType::Gif => Some(larger((two_bytes(bytes, 6)?, two_bytes(bytes, 8)?), first_gif_frame(bytes))),
        MediaType::Bmp => {
            let (size, _) = bytes.get(18..26)?.as_chunks::<4>();
            // A negative height counts its rows from above. Headers of OS/2 are left to the decoder.
            let ours = four_bytes(bytes, 14)? >= 40;
            ours.then(|| (i32::from_le_bytes(size[0]).unsigned_abs(), i32::from_le_bytes(size[1]).unsigned_abs()))
        }
    }
}

/// Whichever has more pixels.
fn larger(whole: (u32, u32), inside: Option<(u32, u32)>) -> (u32, u32) {
    let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    inside.filter(|&inside| pixels(inside) > pixels(whole)).unwrap_or(whole)
}

/// The size of a GIF file's first frame, behind colours and extensions.
fn first_gif_frame(bytes: &[u8]) -> Option<(u32, u32)> {
    let flags = *bytes.get(10)?;
    let colours = if flags & 0x80 == 0 { 0 } else { 2 << (flags & 7) };
    let mut at = 13 + 3 * colours;
    // An extension: two bytes of its kind, then pieces that begin with their length, up to an empty one.
    while *bytes.get(at)? == 0x21 {
        at += 2;
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
    }
    (bytes[at] == 0x2c).then_some(())?;
    Some((two_bytes(bytes, at + 5)?, two_bytes(bytes, at + 7)?))
}

/// The first chunk of a WebP file says its size, in one of three ways.
fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    match bytes.get(12..16)? {
        b"VP8X" => {
            let canvas = (three_bytes(bytes, 24)? + 1, three_bytes(bytes, 27)? + 1);
            Some(lossy_pictures(bytes, 12).fold(canvas, |largest, size| larger(largest, Some(size))))
        }
        b"VP8L" => {
            let packed = four_bytes(bytes, 21)?;
            Some(((packed & 0x3fff) + 1, (packed >> 14 & 0x3fff) + 1))
        }
        b"VP8 " => lossy_size(bytes, 20),
        _ => None,
    }
}

/// The sizes of all lossy pictures in the chunks from `at` on, those in frames of an animation too. Decoders take memory for them before
/// they compare them with the canvas; that of lossless ones they compare at once.
fn lossy_pictures(bytes: &[u8], mut at: usize) -> impl Iterator<Item = (u32, u32)> {
    let chunks = std::iter::from_fn(move || {
        let (kind, content) = (bytes.get(at..at + 4)?, at + 8);
        at = behind_chunk(bytes, at)?;
        Some((kind, content))
    });
    chunks
        .flat_map(|(kind, content)| match kind {
            b"ANMF" => {
                let first = content + FRAME_HEADER_BYTES;
                // Behind an alpha channel, decoders take whatever comes for a lossy picture.
                let second = behind_chunk(bytes, first).and_then(|second| lossy_size(bytes, second + 8));
                [lossy_size(bytes, first + 8), second]
            }
            b"VP8 " => [lossy_size(bytes, content), None],
            _ => [None, None],
        })
        .flatten()
}

/// Where the chunk behind the one at `at` begins: contents are padded to an even length.
fn behind_chunk(bytes: &[u8], at: usize) -> Option<usize> {
    let length = four_bytes(bytes, at + 4)? as usize;
    Some(at + 8 + length + length % 2)
}

/// The size of a lossy picture whose first byte is at `at`; none where there is no such thing.
fn lossy_size(bytes: &[u8], at: usize) -> Option<(u32, u32)> {
    let starts = bytes.get(at + 3..at + 6)? == [0x9d, 0x01, 0x2a];
    starts.then_some(())?;
    Some((two_bytes(bytes, at + 6)? & 0x3fff, two_bytes(bytes, at + 8)? & 0x3fff))
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
        let lossy = file(b"VP8 ", &PICTURE);
        for (kind, bytes) in [("extended", extended), ("lossy", lossy)] {
            assert_eq!(claimed_size(MediaType::WebP, &bytes), Some((300, 7)), "{kind}");
        }
    }

    /// How a lossy WebP picture of 300 x 7 pixels begins.
    const PICTURE: [u8; 10] = [0, 0, 0, 0x9d, 1, 0x2a, 0x2c, 1, 7, 0x40];

    #[test]
    fn a_small_canvas_hides_no_large_picture() {
        let chunk = |kind: &[u8; 4], content: &[u8]| {
            let mut whole = [kind.as_slice(), &(content.len() as u32).to_le_bytes(), content].concat();
            whole.resize(whole.len().next_multiple_of(2), 0);
            whole
        };
        let webp = |chunks: &[&[u8]]| [b"RIFF\0\0\0\0WEBP".to_vec(), chunk(b"VP8X", &[0; 10]), chunks.concat()].concat();
        let frame = |chunks: &[&[u8]]| chunk(b"ANMF", &[vec![0; 16], chunks.concat()].concat());
        let (alpha, picture, other) = (&chunk(b"ALPH", &[1; 3])[..], &chunk(b"VP8 ", &PICTURE)[..], &chunk(b"EXIF", &PICTURE)[..]);
        let beyond = &[b"ABCD".as_slice(), &u32::MAX.to_le_bytes(), &[0; 8]].concat()[..];
        let gif = |colours: &[u8], blocks: &[u8]| [b"GIF89a\x01\0\x01\0".as_slice(), colours, blocks].concat();
        let (extension, image) = ([0x21, 0xf9, 2, 7, 7, 1, 7, 0], [0x2c, 0, 0, 0, 0, 0x2c, 1, 7, 0, 0]);
        let cases = [
            ("a picture", MediaType::WebP, webp(&[picture]), (300, 7)),
            ("behind an alpha channel", MediaType::WebP, webp(&[alpha, picture]), (300, 7)),
            ("in a frame", MediaType::WebP, webp(&[&frame(&[picture])]), (300, 7)),
            ("in a frame, behind an alpha channel", MediaType::WebP, webp(&[&frame(&[alpha, picture])]), (300, 7)),
            ("in a frame, by another name", MediaType::WebP, webp(&[&frame(&[alpha, other])]), (300, 7)),
            ("behind a frame that claims too much", MediaType::WebP, webp(&[&frame(&[beyond]), picture]), (300, 7)),
            ("no picture", MediaType::WebP, webp(&[alpha, other]), (1, 1)),
            ("a frame", MediaType::Gif, gif(&[0, 0, 0], &image), (300, 7)),
            ("behind colours", MediaType::Gif, gif(&[[0x80, 0, 0].as_slice(), &[0x2c; 6]].concat(), &image), (300, 7)),
            ("behind extensions", MediaType::Gif, gif(&[0, 0, 0], &[&extension[..], &extension, &image].concat()), (300, 7)),
            ("no frame", MediaType::Gif, gif(&[0, 0, 0], &[0x3b]), (1, 1)),
        ];
        for (what, media_type, bytes, size) in cases {
            assert_eq!(claimed_size(media_type, &bytes), Some(size), "{what}");
            for length in 0..bytes.len() {
                claimed_size(media_type, &bytes[..length]);
            }
        }
    }
}
