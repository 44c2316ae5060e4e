//! JPEG, decoded strictly.
//!
//! Decoders made for viewing fill what is missing with grey. Classifying grey as if it were the photograph would be
//! worse than saying so, hence the strict mode and the check for the end marker.

use std::error::Error;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::{DecodeError, DecodeLimits};
use super::media_type::MediaType;

/// Second byte of the marker that starts a scan.
const START_OF_SCAN: u8 = 0xda;
/// The marker that ends the image.
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// What the segments before the first scan say.
pub(super) struct Header {
    /// Width and height in pixels, if a frame header was reached.
    pub size: Option<(u32, u32)>,
    /// Where the first scan header starts, if one was reached.
    pub scan: Option<usize>,
}

/// Walks the segments of a JPEG up to its first scan, without decoding anything. Reads as far as it can: what is
/// missing is `None`.
pub(super) fn read_header(bytes: &[u8]) -> Header {
    let mut header = Header { size: None, scan: None };
    // The first two bytes are the start-of-image marker.
    let mut at = 2;
    while let Some(&[prefix, marker]) = bytes.get(at..at + 2) {
        // Any number of 0xff may fill the space before a marker.
        if prefix != 0xff || marker == 0xff {
            at += 1;
            continue;
        }
        if marker == START_OF_SCAN {
            header.scan = Some(at);
            return header;
        }
        // Markers without a segment: stuffing, TEM, restarts, start and end of image.
        if matches!(marker, 0x00 | 0x01 | 0xd0..=0xd9) {
            at += 2;
            continue;
        }
        let Some(&[high, low]) = bytes.get(at + 2..at + 4) else {
            break;
        };
        if is_start_of_frame(marker)
            && let Some(&[height_high, height_low, width_high, width_low]) = bytes.get(at + 5..at + 9)
        {
            let height = u16::from_be_bytes([height_high, height_low]);
            let width = u16::from_be_bytes([width_high, width_low]);
            header.size = Some((u32::from(width), u32::from(height)));
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
    }
    header
}

/// SOF0 to SOF15, without the three codes in that range that mean tables (DHT, JPG, DAC).
fn is_start_of_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

/// Decodes a JPEG to grey or RGB, with the orientation that its EXIF data asks for (not applied yet). CMYK and YCCK
/// follow Adobe's inverted convention, as files in the wild do.
///
/// The decoder's own reading of the header is held to the limits, before it takes memory: [`read_header`] may be led past another frame
/// header than the one that counts.
///
/// # Errors
///
/// [`DecodeError::TooLarge`] and [`DecodeError::NoPixels`]; [`DecodeError::Truncated`] where the end marker is missing, [`DecodeError::Corrupt`] and
/// [`DecodeError::Unsupported`] as the decoder says.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<(DynamicImage, Orientation), DecodeError> {
    let scan = read_header(bytes).scan.ok_or(DecodeError::Truncated { media_type: MediaType::Jpeg })?;
    let ended = bytes[scan..].windows(2).rev().any(|pair| pair == END_OF_IMAGE);
    if !ended {
        return Err(DecodeError::Truncated { media_type: MediaType::Jpeg });
    }

    let options =
        DecoderOptions::default().set_strict_mode(true).set_max_width(usize::from(u16::MAX)).set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(from_zune)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| corrupt("it has no frame header".into()))?;
    let (width, height) = (width as u32, height as u32);
    limits.check(MediaType::Jpeg, width, height)?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let output = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(output));

    let data = decoder.decode().map_err(from_zune)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms);
    let image = if grey {
        GrayImage::from_raw(width, height, data).map(DynamicImage::ImageLuma8)
    } else {
        RgbImage::from_raw(width, height, data).map(DynamicImage::ImageRgb8)
    };
    let image = image.ok_or_else(|| corrupt("fewer pixels than the header says".into()))?;
    Ok((image, orientation))
}

fn corrupt(source: Box<dyn Error + Send + Sync>) -> DecodeError {
    DecodeError::Corrupt { media_type: MediaType::Jpeg, source }
}

fn from_zune(error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::Unsupported(_) => DecodeError::Unsupported { media_type: MediaType::Jpeg, source: Box::new(error) },
        DecodeErrors::ExhaustedData => DecodeError::Truncated { media_type: MediaType::Jpeg },
        error => corrupt(Box::new(error)),
    }
}
