r"""Separable architecture: volumes as mixtures of learned Fourier components, latents by closed-form inference.

.. math:: \hat V(k, z) = s(|k|) \sum_c u_c(z) h_c(k), \qquad u(z) = U z + m(z)

A network h over Fourier coordinates (features, residual layers) makes w real components; a small network m, which
starts at zero, bends the linear map U of the latent onto the 2 w mixing weights (real and imaginary parts).

Advantages. For a linear u the model of an image is a linear Gaussian one: its marginal likelihood is exact, and so is
the posterior of z, from normal equations of size q under the image's own CTF and pose (probabilistic PCA with a
projection, Tipping & Bishop 1999). No image encoder has to learn poses away, which is what takes the published VAE
its many epochs. With the non-linear m the same equations, linearised at the current z and repeated (Gauss-Newton),
give the Laplace approximation. A volume is one product h u(z): h is evaluated once for many volumes.

Limitations. The volumes lie in a space of 2 w dimensions over one trunk; motions of many independent parts need a
wider trunk. The posterior is unimodal.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cryodrgn_ext.engines.neural.mixture import MixtureModel
from cryodrgn_ext.engines.neural.model import LossTerms, Observation

BEND_WIDTH = 128
GAUSS_NEWTON_STEPS = 2


class SeparableModel(MixtureModel):
    """See the module's text.

    Parameters
    ----------
    zdim : int
        q >= 1.
    envelope : Tensor
        (S,) magnitude per shell.
    frequencies : Tensor
        (F, 3) of the Fourier features.
    width, layers : int
        Components w, and residual layers of the trunk.
    kl_weight : float
        Precision of the latent prior.
    """

    def __init__(
        self, zdim: int, envelope: Tensor, frequencies: Tensor, width: int, layers: int, kl_weight: float
    ) -> None:
        super().__init__(zdim, envelope, frequencies, width, layers)
        self.kl_weight = kl_weight
        self.mixing = nn.Linear(zdim, 2 * width)
        nn.init.normal_(self.mixing.weight, std=width**-0.5)
        nn.init.zeros_(self.mixing.bias)
        self.bend_in = nn.Linear(zdim, BEND_WIDTH)
        self.bend_hidden = nn.Linear(BEND_WIDTH, BEND_WIDTH)
        self.bend_out = nn.Linear(BEND_WIDTH, 2 * width)
        nn.init.zeros_(self.bend_out.weight)
        nn.init.zeros_(self.bend_out.bias)

    def _mixing(self, z: Tensor, linear: bool) -> Tensor:
        """u(z): (B, q) -> (B, 2 w)."""
        straight: Tensor = self.mixing(z)
        if linear:
            return straight
        bent: Tensor = self.bend_out(functional.silu(self.bend_hidden(functional.silu(self.bend_in(z)))))
        return straight + bent

    def _jacobian(self, z: Tensor, linear: bool) -> Tensor:
        """du/dz at each z: (B, 2 w, q)."""
        jacobian = self.mixing.weight.expand(len(z), -1, -1)
        if linear:
            return jacobian
        # Forward differentiation through two small layers, written out: vmap(jacfwd) costs ten times as much.
        a = self.bend_in(z)
        b = self.bend_hidden(functional.silu(a))
        inner = self.bend_in.weight * _silu_slope(a)[:, :, None]
        outer = (self.bend_hidden.weight @ inner) * _silu_slope(b)[:, :, None]
        return jacobian + self.bend_out.weight @ outer

    def _normal_equations(
        self, h: Tensor, sign: Tensor, data: Tensor, z: Tensor, linear: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Linearised at z: Cholesky factor of A (B, q, q), right side b (B, q, 1), data less the constant part.

        Noise of unit power per complex coefficient has variance 1/2 in each of its parts, hence the factors 2.
        """
        jacobian = self._jacobian(z, linear)
        basis = self._combine(h, sign, jacobian)
        constant = self._mixing(z, linear)[..., None] - jacobian @ z[..., None]
        rest = data - self._combine(h, sign, constant)[..., 0]
        prior = self.kl_weight * torch.eye(self.zdim, device=z.device, dtype=z.dtype)
        precision = 2.0 * basis.mT @ basis + prior
        return torch.linalg.cholesky(precision), 2.0 * basis.mT @ rest[..., None], rest

    def _infer(self, h: Tensor, sign: Tensor, data: Tensor, linear: bool) -> tuple[Tensor, Tensor]:
        """Posterior mode (B, q) and Cholesky factor of the precision (B, q, q)."""
        z = torch.zeros(len(h), self.zdim, device=h.device, dtype=h.dtype)
        factor, right, _ = self._normal_equations(h, sign, data, z, True)
        z = torch.cholesky_solve(right, factor)[..., 0]
        if not linear:
            for _ in range(GAUSS_NEWTON_STEPS):
                factor, right, _ = self._normal_equations(h, sign, data, z, False)
                z = torch.cholesky_solve(right, factor)[..., 0]
        return z, factor

    def loss(self, observation: Observation, noise: Float[Tensor, "B q"], linear: bool) -> LossTerms:
        """Exact marginal likelihood in the linear stage; then the evidence bound at a sample of the posterior."""
        gain = observation.whitened_ctf * self.magnitude(observation.points)
        h, sign = self._components(observation.points, gain)
        n = observation.n_latent
        values = observation.values
        data = torch.cat([values.real, values.imag], dim=1)
        latent_data = torch.cat([values.real[:, :n], values.imag[:, :n]], dim=1)
        if linear:
            z = torch.zeros(len(h), self.zdim, device=h.device, dtype=h.dtype)
            factor, right, rest = self._normal_equations(h[:, :n], sign[:, :n], latent_data, z, True)
            mean = torch.cholesky_solve(right, factor)
            log_determinant = factor.diagonal(dim1=1, dim2=2).log().sum(1)
            fit = rest.square().sum(1) - 0.5 * (right * mean).sum((1, 2))
            outside = values[:, n:].abs().square() @ observation.weight[n:]
            return LossTerms((fit + log_determinant).mean(), (fit + outside).mean(), log_determinant.mean())
        with torch.no_grad():
            mean, factor = self._infer(h[:, :n], sign[:, :n], latent_data, False)
            z = mean + torch.linalg.solve_triangular(factor.mT, noise[..., None], upper=True)[..., 0]
            covariance = torch.cholesky_inverse(factor)
            log_determinant = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
            trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
            kl = 0.5 * (mean.square().sum(1) + trace - self.zdim + log_determinant).mean()
        model = self._combine(h, sign, self._mixing(z, False)[..., None])[..., 0]
        error = (data - model).square()
        m = values.shape[1]
        reconstruction = ((error[:, :m] + error[:, m:]) @ observation.weight).mean()
        # The posterior has no parameters of its own, so its divergence has no gradient: generalised EM.
        return LossTerms(reconstruction + self.kl_weight * kl, reconstruction, kl)

    @torch.no_grad()
    def posterior(self, observation: Observation) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q q"]]:
        """Mode and Laplace covariance of each image's latent."""
        n = observation.n_latent
        points = observation.points[:, :n]
        h, sign = self._components(points, observation.whitened_ctf[:, :n] * self.magnitude(points))
        values = observation.values[:, :n]
        mean, factor = self._infer(h, sign, torch.cat([values.real, values.imag], dim=1), False)
        return mean, torch.cholesky_inverse(factor)

    def weights(self, z: Float[Tensor, "K q"]) -> Float[Tensor, "K columns"]:
        """Mixing weights u (K, 2 w) of latents (K, q): of the real parts, then of the imaginary parts."""
        return self._mixing(z, False)


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))
