"""Errors between us and the master: everything that the client raises leaves as one kind of error."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator

from cryodrgn_ext.errors import CryodrgnExtError


class MasterError(CryodrgnExtError):
    """The CryoSPARC master cannot be reached, refuses a request, or did not keep what it was sent.

    Attributes
    ----------
    transient : bool
        Whether the same request may succeed later: False for what the master refused.
    """

    def __init__(self, sentence: str, transient: bool = True) -> None:
        super().__init__(sentence)
        self.transient = transient


def cut(text: str, longest: int) -> str:
    """Shorten a text to ``longest`` characters, marking the cut."""
    return text if len(text) <= longest else text[: longest - 4] + " ..."


@functools.cache
def client_errors() -> tuple[type[Exception], ...]:
    """Return everything that the client, of either version, raises when the master or the network fails."""
    errors = importlib.import_module("cryosparc.errors")
    names = ("APIError", "CommandError", "InvalidSlotsError", "ExternalJobError", "DatasetLoadError")
    found = [getattr(errors, name) for name in names if hasattr(errors, name)]
    with contextlib.suppress(ImportError):
        httpx = importlib.import_module("httpx")
        found += [httpx.HTTPError, httpx.InvalidURL]
    # The rest is what the client makes of answers that it does not expect, or of functions that an older master lacks:
    # nothing but calls of the client stands in the blocks that this guards.
    return (*found, OSError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextlib.contextmanager
def asking(what: str, who: str = "CryoSPARC") -> Iterator[None]:
    """Turn whatever the client raises into one sentence."""
    try:
        yield
    except client_errors() as error:
        code = getattr(error, "code", 0)
        refused = isinstance(code, int) and 400 <= code < 500
        raise MasterError(f"{who} could not {what}: {sentence_of(error)}", transient=not refused) from error


def sentence_of(error: Exception) -> str:
    """Sentence on what went wrong, in one line: the master's own words where it gave any."""
    data = getattr(error, "data", None)
    detail = data.get("detail") if isinstance(data, dict) else None
    text = detail if isinstance(detail, str) else str(error) or type(error).__name__
    return cut(" ".join(text.split()).rstrip(".") + ".", 500)
