"""Writes pillow.json: what Pillow makes of small images with each operation of AutoAugment (needs numpy and pillow)."""

import json
from pathlib import Path

import numpy
import PIL
from PIL import Image, ImageEnhance, ImageOps


def pattern(side, channels):
    """Values from 30 to 220, without random numbers; every channel differs."""
    y, x, channel = numpy.indices((side, side, channels))
    values = 30 + (x * x * 23 + y * 41 + x * y * 17 + channel * 67) % 191
    return Image.fromarray(values.astype(numpy.uint8).squeeze(axis=2) if channels == 1 else values.astype(numpy.uint8))


def move(image, matrix):
    fill = (128,) * len(image.getbands())
    nearest = Image.Resampling.NEAREST
    return image.transform(image.size, Image.Transform.AFFINE, matrix, nearest, fillcolor=fill if len(fill) > 1 else 128)


def turn(image, degrees):
    return image.rotate(degrees, fillcolor=128 if image.mode == "L" else (128, 128, 128))


def enhance(kind):
    return lambda image, level, sign: kind(image).enhance(0.1 + 1.8 * level)


# Each takes the image, the magnitude as a fraction of the highest, and the sign.
OPERATIONS = {
    "ShearX": lambda image, level, sign: move(image, (1, 0.3 * level * sign, 0, 0, 1, 0)),
    "ShearY": lambda image, level, sign: move(image, (1, 0, 0, 0.3 * level * sign, 1, 0)),
    "TranslateX": lambda image, level, sign: move(image, (1, 0, 150 / 331 * image.width * level * sign, 0, 1, 0)),
    "TranslateY": lambda image, level, sign: move(image, (1, 0, 0, 0, 1, 150 / 331 * image.height * level * sign)),
    "Rotate": lambda image, level, sign: turn(image, 30 * level * sign),
    "AutoContrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "Invert": lambda image, level, sign: ImageOps.invert(image),
    "Equalize": lambda image, level, sign: ImageOps.equalize(image),
    "Solarize": lambda image, level, sign: ImageOps.solarize(image, 256 - 256 * level),
    "Posterize": lambda image, level, sign: ImageOps.posterize(image, round(8 - 4 * level)),
    "Contrast": enhance(ImageEnhance.Contrast),
    "Color": enhance(ImageEnhance.Color),
    "Brightness": enhance(ImageEnhance.Brightness),
    "Sharpness": enhance(ImageEnhance.Sharpness),
}


def cases(name, image):
    for operation, change in OPERATIONS.items():
        # Equalize leaves images of fewer pixels than levels alone, so that it alone sees the larger one.
        if (name == "large") != (operation == "Equalize"):
            continue
        for magnitude, sign in [(3, 1), (8, -1)]:
            data = numpy.asarray(change(image, magnitude / 9, sign)).tobytes().hex()
            yield {"operation": operation, "magnitude": magnitude, "negative": sign < 0, "image": name, "data": data}


def main():
    images = {"colour": pattern(6, 3), "grey": pattern(6, 1), "large": pattern(17, 1)}
    described = [
        {"image": name, "size": image.width, "channels": len(image.getbands()), "data": numpy.asarray(image).tobytes().hex()}
        for name, image in images.items()
    ]
    rows = [case for name, image in images.items() for case in cases(name, image)]
    lines = lambda values: ",\n".join("    " + json.dumps(value) for value in values)
    text = f'{{\n  "pillow": "{PIL.__version__}",\n  "images": [\n{lines(described)}\n  ],\n  "cases": [\n{lines(rows)}\n  ]\n}}\n'
    Path(__file__).with_name("pillow.json").write_text(text)


if __name__ == "__main__":
    main()
