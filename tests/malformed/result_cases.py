"""Result directories, latent files and index lists that are wrong in one way each.

Here the project's folder holds the finished result of a train job in ``result``.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.malformed.tiny_project import Table, TinyProject

RESULTS = Table()
case = RESULTS.case
TRACE = "code_was_run"


class Malicious:
    """Pickles into a command that leaves a trace when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.folder / TRACE}",)


def _replace_in_npz(path: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members[f"{name}.npy"] = data
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def _npy(values: npt.ArrayLike) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


@case("select", "nowhere", "no such|does not exist|not a result")
def result_missing(project: TinyProject) -> list[str]:
    return ["--in_parts", "nowhere", "--state", "1"]


@case("select", r"empty", "job\\.yaml|result directory")
def result_is_an_empty_folder(project: TinyProject) -> list[str]:
    (project.root / "empty").mkdir()
    return ["--in_parts", "empty", "--state", "1"]


@case("select", r"particles\.star", "train|result|latents")
def result_is_an_ordinary_star_file(project: TinyProject) -> list[str]:
    return ["--in_parts", "particles.star", "--state", "1"]


@case("select", r"job\.yaml")
def result_record_is_not_a_record(project: TinyProject) -> list[str]:
    (project.root / "result/job.yaml").write_text("- a\n- list\n")
    return ["--in_parts", "result", "--state", "1"]


@case("select", r"job\.yaml")
def result_record_with_code_in_it(project: TinyProject) -> list[str]:
    trace = project.root / TRACE
    (project.root / "result/job.yaml").write_text(f"job: !!python/object/apply:os.system ['touch {trace}']\n")
    return ["--in_parts", "result", "--state", "1"]


@case("select", r"latents\.npz", "missing|does not exist|no such")
def result_without_latents(project: TinyProject) -> list[str]:
    (project.root / "result/latents.npz").unlink()
    return ["--in_parts", "result", "--z_range", "1:-1:1"]


@case("select", r"latents\.npz")
def result_latents_truncated(project: TinyProject) -> list[str]:
    path = project.root / "result/latents.npz"
    os.truncate(path, path.stat().st_size // 2)
    return ["--in_parts", "result", "--z_range", "1:-1:1"]


@case("select", r"latents\.npz")
def result_latents_with_code_in_them(project: TinyProject) -> list[str]:
    values = np.array([Malicious(project.root)], dtype=object)
    _replace_in_npz(project.root / "result/latents.npz", "z", _npy(values))
    return ["--in_parts", "result", "--z_range", "1:-1:1"]


@case("select", r"latents\.npz", "24|rows|particles")
def result_latents_of_other_particles(project: TinyProject) -> list[str]:
    _replace_in_npz(project.root / "result/latents.npz", "z", _npy(np.zeros((7, 1), np.float32)))
    return ["--in_parts", "result", "--z_range", "1:-1:1"]


@case("select", "state|condition|cluster|nothing")
def select_nothing_asked_for(project: TinyProject) -> list[str]:
    return ["--in_parts", "result"]


@case("select", "state", "99")
def select_state_that_is_not_there(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--state", "99"]


@case("select", "cluster", "99")
def select_cluster_that_is_not_there(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--clusters", "3", "--cluster", "99"]


@case("select", "clusters", "24|particles")
def select_more_clusters_than_particles(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--clusters", "500", "--cluster", "1"]


@case("select", "z_range|range", "1:2")
def select_range_without_an_end(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--z_range", "1:2"]


@case("select", "range|latent column", "z9")
def select_range_of_a_dimension_that_is_not_there(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--z_range", "9:0:1"]


@case("select", "range", "lower|exceeds|order|low")
def select_range_upside_down(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--z_range", "1:2:-2"]


@case("select", "no particle|empty|nothing|0 particles|none")
def select_no_particle_fits(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--z_range", "1:1e6:2e6"]


def _indices(project: TinyProject, name: str, content: bytes) -> list[str]:
    (project.root / name).write_bytes(content)
    return ["--in_parts", "result", "--indices", name]


@case("select", r"rows\.txt", "no such|does not exist")
def indices_missing(project: TinyProject) -> list[str]:
    return ["--in_parts", "result", "--indices", "rows.txt"]


@case("select", r"rows\.txt", "24", "23")
def indices_beyond_the_particles(project: TinyProject) -> list[str]:
    return _indices(project, "rows.txt", b"0\n1\n24\n")


@case("select", r"rows\.txt", "-1")
def indices_negative(project: TinyProject) -> list[str]:
    return _indices(project, "rows.txt", b"0\n-1\n")


@case("select", r"rows\.txt", "one")
def indices_of_words(project: TinyProject) -> list[str]:
    return _indices(project, "rows.txt", b"one word\n")


@case("select", r"rows\.csv", r"\.npy")
def indices_of_unknown_suffix(project: TinyProject) -> list[str]:
    return _indices(project, "rows.csv", b"0,1,2\n")


@case("select", r"rows\.npy")
def indices_array_with_code_in_it(project: TinyProject) -> list[str]:
    return _indices(project, "rows.npy", _npy(np.array([Malicious(project.root)], dtype=object)))


@case("select", r"rows\.pkl", "system|not allowed|refused|arrays")
def indices_pickle_with_code_in_it(project: TinyProject) -> list[str]:
    return _indices(project, "rows.pkl", pickle.dumps(Malicious(project.root)))


@case("select", r"rows\.pkl")
def indices_pickle_with_code_behind_an_array(project: TinyProject) -> list[str]:
    content = pickle.dumps([np.arange(3), {"ind": Malicious(project.root)}])
    return _indices(project, "rows.pkl", content)


@case("select", r"rows\.pkl")
def indices_pickle_truncated(project: TinyProject) -> list[str]:
    return _indices(project, "rows.pkl", pickle.dumps(np.arange(20))[:-30])


@case("select", r"rows\.pkl")
def indices_pickle_of_poses(project: TinyProject) -> list[str]:
    return _indices(project, "rows.pkl", pickle.dumps((np.zeros((24, 3, 3)), np.zeros((24, 2)))))


@case("volumes", r"positions\.txt", "no such|does not exist")
def positions_missing(project: TinyProject) -> list[str]:
    return ["--in_result", "result", "--z", "positions.txt"]


def _positions(project: TinyProject, name: str, content: bytes) -> list[str]:
    (project.root / name).write_bytes(content)
    return ["--in_result", "result", "--z", name]


@case("volumes", r"positions\.txt", "3", "1")
def positions_of_another_dimension(project: TinyProject) -> list[str]:
    return _positions(project, "positions.txt", b"0 0 0\n1 1 1\n")


@case("volumes", r"positions\.txt")
def positions_of_words(project: TinyProject) -> list[str]:
    return _positions(project, "positions.txt", b"far left\n")


@case("volumes", r"positions\.txt")
def positions_in_rows_of_different_length(project: TinyProject) -> list[str]:
    return _positions(project, "positions.txt", b"0\n0 1\n")


@case("volumes", r"positions\.txt", "empty|no ")
def positions_empty(project: TinyProject) -> list[str]:
    return _positions(project, "positions.txt", b"")


@case("volumes", r"positions\.txt", "finite|nan")
def positions_with_nan(project: TinyProject) -> list[str]:
    return _positions(project, "positions.txt", b"0\nnan\n")


@case("volumes", r"positions\.npy")
def positions_with_code_in_them(project: TinyProject) -> list[str]:
    return _positions(project, "positions.npy", _npy(np.array([Malicious(project.root)], dtype=object)))


@case("volumes", "result", "model|does not exist|missing|no such")
def model_missing(project: TinyProject) -> list[str]:
    shutil.rmtree(project.root / "result/model")
    return _positions(project, "positions.txt", b"0\n")


@case("volumes", "result", "model")
def model_truncated(project: TinyProject) -> list[str]:
    for path in (project.root / "result/model").rglob("*.safetensors"):
        os.truncate(path, path.stat().st_size // 2)
    return _positions(project, "positions.txt", b"0\n")
