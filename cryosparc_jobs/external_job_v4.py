"""An External job, driven through cryosparc-tools 4.7: what it calls differently."""

from __future__ import annotations

import importlib
from typing import Any

from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.slots import Slot


class ExternalJobV4(ExternalJob):
    """An External job, driven through cryosparc-tools 4.7."""

    def _directory(self) -> str:
        return str(self._job.dir())

    def _status(self) -> str:
        return str(self._cs.cli.get_job(self.project, self.uid, "status")["status"])

    def _fail(self, text: str) -> None:
        # stop() takes no sentence there.
        self._job.log(text, level="error")
        self._job.stop(error=True)

    def _log(self, text: str, level: str, name: str) -> None:
        # No events that can be replaced: every report is a line of its own.
        self._job.log(text, level=level)

    def _assets(self) -> list[tuple[str, int]]:
        return [(one["filename"], one["length"]) for one in self._job.list_assets()]

    def _load_back(self, name: str, slots: list[str]) -> Any:
        try:
            return self._job.load_output(name, slots=slots)
        except (TypeError, ValueError):  # its words for: nothing was saved
            return importlib.import_module("cryosparc.dataset").Dataset()

    @staticmethod
    def _input_slot(slot: Slot) -> dict[str, Any]:
        return {"prefix": slot.name, "dtype": slot.dtype or slot.name, "required": slot.required}

    @staticmethod
    def _output_slot(slot: Slot) -> dict[str, Any]:
        return {"prefix": slot.name, "dtype": slot.dtype or slot.name, "required": True}
