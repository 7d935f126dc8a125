"""Settings of the job that compares a result with a known truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class BenchmarkSettings(Settings):
    """Settings of ``benchmark``."""

    in_result: Path = setting(help="Result directory of a train, import, abinit or landscape job")
    truth: Path | None = setting(None, help="truth.npz that simulate writes")
    labels: Path | None = setting(
        None, help="True state of each particle instead, in the order of the particles: whole numbers as .txt or .npy"
    )
    true_maps: tuple[str, ...] = setting(
        (),
        help="True maps of the states in --labels, one file each in the order of the states, in the box of the model",
    )
    true_poses: Path | None = setting(
        None,
        help="The same particles with their true poses, as .star or .cs, to measure errors of orientation and shift",
    )
    images: int = setting(
        100, low=1, high=100_000, help="Images whose volumes are compared, evenly over the true states"
    )
    ceiling: bool = setting(
        True,
        help="Print beside each figure what the same images allow: exact inference with the true maps, and "
        "reconstruction with the true labels; reads all images",
    )
    project: Path | None = setting(**shared.PROJECT)
    o: Path | None = setting(None, help="YAML file for the figures; printed only if not given")
    overwrite: bool = setting(**shared.OVERWRITE)
