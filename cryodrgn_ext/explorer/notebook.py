"""The explorer inside a notebook: ``import cryodrgn_ext``; ``cryodrgn_ext.explore("result")``."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.access import new_token
from cryodrgn_ext.explorer.serve import address, listening, make_ready, make_server, opened_sessions
from cryodrgn_ext.options.explore import ExploreSettings
from cryodrgn_ext.progress import Monitor

HEIGHT_PX = 1000


@runtime_checkable
class HasDirectory(Protocol):
    """What a job has returned, or what was read of it."""

    @property
    def directory(self) -> Path:
        """Of the result."""
        ...


def explore(
    *results: str | Path | HasDirectory, project: str | Path | None = None, port: int = 0, height: int = HEIGHT_PX
) -> Any:
    """Show results below the cell of a notebook; the explorer runs until the notebook's kernel ends.

    Where the kernel runs on another computer than the browser, make a tunnel to ``port`` there first, with the same
    port at both ends (``ssh -N -L 8888:127.0.0.1:8888 ...``).

    Parameters
    ----------
    *results : path-like, or with a ``directory``
        Result directories, as of the command ``explore``, or what jobs return.
    project : path-like, optional
        To which the paths of images are relative.
    port : int
        0 takes a free one.
    height : int
        Of the frame, in pixels.

    Returns
    -------
    IPython.display.IFrame

    Raises
    ------
    InputError
        When this is no notebook, a result cannot be opened, or the port is taken.
    """
    try:
        display = importlib.import_module("IPython.display")
    except ImportError:
        raise InputError("there is no IPython here: call explore in a notebook, or use the command.") from None
    if not results:
        raise InputError("give explore the directory of a result, or several.")
    settings = ExploreSettings(
        in_results=tuple(one.directory if isinstance(one, HasDirectory) else Path(one) for one in results),
        project=None if project is None else Path(project),
        port=port,
    )
    token, found, ready = new_token(), list[int | Exception](), threading.Event()

    def run() -> None:
        try:
            with opened_sessions(settings, Monitor()) as sessions, listening(port) as listener:
                found.append(listener.getsockname()[1])
                ready.set()
                make_ready(sessions)
                make_server(sessions, token).run(sockets=[listener])
        except Exception as error:  # noqa: BLE001 - raised again where the user waits for it
            found.append(error)
            ready.set()

    threading.Thread(target=run, daemon=True, name="explorer").start()
    ready.wait()
    (outcome,) = found[:1]
    if isinstance(outcome, Exception):
        raise outcome
    return display.IFrame(address(outcome, token), width="100%", height=height)
