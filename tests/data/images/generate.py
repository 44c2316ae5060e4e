"""Writes the golden images of this folder. Run in this folder: python3 generate.py (Pillow 13.0.0, NumPy 2.4.6)."""

import io

import numpy as np
from PIL import Image

# Four quadrants of 16 x 16 pixels: red, green; blue, dark grey.
QUADRANTS = np.zeros((32, 32, 3), np.uint8)
QUADRANTS[:16, :16] = (230, 30, 30)
QUADRANTS[:16, 16:] = (30, 200, 40)
QUADRANTS[16:, :16] = (30, 40, 220)
QUADRANTS[16:, 16:] = (60, 60, 60)
rgb = Image.fromarray(QUADRANTS)

# CMYK with black generation, so that the K channel matters; Pillow writes it inverted, with Adobe's marker.
inverted = 255 - QUADRANTS.astype(int)
black = inverted.min(axis=2, keepdims=True)
ink = np.round((inverted - black) * 255 / np.maximum(255 - black, 1))
cmyk = np.concatenate([ink, black], axis=2).astype(np.uint8)
Image.fromarray(cmyk, "CMYK").save("cmyk.jpg", quality=95)

# YCCK: the same file layout, its first three channels turned into YCbCr of the inverted ink, and the transform byte
# of Adobe's marker set to 2. Pillow stores 255 - x of what it is given.
ycc = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
buffer = io.BytesIO()
Image.fromarray(np.concatenate([255 - ycc, cmyk[..., 3:]], axis=2), "CMYK").save(buffer, "JPEG", quality=95)
ycck = bytearray(buffer.getvalue())
marker = ycck.index(b"Adobe")
assert ycck[marker + 11] == 0
ycck[marker + 11] = 2
open("ycck.jpg", "wb").write(ycck)

rgb.save("progressive.jpg", quality=95, progressive=True, subsampling=2)
rgb.save("lossy.webp", quality=95)

# Four palette entries, the last one transparent.
indices = np.zeros((32, 32), np.uint8)
indices[:16, 16:], indices[16:, :16], indices[16:, 16:] = 1, 2, 3
palette = Image.fromarray(indices, "P")
palette.putpalette([230, 30, 30, 30, 200, 40, 30, 40, 220, 250, 250, 250])
palette.save("palette.png", transparency=3, bits=2)
Image.fromarray(indices < 2).save("one_bit.png")

# Waves that stay clear of 0 and 255, where the order of the two passes would show, and what Pillow makes of it; the geometry is torchvision's Resize and CenterCrop.
y, x = np.mgrid[:53, :37]
waves = [np.sin(x / 1.3) + np.cos(y / 2), np.sin(x * x / 40 + y / 5) * 2, 2 * np.sin(x / 3) * np.cos(y / 4)]
pattern = np.stack([127 + 35 * wave for wave in waves], axis=2)
source = Image.fromarray(pattern.astype(np.uint8))
source.save("pattern.png")
for name, filter, resize, crop in [
    ("bilinear_24_20", Image.BILINEAR, 24, 20),
    ("bicubic_24_20", Image.BICUBIC, 24, 20),
    ("bicubic_80_63", Image.BICUBIC, 80, 63),
]:
    resized = source.resize((resize, int(resize * source.height / source.width)), filter)
    left, top = (int(round((side - crop) / 2)) for side in resized.size)
    resized.crop((left, top, left + crop, top + crop)).save(f"pattern_{name}.png")
