"""Columns and selections through the server, and the way back: held against the user's file and other jobs."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from numpy.typing import NDArray

from cryodrgn_ext.cli import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer import columns, handing_back
from cryodrgn_ext.explorer.answers import ANSWERS
from cryodrgn_ext.explorer.handing_back import refine_command
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.serve import opened_sessions
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.explore import ExploreSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.report.page_data import DATA_BLOCK
from tests.explorer.conftest import ODD_COLUMNS, OWN_COLUMN, POLYGON, Explorer, N, Project, inside, latents, running


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], {"by": "eval"}, {"by": "polygon", "x": "z1", "y": "z2", "corners": [[0, 0]]},
        {"by": "polygon", "x": "no", "y": "z2", "corners": [[0, 0], [1, 1], [0, 1]]}, {"by": "invert", "of": []},
        {"by": "nearest", "z": [0], "count": 5}, {"by": "nearest", "z": [0, 0, 0], "count": 10**9},
        {"by": "saved", "name": "nowhere"}, {"by": "levels", "column": "state", "levels": ["x"]},
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_one_sentence(explorer: Explorer, wrong: object) -> None:
    answer = explorer.post("choose", recipe=wrong)
    assert answer.status == 400
    assert "\n" not in answer.plain["error"]


def test_columns_are_those_of_the_file(explorer: Explorer, project: Project) -> None:
    described = explorer.get("api/results").plain["results"][0]
    columns = {one["key"]: one for one in described["columns"]}
    assert f"file:{OWN_COLUMN}" not in columns  # text
    table = starfile.read(project.root / "particles.star")["particles"]
    for name in ("rlnDefocusU", "rlnCoordinateX"):
        values = np.frombuffer(explorer.get(f"api/results/0/columns/file:{name}").body, "<f4")
        np.testing.assert_allclose(values, table[name], rtol=1e-6)
    defocus = np.frombuffer(explorer.get("api/results/0/columns/defocus").body, "<f4")
    np.testing.assert_allclose(defocus, (table["rlnDefocusU"] + table["rlnDefocusV"]) / 2e4, rtol=1e-5)
    micrograph = np.frombuffer(explorer.get("api/results/0/columns/micrograph").body, "<f4")
    assert len(np.unique(micrograph)) == table["rlnMicrographName"].nunique()
    assert table.groupby(micrograph)["rlnMicrographName"].nunique().max() == 1
    view = [np.frombuffer(explorer.get(f"api/results/0/columns/view_{axis}").body, "<f4") for axis in "xy"]
    assert ((view[0] / np.sqrt(8)) ** 2 + (view[1] / np.sqrt(2)) ** 2 <= 1 + 1e-6).all()  # Mollweide's ellipse
    state = np.frombuffer(explorer.get("api/results/0/columns/state").body, "<f4")
    assert [f"{int(value):02d}" for value in np.unique(state)] == [name[-2:] for name in columns["state"]["levels"]]


def test_odd_columns_are_colours_where_they_have_numbers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "SAMPLE", 20)  # the one row with text is not among these
    with running(project.result) as explorer:
        listed = {one["key"] for one in explorer.get("api/results").plain["results"][0]["columns"]}
        named = {name for name in ODD_COLUMNS if f"file:{name}" in listed}
        assert named == {"mySometimes", "myConstant", "myLarge", "myLate"}

        def values(name: str) -> NDArray[np.float32]:
            return np.frombuffer(explorer.get(f"api/results/0/columns/file:{name}").body, "<f4")

        def chosen(by: str, name: str, **more: object) -> list[int]:
            recipe = {"by": by, "column": f"file:{name}", **more}
            return np.frombuffer(explorer.post("positions", recipe=recipe).body, "<u4").tolist()

        every, known = np.arange(N), list(range(0, N, 3))
        np.testing.assert_array_equal(values("mySometimes"), np.where(every % 3, np.nan, every / 8))
        assert chosen("range", "mySometimes", low=None, high=None) == known
        assert chosen("range", "mySometimes", low=None, high=10) == [row for row in known if row <= 80]
        # A lasso has none of those without a value, however large it is.
        lasso = {"by": "polygon", "x": "file:mySometimes", "y": "z1", "corners": [[-99, -99], [999, -99], [0, 999]]}
        assert np.frombuffer(explorer.post("positions", recipe=lasso).body, "<u4").tolist() == known
        assert (values("myConstant") == -1.5).all()
        assert chosen("outliers", "myConstant", beyond=1) == []
        assert chosen("range", "myConstant", low=-1.5, high=-1.5) == every.tolist()
        # What single precision has no number for has none.
        assert np.isnan(values("myLarge")[:2]).all()
        assert chosen("range", "myLarge", low=None, high=None) == every[2:].tolist()
        late = explorer.get("api/results/0/columns/file:myLate")
        assert late.status == 400
        assert "_myLate is 'unknown', but a number is expected" in late.plain["error"]
        assert explorer.post("choose", recipe={"by": "range", "column": "file:myLate"}).status == 400


def test_a_selection_of_views_warns_and_one_by_chance_does_not(explorer: Explorer, project: Project) -> None:
    table = starfile.read(project.root / "particles.star")["particles"]
    within = int((table["rlnAngleTilt"] <= 60).sum())
    cone = explorer.post("choose", recipe={"by": "range", "column": "view_tilt", "low": 0, "high": 60}).plain
    assert cone["n"] == within
    (warning,) = cone["warnings"]
    assert warning.startswith("Views: about")
    assert cone["views"]["p_value"] < 0.001
    drawn = np.random.default_rng(5).choice(N, within, replace=False)
    chance = explorer.post("choose", recipe={"by": "positions", "positions": np.sort(drawn).tolist()}).plain
    assert chance["n"] == within
    assert chance["warnings"] == []
    assert chance["views"]["p_value"] > 0.001
    assert chance["views"]["exchanged"] < cone["views"]["exchanged"]


def test_a_selection_is_saved_and_goes_back_with_every_column(
    explorer: Explorer, recipe: dict[str, object], project: Project
) -> None:
    wanted = np.flatnonzero(inside(POLYGON, latents(project)[:, :2].astype(float)))
    assert 20 < len(wanted) < N - 20
    chosen = explorer.post("choose", recipe=recipe).plain
    original = starfile.read(project.root / "particles.star", parse_as_string=list(ODD_COLUMNS))["particles"]
    assert chosen["n"] == len(wanted)
    assert chosen["halves"] == [int((original["rlnRandomSubset"].iloc[wanted] == half).sum()) for half in (1, 2)]
    np.testing.assert_array_equal(np.frombuffer(explorer.post("positions", recipe=recipe).body, "<u4"), wanted)
    saved = explorer.post("save", name="closed", recipe=recipe)
    assert saved.status == 200
    assert explorer.post("save", name="closed", recipe=recipe).status == 400  # not replaced unless asked for
    written = explorer.post("particles", name="closed", format="star").plain
    (path,) = written["files"]
    found = starfile.read(path, parse_as_string=list(ODD_COLUMNS))["particles"]
    assert found[list(original.columns)].equals(original.iloc[wanted].reset_index(drop=True))
    assert list(found[OWN_COLUMN]) == list(original[OWN_COLUMN].iloc[wanted])
    # The line that is shown does the same.
    other = Path(path).with_name("again.star")
    (command,) = written["commands"]
    words = [str(other) if word == path else word for word in command.split()[1:]]
    main(words, standalone_mode=False)
    assert other.read_bytes() == Path(path).read_bytes()
    rest = explorer.post("choose", recipe={"by": "invert", "of": [{"by": "saved", "name": "closed"}]}).plain
    assert rest["n"] == N - len(wanted)


def test_a_selection_of_other_particles_is_refused(
    explorer: Explorer, recipe: dict[str, object], project: Project
) -> None:
    explorer.post("save", name="foreign", recipe=recipe)
    path = project.result / "selections/foreign.npz"
    with np.load(path) as table:
        arrays = dict(table)
    arrays["uid"][3] += 1
    np.savez(path, **arrays)
    answer = explorer.post("particles", name="foreign")
    path.unlink()
    assert answer.status == 400
    assert "was made of other particles" in answer.plain["error"]


@pytest.mark.relion
def test_a_relion_job_by_the_pipeliner(explorer: Explorer, project: Project, recipe: dict[str, object]) -> None:
    explorer.post("save", name="to_relion", recipe=recipe)
    made = explorer.post("relion", name="to_relion")
    assert made.status == 200, made.plain
    (path,) = made.plain["files"]
    assert path.endswith("/particles.star")
    pipeline = starfile.read(project.root / "default_pipeline.star")
    node = os.path.relpath(path, project.root.resolve())
    assert node in list(pipeline["pipeline_nodes"]["rlnPipeLineNodeName"])
    count = explorer.post("choose", recipe=recipe).plain["n"]
    assert read_particles(Path(path), project.root).n == count
    assert f"fn_img == {node}" in made.plain["further"]


def test_the_line_for_a_refinement_has_a_reference_as_dark_as_the_images(project: Project, tmp_path: Path) -> None:
    result = tmp_path / "External/train"
    shutil.copytree(project.result, result, ignore=shutil.ignore_patterns("model", "paths", "again", "checkpoint"))
    opened = OpenedResult(result)

    def options() -> dict[str, str]:
        line = refine_command(opened, tmp_path.resolve(), "External/job007/particles.star")
        assert line is not None
        return dict(one.split(" == ") for one in shlex.split(line)[-1].split(";"))

    light = options()
    assert light["fn_img"] == "External/job007/particles.star"
    assert light["fn_ref"] == "External/train/consensus/map.mrc"
    assert light["sym_name"] == "C1"
    assert 0.5 * 32 * 8.0 < float(light["particle_diameter"]) < 32 * 8.0  # of the images, in Å
    shutil.copy(result / "consensus/map.mrc", result / "consensus/map_for_relion.mrc")
    assert options() == {**light, "fn_ref": "External/train/consensus/map_for_relion.mrc"}
    record = result / "job.yaml"
    record.write_text(record.read_text().replace("mask_diameter_A: null", "mask_diameter_A: 170.0"))
    assert options()["particle_diameter"] == "170"
    (result / "consensus/map.mrc").unlink()
    assert refine_command(opened, tmp_path.resolve(), "External/job007/particles.star") is None


def test_cryosparc_needs_numbers(explorer: Explorer, recipe: dict[str, object]) -> None:
    explorer.post("save", name="to_cryosparc", recipe=recipe)
    answer = explorer.post("cryosparc", name="to_cryosparc", project="P1; rm", workspace="W1", job="J2")
    assert answer.status == 400
    assert "the project of CryoSPARC" in answer.plain["error"]


def test_the_report_has_the_views_of_the_explorer_without_a_server(project: Project) -> None:
    """The same planes, with the same values to the 16 bits that the page keeps of them."""
    text = (project.result / "report.html").read_text("utf-8")
    found = re.search(DATA_BLOCK, text, re.DOTALL)
    assert found is not None
    data = json.loads(found.group(1))
    assert {"PCA", "UMAP", "Views"} <= {preset["name"] for preset in data["presets"]}
    columns = {column["name"]: column for column in data["columns"]}
    opened = OpenedResult(project.result)
    pairs = {
        "view_x": "view, Mollweide x", "view_y": "view, Mollweide y", "z1": "z 1", "file:rlnDefocusU": "rlnDefocusU",
        "latent_density": "density of the particles (log10)",
    }  # fmt: skip
    for key, name in pairs.items():
        column = columns[name]
        steps = np.frombuffer(base64.b64decode(column["data"]), "<u2") / 65534
        shown = column["low"] + steps * (column["high"] - column["low"])
        np.testing.assert_allclose(shown, opened.values(key), atol=2e-5 * (column["high"] - column["low"]))


def test_a_landscape_outside_the_project_of_its_result_is_saved_and_returned(project: Project, tmp_path: Path) -> None:
    """Its selections lie beside it, where no job of RELION finds them."""
    settings = ExploreSettings(in_results=(project.result,), device="cpu")
    with opened_sessions(settings, SilentMonitor()) as (session,):
        assert handing_back.relion_project(session.opened) == project.root
        session.opened.result = replace(session.opened.result, states_directory=tmp_path)
        assert handing_back.relion_project(session.opened) is None
        made = ANSWERS["save"](session, {"name": "outside", "recipe": {"by": "all"}})
        assert Path(made["path"]) == tmp_path / "selections/outside.npz"
        assert [command.split()[1] for command in made["commands"]] == ["select"]
        with pytest.raises(InputError, match="lies in no RELION project"):
            ANSWERS["relion"](session, {"name": "outside"})
