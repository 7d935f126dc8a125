#!/usr/bin/env python
"""Search for poses against a known model: time and accuracy of settings, beside the public peer (cryodrgn).

    python benchmarks/pose_search.py [--images 1000] [--training 4000] [--box 64] [--snr 0.1] [--output DIR]
                                     [--rows base legacy ...] [--peer none|map|network|both] [--peer-images 100]
                                     [--peer-epochs 10] [--peer-python PATH] [--threads N] [--quick]

Tables 5.1 and 5.5 of Zhong 2022 at a size for a CPU: held-out images of a simulated RELION project (CTF, noise, shifts)
are aligned to a map that was reconstructed from other images of it with their true poses. One row varies one setting of
the base row: base grid, M refinements, K kept rotations, band, shifts. ``legacy`` is near the older algorithm's
defaults in the newer search, ``bnb`` that algorithm itself (branch and bound). For every row: seconds, images per
second, mean and median squared Frobenius norm and angle of the rotation's error, median error of the shift (poses are
in the map's frame, no alignment is needed), and the mean log-likelihood per image of what was found.

The peer searches with the settings of the base row, a smaller number of images, against the same map (its search with
a model that costs next to nothing) and against a 256 x 3 network that its own train_nn has trained on the same
training images. Beside the latter, ``network`` is our search with a network of the same shape that our own engine has
trained as long, with the published recipe: the time includes rendering it. Each program is timed inside, after reading
its images; seconds of the trainings are given too. Table and figures: DIR/pose_search.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import peer
from comparison.runner import BenchmarkError, Machine, fresh_directory, read_record

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.neural.engine import train
from cryodrgn_ext.engines.neural.heterogeneity import NeuralHeterogeneity
from cryodrgn_ext.engines.neural.pose_search_model import search_models
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.errors import CryodrgnExtError
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.cryodrgn_pickle import write_ctf, write_indices, write_poses
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.pose.branch_and_bound import branch_and_bound
from cryodrgn_ext.pose.estimates import ScoredPoses
from cryodrgn_ext.pose.metrics import pose_errors
from cryodrgn_ext.pose.search import SearchSettings, search
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate import simulate_particles, write_relion_project

ATOMS_BOX, PIXEL_SIZE_A = 64, 4.0
Row = tuple[SearchSettings, Callable[..., ScoredPoses]]


def table_rows(box: int) -> dict[str, Row]:
    """Settings by name; bands and shifts are those of Zhong 2022 (box 128), k_max and shifts scaled to the box."""
    base = SearchSettings(
        base_level=1, refinements=4, keep=8, k_min=12, k_max=min(48, 3 * box // 8), shift_extent_px=10 * box / 128,
        shift_count=7,
    )  # fmt: skip
    rows: dict[str, Row] = {"base": (base, search)}
    rows["legacy"] = replace(base, base_level=0, k_max=20), search
    bnb = replace(base, base_level=0, refinements=5, keep=24, k_max=min(48, box // 2 - 1))
    rows["bnb"] = bnb, branch_and_bound
    for low, high in ((12, 16), (12, 20), (12, box // 2 - 1), (8, 24), (16, 24)):
        rows[f"k={low}..{high}"] = replace(base, k_min=low, k_max=high), search
    for level, name in enumerate(("30", "15", "7.5")):
        rows[f"grid {name} deg"] = replace(base, base_level=level), search
    for refinements in range(1, 8):
        rows[f"M={refinements}"] = replace(base, refinements=refinements), search
    for keep in (1, 2, 4, 16, 24):
        rows[f"K={keep}"] = replace(base, keep=keep), search
    for count in (5, 14):
        rows[f"T={count}"] = replace(base, shift_count=count), search
    return rows


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="held-out images that are aligned")
    parser.add_argument("--training", type=int, default=4000, help="images that the models are made from")
    parser.add_argument("--box", type=int, default=64, help="with a pixel such that the specimen keeps its size in it")
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("pose_search"))
    parser.add_argument("--rows", nargs="+", help="names of rows; all when omitted")
    parser.add_argument("--repeats", type=int, default=1, help="of which the fastest counts")
    parser.add_argument("--threads", type=int, help="of both programs; left to the libraries if not given")
    parser.add_argument("--gpu", action="store_true", help="let both programs use a GPU")
    parser.add_argument("--peer", choices=("none", "map", "network", "both"), default="both")
    parser.add_argument("--peer-images", type=int, default=100, help="how many of the held-out images the peer gets")
    parser.add_argument("--peer-epochs", type=int, default=10, help="of the training of its network")
    parser.add_argument("--peer-batch", type=int, default=16, help="images at a time, its default")
    parser.add_argument("--peer-python", type=Path, help="a Python that has the peer: nothing is installed then")
    parser.add_argument("--peer-environment", type=Path, help="where the peer is installed; in the output folder else")
    parser.add_argument("--pip-options", default="", help="such as '--extra-index-url URL', for torch without CUDA")
    parser.add_argument("--quick", action="store_true", help="a small version, to see that it works")
    given = parser.parse_args()
    if given.quick:
        given.images, given.training, given.peer_images, given.peer_epochs = 60, 300, 20, 1
        given.rows = given.rows or ["base", "bnb"]
    unknown = set(given.rows or ()) - set(table_rows(given.box))
    if unknown:
        parser.error(f"unknown rows {sorted(unknown)}; there are: {', '.join(table_rows(given.box))}")
    return given


def prepare(directory: Path, given: argparse.Namespace) -> None:
    """Simulate one conformation, training images first, and write it for both programs."""
    n = given.training + given.images
    wanted = {"particles": n, "box": given.box, "snr": given.snr, "seed": given.seed}
    if read_record(directory / "set.json") == wanted:
        return
    fresh_directory(directory)
    particles = simulate_particles(
        n, motion="hinge", box_size=given.box, pixel_size_A=PIXEL_SIZE_A * ATOMS_BOX / given.box, snr=given.snr,
        max_shift_px=8 * given.box / 128, seed=given.seed,
    ).with_coordinates(np.zeros((n, 1)))  # fmt: skip
    write_relion_project(directory, particles, monitor=Monitor())
    written = read_particles(directory / "particles.star", directory)
    write_poses(directory / "poses.pkl", written)
    write_ctf(directory / "ctf.pkl", written)
    write_indices(directory / "training.pkl", np.arange(given.training))
    atomic_write_text(directory / "set.json", json.dumps(wanted))


class Clock:
    """Seconds of the wall clock, and of the processors, since it was made."""

    def __init__(self) -> None:
        self.wall, self.processors = time.monotonic(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Both."""
        return time.monotonic() - self.wall, time.process_time() - self.processors


def measured(found: ScoredPoses, taken: tuple[float, float], images: ParticleImages) -> dict[str, Any]:
    """Figures of poses that were found for the first images, in seconds of the wall clock and of the processors."""
    seconds, processors = taken
    n, fit = len(found.poses), found.log_likelihood[:, 0]
    errors = pose_errors(found.best, images.poses[:n]).summary()
    return {
        "images": n, "seconds": round(seconds, 3), "cpu_seconds": round(processors, 3),
        "images_per_s": round(n / seconds, 1),
        "mean_log_likelihood": None if fit.isnan().any() else float(fit.mean()),
        **{name: round(value, 5) for name, value in errors.items()},
    }  # fmt: skip


def search_network(
    given: argparse.Namespace, whole: ParticleImages, images: ParticleImages
) -> tuple[dict[str, Any], tuple[float, float]]:
    """Train a network like the peer's on the training images and search with it: figures, seconds of the training."""
    device = "cuda" if given.gpu else "cpu"
    settings = NeuralSettings(preset="cryodrgn", zdim=0, epochs=given.peer_epochs, batch=8, dec_layers=3, dec_dim=256)
    context = EngineContext.of(ComputeSettings(device=device), None, SilentMonitor())
    clock = Clock()
    training = whole.subset(torch.arange(given.training))
    result = train(training, None, settings, context)
    if not isinstance(result, NeuralHeterogeneity) or not isinstance(result.model, VaeModel):
        raise TypeError(f"a coordinate decoder is needed, got {type(result).__name__}")
    trained = result.model
    trained.release()
    taken, clock = clock.read(), Clock()
    looking, _ = table_rows(given.box)["base"]
    none = torch.zeros(images.n, 0)
    (one,) = search_models(trained, none, looking.band(looking.refinements, images.plane.radius), 1, 0)
    poses = search(images, one.slices, replace(looking, device=device))
    return measured(poses, clock.read(), images), taken


def run_peer(
    given: argparse.Namespace, project: Path, consensus: np.ndarray, images: ParticleImages
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The peer's search with the base row's settings: name and figures, for each kind of model."""
    machine = Machine(given.threads, given.gpu)
    environment = (given.peer_environment or given.output / "peer_environment").absolute()
    own_python = None if given.peer_python is None else given.peer_python.absolute()
    python = str(peer.find_or_install(own_python, environment, given.pip_options))
    for kind in ("map", "network") if given.peer == "both" else (given.peer,):
        folder = given.output.resolve() / f"peer_{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        train = folder / "train"
        if kind == "network":
            program = [python, "-I", "-c", f"from {peer.NAME}.command_line import main_commands; main_commands()"]
            command = [
                *program, "train_nn", str(project / "Particles" / "particles.mrcs"), "--poses",
                str(project / "poses.pkl"), "--ctf", str(project / "ctf.pkl"), "--ind", str(project / "training.pkl"),
                "-n", str(given.peer_epochs), "-b", "8", "--layers", "3", "--dim", "256", "--seed", "0",
                "-o", str(train),
            ]  # fmt: skip
            done = machine.run(command, folder, "train", cwd=project, product=train / "weights.pkl", own_packages=False)
            print(f"  its network: {done.seconds:.0f} s, {done.cpu_seconds:.0f} s of processors", flush=True)
        else:
            np.save(folder / "map.npy", consensus)
        settings, _ = table_rows(given.box)["base"]
        request = {
            "stack": str(project / "Particles" / "particles.mrcs"), "ctf": str(project / "ctf.pkl"),
            "first": given.training, "count": min(given.peer_images, given.images), "batch": given.peer_batch,
            "map": str(folder / "map.npy") if kind == "map" else None, "config": str(train / "config.yaml"),
            "weights": str(train / "weights.pkl"), "answer": str(folder / "answer"),
            **{name: value for name, value in asdict(settings).items() if name not in ("memory_bytes", "device")},
        }  # fmt: skip
        atomic_write_text(folder / "request.json", json.dumps(request))
        script = Path(__file__).with_name("comparison") / "peer_search.py"
        command = [python, "-I", str(script), str(folder / "request.json")]
        (folder / "answer.json").unlink(missing_ok=True)
        machine.run(command, folder, "search", cwd=project, product=folder / "answer.json", own_packages=False)
        with np.load(folder / "answer.npz") as answer:
            rotation, shift = (torch.from_numpy(answer[name].copy()) for name in ("rotation", "shift_px"))
        answered = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        found = ScoredPoses(Poses(rotation, shift)[:, None], torch.full((len(rotation), 1), torch.nan))
        yield (
            f"{peer.NAME} {peer.VERSION}, {kind}",
            measured(found, (answered["seconds"], answered["cpu_seconds"]), images),
        )


def line(name: str, figures: dict[str, Any]) -> str:
    """One row of the table."""
    score = figures["mean_log_likelihood"]
    return (
        f"{name:26s} {figures['seconds']:9.2f} {figures['cpu_seconds']:9.2f} {figures['images_per_s']:9.1f} "
        f"{figures['mean_rotation_frobenius_sq']:9.4f} {figures['median_rotation_frobenius_sq']:9.5f} "
        f"{figures['mean_rotation_deg']:8.2f} {figures['median_rotation_deg']:8.2f} {figures['median_shift_px']:8.3f} "
        + ("        -" if score is None else f"{score:9.2f}")
    )


def compare(given: argparse.Namespace) -> None:
    """Run all rows and print the table."""
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    given.output.mkdir(parents=True, exist_ok=True)
    project = given.output.resolve() / "project"
    prepare(project, given)
    particles = read_particles(project / "particles.star", project)
    whole = open_images(particles, given.output / "store", rebuild=True)
    device = "cuda" if given.gpu else "cpu"
    consensus = reconstruct_half_maps(whole, indices=torch.arange(given.training)).map
    volume = FourierVolume.from_map(torch.from_numpy(consensus).to(device))
    images = whole.subset(torch.arange(given.training, given.training + given.images))
    report: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()},
        "rows": {},
    }
    print(
        f"{'row':26s} {'seconds':>9s} {'(CPU)':>9s} {'images/s':>9s} {'MSE rot':>9s} {'MedSE rot':>9s} {'mean °':>8s} "
        f"{'median °':>8s} {'shift px':>8s} {'log-lik.':>9s}",
        flush=True,
    )
    rows = table_rows(given.box)
    search(images, volume, replace(rows["base"][0], device=device), torch.arange(4))  # compiles on first use
    for name in given.rows or rows:
        settings, method = rows[name]
        seconds = []
        for _ in range(given.repeats):
            clock = Clock()
            poses = method(images, volume, replace(settings, device=device))
            seconds.append(clock.read())
        report["rows"][name] = measured(poses, min(seconds), images)
        print(line(name, report["rows"][name]), flush=True)
        atomic_write_text(given.output / "pose_search.json", json.dumps(report, indent=1) + "\n")
    if given.peer in ("network", "both"):
        report["rows"]["network"], report["training"] = search_network(given, whole, images)
        print(line("network", report["rows"]["network"]), flush=True)
        print(f"  our network: {report['training'][0]:.0f} s, {report['training'][1]:.0f} s of processors", flush=True)
    if given.peer != "none":
        for name, figures in run_peer(given, project, consensus, images):
            report["rows"][name] = figures
            print(line(name, figures), flush=True)
            like = "network" if name.endswith("network") else "base"
            ours = report["rows"].get(like)
            if ours is not None:
                figures["ratio"] = round(ours["images_per_s"] / figures["images_per_s"], 1)
                print(f"  {like} row of ours: {figures['ratio']} times as many images per second", flush=True)
            atomic_write_text(given.output / "pose_search.json", json.dumps(report, indent=1) + "\n")


def main() -> int:
    """Run the comparison."""
    given = arguments()
    try:
        compare(given)
    except (BenchmarkError, CryodrgnExtError) as error:
        print(f"Error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
