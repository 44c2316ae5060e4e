//! From whatever a file holds to grey or RGB of 8 bits a channel.

use ::image::DynamicImage;

/// The pixels of `image`, of 8 bits, as `channels` (1: grey, else RGB) bytes a pixel, row by row. Transparent pixels are
/// composited over `background`; colour profiles and gamma are left as they are.
pub(super) fn to_channels(image: DynamicImage, channels: usize, background: [u8; 3]) -> Vec<u8> {
    match (image, channels) {
        (DynamicImage::ImageLuma8(grey), 1) => grey.into_raw(),
        (DynamicImage::ImageLuma8(grey), _) => grey.into_raw().into_iter().flat_map(|value| [value; 3]).collect(),
        (DynamicImage::ImageRgb8(rgb), 1) => luma_of(rgb.as_raw()),
        (DynamicImage::ImageRgb8(rgb), _) => rgb.into_raw(),
        (image, channels) => {
            let rgb = composite(image.into_rgba8().as_raw(), background);
            if channels == 1 { luma_of(&rgb) } else { rgb }
        }
    }
}

/// Rescales 16-bit channels, 65535 to 255; leaves the rest alone.
pub(super) fn to_eight_bits(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma16(_) => image.into_luma8().into(),
        DynamicImage::ImageLumaA16(_) => image.into_luma_alpha8().into(),
        DynamicImage::ImageRgb16(_) => image.into_rgb8().into(),
        DynamicImage::ImageRgba16(_) => image.into_rgba8().into(),
        other => other,
    }
}

/// RGBA over an opaque background, as RGB.
fn composite(rgba: &[u8], background: [u8; 3]) -> Vec<u8> {
    let (pixels, _) = rgba.as_chunks::<4>();
    pixels
        .iter()
        .flat_map(|&[red, green, blue, alpha]| {
            let blend = |front: u8, back: u8| {
                let (front, back, alpha) = (u32::from(front), u32::from(back), u32::from(alpha));
                ((front * alpha + back * (255 - alpha) + 127) / 255) as u8
            };
            [blend(red, background[0]), blend(green, background[1]), blend(blue, background[2])]
        })
        .collect()
}

/// Rec. 601 luma of RGB pixels, 0.299 R + 0.587 G + 0.114 B, in 16-bit fixed point: one byte a pixel.
pub fn luma_of(rgb: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgb.as_chunks::<3>();
    pixels
        .iter()
        .map(|&[red, green, blue]| ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 32_768) >> 16) as u8)
        .collect()
}

#[cfg(test)]
mod tests {
    use ::image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};

    use super::*;

    #[test]
    fn every_layout_becomes_grey_or_rgb() {
        let background = [10, 20, 30];
        let cases: [(&str, DynamicImage, [u8; 3], u8); 11] = [
            ("grey", ImageBuffer::from_pixel(1, 1, Luma([77_u8])).into(), [77; 3], 77),
            ("grey 16", ImageBuffer::from_pixel(1, 1, Luma([0x4d4d_u16])).into(), [77; 3], 77),
            ("rgb", ImageBuffer::from_pixel(1, 1, Rgb([255_u8, 0, 0])).into(), [255, 0, 0], 76),
            ("rgb 16", ImageBuffer::from_pixel(1, 1, Rgb([0_u16, 65_535, 0])).into(), [0, 255, 0], 150),
            ("blue", ImageBuffer::from_pixel(1, 1, Rgb([0_u8, 0, 255])).into(), [0, 0, 255], 29),
            ("opaque", ImageBuffer::from_pixel(1, 1, Rgba([1_u8, 2, 3, 255])).into(), [1, 2, 3], 2),
            ("clear", ImageBuffer::from_pixel(1, 1, Rgba([255_u8, 255, 255, 0])).into(), background, 18),
            ("half", ImageBuffer::from_pixel(1, 1, Rgba([200_u8, 100, 0, 51])).into(), [48, 36, 24], 38),
            ("clear 16", ImageBuffer::from_pixel(1, 1, Rgba([9_u16, 9, 9, 0])).into(), background, 18),
            ("grey + alpha", ImageBuffer::from_pixel(1, 1, LumaA([200_u8, 255])).into(), [200; 3], 200),
            ("clear grey 16", ImageBuffer::from_pixel(1, 1, LumaA([9_u16, 0])).into(), background, 18),
        ];
        for (name, image, rgb, grey) in cases {
            let image = to_eight_bits(image);
            assert_eq!(to_channels(image.clone(), 3, background), rgb, "{name}");
            assert_eq!(to_channels(image, 1, background), [grey], "{name}");
        }
    }
}
