"""Radial noise power from the surroundings of the particles.

The part of an image outside the particle circle has an awkward shape, and a periodogram of it would smear the
spectrum. Its autocorrelation, divided lag by lag by the autocorrelation of the shape, is unbiased for any
stationary noise; the power that the noise has in the coefficients of a windowed image follows exactly from it:

    E|FT(m n)(k)|² = Σ_τ (m ⋆ m)(τ) r(τ) exp(-2πi k·τ / D)

with window m and noise autocorrelation r. We report this divided by mean(m²): the density of the noise, which is
what a likelihood of the signal inside the window needs (what the window removed from the noise is not information
that was gained). Whitened coefficients of windowed images therefore have noise power mean(m²) <= 1.

The background that was fitted and subtracted (:mod:`cryodrgn_ext.images.background`) took a part of the noise of the
lowest frequencies with it where it was fitted, and brought noise to where it was extrapolated. With functions e_a,
orthonormal over the fitted pixels b_a = e_a * region, and noise of power s per pixel at such low frequencies, the
products of pixels at a lag τ are smaller by s Σ_a (b_a ⋆ b_a)(τ); s follows from far lags, at which noise has no
memory; and coefficients are larger by s Σ_a (|FT(m e_a)|² - 2 Re FT(m e_a)* FT(m b_a)).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cryodrgn_ext.images.preprocessing import radius_grid


def _padded_power(images: Tensor) -> Tensor:
    """(..., D, D) real -> (..., 2D, D + 1): power spectrum of the images padded by zeros to twice their size."""
    d = images.shape[-1]
    spectrum: Tensor = torch.fft.rfft2(images, s=(2 * d, 2 * d))
    return spectrum.abs().square()


class NoiseEstimator:
    """Accumulates images of one optics group and gives their noise power per shell.

    Parameters
    ----------
    box_size : int
        Native box D.
    particle_radius_px : float
        Only pixels farther than this from the box centre are used.
    window : Tensor
        (D, D) window that the images whose coefficients are to be whitened will have.
    fitted : Tensor, optional
        (K, D²) functions that were fitted to these pixels and subtracted; the mean only when omitted.
    """

    def __init__(self, box_size: int, particle_radius_px: float, window: Tensor, fitted: Tensor | None = None) -> None:
        self.box_size = box_size
        self.n_images = 0
        self._region = (radius_grid(box_size) > particle_radius_px).double()
        self._window = window.double()
        functions = torch.ones(1, box_size**2, dtype=torch.float64) if fitted is None else fitted.double()
        masked = functions * self._region.flatten()
        factor = torch.linalg.cholesky(masked @ masked.T)
        self._fitted = torch.linalg.solve_triangular(factor, functions, upper=False).view(-1, box_size, box_size)
        self._power = torch.zeros(2 * box_size, box_size + 1, dtype=torch.float64)

    def add(self, images: Float[Tensor, "B D D"]) -> None:
        """Add (B, D, D) images whose background mean has been removed."""
        if not len(images):
            return
        region = self._region.to(images.dtype)
        for part in images.split(max(1, 2**24 // self.box_size**2 // 4)):
            self._power += _padded_power(part * region).sum(0).double()
        self.n_images += len(images)

    def autocorrelation(self) -> Float64[Tensor, "L L"]:
        """(2D, 2D) float64 noise autocorrelation r(τ), lag 0 at index (0, 0), periodic indices."""
        return self._noise()[0]

    def _noise(self) -> tuple[Tensor, float]:
        """Autocorrelation of the noise, and its power per pixel at the frequencies of the fitted functions."""
        d2 = 2 * self.box_size
        overlap = torch.fft.irfft2(_padded_power(self._region), s=(d2, d2))
        products = torch.fft.irfft2(self._power / max(self.n_images, 1), s=(d2, d2))
        taken = torch.fft.irfft2(_padded_power(self._fitted * self._region).sum(0), s=(d2, d2))
        enough = overlap > 0.5
        lag = torch.fft.fftfreq(d2, 1.0 / d2, dtype=torch.float64)
        distance = torch.sqrt(lag[:, None] ** 2 + lag[None, :] ** 2)
        # Noise has no memory over half a box: what is left there is what the fit took. Least squares by overlap.
        far = enough & (distance > self.box_size / 2) & (distance < self.box_size)
        low = -(products * taken / overlap)[far].sum() / (taken.square() / overlap)[far].sum()
        r = torch.where(enough, (products + low * taken) / overlap.clamp_min(0.5), torch.zeros(()).double())
        return r, float(low)

    def shell_power(self) -> Float64[Tensor, " S"]:
        """(D // 2 + 1,) float64: noise power E|n(k)|² of a native coefficient (unnormalised DFT), per nearest shell.

        Shell 0 repeats shell 1: the background mean is gone and nothing can be learnt about it.
        """
        autocorrelation, low = self._noise()
        d = self.box_size
        kernel = torch.fft.irfft2(_padded_power(self._window), s=(2 * d, 2 * d))
        kernel *= d * d / self._window.square().sum()
        lags = kernel * autocorrelation
        folded = lags.view(2, d, 2, d).sum(dim=(0, 2))  # exp(-2πi k τ / D) has period D in τ
        everywhere, outside = (
            torch.fft.fft2(self._window * part) for part in (self._fitted, self._fitted * self._region)
        )
        brought = (everywhere.abs().square() - 2 * (everywhere.conj() * outside).real).sum(0)
        brought *= d * d / self._window.square().sum()
        return ring_mean(torch.fft.fft2(folded).real + max(low, 0.0) * brought)


def ring_mean(power: Float[Tensor, "D D"]) -> Float64[Tensor, " S"]:
    """(D // 2 + 1,) mean of a (D, D) spectrum (FFT order) over nearest-integer shells; clipped to be positive.

    Shell 0 repeats shell 1. Values below a ten-thousandth of the median are raised to it: an estimate of next to
    no noise must not give next to infinite weight.
    """
    d = power.shape[-1]
    k = torch.fft.fftfreq(d, 1.0 / d, dtype=torch.float64)
    shell = torch.round(torch.sqrt(k[:, None] ** 2 + k[None, :] ** 2)).long().flatten()
    keep = shell <= d // 2
    mean = torch.bincount(shell[keep], weights=power.double().flatten()[keep]) / torch.bincount(shell[keep])
    mean[0] = mean[1]
    floor = mean[mean > 0].median() * 1e-4 if bool((mean > 0).any()) else torch.tensor(1e-30)
    return mean.clamp_min(float(floor))
