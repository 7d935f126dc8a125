"""What a pass of the subspace engine moves and computes for each image, and how long a machine must take for it.

Counted from the torch forms of the two loops (:mod:`cryodrgn_ext.engines.subspace.torch_form`), operation by operation:
every intermediate array is written and read again, as it is without a fused kernel. With Qp components (padded), L
entries of a packed symmetric matrix (padded) and M coefficients of an image, in numbers of 4 bytes for a coefficient:

    one corner of a cell     gather: 2 Qp read, 2 Qp written; times its weight: the same; added: 4 Qp read, 2 Qp written
    gram                     8 corners; times the CTF: 2 Qp read, 2 Qp written; two products: 2 Qp read each
    accumulate               8 corners; data and model terms: 12 Qp; and 8 corners again: weights L written, L read and
                             2 L at the voxel; right-hand sides copied, multiplied, read: 10 Qp, and 4 Qp at the voxel

A fused kernel needs of this: 8 corners read (16 Qp, mostly from the cache, since images share voxels) and 8 corners
added (8 (L + 2 Qp), read and written at the voxel).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cryodrgn_ext.engines.subspace.grid import padded

#: Of an H100 SXM: its memory (GB/s), single precision without and with tensor cores (TF32), bfloat16 (Gflop/s), and
#: the link to the host (PCIe 5, 16 lanes, one way).
H100 = {"memory_GB_s": 3350.0, "float32_Gflop_s": 67e3, "bfloat16_Gflop_s": 989e3, "host_GB_s": 64.0}


@dataclass(frozen=True)
class Work:
    """Bytes moved and operations of one image in one pass.

    Attributes
    ----------
    bytes, fused_bytes : float
        By the torch form; by a kernel that keeps intermediate values to itself.
    operations : float
    """

    bytes: float
    fused_bytes: float
    operations: float

    def seconds(self, memory_GB_s: float, Gflop_s: float, fused: bool = False) -> float:
        """The longer of moving and computing."""
        moved = self.fused_bytes if fused else self.bytes
        return max(moved / memory_GB_s, self.operations / Gflop_s) / 1e9

    def __add__(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(self.bytes + other.bytes, self.fused_bytes + other.fused_bytes, self.operations + other.operations)


def coefficients(box: int) -> int:
    """Coefficients of half of an image's disc up to Nyquist."""
    return round(math.pi * (box / 2) ** 2 / 2)


def gram_work(box: int, components: int) -> Work:
    """Inner products of all components at the coefficients of an image."""
    q, wide = components + 1, padded(components + 1)
    each = 8 * 14 * wide + 8 * wide
    fused = 16 * wide + 3
    operations = 8 * 4 * wide + 4 * q * q + 4 * q
    m = coefficients(box)
    return Work(4.0 * each * m, 4.0 * fused * m, float(operations * m))


def accumulate_work(box: int, components: int) -> Work:
    """Normal equations of all components, spread over the voxels."""
    q, wide = components + 1, padded(components + 1)
    packed = padded(q * (q + 1) // 2)
    each = 8 * 14 * wide + 12 * wide + 8 * (4 * packed + 14 * wide)
    fused = 16 * wide + 2 * 8 * (packed + 2 * wide) + 3
    operations = 8 * 4 * wide + 4 * q * wide + 16 * packed + 32 * wide
    m = coefficients(box)
    return Work(4.0 * each * m, 4.0 * fused * m, float(operations * m))


def from_host_bytes(box: int) -> float:
    """Bytes of an image's coefficients and CTF parameters, when they are read anew in every pass (float16 store)."""
    return 4.0 * coefficients(box) + 64.0


def paper_table() -> str:
    """Markdown: microseconds for an image and pass on an H100, and what bounds it."""
    lines = [
        "| box, components | moved (torch, fused) | operations | H100: torch form | fused | from the host |",
        "|---|---|---|---|---|---|",
    ]
    for box in (64, 128, 256):
        for components in (8, 16):
            work = gram_work(box, components) + accumulate_work(box, components)
            torch_us, fused_us = (
                1e6 * work.seconds(H100["memory_GB_s"], H100["float32_Gflop_s"], fused) for fused in (False, True)
            )
            host_us = from_host_bytes(box) / H100["host_GB_s"] / 1e3
            lines.append(
                f"| {box}, {components} | {work.bytes / 1e6:.0f}, {work.fused_bytes / 1e6:.0f} MB | "
                f"{work.operations / 1e6:.0f} Mflop | {torch_us:.0f} µs | {fused_us:.0f} µs | {host_us:.1f} µs |"
            )
    return "\n".join(lines)
