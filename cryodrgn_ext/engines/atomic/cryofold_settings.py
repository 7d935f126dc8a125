"""Options of Cryofold. No torch here: entry points read it."""

from __future__ import annotations

from dataclasses import dataclass

from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class CryofoldSettings(Settings):
    """Options of Cryofold; the job's settings inherit them. Defaults are as published but where said otherwise."""

    zdim: int = setting(1, low=0, high=100, help="Latent dimensions (cryofold); 0 fits one structure to all images")
    latents: str = setting(
        "encoder",
        choices=("encoder", "training"),
        help="Where latents come from (cryofold): an image encoder, or the training that the job goes on from",
    )
    epochs: int = setting(10, low=1, high=10_000, help="Passes over the images (cryofold)")
    warmup_epochs: int = setting(
        1, low=0, high=100,
        help="Passes before them, for width and amplitude; then the structure is set back (cryofold)",
    )  # fmt: skip
    batch: int = setting(8, low=1, high=65_536, help="Images per step (cryofold)")
    step_A: float | None = setting(
        None, low=1e-5, high=2, unit="Å",
        help="How far a step of Adam moves a centre (cryofold); by the number of steps if not given",
    )  # fmt: skip
    learning_rate: float = setting(1e-3, low=1e-8, high=1, help="Step size of Adam for the networks (cryofold)")
    bond_strength: float = setting(
        0.1, low=0, high=1e6, unit="1/Å²", help="Of bonds and side-chain restraints (cryofold); 0 for none"
    )
    side_chains: bool = setting(True, help="Side chains are Gaussians of their own (cryofold)")
    backbone: str = setting(
        "alpha",
        choices=("alpha", "centre"),
        help="Where main chains begin (cryofold): at Cα or phosphorus with bonds of one length as published, or at the "
        "centre of their electrons with bonds as in the structure",
    )
    image_weight: float = setting(1.0, low=0, high=1e6, help="Weight of the images against the restraints (cryofold)")
    beta: float = setting(1.0, low=0, high=1000, help="Weight of the prior of the latents (cryofold)")
    layers: int = setting(3, low=1, high=32, help="Hidden layers of encoder and decoder (cryofold)")
    dim: int = setting(256, low=8, high=8192, help="Nodes of each layer (cryofold)")
    start: str = setting(
        "structure",
        choices=("structure", "alpha", "noise", "random"),
        help="Where the fit begins (cryofold): at the structure; with side chains at their main chains; there with "
        "noise; or anywhere: a fit that ends elsewhere tells that it follows its start",
    )
    start_noise_A: float = setting(
        6.0, low=0, high=100, unit="Å", help="With --start noise: each main chain moves by up to this along each axis"
    )
