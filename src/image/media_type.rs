//! Which image formats are read, and how they are told apart.

/// An image format that [`super::decode()`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// JPEG: baseline or progressive; grey, YCbCr, RGB, CMYK or YCCK.
    Jpeg,
    /// PNG; of an animated one, the default image.
    Png,
    /// WebP, lossy or lossless; of an animated one, the first frame.
    WebP,
    /// GIF, the first frame.
    Gif,
    /// Windows bitmap.
    Bmp,
}

/// The content types a request may declare for an image. `application/octet-stream` stands for any of the others:
/// the format always comes from the content.
pub const ACCEPTED_CONTENT_TYPES: [&str; 6] = [
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "application/octet-stream",
];

/// Whether `content_type`, the value of a `Content-Type` header with or without parameters, may name an image.
pub fn accepts_content_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    ACCEPTED_CONTENT_TYPES
        .iter()
        .any(|accepted| accepted.eq_ignore_ascii_case(essence))
}

impl MediaType {
    /// The format that the first bytes of a file show, or `None` if it is none of those read here.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::WebP)
        } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
            Some(Self::Gif)
        } else if bytes.starts_with(b"BM") {
            Some(Self::Bmp)
        } else {
            None
        }
    }

    /// The name as in a `Content-Type` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
        }
    }
}

impl std::fmt::Display for MediaType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let cases = [
            ("image/jpeg", true),
            ("IMAGE/PNG", true),
            ("image/webp; q=1", true),
            ("application/octet-stream", true),
            ("image/svg+xml", false),
            ("text/plain", false),
            ("image", false),
            ("", false),
        ];
        for (content_type, accepted) in cases {
            assert_eq!(
                accepts_content_type(content_type),
                accepted,
                "{content_type:?}"
            );
        }
    }

    #[test]
    fn sniffing_reads_the_content() {
        let cases: [(&[u8], Option<MediaType>); 9] = [
            (b"\xff\xd8\xff\xe0", Some(MediaType::Jpeg)),
            (b"\x89PNG\r\n\x1a\nrest", Some(MediaType::Png)),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some(MediaType::WebP)),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"GIF87a", Some(MediaType::Gif)),
            (b"GIF89a", Some(MediaType::Gif)),
            (b"BM", Some(MediaType::Bmp)),
            (b"<svg", None),
            (b"", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(MediaType::sniff(bytes), expected, "{bytes:?}");
        }
    }
}
