"""RELION's own reconstruction of returned sets of particles, which shows whether their differences come back.

Every set and all particles are reconstructed in two halves by relion_reconstruct, from a STAR file of the user's rows;
relion_postprocess gives the FSC. The difference of the maps of a set and of all, within the mask and up to where the
consensus is good, is correlated between RELION's halves, and with the difference of our maps.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.fourier.shells import apply_radial_weights, shell_products
from cryodrgn_ext.images.map_origin import Origin, read_origin, reconstructed
from cryodrgn_ext.images.maps import label_map, read_map, write_map
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.plain_files import load_json, write_json
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.validation.differences import comparison_radius

PROGRAMS = ("relion_reconstruct", "relion_postprocess")
REFINE = "relion_refine"
FOLDER, REFINED = "relion", "refined"
ITERATIONS = 2
#: HEALPix order of RELION's sampling (3.7 degrees, halved by its oversampling), and deviation of local searches, which
#: reach three times as far.
HEALPIX_ORDER, SIGMA_DEG = 4, 2.0
OFFSET_RANGE_PX, OFFSET_STEP_PX = 3, 1
#: Both correlations must reach this for a difference to have come back.
COMES_BACK = 0.5
POLL_S = 0.5
NO_PROOF = (
    "A difference that comes back confirms maps and returned particles, not its cause: what contrast or wrong poses "
    "make comes back as well, and a few iterations of relion_refine take only a part of it away. One that does not "
    "come back after relion_refine was of the poses."
)


def require_relion(particles: ParticleSet, refine: bool = False) -> None:
    """Raise InputError unless RELION's programs are there and can read the particles."""
    missing = [name for name in (*PROGRAMS, *((REFINE,) if refine else ())) if shutil.which(name) is None]
    if missing:
        raise InputError(f"--relion_check needs {missing[0]}, which is not on the PATH: load RELION, or leave it out.")
    if particles.source.format != "star":
        raise InputError(f"--relion_check needs particles of a STAR file; {particles.path} is none: leave it out.")


@dataclass(frozen=True)
class RelionCheck:
    """Particles that RELION reconstructs.

    Attributes
    ----------
    particles : ParticleSet
    half_set : ndarray
        (N,) 1 or 2, as our maps were made; 0 for images that cannot be used, which RELION is not given.
    symmetry : str
    data_sign : int
        -1 when particles are dark in their images: RELION's maps of them are, too.
    layout : Layout
        Of the result; maps of RELION go to ``states/stateNN/relion``.
    monitor : Monitor
    refine : bool
        Whether relion_refine works on the sets, too.
    threads : int
        Of relion_refine; 0 for one.
    """

    particles: ParticleSet
    half_set: NDArray[np.integer]
    symmetry: str
    data_sign: int
    layout: Layout
    monitor: Monitor
    refine: bool = False
    threads: int = 0

    def run(self, rows: Mapping[int, NDArray[np.int64]], consensus: Consensus, found: Path) -> None:
        """Reconstruct all particles and each set, compare, and write what was found to ``found``."""
        everything = self.layout.checkpoint / FOLDER
        whole = self._halves(np.flatnonzero(self.half_set), everything)
        refined = self._refined_whole(everything, consensus) if self.refine else []
        states = []
        for number, some in rows.items():
            folder = self.layout.state(number) / FOLDER
            one = {"state": number, **self._compare(number, folder, self._halves(some, folder), whole, consensus)}
            if self.refine:
                halves = self._refined(some, folder / REFINED, everything, consensus)
                one["refined"] = self._compare(number, folder / REFINED, halves, refined, consensus)
            states.append(one)
        write_json(found, {"states": states})
        shutil.rmtree(everything)

    def _compare(
        self, number: int, folder: Path, halves: Sequence[NDArray[np.float32]], whole: Sequence[NDArray[np.float32]],
        consensus: Consensus,
    ) -> dict[str, Any]:  # fmt: skip
        """Hold the difference of a set's half-maps from those of all particles against ours."""
        ours = read_map(self.layout.state(number) / "map.mrc").data - consensus.map
        differences = [state - both for state, both in zip(halves, whole, strict=True)]
        between, with_ours = compare_differences(differences, ours, consensus)
        return {
            "between_halves": round(between, 4), "with_ours": round(with_ours, 4),
            "comes_back": min(between, with_ours) >= COMES_BACK, "resolution_A": self._postprocess(number, folder),
        }  # fmt: skip

    def _halves(self, rows: NDArray[np.int64], folder: Path) -> list[NDArray[np.float32]]:
        """Maps of the two halves of some rows, as relion_reconstruct makes them."""
        for half in (1, 2):
            star = self._star(rows, folder, half)
            self._reconstruct(star, folder / f"half{half}.mrc", self._origin(rows, half))
            star.unlink()
        return [self._map(folder, half) for half in (1, 2)]

    def _star(self, rows: NDArray[np.int64], folder: Path, half: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        star = folder / f"half{half}.star"
        write_particles_star(self.particles.subset(rows[self.half_set[rows] == half]), star)
        return star

    def _origin(self, rows: NDArray[np.int64], half: int) -> Origin:
        return reconstructed(int(np.count_nonzero(self.half_set[rows] == half)), f"by relion_reconstruct, half{half}")

    def _reconstruct(self, star: Path, out: Path, origin: Origin) -> None:
        self._call("relion_reconstruct", "--i", star, "--o", out, "--ctf", "--sym", self.symmetry)
        label_map(out, origin)

    def _refined_whole(self, everything: Path, consensus: Consensus) -> list[NDArray[np.float32]]:
        """Write the reference, the map of all particles, and refine these themselves from it."""
        first, second = (read_map(everything / f"half{half}.mrc") for half in (1, 2))
        origin = reconstructed(int(np.count_nonzero(self.half_set)), "all of them, by relion_reconstruct")
        write_map(everything / "reference.mrc", 0.5 * (first.data + second.data), first.pixel_size_A, origin)
        return self._refined(np.flatnonzero(self.half_set), everything / REFINED, everything, consensus)

    def _refined(
        self, rows: NDArray[np.int64], folder: Path, everything: Path, consensus: Consensus
    ) -> list[NDArray[np.float32]]:
        """Maps of the two halves of some rows after each was refined by itself."""
        radius_A = mask_radius_px(consensus.mask) * consensus.pixel_size_A
        box_A = len(consensus.map) * consensus.pixel_size_A
        reliable_A = box_A / comparison_radius(consensus.fsc, len(consensus.map) // 2 - 1)
        for half in (1, 2):
            star, work = self._star(rows, folder, half), folder / f"work{half}"
            work.mkdir(exist_ok=True)
            name = "all particles" if folder.parent == everything else folder.parent.parent.name
            self.monitor.message(f"relion_refine: {name}, half {half}")
            self._call(
                REFINE, "--i", star, "--o", work / "run", "--ref", everything / "reference.mrc", "--iter", ITERATIONS,
                "--ini_high", reliable_A, "--ctf", "--ctf_corrected_ref", "--norm",
                "--particle_diameter", min(2 * radius_A, 0.95 * box_A), "--flatten_solvent", "--zero_mask",
                "--sym", self.symmetry, "--healpix_order", HEALPIX_ORDER, "--sigma_ang", SIGMA_DEG, "--oversampling", 1,
                "--offset_range", OFFSET_RANGE_PX, "--offset_step", OFFSET_STEP_PX, "--dont_check_norm",
                "--dont_combine_weights_via_disc", "--j", max(self.threads, 1), "--random_seed", 1,
            )  # fmt: skip
            origin = replace(self._origin(rows, half), done="poses by relion_refine")
            self._reconstruct(work / f"run_it{ITERATIONS:03d}_data.star", folder / f"half{half}.mrc", origin)
            star.unlink()
            shutil.rmtree(work)
        return [self._map(folder, half) for half in (1, 2)]

    def _postprocess(self, number: int, folder: Path) -> float | None:
        """Resolution by relion_postprocess, in the mask of the set where it has the box of the images."""
        import starfile  # brings pandas

        mask, half = read_map(self.layout.state(number) / "mask.mrc"), read_map(folder / "half1.mrc")
        words: list[object] = ["--i", folder / "half1.mrc", "--i2", folder / "half2.mrc", "--o", folder / "postprocess",
                               "--angpix", half.pixel_size_A]  # fmt: skip
        if mask.box_size == half.box_size:
            words += ["--mask", self.layout.state(number) / "mask.mrc"]
        try:
            self._call("relion_postprocess", *words)
            for path in folder.glob("postprocess*.mrc"):
                label_map(path, replace(read_origin(folder / "half1.mrc"), done="both halves, relion_postprocess"))
            table = starfile.read(folder / "postprocess.star", always_dict=True)["general"]
            return round(float(table["rlnFinalResolution"]), 3)
        except (InputError, OSError, KeyError, ValueError) as error:
            self.monitor.warn(f"Warning: relion_postprocess gave no resolution of state {number:02d}: {error}")
            return None

    def _map(self, folder: Path, half: int) -> NDArray[np.float32]:
        return np.asarray(read_map(folder / f"half{half}.mrc").data * self.data_sign, np.float32)

    def _call(self, program: str, *words: object) -> None:
        """Run a program in the project, whose images its STAR files name; end it when the job is aborted."""
        log = self.layout.checkpoint / "relion.log"
        text = [str(word.absolute()) if isinstance(word, Path) else str(word) for word in words]
        with log.open("w") as stream:
            running = subprocess.Popen([program, *text], cwd=self.particles.project_dir, stdout=stream,
                                       stderr=subprocess.STDOUT)  # fmt: skip
            try:
                while running.poll() is None:
                    self.monitor.poll()
                    try:
                        running.wait(POLL_S)
                    except subprocess.TimeoutExpired:
                        continue
            except JobAborted:
                running.kill()
                running.wait()
                raise
        if running.returncode != 0:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise InputError(f"{program} ended with status {running.returncode}: {last} (see {log}).")


def mask_radius_px(mask: NDArray[np.float32]) -> float:
    """Radius in voxels, from voxel D // 2, of the sphere that holds a mask (D, D, D)."""
    places = np.argwhere(mask > 0.5) - len(mask) // 2
    return float(np.sqrt(np.square(places).sum(axis=1)).max()) if len(places) else len(mask) / 2


def compare_differences(
    differences: Sequence[NDArray[np.float32]], ours: NDArray[np.float32], consensus: Consensus
) -> tuple[float, float]:
    """Correlations of two differences with each other, and of their mean with ours, where the consensus is good.

    Unfiltered maps are mostly noise where the CTF is small: every shell counts by the share that ours has of its power
    and of the noise that the two differ by.

    Parameters
    ----------
    differences : pair of ndarray
        (B, B, B) of either half, in the box of the images.
    ours : ndarray
        (D, D, D).
    consensus : Consensus
        In the box of ``ours``.
    """
    box = min(len(ours), 2 * comparison_radius(consensus.fsc, len(ours) // 2 - 1) + 2)
    mask = crop_map(torch.from_numpy(consensus.mask), box).clamp(0, 1)
    first, second, third = (crop_map(torch.from_numpy(one), box) for one in (*differences, ours))
    half = 0.5 * (first - second)
    power, noise = shell_products(third, third), shell_products(half, half)
    weight = power / (power + noise).clamp_min(1e-30)

    def inside(volume: Tensor) -> Tensor:
        return (apply_radial_weights(volume, weight) * mask).double().flatten()

    return _correlation(inside(first), inside(second)), _correlation(inside(first + second), inside(third))


def _correlation(a: Tensor, b: Tensor) -> float:
    product: Tensor = (a @ b) / (a.norm() * b.norm()).clamp_min(1e-300)
    return float(product)


def read_check(found: Path) -> list[dict[str, Any]]:
    """Read what :meth:`RelionCheck.run` wrote."""
    return list(load_json(found)["states"])


def check_sentence(name: str, one: Mapping[str, Any]) -> str:
    """One line for the user."""
    said = f"{name} by relion_reconstruct: its difference from all particles {_came_back(one)}."
    refined = one.get("refined")
    return said if refined is None else f"{said} After relion_refine from the map of all it {_came_back(refined)}."


def _came_back(one: Mapping[str, Any]) -> str:
    resolution = "" if one["resolution_A"] is None else f"; {one['resolution_A']:.2f} Å by relion_postprocess"
    what = "comes back" if one["comes_back"] else "does not come back"
    return (
        f"{what} (correlation {one['between_halves']:.2f} between RELION's halves, {one['with_ours']:.2f} with "
        f"ours{resolution})"
    )
