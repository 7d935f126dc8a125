"""Selections by Gaussians, and set operations with selections of replicate runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.workflow.selection_groups import read_selection
from tests.jobs.conftest import N, latents_in
from tests.jobs.test_select_volumes_fsc import labels, selected
from tests.jobs.test_train import data_rows

NAME = 2  # column of the images in the simulated project


pytestmark = pytest.mark.usefixtures("trained")


@pytest.fixture
def clumps() -> np.ndarray:
    """Latents in three clumps and two particles far away; returns which clump each is in (3: far away)."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], N // 3)
    z = np.array([[-5.0, 0.0], [0.0, 1.0], [5.0, 0.0]])[label] + 0.3 * rng.normal(size=(N, 2))
    z[[7, 80]] += [[0.0, 3.0], [0.0, -2.5]]
    label[[7, 80]] = 3
    with np.load("out/latents.npz") as arrays:
        kept = dict(arrays)
    np.savez("out/latents.npz", **(kept | {"z": z.astype(np.float32)}))
    return label


def rows_file(name: str, rows: list[int]) -> Path:
    Path(name).write_text(" ".join(map(str, rows)))
    return Path(name)


def subset(name: str, rows: list[int]) -> Path:
    """A table of some particles of the project, in another order."""
    lines = Path("particles.star").read_text().splitlines()
    data = [i for i, line in enumerate(lines) if "@" in line]
    kept = [lines[data[row]] for row in reversed(rows)]
    Path(name).write_text("\n".join([*lines[: data[0]], *kept, ""]))
    return Path(name)


def test_gaussians_are_clusters_to_choose_among(clumps: np.ndarray) -> None:
    for cluster in range(3):
        found = selected(mixture=3, cluster=(cluster,))
        kinds = set(clumps[found].tolist()) - {3}
        assert len(kinds) == 1
        clump = np.flatnonzero(clumps == kinds.pop())
        assert set(clump.tolist()) <= set(found)


def test_probability_is_that_of_the_mixture(clumps: np.ndarray) -> None:
    z = latents_in(Path("out")).astype(float)
    model = GaussianMixture(2, random_state=0, n_init=5, init_params="k-means++").fit(z)
    sure = np.flatnonzero(model.predict_proba(z).max(axis=1) >= 0.999)
    found = selected(mixture=2, probability=0.999)
    assert len(set(found) ^ set(sure.tolist())) <= 2


def test_outliers_are_dropped_or_returned_alone(clumps: np.ndarray) -> None:
    only = selected(mixture=3, outliers="only")
    assert {7, 80} <= set(only)
    assert len(only) < 8
    assert selected(mixture=3, outliers="drop") == sorted(set(range(N)) - set(only))
    assert not set(selected(mixture=3, cluster=(0, 1, 2), outliers="drop")) & set(only)


def test_outliers_without_a_mixture_are_long_latents() -> None:
    with np.load("out/latents.npz") as arrays:
        kept = dict(arrays)
    z = kept["z"].copy()
    z[[3, 50]] *= 100
    np.savez("out/latents.npz", **(kept | {"z": z}))
    assert selected(outliers="only") == [3, 50]
    assert selected(outliers="drop") == [row for row in range(N) if row not in (3, 50)]


def test_intersection_union_difference_by_particle_and_not_by_row() -> None:
    a, b, c = [3, 5, 17, 40, 41], [5, 6, 40, 90], [40, 7]
    files = [subset(name, rows) for name, rows in (("a.star", a), ("b.star", b), ("c.star", c))]
    assert selected(intersection=(files[0], files[1])) == [5, 40]
    assert selected(union=(files[0], files[1])) == sorted({*a, *b})
    assert selected(union=(files[0], files[1]), difference=(files[2],)) == sorted({*a, *b} - {*c})
    assert selected(difference=(files[0],)) == sorted(set(range(N)) - {*a})
    of_state = set(np.flatnonzero(labels() == 1).tolist())
    assert selected(state=(1,), union=(files[2],)) == sorted(of_state | {*c})
    assert selected(state=(1,), difference=(files[0],), invert=True) == sorted(set(range(N)) - (of_state - {*a}))
    assert selected(union=(rows_file("rows.txt", a),), intersection=()) == a


def test_a_folder_of_a_state_is_a_selection() -> None:
    for given in (Path("out/states/state01"), Path("out/states/state01/particles.star")):
        assert selected(intersection=(given,)) == np.flatnonzero(labels() == 1).tolist()


def test_particles_added_to_states_are_not_lost_to_groups() -> None:
    other = int(np.flatnonzero(labels() != 1)[0])
    selection = read_selection(
        SelectSettings(in_parts=Path("out"), o=Path("x.star"), state=(1,), union=(subset("a.star", [other]),)),
        SilentMonitor(),
    )
    assert list(selection.groups()) == ["selected"]
    assert other in selection.groups()["selected"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mixture": 3}, "--mixture needs --cluster"),
        ({"mixture": 3, "clusters": 3, "cluster": (0,)}, "not both"),
        ({"probability": 0.5}, "--probability needs --mixture"),
        ({"cluster": (0,)}, "or --mixture"),
        ({"mixture": 3, "cluster": (3,)}, "there is no cluster 3"),
        ({"mixture": 60, "cluster": (0,)}, "60 mixture components"),
        ({"union": (Path("absent.star"),)}, "does not exist"),
        ({"intersection": (Path("stranger.star"),)}, "has none of the particles"),
        ({"union": (Path("stranger.star"),)}, "particles are not in this file"),
        ({}, "--difference"),
    ],
)
def test_wrong_selections(options: dict[str, object], says: str) -> None:
    path = subset("stranger.star", [1, 2])
    path.write_text(path.read_text().replace(".mrcs", "_other.mrcs").replace("_rlnCoord", "_other"))
    settings = SelectSettings(in_parts=Path("out"), o=Path("subset.star"), overwrite=True, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=says):
        select(settings, SilentMonitor())
    assert not Path("subset.star").exists()


def test_image_column_is_where_the_tests_think() -> None:
    assert "@" in data_rows(Path("particles.star"))[0][NAME]


def test_a_list_may_be_a_table_of_some_particles() -> None:
    listed = subset("some.star", [7, 3, 50])
    assert selected(indices=listed) == selected(indices=rows_file("some.txt", [3, 7, 50])) == [3, 7, 50]


def test_a_list_with_a_stranger_is_refused() -> None:
    listed = subset("some.star", [7, 3])
    listed.write_text(listed.read_text().replace("@Particles/", "@Other/again_").replace("MotionCorr/", "Other/x_"))
    with pytest.raises(InputError, match="are not in this file"):
        selected(indices=listed)
