"""The adapter keeps its promises under faults: what it reports as sent is there, and what fails is one sentence."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from cryosparc import auth
from cryosparc.dataset import Dataset

from cryodrgn_ext.errors import InputError
from cryosparc_jobs import client
from cryosparc_jobs.client import create_external_job, find_output
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.external_job import LONGEST_ERROR, ExternalJob
from cryosparc_jobs.external_job_v4 import ExternalJobV4
from cryosparc_jobs.slots import Slot
from tests.cryosparc_jobs.imitated_project import Lab
from tests.cryosparc_master import EMAIL, PASSWORD, Fault

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
SLOTS = (Slot("blob"), Slot("ctf"), Slot("alignments3D"), Slot("location", required=False))


@pytest.fixture
def job(lab: Lab) -> ExternalJob:
    made = create_external_job(lab.cs, lab.project, "W1", "A title", "What it does")
    made.connect("particles", find_output(lab.cs, lab.project, lab.parent, "particles"), SLOTS)
    made.add_output("particle", "state_0", [Slot("alignments3D")], passthrough="particles", title="State 0")
    made.start()
    return made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    figure = plt.figure(figsize=(1, 1))
    figure.savefig(tmp_path / "picture.png")
    plt.close(figure)
    return tmp_path / "picture.png"


def test_login_takes_credentials_from_the_token_store_only(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "auth.json"
    monkeypatch.setattr(auth, "get_default_auth_config_path", lambda: store)
    for url in (lab.master.url, None):
        with pytest.raises(InputError, match=r"python -m cryosparc\.tools login --url"):
            client.connect(url)
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    token = lab.cs.api.login(grant_type="password", username=EMAIL, password=hashed)
    sessions = auth.InstanceAuthSessions({})
    sessions.insert(lab.master.url, EMAIL, token, datetime.now(UTC) + timedelta(days=1))
    sessions.save(store)
    connected = client.connect(lab.master.url + "/")
    assert find_output(connected, lab.project, lab.parent, "particles").type == "particle"
    connected.api._client.close()
    for name in client.ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    remembered = client.connect()
    assert remembered.base_url == lab.master.url
    remembered.api._client.close()
    sessions.insert("http://other:39000", EMAIL, token, datetime.now(UTC) + timedelta(days=1))
    sessions.save(store)
    with pytest.raises(InputError, match=r"--url .* or CRYOSPARC_BASE_URL: there are logins at .*, http://other:39000"):
        client.connect()
    lab.master.tokens.clear()
    with pytest.raises(MasterError, match="not authenticated"):
        client.connect(lab.master.url)


def test_license_of_4_7_does_not_reach_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    class CryoSPARC:
        def __init__(self, license: str = "secret-license", host: str = "", base_port: int = 0) -> None:
            raise AssertionError(f"Invalid or unspecified CryoSPARC license ID {license}")

    monkeypatch.setattr("cryosparc.tools.CryoSPARC", CryoSPARC)
    with pytest.raises(InputError, match="CRYOSPARC_LICENSE_ID") as caught:
        client.connect("http://host:39000")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_parent_is_described_with_its_passthrough_slots(lab: Lab) -> None:
    found = find_output(lab.cs, lab.project, lab.parent, "particles")
    assert (found.type, found.job_uid, found.name) == ("particle", lab.parent, "particles")
    assert set(found.slots) == {"blob", "ctf", "alignments3D", "location"}


def test_wrong_names_are_one_sentence(lab: Lab) -> None:
    with pytest.raises(InputError, match="has no output 'volumes'; it has 'particles'"):
        find_output(lab.cs, lab.project, lab.parent, "volumes")
    with pytest.raises(
        MasterError, match=r"could not look up job J99 of project P1: job P1-J99 not found\.$"
    ) as caught:
        find_output(lab.cs, lab.project, "J99", "particles")
    assert not caught.value.transient
    with pytest.raises(MasterError, match="workspace P1-W7 not found"):
        create_external_job(lab.cs, lab.project, "W7", "A title")


def test_rows_come_and_go_with_the_parents_uids(lab: Lab, job: ExternalJob) -> None:
    loaded = job.load_input("particles", ["blob", "alignments3D"])
    assert set(loaded.prefixes()) == {"blob", "alignments3D"}
    rows = job.allocate("state_0", loaded["uid"][:7])
    rows["alignments3D/pose"] = loaded["alignments3D/pose"][:7]
    job.save_output("state_0", rows)
    back = lab.cs.find_job(lab.project, job.uid).load_output("state_0")
    assert back["uid"].tolist() == lab.particles["uid"][:7].tolist()
    assert np.array_equal(back["blob/path"], lab.particles["blob/path"][:7])
    assert lab.state(job.uid).model.spec.outputs.root["state_0"].title == "State 0"


@pytest.mark.parametrize("kind", ["drop", "empty", "truncate", "error", "lose_answer"])
@pytest.mark.parametrize("shared", [True, False])
def test_upload_is_whole_in_the_end(lab: Lab, job: ExternalJob, tmp_path: Path, kind: str, shared: bool) -> None:
    job.trust_shared_files = shared
    source = tmp_path / "map.mrc"
    source.write_bytes(np.random.default_rng(0).bytes(20_000_000))
    lab.master.faults.add(Fault("projects.upload_file", kind, times=2))  # type: ignore[arg-type]
    assert job.upload(source, "states/map.mrc") == f"{job.uid}/states/map.mrc"
    assert (lab.directory / job.uid / "states" / "map.mrc").read_bytes() == source.read_bytes()


def test_upload_that_never_arrives_is_an_error(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    source = tmp_path / "map.mrc"
    source.write_bytes(b"x" * 1000)
    lab.master.faults.add(Fault("projects.upload_file", "empty", times=-1))
    with pytest.raises(MasterError, match=r"map\.mrc of job J2 did not arrive whole .* \(1000 bytes\) in 3 attempts"):
        job.upload(source, "map.mrc")
    lab.master.faults.clear()
    lab.master.instance.project(lab.project).read_only = True
    with pytest.raises(MasterError, match=r"could not take the file map\.mrc: .*Read-only file system"):
        job.upload(source, "map.mrc")


@pytest.mark.parametrize("kind", ["drop", "empty", "truncate", "error", "lose_answer"])
def test_saved_rows_are_whole_in_the_end(lab: Lab, job: ExternalJob, kind: str) -> None:
    rows = job.allocate("state_0", lab.particles["uid"])
    rows["alignments3D/shift"] = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    rows["alignments3D/error"] = np.full(20, np.nan, np.float32)
    lab.master.faults.add(Fault("jobs.save_output", kind))  # type: ignore[arg-type]
    job.save_output("state_0", rows)
    back = lab.cs.find_job(lab.project, job.uid).load_output("state_0", ["alignments3D"])
    assert np.array_equal(back["alignments3D/shift"], rows["alignments3D/shift"])


def test_rows_that_are_never_kept_are_an_error(lab: Lab, job: ExternalJob) -> None:
    rows = job.allocate("state_0", lab.particles["uid"])
    lab.master.faults.add(Fault("jobs.save_output", "empty", times=-1))
    with pytest.raises(MasterError, match=r"did not keep the 20 rows of output state_0 .* holds 0"):
        job.save_output("state_0", rows)


def test_images_arrive_whole(lab: Lab, job: ExternalJob, picture: Path) -> None:
    lab.master.faults.add(Fault("assets.upload", "empty"))
    job.plot(picture, "Latent space")
    lab.master.faults.add(Fault("assets.upload", "drop"))
    job.set_output_image("state_0", picture)
    job.set_tile_image(picture)
    model, assets = lab.state(job.uid).model, lab.master.instance.assets
    for fileid in (model.spec.outputs.root["state_0"].image, model.ui_tile_images[0].fileid):
        assert assets[fileid][1] == picture.read_bytes()
    assert lab.state(job.uid).events[-1].imgfiles[0].filename == "Latent space.png"
    lab.master.faults.add(Fault("assets.upload", "empty", times=-1))
    with pytest.raises(MasterError, match=r"picture\.png did not arrive whole"):
        job.plot(picture, "Again")


def test_error_is_cut_and_never_empty(lab: Lab, job: ExternalJob) -> None:
    job.fail("Å" * 100_000)
    assert lab.state(job.uid).model.status == "failed"
    assert lab.state(job.uid).log_text().endswith("Å ...")
    assert len(lab.state(job.uid).log_text()) == LONGEST_ERROR
    job.fail(" \n")
    assert lab.state(job.uid).history[-2:] == ["failed", "failed"], "an empty error would mean: completed"


def test_master_that_is_gone_is_one_sentence(lab: Lab, job: ExternalJob) -> None:
    lab.master.faults.add(Fault("jobs.get_status", "drop", times=-1))
    with pytest.raises(MasterError, match=r"^Job P1-J2 could not tell its status: ") as caught:
        job.status()
    assert caught.value.transient
    assert "\n" not in str(caught.value)


class ControllerOf47:
    """Interface of cryosparc-tools 4.7, as its source has it: methods for what 5 has as properties, other keywords."""

    def __init__(self) -> None:
        self.project_uid, self.uid = "P1", "J7"
        self.calls: list[tuple[Any, ...]] = []
        self.saved: Dataset | None = None
        self.files: dict[str, bytes] = {}
        self.doc = {
            "output_result_groups": [{"name": "particles", "type": "particle"}],
            "output_results": [{"group_name": "particles", "name": "ctf", "type": "particle.ctf"},
                               {"group_name": "other", "name": "map", "type": "volume.blob"}],
        }  # fmt: skip

    def dir(self) -> str:
        return "/nowhere/P1/J7"

    def start(self, status: str = "waiting") -> None:
        self.calls.append(("start", status))

    def stop(self, error: bool = False) -> None:
        self.calls.append(("stop", error))

    def log(self, text: str, level: str = "text") -> None:
        self.calls.append(("log", text, level))

    def connect(self, name: str, source: str, output: str, *, slots: list[Any]) -> None:
        self.calls.append(("connect", name, source, output, slots))

    def add_output(self, type: str, name: str, slots: list[Any], passthrough: Any, title: str) -> None:
        self.calls.append(("add_output", type, name, slots, passthrough, title))

    def save_output(self, name: str, dataset: Dataset, *, refresh: bool = True) -> None:
        self.saved = dataset if ("save", name) in self.calls else None
        self.calls.append(("save", name))

    def load_output(self, name: str, slots: list[str] = [], version: Any = "F") -> Dataset:  # noqa: B006
        if self.saved is None:
            raise TypeError("Job P1-J7 does not have any results for output")
        return self.saved

    def upload(self, target: str, source: Any, *, overwrite: bool = False) -> None:
        self.files[target] = source.read()

    def download_file(self, path: str, target: Path) -> None:
        Path(target).write_bytes(self.files[path])


def test_dialect_of_4_7(tmp_path: Path) -> None:
    controller = ControllerOf47()
    cli = SimpleNamespace(get_job=lambda project, job, *fields: dict.fromkeys(fields, "killed"))
    cs = SimpleNamespace(cli=cli, find_job=lambda project, job: controller,
                         create_external_job=lambda project, workspace, title, desc: controller)  # fmt: skip
    source = find_output(cs, "P1", "J7", "particles")
    assert source.slots == {"ctf": "ctf"}
    job = create_external_job(cs, "P1", "W1", "A title")
    assert isinstance(job, ExternalJobV4)
    job.connect("particles", source, [Slot("ctf"), Slot("alignments_class_0", "alignments3D", required=False)])
    job.add_output("volume", "map", [Slot("map", "blob")])
    job.start()
    assert job.status() == "killed"
    job.save_output("map", Dataset({"uid": np.array([1], np.uint64)}))
    (tmp_path / "map.mrc").write_bytes(b"map")
    assert job.upload(tmp_path / "map.mrc", "map.mrc") == "J7/map.mrc"
    job.log("half way", name="progress")
    job.set_tile_image(tmp_path / "map.mrc")
    job.fail("no memory")
    assert controller.calls == [
        ("connect", "particles", "J7", "particles",
         [{"prefix": "ctf", "dtype": "ctf", "required": True},
          {"prefix": "alignments_class_0", "dtype": "alignments3D", "required": False}]),
        ("add_output", "volume", "map", [{"prefix": "map", "dtype": "blob", "required": True}], None, "map"),
        ("start", "running"),
        ("save", "map"), ("save", "map"),
        ("log", "half way", "text"),
        ("log", "no memory", "error"), ("stop", True),
    ]  # fmt: skip
    assert str(job.directory) == "/nowhere/P1/J7"


def test_nothing_of_ours_names_a_credential(lab: Lab, job: ExternalJob, capsys: pytest.CaptureFixture[str]) -> None:
    lab.master.faults.add(Fault("jobs.get_status", "error"))
    with pytest.raises(MasterError) as caught:
        job.status()
    (token,) = lab.master.tokens
    written = io.StringIO(str(caught.value) + repr(job) + "".join(capsys.readouterr()))
    assert token not in written.getvalue()
    assert PASSWORD not in written.getvalue()
