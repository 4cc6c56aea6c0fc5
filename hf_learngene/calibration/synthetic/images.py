"""Images that stand in for photographs: dead leaves, and now and then pink noise. They share what photographs have in common.

Both have the spectrum of natural images, about 1 / frequency. Pink noise has nothing else (Field 1987); dead leaves also have
edges, occlusion and areas of one colour (Lee, Mumford and Huang 2001; as training data: Baradad et al. 2021, "Learning to See by
Looking at Noise"). Here their colours are a photograph's: mostly light and dark of one brightness, little saturated; and some
are out of focus.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter


LEAVES = 60
PINK = 8  # one image in so many is pink noise
SHARED = 0.65  # of a channel's noise is that of all channels: photographs are mostly grey
CONTRAST = (0.1, 0.35)  # of an image: the deviation of its leaves' brightness
SATURATION = 0.4  # of the contrast: the deviation of each channel about the brightness
BLUR = 1.5 / 64  # largest, as a share of the shorter side


def image_of(number: int, generator: np.random.Generator, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """The image of a number, (height, width, channels)."""
    return (pink_noise if number % PINK == PINK - 1 else dead_leaves)(generator, size, channels)


def pink_noise(generator: np.random.Generator, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """White noise divided by a power of its frequency, with the contrast and brightness of a photograph."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # the mean is set below
    power = 1 + generator.uniform(-0.3, 0.5)
    spectrum = np.fft.rfft2(generator.standard_normal((channels, height, width))) / frequency**power
    noise = np.fft.irfft2(spectrum, s=size)
    noise = (1 - SHARED) * noise + SHARED * noise.mean(0)
    noise *= generator.uniform(0.15, 0.3) / max(float(noise.std()), 1e-9)
    noise += generator.uniform(0.3, 0.65, (channels, 1, 1))
    return _bytes(noise.transpose(1, 2, 0))


def dead_leaves(generator: np.random.Generator, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Opaque discs, boxes and triangles of one colour each, of all sizes, on one another, more or less in focus."""
    contrast = generator.uniform(*CONTRAST)
    brightness = generator.uniform(0.3, 0.65) + contrast * generator.standard_normal((LEAVES + 1, 1))
    colours = _bytes(brightness + SATURATION * contrast * generator.standard_normal((LEAVES + 1, channels)))
    image = colours[_leaves(generator, size)]
    radius = generator.uniform(0, BLUR) * min(size)
    blurred = [Image.fromarray(image[..., c]).filter(ImageFilter.GaussianBlur(radius)) for c in range(channels)]
    return np.stack([np.asarray(c) for c in blurred], axis=-1)


def _leaves(generator: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Which leaf is seen where; 0 where there is none."""
    height, width = size
    side = min(size)
    radii = np.minimum(0.6 * side, side / 32 / np.maximum(generator.random(LEAVES), 0.03) ** 0.8)
    centres = generator.random((LEAVES, 2)) * (width, height)
    kinds = generator.integers(0, 3, LEAVES)
    corners = generator.uniform(-1, 1, (LEAVES, 6))
    seen = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(seen)
    for leaf, (radius, (x, y), kind, shape) in enumerate(zip(radii, centres, kinds, corners, strict=True), start=1):
        if kind == 0:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=leaf)
        elif kind == 1:
            across, down = radius * (0.5 + 0.5 * np.abs(shape[:2]))
            pen.rectangle([x - across, y - down, x + across, y + down], fill=leaf)
        else:
            pen.polygon((np.tile([x, y], 3) + radius * 1.3 * shape).tolist(), fill=leaf)
    return np.asarray(seen)


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8)


__all__ = ["dead_leaves", "image_of", "pink_noise"]
