"""Write the images that are sent: `python images.py photos|calibration OUT COUNT [CALIBRATION.safetensors]`.

`photos` makes JPEG files of 500 x 375 pixels with the spectrum of photographs, since none ship: noise whose amplitude
falls as one over the frequency, at quality 90 about 100 kB each, like those of ImageNet. `calibration` takes the first
images of a model's calibration set, as JPEG files of quality 95.
"""

import json
import struct
import sys
from pathlib import Path

import numpy
from PIL import Image


def photo(noise, height=375, width=500):
    y, x = numpy.fft.fftfreq(height)[:, None], numpy.fft.rfftfreq(width)[None]
    frequency = numpy.maximum(numpy.hypot(y, x), 1 / width)
    planes = []
    for _ in range(3):
        spectrum = noise.normal(size=frequency.shape) + 1j * noise.normal(size=frequency.shape)
        plane = numpy.fft.irfft2(spectrum / frequency, s=(height, width))
        planes.append(plane / plane.std())
    # Photographs vary more in brightness than in colour.
    brightness, red, blue = planes[0], 0.3 * planes[1], 0.3 * planes[2]
    pixels = numpy.stack([brightness + red, brightness, brightness + blue], axis=2)
    return Image.fromarray(numpy.clip(128 + 55 * pixels, 0, 255).astype(numpy.uint8))


def calibration(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = {name: entry for name, entry in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}
    (entry,) = (entry for entry in entries.values() if entry["dtype"] == "U8")
    start, end = (8 + length + offset for offset in entry["data_offsets"])
    images = numpy.frombuffer(data[start:end], numpy.uint8).reshape(entry["shape"])
    return (Image.fromarray(image.squeeze()) for image in images)


def main():
    kind, out, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    noise = numpy.random.default_rng(0)
    made = iter(lambda: photo(noise), None) if kind == "photos" else calibration(sys.argv[4])
    out.mkdir(parents=True, exist_ok=True)
    for number, image in zip(range(count), made):
        image.save(out / f"{number:03}.jpg", quality=90 if kind == "photos" else 95)


if __name__ == "__main__":
    main()
