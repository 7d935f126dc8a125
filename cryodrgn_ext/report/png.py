"""Small pictures as PNG files in memory: grey, or one scalar painted with the tones of a colour.

A palette of one byte per pixel is a quarter of the size of what plotting libraries write, and reports carry hundreds
of these. The format is that of the PNG specification (ISO/IEC 15948).
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3
DARKEST = 0.16  # share of the colour where no light falls
FULL_COLOR_AT = 0.62  # lightness that shows the colour itself; above, it goes to white


def grey_png(image: NDArray[np.floating], lowest: float, highest: float) -> bytes:
    """Image (H, W) in grey, black at ``lowest`` and white at ``highest``; the first row is the top one."""
    span = highest - lowest if highest > lowest else 1.0
    level = np.rint(np.clip((image - lowest) / span, 0, 1) * 255).astype(np.uint8)
    return _png(level, GREY, b"")


def painted(lightness: NDArray[np.floating], color: Sequence[float]) -> NDArray[np.uint8]:
    """Lightness (H, W) from 0 to 1 in tones of ``color``, as pixels (H, W, 3); white where it is NaN."""
    pixels: NDArray[np.uint8] = _tones(color)[_levels(lightness)]
    return pixels


def shaded_png(lightness: NDArray[np.floating], color: Sequence[float]) -> bytes:
    """Lightness (H, W) from 0 to 1 in tones of ``color`` (red, green, blue from 0 to 1); NaN is transparent."""
    return _png(_levels(lightness), PALETTE, _chunk(b"PLTE", _tones(color).tobytes()) + _chunk(b"tRNS", b"\0"))


def _levels(lightness: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Numbers of tones: 0 outside, 1 to 255 from dark to white."""
    outside = np.isnan(lightness)
    level: NDArray[np.uint8] = np.rint(np.clip(np.where(outside, 0, lightness), 0, 1) * 254 + 1).astype(np.uint8)
    level[outside] = 0
    return level


def _tones(color: Sequence[float]) -> NDArray[np.uint8]:
    """(256, 3) white for outside, then the tones of a colour from dark to white."""
    stops = np.array([DARKEST * np.asarray(color), np.asarray(color), np.ones(3)])
    at = np.linspace(0, 1, 255)
    tones = np.stack([np.interp(at, (0, FULL_COLOR_AT, 1), stops[:, channel]) for channel in range(3)], axis=1)
    rounded: NDArray[np.uint8] = np.rint(np.concatenate([np.ones((1, 3)), tones]) * 255).astype(np.uint8)
    return rounded


def data_url(png: bytes) -> str:
    """Address that carries the picture in itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _png(pixels: NDArray[np.uint8], kind: int, chunks: bytes) -> bytes:
    height, width = pixels.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: 0, none
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 9)
    return SIGNATURE + _chunk(b"IHDR", header) + chunks + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
