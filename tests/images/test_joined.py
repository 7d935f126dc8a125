"""Two sets of particles as one: every row stays what it was."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.images.joined import join_images
from cryodrgn_ext.images.particle_images import ParticleImages

BOX = 16


def make(n: int, seed: int, noise: float, pixel_size_A: float = 5.0, ctf: bool = True) -> ParticleImages:
    rng = torch.Generator().manual_seed(seed)
    one = torch.ones(n)
    parameters = CtfParameters(
        1e4 + 1e3 * torch.rand(n, generator=rng), one * 1e4, one * 0, one * 300, one * 2.7, one * 0.1, one * 0, one * 0,
        one,
    )  # fmt: skip
    rotation = torch.linalg.qr(torch.randn(n, 3, 3, generator=rng)).Q
    pictures = torch.randn(n, BOX, BOX, generator=rng)
    shift = torch.randn(n, 2, generator=rng)
    return ParticleImages.from_tensors(
        pictures, rotation, shift, pixel_size_A, parameters if ctf else None, pixel_noise_sd=noise
    )


def test_every_image_is_what_it_was() -> None:
    first, second = make(5, 1, 1.0), make(4, 2, 3.0)
    both = join_images(first, second)
    rows = torch.tensor([7, 0, 4, 5, 2])
    batch = both.batch(rows)
    for place, row in enumerate(rows.tolist()):
        own = first.batch(torch.tensor([row])) if row < 5 else second.batch(torch.tensor([row - 5]))
        torch.testing.assert_close(batch.coefficients[place], own.coefficients[0])
        torch.testing.assert_close(batch.ctf[place], own.ctf[0])
        torch.testing.assert_close(batch.points[place], own.points[0])


def test_subsets_and_resident_copies_follow() -> None:
    both = join_images(make(5, 1, 1.0), make(4, 2, 3.0))
    rows = torch.tensor([8, 1, 6])
    torch.testing.assert_close(
        both.subset(rows).batch(torch.arange(3)).coefficients, both.load().batch(rows).coefficients
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make(2, 3, 1.0, pixel_size_A=4.0), "working pixel"),
        (make(2, 3, 1.0, ctf=False), "CTF"),
    ],
)
def test_sets_that_differ_are_refused(other: ParticleImages, words: str) -> None:
    with pytest.raises(InputError, match=words):
        join_images(make(2, 1, 1.0), other)
