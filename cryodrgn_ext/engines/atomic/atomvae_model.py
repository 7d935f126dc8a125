"""AtomVAE: an image's conformation and pose as latents, all heavy atoms as rigid residues, rendered in real space.

Rosenbaum et al. 2021, sections 2 and 9. An encoder reads an image; its conformation is a normal posterior; a decoder
turns a conformation into a 9-vector for each residue, by which the residue's frame in the base structure is shifted and
turned; the posterior of the pose is one of image and conformation together. Atoms are Gaussians of one width, which
separate into x and y on the pixels. Ours: images are read and compared as whitened Fourier coefficients within a band,
and weights of atoms are their electrons.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from cryodrgn_ext.engines.atomic.fold_batch import FoldBatch
from cryodrgn_ext.engines.atomic.rigid_residues import IDENTITY, RigidResidues, gram_schmidt
from cryodrgn_ext.fourier.gaussians import gaussian_images
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.images.particle_images import ParticleImages

ENCODER = (2048, 1024, 512, 512)
REPRESENTATION, DECODER, BLOCKS, POSE_LAYERS, POSE = 512, 256, 5, (32, 32, 32), 8
#: Spread of the prior of shifts, of the edge of the box.
SHIFT_SPREAD = 0.05
LEAST_SPREAD = 1e-4
#: Least width, in pixels, at which Gaussians are put on pixels; narrower ones are sharpened in Fourier space.
DRAWN_WIDTH_PX = 1.0


class ResidualBlock(nn.Module):
    """x + W2 leaky_relu(W1 norm(x)); begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b w"]:
        """(..., width) -> (..., width)."""
        added: Tensor = self.second(functional.leaky_relu(self.first(self.norm(x))))
        return x + added


class AtomVaeModel(nn.Module):
    """Networks, width and amplitude.

    Parameters
    ----------
    atoms : RigidResidues
    images : ParticleImages
    radius : int
        Highest frequency, cycles per box.
    zdim : int
    width_A : float
        Of an atom.
    inferred : bool
        Whether poses are inferred.
    """

    kxy: Tensor

    def __init__(
        self, atoms: RigidResidues, images: ParticleImages, radius: int, zdim: int, width_A: float, inferred: bool
    ) -> None:
        super().__init__()
        self.chain, self.zdim, self.inferred, self.width_A = atoms, zdim, inferred, width_A
        self.plane = HalfPlane(images.box_size, radius)
        self.box_size, self.pixel_size_A = images.box_size, images.pixel_size_A
        self.register_buffer("kxy", self.plane.kxy[1:], persistent=False)
        sizes = (2 * len(self.kxy), *ENCODER)
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.encoder = nn.Sequential(nn.LayerNorm(sizes[0]), *layers)
        self.mean = nn.Sequential(nn.LayerNorm(ENCODER[-1]), nn.Linear(ENCODER[-1], zdim))
        self.spread = nn.Sequential(nn.LayerNorm(ENCODER[-1]), nn.Linear(ENCODER[-1], zdim), nn.Softplus())
        self.decoder = nn.Sequential(
            nn.Linear(zdim, DECODER), *[ResidualBlock(DECODER) for _ in range(BLOCKS)], nn.LayerNorm(DECODER),
            nn.Linear(DECODER, REPRESENTATION),
        )  # fmt: skip
        self.frames = nn.Linear(REPRESENTATION, 9 * len(atoms.origin_A))
        nn.init.zeros_(self.frames.weight)
        nn.init.zeros_(self.frames.bias)
        self.pose_entry = nn.Sequential(nn.LayerNorm(ENCODER[-1]), nn.Linear(ENCODER[-1], REPRESENTATION))
        widths = (REPRESENTATION, *POSE_LAYERS)
        steps = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.pose = nn.Sequential(*steps, nn.Linear(widths[-1], 2 * POSE))
        self.log_amplitude = nn.Parameter(torch.zeros(()))

    @property
    def base(self) -> Float[Tensor, "A 3"]:
        """Atoms of the base structure."""
        return torch.from_numpy(self.chain.structure.positions).float()

    def represent(self, batch: FoldBatch) -> Float[Tensor, "B E"]:
        """Representation (B, E) of images, from their phase-flipped coefficients."""
        flipped = batch.values * torch.sign(batch.ctf)
        representation: Tensor = self.encoder(torch.view_as_real(flipped).flatten(1))
        return representation

    def conformation(self, representation: Float[Tensor, "B E"]) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, q) of the conformation."""
        return self.mean(representation), 2 * (self.spread(representation) + LEAST_SPREAD).log()

    def encode(self, batch: FoldBatch) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q"]]:
        """Mean and log variance (B, q) of the conformations of images."""
        return self.conformation(self.represent(batch))

    def decode(self, z: Float[Tensor, "*b q"]) -> tuple[Float[Tensor, "*b A 3"], Float[Tensor, "*b H"]]:
        """Atoms (..., A, 3) in Å and their representation (..., H) at conformations (..., q)."""
        representation = self.decoder(z)
        vector = self.frames(representation).unflatten(-1, (-1, 9)) + torch.tensor(IDENTITY)
        return self.chain.moved(vector), representation

    def positions(self, z: Float[Tensor, "B q"]) -> Float[Tensor, "B A 3"]:
        """Atoms (B, A, 3) in Å."""
        return self.decode(z)[0]

    def pose_posterior(self, representation: Float[Tensor, "*#b E"], decoded: Float[Tensor, "*#b H"]) -> Tensor:
        """Mean and log variance (2, ..., 8) of the pose, of image and conformation together."""
        both = self.pose(self.pose_entry(representation) + decoded).unflatten(-1, (2, POSE))
        mean, spread = both.unbind(-2)
        return torch.stack([mean, 2 * (functional.softplus(spread) + LEAST_SPREAD).log()])

    def posed(self, latent: Float[Tensor, "*b 8"]) -> tuple[Float[Tensor, "*b 2 3"], Float[Tensor, "*b 2"]]:
        """Planes (..., 2, 3) and shifts (..., 2) in Å of pose latents (..., 8)."""
        turn = gram_schmidt(latent[..., 2:5], latent[..., 5:])
        return turn.mT[..., :2, :], latent[..., :2] * (SHIFT_SPREAD * self.box_size * self.pixel_size_A)

    def expected(
        self, positions: Float[Tensor, "*#b A 3"], planes: Float[Tensor, "*b 2 3"], shift_A: Float[Tensor, "*#b 2"]
    ) -> Complex[Tensor, "*b M"]:
        """Coefficients (..., M) of projections, before the CTF."""
        seen = (planes[..., None, :, :] * positions[..., None, :]).sum(-1) + shift_A[..., None, :]
        width = self.width_A / self.pixel_size_A
        drawn = max(width, DRAWN_WIDTH_PX)
        flat = (seen / self.pixel_size_A).reshape(-1, *seen.shape[-2:])
        amplitudes = self.chain.electrons * self.log_amplitude.exp()
        images = gaussian_images(flat, amplitudes, torch.tensor(drawn, dtype=flat.dtype), self.box_size)
        values = self.plane.from_images(images)[:, 1:]
        squared = (self.kxy.to(flat.dtype) / self.box_size).square().sum(1)
        sharpened: Tensor = values * torch.exp(2 * math.pi**2 * (drawn**2 - width**2) * squared)
        return sharpened.reshape(*planes.shape[:-2], -1)

    def misfit(self, positions: Float[Tensor, "#B A 3"], batch: FoldBatch) -> Float[Tensor, " B"]:
        """Squared error (B,) of images at given poses, as of Cryofold's model."""
        own = positions.expand(len(batch.planes), *positions.shape[1:])
        return misfit(batch, self.expected(own, batch.planes, torch.zeros(len(own), 2))[:, None])[:, 0]

    @torch.no_grad()
    def pose_of(self, batch: FoldBatch) -> tuple[Float[Tensor, "B 2 3"], Float[Tensor, "B 2"]]:
        """Planes and shifts (Å) at the means of the posteriors of conformation and pose."""
        representation = self.represent(batch)
        _, decoded = self.decode(self.mean(representation))
        return self.posed(self.pose_posterior(representation, decoded)[0])


def misfit(batch: FoldBatch, expected: Complex[Tensor, "B S M"]) -> Float[Tensor, "B S"]:
    """Squared error (B, S) of S expected images for each image, in units of the noise's variance."""
    error: Tensor = batch.values[:, None] - batch.ctf[:, None] * expected
    squared: Tensor = error.real.square() + error.imag.square()
    return 2 * squared.sum(-1)
