"""The job ``explore``: opens results, and serves the page on this machine until it is stopped."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from cryodrgn_ext.errors import CryodrgnExtError, InputError, JobAborted
from cryodrgn_ext.explorer.access import new_token
from cryodrgn_ext.explorer.again import Loop
from cryodrgn_ext.explorer.api import explorer_app
from cryodrgn_ext.explorer.maps import MapMaker
from cryodrgn_ext.explorer.masks import KeptMask
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.session import Session
from cryodrgn_ext.options.explore import ExploreSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.threads import use_threads

LOOPBACK = "127.0.0.1"


def explore(settings: ExploreSettings, monitor: Monitor) -> JobResult:
    """Serve the explorer's page until the user stops it.

    Parameters
    ----------
    settings : ExploreSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        Without outputs: what was chosen and made is in the result directories.

    Raises
    ------
    InputError
        When a result cannot be opened, or the port is taken.
    """
    use_threads(settings.j)
    with opened_sessions(settings, monitor) as sessions, listening(settings.port) as listener:
        token = new_token()
        port = listener.getsockname()[1]
        say_address(address(port, token), port, monitor)
        if not settings.no_browser and has_display():
            webbrowser.open(address(port, token))
        server = make_server(sessions, token)
        make_ready(sessions)
        with contextlib.suppress(KeyboardInterrupt, JobAborted):  # Ctrl-C is how it is meant to end
            server.run(sockets=[listener])
        monitor.message("Stopped.")
    return JobResult(Path(), ())


class Opener:
    """Opens results, each with a folder of its own for the maps that are made.

    Parameters
    ----------
    settings : ExploreSettings
    folder : Path
        That is removed at the end.
    monitor : Monitor
    """

    def __init__(self, settings: ExploreSettings, folder: Path, monitor: Monitor) -> None:
        self.settings, self.folder, self.monitor = settings, folder, monitor
        self.sessions: list[Session] = []
        self.loop = Loop(monitor)

    def open(self, given: Path) -> int:
        """Open a result, and return its number among those that are open."""
        settings, number = self.settings, len(self.sessions)
        self.monitor.message(f"Opening {given}")
        opened = OpenedResult(given, settings.project, settings.seed)
        maps = self.folder / str(number)
        maps.mkdir()
        session = Session(opened, MapMaker(opened, maps, settings.device, self.monitor), self.monitor)
        session.loop, session.open_other = self.loop, self.open
        for path in settings.masks:
            session.add_mask(KeptMask(path))
        session.find_kept()
        session.remove_abandoned()
        self.sessions.append(session)
        return number


@contextlib.contextmanager
def opened_sessions(settings: ExploreSettings, monitor: Monitor) -> Iterator[list[Session]]:
    """Open the results; maps that are made meanwhile are removed at the end, and jobs that run are ended."""
    with tempfile.TemporaryDirectory(prefix="cryodrgn-ext-explore-") as folder:
        opener = Opener(settings, Path(folder), monitor)
        for given in settings.in_results:
            opener.open(given)
        try:
            yield opener.sessions
        finally:
            opener.loop.end()


def make_ready(sessions: list[Session]) -> None:
    """Load the models while the user looks at the latents, so that the first map is there as soon as the others."""

    def load() -> None:
        for session in list(sessions):
            # Whoever asks for a map is told.
            with contextlib.suppress(CryodrgnExtError, OSError, MemoryError):
                session.maker.make_ready()

    threading.Thread(target=load, daemon=True, name="models").start()


def make_server(sessions: list[Session], token: str) -> uvicorn.Server:
    """The server; addresses with the secret are not logged."""
    app = explorer_app(sessions, token)
    return uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2)
    )


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket on this machine only; 0 takes a free port.

    Raises
    ------
    InputError
        When the port is taken, or may not be used.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen()  # who opens the address at once waits for the server
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InputError(f"--port {port} cannot be used ({reason}): give another, or 0 for a free one.") from None
        yield listener


def address(port: int, token: str) -> str:
    """Address of the page."""
    return f"http://{LOOPBACK}:{port}/{token}/"


def say_address(url: str, port: int, monitor: Monitor) -> None:
    """Say where the page is, here and from elsewhere."""
    monitor.message(f"The explorer is at\n  {url}")
    monitor.message(
        "From another computer, make a tunnel there and open the same address:\n"
        f"  ssh -N -L {port}:{LOOPBACK}:{port} {getpass.getuser()}@{socket.gethostname()}"
    )
    monitor.message("Whoever has the address can use it; Ctrl-C ends it.")


def has_display() -> bool:
    """Whether a browser would be seen: one for the terminal would take this terminal."""
    return os.name == "nt" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
