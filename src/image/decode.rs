//! From untrusted bytes to pixels.

use std::error::Error;
use std::io::{Cursor, ErrorKind};
use std::panic::catch_unwind;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::media_type::MediaType;
use super::patch::Pixels;
use super::size::claimed_size;
use super::{colour, jpeg};

/// The widest pixel that a decoder writes: four channels of 16 bits, in bytes.
const MAX_PIXEL_BYTES: u64 = 8;
/// What a decoder may take beyond the pixels (tables, chunks, one row), in bytes.
const DECODER_SLACK_BYTES: u64 = 16 << 20;

/// How much one image may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The most pixels (width times height) an image may have.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    /// 32 Mi pixels: more than most cameras, at most 256 MiB while decoding, and half as much again while 16 bits become 8.
    fn default() -> Self {
        Self { max_pixels: 32 << 20 }
    }
}

/// Why bytes could not be turned into pixels.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the image is empty; send the bytes of an image file")]
    Empty,
    /// The content is none of the known formats.
    #[error("the content is not an image in a known format; send JPEG, PNG, WebP, GIF or BMP")]
    UnknownFormat,
    /// Refused from the header alone.
    #[error(
        "the image is {width}x{height} = {} pixels, above the limit of {max_pixels}; send a smaller one",
        u64::from(*width) * u64::from(*height)
    )]
    TooLarge {
        /// Width in pixels that the header claims.
        width: u32,
        /// Height in pixels that the header claims.
        height: u32,
        /// The limit in pixels.
        max_pixels: u64,
    },
    /// Width or height is zero.
    #[error("the {media_type} image has no pixels")]
    NoPixels {
        /// The format of the content.
        media_type: MediaType,
    },
    /// The file ends before the image does.
    #[error("the {media_type} image is truncated; send the whole file")]
    Truncated {
        /// The format of the content.
        media_type: MediaType,
    },
    /// The content contradicts its format.
    #[error("the {media_type} image is corrupt; encode it again")]
    Corrupt {
        /// The format of the content.
        media_type: MediaType,
        /// What the decoder says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A valid image of a kind that is not read here.
    #[error("this kind of {media_type} image is not supported; convert it to PNG or to a baseline JPEG")]
    Unsupported {
        /// The format of the content.
        media_type: MediaType,
        /// What the decoder says.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Decodes the first frame of an image file, upright, to grey (`channels` 1) or RGB (otherwise) of 8 bits.
///
/// The format is sniffed from the content. The EXIF orientation is applied, transparent pixels are composited over
/// `background`, 16 bits become 8, colour becomes grey as Rec. 601 luma, and grey becomes colour by repetition. Colour
/// profiles are ignored.
///
/// # Errors
///
/// [`DecodeError`]; an image above the limits is refused from its header, before memory is taken for it.
pub fn decode(bytes: &[u8], limits: &DecodeLimits, channels: usize, background: [u8; 3]) -> Result<Pixels, DecodeError> {
    let Header { media_type, .. } = check_header(bytes, limits)?;
    // The decoders are other people's code fed with strangers' bytes: a panic in one of them costs the request, not
    // the process.
    let decoded = catch_unwind(|| match media_type {
        MediaType::Jpeg => jpeg::decode(bytes, limits),
        MediaType::Png => decode_generic(bytes, media_type, ImageFormat::Png, limits),
        MediaType::WebP => decode_generic(bytes, media_type, ImageFormat::WebP, limits),
        MediaType::Gif => decode_generic(bytes, media_type, ImageFormat::Gif, limits),
        MediaType::Bmp => decode_generic(bytes, media_type, ImageFormat::Bmp, limits),
    });
    let (image, orientation) =
        decoded.unwrap_or_else(|_| Err(DecodeError::Corrupt { media_type, source: "the decoder panicked".into() }))?;
    // Before the turn, which takes as much memory again.
    let mut image = colour::to_eight_bits(image);
    image.apply_orientation(orientation);

    let channels = if channels == 1 { 1 } else { 3 };
    let (width, height) = (image.width(), image.height());
    let data = colour::to_channels(image, channels, background);
    Ok(Pixels { width, height, channels, data })
}

/// What the first bytes of an image file show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The format.
    pub media_type: MediaType,
    /// Width times height as claimed; none where only a decoder can tell.
    pub pixels: Option<u64>,
}

/// Reads the header of an image file without decoding any of it.
///
/// # Errors
///
/// [`DecodeError`] where the file is empty, of no known format, or above the limits.
pub fn check_header(bytes: &[u8], limits: &DecodeLimits) -> Result<Header, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let media_type = MediaType::sniff(bytes).ok_or(DecodeError::UnknownFormat)?;
    let size = claimed_size(media_type, bytes);
    if let Some((width, height)) = size {
        limits.check(media_type, width, height)?;
    }
    Ok(Header { media_type, pixels: size.map(|(width, height)| u64::from(width) * u64::from(height)) })
}

impl DecodeLimits {
    pub(super) fn check(&self, media_type: MediaType, width: u32, height: u32) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::NoPixels { media_type });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(DecodeError::TooLarge { width, height, max_pixels: self.max_pixels });
        }
        Ok(())
    }
}

fn decode_generic(
    bytes: &[u8],
    media_type: MediaType,
    format: ImageFormat,
    limits: &DecodeLimits,
) -> Result<(DynamicImage, Orientation), DecodeError> {
    let from_image = |error| from_image(media_type, error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = Limits::no_limits();
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(MAX_PIXEL_BYTES).saturating_add(DECODER_SLACK_BYTES));
    reader.limits(allowed);

    let mut decoder = reader.into_decoder().map_err(from_image)?;
    let (width, height) = decoder.dimensions();
    limits.check(media_type, width, height)?;
    let orientation = decoder.orientation().map_err(from_image)?;
    let image = DynamicImage::from_decoder(decoder).map_err(from_image)?;
    Ok((image, orientation))
}

fn from_image(media_type: MediaType, error: ImageError) -> DecodeError {
    match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => DecodeError::Truncated { media_type },
        ImageError::Unsupported(error) => DecodeError::Unsupported { media_type, source: Box::new(error) },
        error => DecodeError::Corrupt { media_type, source: Box::new(error) },
    }
}
