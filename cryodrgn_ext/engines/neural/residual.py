r"""Residual architecture: what the volumes of another engine leave unexplained, as a mixture of learned components.

.. math:: \hat V(k, z) = \hat V_0(k, z) + s(|k|) \sum_c (m_c(x(z)) - m_c(0)) h_c(k)

V_0 are the volumes of the subspace engine, sums of components with weights x(z) that are smooth functions of the
latents, brought to mean 0 and spread 1; h is the network of :mod:`.mixture`, and m a small network of x that starts at
zero, so that training begins at V_0. Latents are those of V_0. Without m(0) a set of one structure would be improved,
too, by what its average lacks, and what images gain would say nothing of heterogeneity.

Advantages: what the subspace found in closed form is not learned again, and not lost where the network learns badly.
Limitations: the network tells no more latents apart than the subspace does.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional

from cryodrgn_ext.engines.neural.mixture import MixtureModel
from cryodrgn_ext.engines.neural.model import LossTerms, Observation

BEND_WIDTH = 128


class ResidualModel(MixtureModel):
    """See the module's text.

    Parameters
    ----------
    n_inputs : int
        Number of weights x of V_0's components.
    envelope : Tensor
        (S,) magnitude per shell.
    frequencies : Tensor
        (F, 3) of the Fourier features.
    width, layers : int
        Components w, and residual layers of the trunk.
    """

    def __init__(self, n_inputs: int, envelope: Tensor, frequencies: Tensor, width: int, layers: int) -> None:
        super().__init__(n_inputs, envelope, frequencies, width, layers)
        self.bend_in = nn.Linear(n_inputs, BEND_WIDTH)
        self.bend_hidden = nn.Linear(BEND_WIDTH, BEND_WIDTH)
        self.bend_out = nn.Linear(BEND_WIDTH, 2 * width)
        nn.init.zeros_(self.bend_out.weight)
        nn.init.zeros_(self.bend_out.bias)

    def weights(self, z: Float[Tensor, "K q"]) -> Float[Tensor, "K columns"]:
        """Mixing weights u (K, 2 w) of standardised weights x (K, m): of the real parts, then of the imaginary ones."""
        bent: Tensor = self._bend(z) - self._bend(torch.zeros_like(z[:1]))
        return bent

    def _bend(self, x: Tensor) -> Tensor:
        return self.bend_out(functional.silu(self.bend_hidden(functional.silu(self.bend_in(x)))))  # type: ignore[no-any-return]

    def _image(self, observation: Observation) -> Tensor:
        """What the network adds to each image: (B, 2 M), real parts, then imaginary parts."""
        if observation.inputs is None:
            raise RuntimeError("the residual architecture needs the weights of the volumes that it adds to")
        h, sign = self._components(observation.points, observation.whitened_ctf * self.magnitude(observation.points))
        return self._combine(h, sign, self.weights(observation.inputs)[..., None])[..., 0]

    def loss(self, observation: Observation, noise: Float[Tensor, "B q"], linear: bool) -> LossTerms:
        """Negative log likelihood of the images, mean over them: latents are given."""
        added = self._image(observation)
        error = (torch.cat([observation.values.real, observation.values.imag], dim=1) - added).square()
        m = observation.values.shape[1]
        reconstruction = ((error[:, :m] + error[:, m:]) @ observation.weight).mean()
        return LossTerms(reconstruction, reconstruction, torch.zeros((), device=error.device))

    def posterior(self, observation: Observation) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q q"]]:
        """Latents are those of the volumes that the network adds to."""
        raise RuntimeError("the residual architecture has no latents of its own")

    @torch.no_grad()
    def shell_sums(self, observation: Observation, shells: int) -> Float64[Tensor, "B 2 shells"]:
        """Of each image, by shell: sum of Re(data conj(model)), and of |model|^2, of the network's part.

        Scaling the network's part of a shell by a adds 2 a (first) - a^2 (second) to the log likelihood, in nats.
        """
        added = self._image(observation).double()
        values = torch.cat([observation.values.real, observation.values.imag], dim=1).double()
        shell = torch.cat([observation.shell, observation.shell])
        sums = torch.zeros(len(added), 2, shells, dtype=torch.float64, device=added.device)
        sums[:, 0].index_add_(1, shell, values * added)
        sums[:, 1].index_add_(1, shell, added.square())
        return sums
