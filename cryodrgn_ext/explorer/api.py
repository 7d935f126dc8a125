"""What the page asks for: descriptions as JSON, columns and positions as arrays of numbers, maps as files.

Whatever is asked in a wrong way is answered by one sentence, ``{"error": ...}``, and status 400.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.explorer import handing_back
from cryodrgn_ext.explorer.access import protection
from cryodrgn_ext.explorer.columns import EMBEDDING
from cryodrgn_ext.explorer.gallery import gallery
from cryodrgn_ext.explorer.maps import MadeMap, MapMaker
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.paths import lead_path, path_map
from cryodrgn_ext.explorer.stored_maps import stored_maps
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.failure import explain

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
#: Colours of numbers from low to high, which the colour-blind can tell apart.
SCALE = [to_hex(color) for color in mpl.colormaps["viridis"](np.linspace(0, 1, 128))]
Answer = Callable[["Session", Mapping[str, Any]], Any]


class Session:
    """One opened result, with what makes its maps and reports to the terminal."""

    def __init__(self, opened: OpenedResult, maker: MapMaker, monitor: Monitor) -> None:
        self.opened, self.maker, self.monitor = opened, maker, monitor
        self.stored = {one.key: one for one in stored_maps(opened)}

    def map_of(self, name: str) -> tuple[Path, str]:
        """File of a map, by the name under which it was given out, and a name that says what it is.

        Raises
        ------
        InputError
            When there is none of this name.
        """
        stored, of_path = self.stored.get(name), path_map(self.opened, name)
        if stored is not None:
            return stored.path, f"{stored.kind.lower()}_{stored.key}.mrc"
        if of_path is not None:
            return of_path, f"generated_{of_path.parent.name}_{of_path.name}"
        return self.maker.file(name), name

    def describe(self) -> dict[str, Any]:
        """Everything that the page shows before anything is asked for."""
        opened = self.opened
        result, project = opened.result, handing_back.relion_project(opened)
        return {
            "name": opened.home.resolve().name,
            "path": str(opened.home.resolve()),
            "job": result.job,
            "n": opened.n,
            "of": result.particles.n,
            "q": opened.z.shape[1],
            "particles": str(result.particles.path),
            "format": result.particles.source.format,
            "columns": [column.plain() for column in opened.columns.columns],
            "umap": any(column.key in EMBEDDING for column in opened.columns.columns),
            "selections": opened.selections(),
            "maps": [asdict(one) | {"path": one.path.name} for one in self.stored.values()],
            "relion": None if project is None else str(project),
        }


def _describe(session: Session, _asked: Mapping[str, Any]) -> Any:
    return session.describe()


def _embed(session: Session, _asked: Mapping[str, Any]) -> Any:
    session.opened.embed()
    return session.describe()


def _point(session: Session, asked: Mapping[str, Any]) -> Any:
    """A particle, by its position: its latent, row and image."""
    opened, position = session.opened, int(asked["position"])
    if not 0 <= position < opened.n:
        raise InputError(f"there is no particle {position}: {opened.n} are shown.")
    particles = opened.result.particles
    (one,) = particles.subset(opened.rows[[position]]).image_name
    z = [float(value) for value in opened.z[position]]
    return {"z": z, "row": int(particles.row_id[opened.rows[position]]) + 1, "image": str(one)}


def _choose(session: Session, asked: Mapping[str, Any]) -> Any:
    return asdict(session.opened.summarise(session.opened.choose(asked["recipe"])))


def _positions(session: Session, asked: Mapping[str, Any]) -> Any:
    return session.opened.choose(asked["recipe"]).astype("<u4")


def _save(session: Session, asked: Mapping[str, Any]) -> Any:
    opened, name = session.opened, str(asked["name"])
    path = opened.save(name, asked["recipe"], bool(asked.get("replace", False)))
    session.monitor.message(f"Saved the selection {name}: {path}")
    output = handing_back.output_path(opened, name)
    commands = [handing_back.select_command(opened, name, output)]
    if handing_back.relion_project(opened) is not None:
        commands += handing_back.relion_commands(opened, name)
    return {"path": str(path), "commands": commands, "selections": opened.selections()}


def _generated(session: Session, asked: Mapping[str, Any]) -> Any:
    return session.maker.generated(asked["z"])


def _near(session: Session, asked: Mapping[str, Any]) -> Any:
    return session.maker.near(asked["z"], int(asked["count"]))


def _reconstruct(session: Session, asked: Mapping[str, Any]) -> Any:
    return session.maker.chosen(session.opened.choose(asked["recipe"]), str(asked.get("name") or "not saved"))


def _particles(session: Session, asked: Mapping[str, Any]) -> Any:
    name, form = str(asked["name"]), str(asked.get("format", "auto"))
    return handing_back.write_file(session.opened, name, form, session.monitor)


def _relion(session: Session, asked: Mapping[str, Any]) -> Any:
    return handing_back.make_relion_job(session.opened, str(asked["name"]), session.monitor)


def _cryosparc(session: Session, asked: Mapping[str, Any]) -> Any:
    where = {what: str(asked.get(what, "")) for what in ("project", "workspace", "job")}
    return handing_back.make_cryosparc_job(session.opened, str(asked["name"]), where, session.monitor)


def _difference(session: Session, asked: Mapping[str, Any]) -> Any:
    first, second = (session.map_of(str(asked[which])) for which in ("first", "second"))
    return session.maker.difference(first, second)


def _gallery(session: Session, asked: Mapping[str, Any]) -> Any:
    return gallery(session.maker, asked["positions"]).plain()


def _path(session: Session, asked: Mapping[str, Any]) -> Any:
    frames, method = int(asked["frames"]), str(asked.get("method", "line"))
    return lead_path(session.opened, str(asked["name"]), asked["points"], frames, method, session.monitor)


ANSWERS: dict[str, Answer] = {
    "describe": _describe, "umap": _embed, "point": _point, "choose": _choose, "positions": _positions, "save": _save,
    "generated": _generated, "near": _near, "reconstruct": _reconstruct, "particles": _particles, "relion": _relion,
    "cryosparc": _cryosparc, "path": _path, "gallery": _gallery,
    "difference": _difference,
}  # fmt: skip


def explorer_app(sessions: Sequence[Session], token: str) -> Starlette:
    """Make the application.

    Parameters
    ----------
    sessions : sequence of Session
        The results, in the order in which they are offered.
    token : str
        Secret that every path begins with.
    """

    def session_of(request: Request) -> Session:
        number: int = request.path_params["number"]
        if number >= len(sessions):
            raise InputError(f"there is no result {number}: {len(sessions)} are open.")
        return sessions[number]

    async def answer(request: Request) -> Response:
        what = request.path_params["what"]
        if what not in ANSWERS:
            return JSONResponse({"error": f"nothing is called '{what}'."}, 404)
        session = session_of(request)
        asked = await request.json()
        if not isinstance(asked, dict):
            raise InputError("an object of values by name was expected.")
        return _response(await run_in_threadpool(ANSWERS[what], session, asked))

    async def column(request: Request) -> Response:
        values = await run_in_threadpool(session_of(request).opened.values, request.path_params["key"])
        return _response(values.astype("<f4", copy=False))

    async def one_map(request: Request) -> Response:
        return _map_file(session_of(request), request.path_params["name"])

    async def page(_request: Request) -> Response:
        return FileResponse(STATIC / PAGE)

    async def results(_request: Request) -> Response:
        return _response({"results": [session.describe() for session in sessions], "scale": SCALE})

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/results", results),
            Route("/api/results/{number:int}/columns/{key:path}", column),
            Route("/api/results/{number:int}/maps/{name:path}", one_map),
            Route("/api/results/{number:int}/{what}", answer, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=protection(token),
        exception_handlers={Exception: _failed, **dict.fromkeys(_EXPECTED, _failed)},
    )


def _map_file(session: Session, name: str) -> Response:
    """A map, by a name that was given out: names are looked up, and never made into paths."""
    path, said = session.map_of(name)
    return FileResponse(path, media_type="application/octet-stream", filename=said)


def _response(found: Any) -> Response:
    if isinstance(found, np.ndarray):
        return Response(found.tobytes(), media_type="application/octet-stream")
    if isinstance(found, (MadeMap, handing_back.HandedBack)):
        found = asdict(found)
    return JSONResponse(found)


_EXPECTED = (CryodrgnExtError, OSError, MemoryError, KeyError, TypeError, ValueError)


async def _failed(_request: Request, error: Exception) -> Response:
    """One sentence; what nobody expected is shown in the terminal as well."""
    if isinstance(error, CryodrgnExtError):
        return JSONResponse({"error": str(error)}, 400)
    if isinstance(error, (KeyError, TypeError, ValueError)) and error.__traceback__ is not None:
        traceback.print_exception(error, file=sys.stderr)
        return JSONResponse({"error": f"what was asked is not understood ({error})."}, 400)
    if not isinstance(error, (OSError, MemoryError)):
        traceback.print_exception(error, file=sys.stderr)
    return JSONResponse({"error": explain(error).sentence}, 500)
