"""Images that stand in for photographs: pink noise, and dead leaves. They share what photographs have in common.

Both have the spectrum of natural images, about 1 / frequency. Pink noise has nothing else (Field 1987); dead leaves also have
edges, occlusion and areas of one colour (Lee, Mumford and Huang 2001; as training data: Baradad et al. 2021, "Learning to See by
Looking at Noise").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


LEAVES = 60
SHARED = 0.65  # of a channel's noise is that of all channels: photographs are mostly grey


def image_of(number: int, generator: np.random.Generator, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """The image of a number, (height, width, channels): even ones are pink noise, odd ones dead leaves."""
    return (dead_leaves if number % 2 else pink_noise)(generator, size, channels)


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
    """Opaque discs, boxes and triangles of one colour each, of all sizes, on one another."""
    height, width = size
    side = min(size)
    colours = generator.integers(0, 256, (LEAVES + 1, channels))
    radii = np.minimum(0.6 * side, side / 32 / np.maximum(generator.random(LEAVES), 0.03) ** 0.8)
    centres = generator.random((LEAVES, 2)) * (width, height)
    kinds = generator.integers(0, 3, LEAVES)
    corners = generator.uniform(-1, 1, (LEAVES, 6))
    # PIL draws in at most four channels; each of its planes is one channel here
    planes = [Image.new("L", (width, height), int(c)) for c in colours[0]]
    pens = [ImageDraw.Draw(p) for p in planes]
    for colour, radius, centre, kind, shape in zip(colours[1:], radii, centres, kinds, corners, strict=True):
        x, y = centre
        spread = 0.5 + 0.5 * np.abs(shape[:2])
        box = [x - radius * spread[0], y - radius * spread[1], x + radius * spread[0], y + radius * spread[1]]
        triangle = (np.tile(centre, 3) + radius * 1.3 * shape).tolist()
        for pen, value in zip(pens, colour.tolist(), strict=True):
            if kind == 0:
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=value)
            elif kind == 1:
                pen.rectangle(box, fill=value)
            else:
                pen.polygon(triangle, fill=value)
    return np.stack([np.asarray(p) for p in planes], axis=-1)


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8)


__all__ = ["dead_leaves", "image_of", "pink_noise"]
