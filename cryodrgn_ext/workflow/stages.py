"""Which stages of a job are finished, and with what: a killed job goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryodrgn_ext.plain_files import load_json, write_json
from cryodrgn_ext.progress import Monitor

STAGES_NAME = "stages.json"


class Stages:
    """Journal of finished stages in a checkpoint directory.

    A stage is finished with a key, the fingerprint of everything that decides its result. With another key it is
    done again, and so are all stages that follow, because their keys contain it. The warnings that a stage raised are
    kept with it, and come back in every run that finds it finished.

    Parameters
    ----------
    directory : Path
        The checkpoint directory; made when a stage begins.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / STAGES_NAME
        try:
            loaded = load_json(self._path)
        except (FileNotFoundError, ValueError):
            # Without a readable journal every stage is done again, which is slow but right.
            loaded = {}
        self._finished: dict[str, dict[str, object]] = {
            name: entry for name, entry in loaded.items() if isinstance(entry, dict)
        }

    @property
    def none_finished(self) -> bool:
        """Whether the journal has no stage."""
        return not self._finished

    def key(self, name: str) -> str | None:
        """Key with which a stage was finished; None when it was not."""
        key = self._finished.get(name, {}).get("key")
        return key if isinstance(key, str) else None

    def seconds(self) -> dict[str, float]:
        """Time that each finished stage took in its last run."""
        times = {name: entry.get("seconds") for name, entry in self._finished.items()}
        return {name: time_s for name, time_s in times.items() if isinstance(time_s, float)}

    def is_finished(self, name: str, key: str) -> bool:
        """Whether the stage was finished with this key."""
        return self.key(name) == key

    def note_seconds(self, name: str, key: str, seconds: float) -> None:
        """Write down how long a part took that every run goes through; a run that finds it done keeps the first time.

        Parameters
        ----------
        name, key : str
            As of :meth:`run`.
        seconds : float
        """
        if not self.is_finished(name, key):
            self._finish(name, key, seconds, [])

    def run(
        self,
        name: str,
        key: str,
        monitor: Monitor,
        title: str,
        work: Callable[[], object],
        products: Sequence[Path] = (),
    ) -> list[str]:
        """Do the work of a stage unless it is finished with this key; then write that down.

        Parameters
        ----------
        name, key : str
        monitor : Monitor
        title : str
            For the user, what is done.
        work : callable
            Leaves its results on disk, atomically.
        products : sequence of Path
            Results without which the stage is not finished, whatever the journal says.

        Returns
        -------
        list of str
            The warnings that belong to the stage, raised now or when it was finished.
        """
        monitor.poll()
        if self.is_finished(name, key) and all(path.exists() for path in products):
            monitor.message(f"{title}: done before.")
            return self._repeat_warnings(name, monitor)
        self._finished.pop(name, None)
        monitor.message(f"{title} ...")
        self._path.parent.mkdir(parents=True, exist_ok=True)  # many stages keep files there
        begin, earlier = time.monotonic(), len(monitor.warnings)
        work()
        warnings = monitor.warnings[earlier:]
        self._finish(name, key, time.monotonic() - begin, warnings)
        return warnings

    def _repeat_warnings(self, name: str, monitor: Monitor) -> list[str]:
        kept = self._finished[name].get("warnings", [])
        warnings = [str(sentence) for sentence in kept] if isinstance(kept, list) else []
        for sentence in warnings:
            monitor.warn(sentence)
        return warnings

    def _finish(self, name: str, key: str, seconds: float, warnings: Sequence[str]) -> None:
        entry: dict[str, object] = {"key": key, "seconds": round(seconds, 3)}
        if warnings:
            entry["warnings"] = list(warnings)
        self._finished[name] = entry
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._finished)
