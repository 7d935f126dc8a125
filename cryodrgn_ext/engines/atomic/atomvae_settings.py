"""Options of the variational autoencoder over atoms and poses. No torch here: entry points read it."""

from __future__ import annotations

from dataclasses import dataclass

from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class AtomVaeSettings(Settings):
    """Options of AtomVAE (Rosenbaum et al. 2021, section 9); the job's settings inherit them.

    Defaults are as published but for the numbers of samples, images and passes, which are those of a processor.
    """

    vae_poses: str = setting(
        "given",
        choices=("given", "inferred"),
        help="Poses (atomvae): those of the training, or inferred from the images by the model",
    )
    vae_zdim: int = setting(32, low=1, high=1000, help="Latent dimensions of the conformation (atomvae)")
    vae_pose_epochs: int = setting(
        20, low=0, high=100_000,
        help="Passes that learn poses of the given structure only, where poses are inferred (atomvae; published 2000)",
    )  # fmt: skip
    vae_epochs: int = setting(20, low=1, high=100_000, help="Passes that learn everything (atomvae; published 500)")
    vae_batch: int = setting(16, low=1, high=65_536, help="Images per step (atomvae; published 256)")
    vae_learning_rate: float = setting(3e-4, low=1e-8, high=1, help="Step size of Adam (atomvae)")
    vae_conformations: int = setting(
        4, low=1, high=4096, help="Conformations drawn for each image in a step (atomvae; published 64)"
    )
    vae_pose_samples: int = setting(
        4, low=1, high=4096,
        help="Poses drawn for each of them where poses are inferred, as published; 8 times as many while only poses "
        "are learned (atomvae; published 128)",
    )  # fmt: skip
    vae_beta: float = setting(1.0, low=0, high=1000, help="Weight of the prior of conformations (atomvae)")
    vae_pose_beta: float = setting(0.01, low=0, high=1000, help="Weight of the prior of poses (atomvae)")
    vae_centring: float = setting(0.1, low=0, high=1e6, unit="1/Å²", help="Weight of staying in the centre (atomvae)")
    vae_continuity: float = setting(
        0.01, low=0, high=1e6, unit="1/Å²", help="Weight of bonds between residues (atomvae)"
    )
    vae_width_A: float = setting(1.0, low=0.1, high=10, unit="Å", help="Width of an atom's Gaussian (atomvae)")
