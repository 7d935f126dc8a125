"""One opened result as the page works with it: what is shown of it, what makes its maps, and where the maps are."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryodrgn_ext.durable_files import knows_locks, remove_abandoned
from cryodrgn_ext.engines.base import Linear
from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.explorer import half_grid, handing_back
from cryodrgn_ext.explorer.again import Again, Loop, free_directory, plan, why_not
from cryodrgn_ext.explorer.columns import EMBEDDING
from cryodrgn_ext.explorer.half_grid import write_halved
from cryodrgn_ext.explorer.maps import MadeMap, MapMaker
from cryodrgn_ext.explorer.masked_columns import PREFIX, add_mask
from cryodrgn_ext.explorer.masks import FOLDER as MASKS
from cryodrgn_ext.explorer.masks import KeptMask, keep_file, kept_masks
from cryodrgn_ext.explorer.opened_result import OpenedResult, SelectionSummary
from cryodrgn_ext.explorer.pace import AT_ONCE_S
from cryodrgn_ext.explorer.paths import FOLDER as PATHS
from cryodrgn_ext.explorer.paths import path_kind, path_map
from cryodrgn_ext.explorer.scores import add_scores, kept_scores
from cryodrgn_ext.explorer.stored_maps import stored_maps
from cryodrgn_ext.metadata.mrc import read_mrc_header
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.page_data import charts_of_page
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.selections import FOLDER as SELECTIONS
from cryodrgn_ext.workflow.nearby_maps import FEWEST


class Session:
    """One opened result, with what makes its maps and reports to the terminal."""

    def __init__(self, opened: OpenedResult, maker: MapMaker, monitor: Monitor) -> None:
        self.opened, self.maker, self.monitor = opened, maker, monitor
        self.stored = {one.key: one for one in stored_maps(opened)}
        self.masks: dict[str, KeptMask] = {}
        #: By page: what stops the reconstruction that was begun for its latest selection.
        self._newest: dict[str, threading.Event] = {}
        self._pages = threading.Lock()
        #: What trains again, and opens what came out beside the others; where they are served together.
        self.loop: Loop | None = None
        self.open_other: Callable[[Path], int] | None = None

    def reconstruct(self, recipe: Mapping[str, Any], name: str, page: str | None = None) -> MadeMap | None:
        """Map of the particles that a recipe chooses.

        Parameters
        ----------
        recipe : mapping
        name : str
            Of the selection.
        page : str, optional
            By which a page is known that shows it without having been asked: its next selection supersedes it.

        Returns
        -------
        MadeMap or None
            None where it was superseded.
        """
        positions = self.opened.choose(recipe)
        if page is None:
            return self.maker.chosen(positions, name)
        mine = self.supersede(page)
        try:
            return self.maker.chosen(positions, name, mine)
        except JobAborted:
            return None
        finally:
            with self._pages:
                if self._newest.get(page) is mine:
                    del self._newest[page]

    def supersede(self, page: str) -> threading.Event:
        """Stop what is reconstructed for a page without having been asked for; returns what stops the next."""
        mine = threading.Event()
        with self._pages:
            former, self._newest[page] = self._newest.get(page), mine
        if former is not None:
            former.set()
        return mine

    def offer(self, summary: SelectionSummary) -> dict[str, Any]:
        """How long a reconstruction will take (s; None: longer), and whether it is begun without being asked for."""
        seconds = self.maker.seconds_for(summary.n)
        fits = seconds is not None and seconds <= AT_ONCE_S and summary.n >= FEWEST and 0 not in summary.halves
        return {"seconds": seconds, "at_once": fits}

    def map_of(self, name: str) -> tuple[Path, str]:
        """File of a map, by the name under which it was given out, and a name that says what it is.

        Raises
        ------
        InputError
            When there is none of this name.
        """
        stored, of_path = self.stored.get(name), path_map(self.opened, name)
        if name.startswith(f"{MASKS}/"):
            return self.mask(name.removeprefix(f"{MASKS}/")).path, f"mask_{name.removeprefix(f'{MASKS}/')}.mrc"
        if stored is not None:
            return stored.path, f"{stored.kind.lower()}_{stored.key}.mrc"
        if of_path is not None:
            kind = path_kind(of_path.parent).lower()
            return of_path, f"{kind}_{of_path.parent.name}_{of_path.name.removeprefix(f'{kind}_')}"
        return self.maker.file(name), name

    def half_of(self, name: str) -> bytes | None:
        """A map on half its grid, by the name of the whole; None where that is drawn on all of it.

        Raises
        ------
        InputError
            When there is none of this name.
        """
        made = self.maker.half(name)
        if made is not None:
            return made.read_bytes()
        path, _ = self.map_of(name)
        if path.suffix != ".mrc" or read_mrc_header(path).nx <= half_grid.LARGEST_WHOLE:
            return None
        with tempfile.NamedTemporaryFile(dir=self.maker.folder) as file:
            write_halved(path, Path(file.name))
            return Path(file.name).read_bytes()

    def remove_abandoned(self) -> None:
        """Remove what explorers that were killed have left half-written in the result; what others write stays."""
        home = self.opened.home
        if not knows_locks(home):
            self.monitor.message(
                f"The file system of {home} has no locks: a save is whole or not there at all, as ever, but what "
                "programs that are killed leave half-written is not cleared away, and no job is kept out of a "
                "directory that another works in."
            )
            return
        folders = (home, *(home / name for name in (SELECTIONS, MASKS, PATHS)), *(home / PATHS).glob("*/"))
        count = sum(remove_abandoned(folder) for folder in folders)
        if count:
            self.monitor.message(f"Removed {count} half-written files of programs that were killed as they saved.")

    def find_kept(self) -> None:
        """Take up scores of images, and masks where the model can say what is within, that the directory has."""
        try:
            add_scores(self.opened, kept_scores(self.opened))
        except InputError as error:
            self.monitor.message(f"Scores of images are left aside: {error}")
        for kept in kept_masks(self.opened.home):
            try:
                if isinstance(self.maker.model, Linear):
                    self.add_mask(kept)
            except InputError as error:  # also of a model that is gone, without which everything else is there
                self.monitor.message(f"{kept.path} is left aside: {error}")

    def add_mask(self, kept: KeptMask) -> None:
        """List a mask, with its columns."""
        add_mask(self.opened, self.maker.model, kept)
        self.masks[kept.path.stem] = kept

    def charts(self) -> list[dict[str, Any]]:
        """Curves and bars of the job's report.

        Raises
        ------
        InputError
            When there is no report, or it is of an earlier version.
        """
        page = Layout(self.opened.home).report
        found = charts_of_page(page.read_text("utf-8")) if page.is_file() else None
        if found is None:
            raise InputError(f"{page} has no curves: write it again by cryodrgn-ext report {self.opened.home}.")
        return found

    def train_again(self, name: str, recipe: Mapping[str, Any] | None = None) -> Again:
        """Learn again on a saved selection, which is saved now where its recipe is given.

        Raises
        ------
        InputError
            When that cannot be done.
        """
        if self.loop is None or self.open_other is None:
            raise InputError("results that are opened here cannot be trained again.")
        self.loop.require_idle()
        free_directory(self.opened, name)
        if recipe is not None:  # once nothing else is in the way
            self.opened.save(name, recipe, replace=False)
        again = plan(self.opened, name)
        self.loop.start(again, self.opened, self.open_other)
        return again

    def take_mask(self, name: str, data: bytes) -> None:
        """Keep a mask that the user has as a file, and list it; nothing is kept of one that is refused."""
        with self.opened.lock:
            kept = keep_file(self.opened.home, name, data)
            try:
                self.add_mask(kept)
            except InputError:
                kept.path.unlink()
                raise

    def mask(self, name: str) -> KeptMask:
        """A mask by name.

        Raises
        ------
        InputError
            When there is none of this name.
        """
        if name not in self.masks:
            raise InputError(f"there is no mask {name[:100]!r} in this result.")
        return self.masks[name]

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
            "model": self.maker.has_model,
            "particles": str(result.particles.path),
            "rows_of": _rows_of(opened),
            "format": result.particles.source.format,
            "columns": [column.plain() for column in opened.columns.columns],
            "umap": any(column.key in EMBEDDING for column in opened.columns.columns),
            "selections": opened.selections(),
            "masks": [
                {"name": name, "key": f"{PREFIX}{kept.path.name}", "painted_on": kept.painted_on}
                for name, kept in self.masks.items()
            ],
            "maps": [asdict(one) | {"path": one.path.name} for one in self.stored.values()],
            "why_not_again": why_not(opened),
            "relion": None if project is None else str(project),
        }


def _rows_of(opened: OpenedResult) -> str:
    """The file whose rows are counted: an import may have taken some of the user's particles only."""
    path, result = opened.result.particles.path.resolve(), opened.result.directory.resolve()
    return f"{result.name}/{path.name}" if path.is_relative_to(result) else "your file"
