"""Nodes are declared in the form of the RELION that runs, and only when they exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import starfile

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.workflow.job_result import OutputFile, OutputKind
from relion_wrappers.nodes import RelionVersion, running_version, write_nodes

JOB_STARS = {
    RelionVersion.V3_1: "\n# version 30001\n\ndata_job\n\n_rlnJobType      99\n_rlnJobIsContinue  0\n",
    RelionVersion.V4_0: "\n# version 30001\n\ndata_job\n\n_rlnJobTypeLabel relion.external\n_rlnJobIsContinue 0\n",
    RelionVersion.V5: "\n# version 50001\n\ndata_job\n\n_rlnJobTypeLabel relion.external\n_rlnJobIsTomo 0\n",
}
EXPECTED = {
    RelionVersion.V3_1: ("rlnPipeLineNodeType", [3, 6, 10, 7, 13]),
    RelionVersion.V4_0: ("rlnPipeLineNodeTypeLabel", ["ParticlesData.star.relion", "DensityMap.mrc",
                         "DensityMap.mrc.halfmap", "Mask3D.mrc", "LogFile.pdf.relion"]),
    RelionVersion.V5: ("rlnPipeLineNodeTypeLabel", ["ParticleGroupMetadata.star.relion", "DensityMap.mrc",
                       "DensityMap.mrc.halfmap", "Mask3D.mrc", "LogFile.pdf.relion"]),
}  # fmt: skip
FILES = {"particles.star": OutputKind.PARTICLES, "map.mrc": OutputKind.MAP, "half1.mrc": OutputKind.HALF_MAP,
         "mask.mrc": OutputKind.MASK, "logfile.pdf": OutputKind.PDF}  # fmt: skip


@pytest.mark.parametrize("version", list(RelionVersion))
@pytest.mark.parametrize("absolute", [False, True])
def test_nodes_of_each_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: RelionVersion, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    job = Path("External/job007")
    job.mkdir(parents=True)
    (job / "job.star").write_text(JOB_STARS[version])
    for name in FILES:
        (job / name).touch()
    base = tmp_path / job if absolute else job
    outputs = [OutputFile(base / name, kind) for name, kind in {**FILES, "no.mrc": OutputKind.MAP}.items()]
    assert running_version(job) is version
    names = write_nodes(job, outputs)
    table = starfile.read(job / "RELION_OUTPUT_NODES.star")
    column, kinds = EXPECTED[version]
    assert names == list(table["rlnPipeLineNodeName"]) == [f"External/job007/{name}" for name in FILES]
    assert list(table[column]) == kinds
    assert list(table.columns) == ["rlnPipeLineNodeName", column]
    stamp = "# version 50001" if version is RelionVersion.V5 else "# version 30001"
    text = (job / "RELION_OUTPUT_NODES.star").read_text()
    assert stamp in text
    assert "data_output_nodes" in text


def test_a_job_started_from_elsewhere_declares_its_nodes_in_its_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template of a queue without ``cd`` starts jobs in the home directory."""
    job = tmp_path / "home/data/project/External/job007"
    job.mkdir(parents=True)
    (tmp_path / "home/data/project/default_pipeline.star").touch()
    (job / "map.mrc").touch()
    monkeypatch.chdir(tmp_path / "home")
    assert write_nodes(job, [OutputFile(job / "map.mrc", OutputKind.MAP)]) == ["External/job007/map.mrc"]


def test_without_job_star_the_newest_form_is_written(tmp_path: Path) -> None:
    assert running_version(tmp_path) is RelionVersion.V5


def test_a_binary_job_star_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.star").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"job\.star is not a text file"):
        running_version(tmp_path)
