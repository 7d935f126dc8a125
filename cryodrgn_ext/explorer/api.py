"""What the page asks for: descriptions as JSON, columns and positions as arrays of numbers, maps as files.

Whatever is asked in a wrong way is answered by one sentence, ``{"error": ...}``, and status 400.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cryodrgn_ext import report
from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.explorer import handing_back
from cryodrgn_ext.explorer.access import protection
from cryodrgn_ext.explorer.answers import ANSWERS
from cryodrgn_ext.explorer.maps import MadeMap
from cryodrgn_ext.explorer.session import Session
from cryodrgn_ext.workflow.failure import explain

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
CHARTS_SCRIPT = Path(report.__file__).parent / "page_assets/charts.js"
MEDIA = {".gif": "image/gif", ".mp4": "video/mp4"}
GRID = "x-grid"
LARGEST_MASK = 600 << 20  # bytes: 512 voxels in single precision, with some room
LARGEST_REQUEST = 64 << 20  # bytes: some millions of marked particles
#: Colours of numbers from low to high, which the colour-blind can tell apart.
SCALE = [to_hex(color) for color in mpl.colormaps["viridis"](np.linspace(0, 1, 128))]


def explorer_app(sessions: list[Session], token: str) -> Starlette:
    """Make the application.

    Parameters
    ----------
    sessions : list of Session
        The results, in the order in which they are offered.
    token : str
        Secret that every path begins with.
    """
    pages = _Pages(sessions)
    return Starlette(
        routes=[
            Route("/", pages.page),
            Route("/api/results", pages.results),
            Route("/api/results/{number:int}/columns/{key:path}", pages.column),
            Route("/api/results/{number:int}/maps/{name:path}", pages.one_map),
            Route("/api/results/{number:int}/masks/{name}", pages.mask_file, methods=["POST"]),
            Route("/api/results/{number:int}/{what}", pages.answer, methods=["POST"]),
            Route("/static/charts.js", pages.charts_script),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=protection(token),
        exception_handlers={Exception: _failed, **dict.fromkeys(_EXPECTED, _failed)},
    )


class _Pages:
    """What is behind each path."""

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions = sessions

    def session(self, request: Request) -> Session:
        number: int = request.path_params["number"]
        if number >= len(self.sessions):
            raise InputError(f"there is no result {number}: {len(self.sessions)} are open.")
        return self.sessions[number]

    async def page(self, _request: Request) -> Response:
        return FileResponse(STATIC / PAGE)

    async def charts_script(self, _request: Request) -> Response:
        """The script that draws curves, here as in reports."""
        return FileResponse(CHARTS_SCRIPT)

    async def results(self, _request: Request) -> Response:
        return _response({"results": [session.describe() for session in self.sessions], "scale": SCALE})

    async def answer(self, request: Request) -> Response:
        what = request.path_params["what"]
        if what not in ANSWERS:
            return _Plain({"error": f"nothing is called '{what}'."}, 404)
        session = self.session(request)
        asked = json.loads(await _body(request, LARGEST_REQUEST, "a request of"))
        if not isinstance(asked, dict):
            raise InputError("an object of values by name was expected.")
        return _response(await run_in_threadpool(ANSWERS[what], session, asked))

    async def column(self, request: Request) -> Response:
        values = await run_in_threadpool(self.session(request).opened.values, request.path_params["key"])
        return _response(values.astype("<f4", copy=False))

    async def one_map(self, request: Request) -> Response:
        """A map, by a name that was given out: names are looked up, and never made into paths.

        A large one on half its grid, where that is asked for, which the answer then says.
        """
        session, name = self.session(request), request.path_params["name"]
        if request.query_params.get("grid") == "half":
            half = await run_in_threadpool(session.half_of, name)
            if half is not None:
                return Response(half, media_type="application/octet-stream", headers={GRID: "half"})
        path, said = await run_in_threadpool(session.map_of, name)
        kind = MEDIA.get(path.suffix, "application/octet-stream")
        return _MapResponse(path, media_type=kind, filename=said)

    async def mask_file(self, request: Request) -> Response:
        """Take a mask from the user's own files."""
        session = self.session(request)
        data = await _body(request, LARGEST_MASK, "give it with --masks: a mask of")
        await run_in_threadpool(session.take_mask, request.path_params["name"], data)
        return _response(session.describe())


async def _body(request: Request, largest: int, what: str) -> bytes:
    """What was sent, as long as it is no larger; no more of it is ever held.

    Raises
    ------
    InputError
        When it is larger, as it says itself or as it turns out.
    """
    refused = InputError(f"{what} more than {largest >> 20} MiB is not taken.")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > largest:
        raise refused
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > largest:
            raise refused
    return bytes(data)


class _Plain(JSONResponse):
    """Plain values: what is no number is null, and bytes of names that are no UTF-8 are escapes."""

    def render(self, content: Any) -> bytes:
        """Encode the values."""
        text = json.dumps(_known(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace")


def _known(content: Any) -> Any:
    """Plain values without NaN and infinite ones, which JSON does not know."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _known(value) for key, value in content.items()}
    return [_known(value) for value in content] if isinstance(content, (list, tuple)) else content


class _MapResponse(FileResponse):
    """Many megabytes, which are sent in a few steps."""

    chunk_size = 4 << 20


def _response(found: Any) -> Response:
    if isinstance(found, np.ndarray):
        return Response(found.tobytes(), media_type="application/octet-stream")
    if isinstance(found, (MadeMap, handing_back.HandedBack)):
        found = asdict(found)
    return _Plain(found)


_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError, IndexError)
_EXPECTED = (CryodrgnExtError, ClientDisconnect, OSError, MemoryError, *_NOT_UNDERSTOOD)


async def _failed(_request: Request, error: Exception) -> Response:
    """One sentence; what nobody expected is shown in the terminal as well."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # which nobody reads
    if isinstance(error, CryodrgnExtError):
        return _Plain({"error": str(error)}, 400)
    if isinstance(error, _NOT_UNDERSTOOD) and error.__traceback__ is not None:
        traceback.print_exception(error, file=sys.stderr)
        return _Plain({"error": f"what was asked is not understood ({str(error)[:200]})."}, 400)
    if not isinstance(error, (OSError, MemoryError)):
        traceback.print_exception(error, file=sys.stderr)
    return _Plain({"error": explain(error).sentence}, 500)
