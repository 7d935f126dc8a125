"""Four rotations for the price of one: central sections that hold the same values in other places.

A rotation by 180° in the plane conjugates a section, P(-k) = conj(P(k)); the view from behind is the one at (kx, -ky).
Split the products of a section with an image into four sums,

    a: real parts,       even in ky        b: imaginary parts, even in ky
    c: real parts,       odd in ky         d: imaginary parts, odd in ky

(values at kx = 0 have no partner among the half plane's coefficients, and go where their signs say). Then the products
of the section, of it rotated by 180°, of the view from behind and of that one rotated by 180° are

    a + b + c + d,    a - b + c - d,    a + b - c - d,    a - b - c + d.

Instead of four matrix products of 2 M real numbers each there are four of M / 2. It is exact, and it asks for a grid in
which such rotations come in fours (:func:`cryodrgn_ext.fourier.so3_grid.quads`) and for images whose frequencies are
not sheared against the model's.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryodrgn_ext.fourier import so3_grid


@dataclass(frozen=True)
class Mirrors:
    """Pairs of coefficients of a half plane.

    Attributes
    ----------
    order : Tensor
        (M,) int64: coefficients with kx, ky > 0, their partners at (kx, -ky) in the same order, those with ky = 0,
        those with kx = 0, the origin. All else here is about coefficients in this order.
    n_pairs, n_x, n_y : int
        Pairs; coefficients on the axes ky = 0 and kx = 0, without the origin.
    """

    order: Tensor
    n_pairs: int
    n_x: int
    n_y: int

    @classmethod
    def of(cls, kxy: Tensor) -> Mirrors:
        """Pair the frequencies (M, 2) of a prefix of a half plane; they begin with the origin."""
        kx, ky = kxy.cpu().unbind(1)
        place = {pair: i for i, pair in enumerate(zip(kx.tolist(), ky.tolist(), strict=True))}
        upper = [i for (x, y), i in place.items() if x > 0 and y > 0]
        lower = [place[x, -y] for x, y in place if x > 0 and y > 0]
        on_x = [i for (x, y), i in place.items() if x > 0 and y == 0]
        on_y = [i for (x, y), i in place.items() if x == 0 and y > 0]
        order = torch.tensor(upper + lower + on_x + on_y + [0], device=kxy.device)
        return cls(order, len(upper), len(on_x), len(on_y))

    @property
    def _sections(self) -> list[slice]:
        """Where in :meth:`split`'s result a, b, c and d are."""
        pairs, x, y = self.n_pairs, self.n_x, self.n_y
        ends = [0]
        for length in (pairs + x + y + 1, pairs + x, pairs, pairs + y):
            ends.append(ends[-1] + length)
        return [slice(low, high) for low, high in itertools.pairwise(ends)]

    def split(self, values: Tensor) -> Tensor:
        """Real numbers (..., 2 M - 1) from complex coefficients (..., M).

        The product of two such rows is the real part of the product of conj(one) with the other.
        """
        p, x, y = self.n_pairs, self.n_x, self.n_y
        upper, lower, on_x, on_y, origin = values.split([p, p, x, y, 1], dim=-1)
        even, odd = (upper + lower) * math.sqrt(0.5), (upper - lower) * math.sqrt(0.5)
        parts = (even.real, on_x.real, on_y.real, origin.real, even.imag, on_x.imag, odd.real, odd.imag, on_y.imag)
        return torch.cat(parts, dim=-1)

    def join(self, split: Tensor) -> Tensor:
        """Undo :meth:`split`: complex coefficients (..., M) from real numbers (..., 2 M - 1)."""
        p, x, y = self.n_pairs, self.n_x, self.n_y
        even, re_x, re_y, origin, even_i, im_x, odd, odd_i, im_y = split.split([p, x, y, 1, p, x, p, p, y], dim=-1)
        even_c, odd_c = torch.complex(even, even_i), torch.complex(odd, odd_i)
        pairs = [(even_c + odd_c) * math.sqrt(0.5), (even_c - odd_c) * math.sqrt(0.5)]
        on_axes = [torch.complex(re_x, im_x), torch.complex(re_y, im_y)]
        return torch.cat([*pairs, *on_axes, torch.complex(origin, torch.zeros_like(origin))], dim=-1)

    def swap(self, values: Tensor) -> Tensor:
        """Values (..., M) at (kx, -ky)."""
        upper, lower, rest = values.split([self.n_pairs, self.n_pairs, self.n_x + self.n_y + 1], dim=-1)
        return torch.cat([lower, upper, rest], dim=-1)

    def products(self, images: Tensor, sections: Tensor, out: Tensor) -> None:
        """Products of split images with split sections and with their mirrors.

        Parameters
        ----------
        images : Tensor
            (B, T, 2 M - 1).
        sections : Tensor
            (G, 2 M - 1), or (B, G, 2 M - 1) where each image has its own.
        out : Tensor
            (B, T, 4, G), output, in the order of :func:`so3_grid.quads`.
        """
        columns = sections.mT
        parts = [images[..., where] @ columns[..., where, :] for where in self._sections]
        a, b, c, d = parts
        minus, other = a - b, c - d
        a += b
        c += d
        torch.add(a, c, out=out[:, :, 0])
        torch.add(minus, other, out=out[:, :, 1])
        torch.sub(a, c, out=out[:, :, 2])
        torch.sub(minus, other, out=out[:, :, 3])

    def add_adjoint(self, weights: Tensor, images: Tensor, out: Tensor) -> None:
        """Add weighted sums of split images, each seen from where a section's mirror sees it, to sections.

        Parameters
        ----------
        weights : Tensor
            (B, 4, G) of each image for a section and its mirrors, in the order of :meth:`products`.
        images : Tensor
            (B, 2 M - 1).
        out : Tensor
            (G, 2 M - 1), added to.
        """
        front, back = weights[:, 0] + weights[:, 1], weights[:, 2] + weights[:, 3]
        turned, back_turned = weights[:, 0] - weights[:, 1], weights[:, 2] - weights[:, 3]
        signs = (front + back, turned + back_turned, front - back, turned - back_turned)
        for one, where in zip(signs, self._sections, strict=True):
            out[:, where] += one.mT @ images[:, where]


_QUADS: dict[int, tuple[Tensor, Tensor]] = {}


def quads_of(rotation: Float[Tensor, "G 3 3"]) -> Int[Tensor, "quarter 4"] | None:
    """(G / 4, 4) int64 on the CPU when ``rotation`` (G, 3, 3) is a whole grid of :mod:`so3_grid`; else None."""
    levels = [level for level in range(4) if so3_grid.n_rotations(level) == len(rotation)]
    if not levels:
        return None
    (level,) = levels
    if level not in _QUADS:
        _QUADS[level] = torch.from_numpy(so3_grid.grid(level)).float(), torch.from_numpy(so3_grid.quads(level))
    grid, quads = _QUADS[level]
    return quads if torch.equal(rotation.cpu(), grid) else None
