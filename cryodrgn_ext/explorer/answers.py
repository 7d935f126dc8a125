"""What is done when the page asks: each answer is a function of the session and of plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer import handing_back
from cryodrgn_ext.explorer.comparison import compare_within
from cryodrgn_ext.explorer.gallery import gallery
from cryodrgn_ext.explorer.masked_columns import mask_of_model
from cryodrgn_ext.explorer.masks import keep_painted
from cryodrgn_ext.explorer.paths import lead_path
from cryodrgn_ext.explorer.scores import add_scores, keep_scores, score_images
from cryodrgn_ext.explorer.session import Session
from cryodrgn_ext.workflow.failure import explain

Answer = Callable[[Session, Mapping[str, Any]], Any]


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


def _cease(session: Session, asked: Mapping[str, Any]) -> Any:
    session.supersede(str(asked.get("page", "")))


def _choose(session: Session, asked: Mapping[str, Any]) -> Any:
    """What a selection is; what was begun for the former one of this page is stopped."""
    _cease(session, asked)
    summary = session.opened.summarise(session.opened.choose(asked["recipe"]))
    return asdict(summary) | {"reconstruction": session.offer(summary)}


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


def _component(session: Session, asked: Mapping[str, Any]) -> Any:
    return session.maker.component(int(asked["component"]))


def _near(session: Session, asked: Mapping[str, Any]) -> Any:
    return session.maker.near(asked["z"], int(asked["count"]))


def _reconstruct(session: Session, asked: Mapping[str, Any]) -> Any:
    page = str(asked["page"]) if asked.get("at_once") else None
    made = session.reconstruct(asked["recipe"], str(asked.get("name") or "not saved"), page)
    return {"superseded": True} if made is None else made


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
    frames, device = int(asked["frames"]), session.maker.device.type
    return lead_path(session.opened, str(asked["name"]), asked, frames, session.monitor, device)


def _paint(session: Session, asked: Mapping[str, Any]) -> Any:
    """Keep a painted mask; answers what there is now, with the mask's columns."""
    on = None if asked.get("on") is None else session.map_of(str(asked["on"]))
    model = session.maker.model
    with session.opened.lock:
        grid = model.box_size, model.pixel_size_A
        kept = keep_painted(session.opened.home, str(asked["name"]), asked["strokes"], on, grid)
        session.add_mask(kept)
    session.monitor.message(f"Saved the mask {kept.path.stem}: {kept.path}")
    return session.describe()


def _score(session: Session, _asked: Mapping[str, Any]) -> Any:
    """Hold all images against the model, and keep the scores; answers what there is now."""
    scores = score_images(session.maker)
    add_scores(session.opened, scores)
    try:
        session.monitor.message(f"Scored the images: {keep_scores(session.opened, scores)}")
    except OSError as error:  # somebody else's result: they are there until the explorer ends
        session.monitor.message(f"The scores of the images are not kept: {explain(error).sentence}")
    return session.describe()


def _train_again(session: Session, asked: Mapping[str, Any]) -> Any:
    again = session.train_again(str(asked["name"]), asked.get("recipe"))
    return again.plain() | {"selections": session.opened.selections()}


def _again(session: Session, _asked: Mapping[str, Any]) -> Any:
    """How far the latest of these is."""
    latest = None if session.loop is None else session.loop.latest
    return None if latest is None else latest.plain()


def _charts(session: Session, _asked: Mapping[str, Any]) -> Any:
    return session.charts()


def _within(session: Session, asked: Mapping[str, Any]) -> Any:
    mask = mask_of_model(session.mask(str(asked["mask"])).path, session.maker.model)
    maps = [session.map_of(str(name)) for name in asked["maps"]]
    return {"maps": [asdict(one) for one in compare_within(mask, maps)]}


ANSWERS: dict[str, Answer] = {
    "describe": _describe, "cease": _cease,
    "umap": _embed, "point": _point, "choose": _choose, "positions": _positions, "save": _save,
    "generated": _generated, "near": _near, "reconstruct": _reconstruct, "particles": _particles, "relion": _relion,
    "cryosparc": _cryosparc, "path": _path, "gallery": _gallery,
    "difference": _difference, "paint": _paint, "within": _within, "component": _component, "score": _score,
    "train_again": _train_again, "again": _again, "charts": _charts,
}  # fmt: skip
