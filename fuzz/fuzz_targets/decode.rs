//! Whatever a file holds, decoding ends with the pixels it says, within the limits, or with a typed error.

#![no_main]

use bignas::image::{DecodeLimits, decode};
use libfuzzer_sys::fuzz_target;

const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 18 };

fuzz_target!(|file: &[u8]| {
    for channels in [1, 3] {
        if let Ok(pixels) = decode(file, &LIMITS, channels, [0; 3]) {
            let count = u64::from(pixels.width) * u64::from(pixels.height);
            assert!((1..=LIMITS.max_pixels).contains(&count), "{count} pixels");
            assert_eq!(pixels.data.len() as u64, count * channels as u64);
        }
    }
});
