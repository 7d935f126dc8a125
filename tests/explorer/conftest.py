"""A finished result inside a RELION project, and the explorer's application on it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import make_output_directory
from cryodrgn_ext.engines.base import LinearForm
from cryodrgn_ext.explorer.again import Loop, Say
from cryodrgn_ext.explorer.serve import address, listening, make_server, opened_sessions
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.options.explore import ExploreSettings
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.settings import from_mapping
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests import blank_pictures
from tests.jobs import fake_engine

N = 200
HANGS_S = 60.0
TOKEN = "a-secret"
#: A column that nobody knows, with text in it.
OWN_COLUMN = "myRemark"
LATE = 101
#: Further ones, as programs leave them: what each has in a row, from 0.
ODD_COLUMNS: dict[str, Callable[[int], str]] = {
    OWN_COLUMN: lambda row: f"remark_{row}",
    "mySometimes": lambda row: "nan" if row % 3 else f"{row / 8}",
    "myNever": lambda _row: "nan",
    "myConstant": lambda _row: "-1.500000",
    "myLarge": lambda row: "1e300" if row == 0 else "-inf" if row == 1 else f"{row}",
    "myLate": lambda row: "unknown" if row == LATE else f"{row}",
}
#: A lasso in the plane of the first two latents.
POLYGON = np.array([[-1.3, -0.4], [0.2, -1.1], [1.4, 0.3], [0.3, 0.1], [0.1, 1.3], [-0.8, 0.9]])

FetchMap = Callable[[str], tuple[NDArray[np.float32], str]]


@dataclass(frozen=True)
class Project:
    """A RELION project with a finished train job.

    Attributes
    ----------
    root : Path
    """

    root: Path

    @property
    def result(self) -> Path:
        return self.root / "External/train"


class LinearResult(fake_engine.FakeResult):
    """The stand-in, whose volumes are said to be what they are: the consensus and the first latent times it."""

    def linear_form(self) -> LinearForm:
        return LinearForm(self.consensus, 1, lambda: iter((self.consensus,)), lambda z: z[:, :1])


def install_quick_parts(patch: pytest.MonkeyPatch) -> None:
    """An engine that learns nothing, and pictures with nothing in them."""
    fake_engine.install(patch)
    patch.setattr(Loop, "run", run_here)
    patch.setattr("cryodrgn_ext.report.page.report_figures", lambda content: [])  # of paper, which nobody looks at here
    # A class of its own: Python remembers of a class what it has once been an instance of.
    patch.setattr(fake_engine, "FakeResult", LinearResult)
    blank_pictures.install(patch)


@pytest.fixture(autouse=True)
def quick_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every test by itself: other tests of the same process need the real ones."""
    install_quick_parts(monkeypatch)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("explored")
    particles = simulate_particles(
        N, motion=two_domain_protein(), box_size=32, pixel_size_A=8.0, snr=1.0, max_shift_px=1.0, seed=1
    )
    write_relion_project(root, particles)
    star = root / "particles.star"
    lines = star.read_text().splitlines()
    begin = lines.index("data_particles")
    labels = [k for k, line in enumerate(lines) if k > begin and line.startswith("_")]
    rows = [line for line in lines[labels[-1] + 1 :] if line.strip()]
    assert len(rows) == N
    own = lines[: labels[-1] + 1] + [f"_{name} #{len(labels) + k}" for k, name in enumerate(ODD_COLUMNS, 1)]
    own += [" ".join([line, *(odd(row) for odd in ODD_COLUMNS.values())]) for row, line in enumerate(rows)]
    star.write_text("\n".join(own) + "\n")
    settings = TrainSettings(
        in_parts=Path("particles.star"), o=Path("External/train"), zdim=3, states=2, volumes=2, device="cpu", seed=3
    )
    with pytest.MonkeyPatch.context() as patch:
        install_quick_parts(patch)
        patch.chdir(root)
        train(settings, SilentMonitor())
    return Project(root)


@dataclass(frozen=True)
class Answer:
    """Answer of the server."""

    status: int
    body: bytes
    headers: Message

    @property
    def plain(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Explorer:
    """A running explorer.

    Attributes
    ----------
    port : int
    token : str
    """

    port: int
    token: str = TOKEN

    @property
    def address(self) -> str:
        return address(self.port, self.token)

    def ask(self, method: str, path: str, body: bytes | None = None, host: str | None = None) -> Answer:
        """Ask for a path from the root of the server."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=HANGS_S)
        try:
            headers = {"host": host or f"127.0.0.1:{self.port}"}
            connection.request(method, path, body, headers)
            found = connection.getresponse()
            return Answer(found.status, found.read(), found.headers)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", f"/{self.token}/{path}")

    def post(self, what: str, number: int = 0, **values: Any) -> Answer:
        return self.ask("POST", f"/{self.token}/api/results/{number}/{what}", json.dumps(values).encode())


def run_here(_loop: Loop, words: Sequence[str], folder: Path, say: Say) -> None:
    """Run a command of ours in this process, with its stand-ins, in the place of one of its own."""
    job, given = JOBS[words[1]], dict[str, Any]()
    rest = list(words[2:])
    options = {rest[k][2:]: rest[k + 1] for k in range(len(rest) - 1) if rest[k].startswith("--")}
    (positional,) = job.positional or ("",)
    count = next(k for k, word in enumerate([*rest, "--"]) if word.startswith("--"))
    given = {**options, **({positional: rest[:count]} if count else {})}
    settings = from_mapping(job.settings_class, given)
    if isinstance(settings, ResultSettings):
        make_output_directory(settings.o)
    job.load()(settings, SilentMonitor())
    say(f"{job.name} is done")


@contextlib.contextmanager
def running(*results: Path) -> Iterator[Explorer]:
    """Serve results in a thread, as the job does in its own."""
    settings = ExploreSettings(in_results=results, device="cpu")
    with opened_sessions(settings, SilentMonitor()) as sessions, listening(0) as listener:
        server = make_server(sessions, TOKEN)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Explorer(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(HANGS_S)


@pytest.fixture(scope="session")
def explorer(project: Project) -> Iterator[Explorer]:
    """An explorer of the result, which is opened with the stand-ins; each test has them for itself."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            install_quick_parts(patch)
            found = stack.enter_context(running(project.result))
        yield found


def latents(project: Project) -> NDArray[np.float32]:
    with np.load(project.result / "latents.npz") as table:
        found: NDArray[np.float32] = table["z"]
    return found


@pytest.fixture
def recipe() -> dict[str, object]:
    return {"by": "polygon", "x": "z1", "y": "z2", "corners": POLYGON.tolist()}


@pytest.fixture
def map_of(explorer: Explorer, tmp_path: Path) -> FetchMap:
    def fetch(name: str) -> tuple[NDArray[np.float32], str]:
        answer = explorer.get(f"api/results/0/maps/{name}")
        assert answer.status == 200
        path = tmp_path / "fetched.mrc"
        path.write_bytes(answer.body)
        with mrcfile.open(path) as file:
            return file.data.copy(), " ".join(file.get_labels())

    return fetch


def inside(corners: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """By the sum of the angles under which the sides are seen: another definition than counting crossings."""
    to = corners[None] - points[:, None]
    angle = np.arctan2(to[..., 1], to[..., 0])
    turn = np.diff(np.concatenate([angle, angle[:, :1]], axis=1), axis=1)
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    return np.abs(turn.sum(axis=1)) > np.pi
