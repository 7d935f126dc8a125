"""The HTTP side of the imitation: connections, login, routing, validation, faults."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryosparc.dataset import Dataset
from cryosparc.errors import DatasetLoadError
from cryosparc.models.asset import GridFSAsset
from cryosparc.models.auth import Token
from cryosparc.models.job_spec import InputSpec, OutputSpec
from cryosparc.models.user import User
from pydantic import BaseModel, TypeAdapter, ValidationError

from tests.cryosparc_master.connection import Connection, Dropped
from tests.cryosparc_master.faults import Faults
from tests.cryosparc_master.instance import Instance, JobState, Refusal
from tests.cryosparc_master.operations import OPEN_TO_ALL, TEXT, Operation, openapi, route

EMAIL = "user@example.org"
PASSWORD = "correct horse"
PREFIX = "/api/cmd"


@dataclass(frozen=True)
class Call:
    """One request as it arrived.

    Attributes
    ----------
    operation : str
        Function name.
    path : dict
        Path parameters.
    query : dict
        Each with all its values.
    body : bytes
        As it arrived, after faults.
    when : float
        ``time.monotonic()``.
    """

    operation: str
    path: dict[str, str]
    query: dict[str, list[str]]
    body: bytes = field(repr=False)
    when: float = field(default_factory=time.monotonic)

    def one(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        """A query parameter as a truth value."""
        return self.one(name) == "true"

    def json(self) -> Any:
        """The body, or None when there is none."""
        return json.loads(self.body) if self.body else None


class Master:
    """A running imitation; a context manager.

    Attributes
    ----------
    url : str
        For ``CryoSPARC(base_url=...)``.
    instance : Instance
        Projects and jobs, to set up and to look at.
    faults : Faults
    calls : list of Call
        Everything that arrived, in order, without the login's body.
    unexpected : list of str
        Tracebacks of faults of the imitation itself: a test should find none.
    """

    def __init__(self, root: Path) -> None:
        self.instance = Instance(root)
        self.faults = Faults()
        self.calls: list[Call] = []
        self.unexpected: list[str] = []
        self.tokens: set[str] = set()
        self.lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.master = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Master:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def names(self) -> list[str]:
        """Names of the functions called so far."""
        return [call.operation for call in self.calls]

    def answer(self, call: Call) -> Any:
        """Do what a function does, under the lock; returns a model, JSON, text, bytes or a Dataset."""
        with self.lock:
            return _FUNCTIONS[call.operation](self, call)

    def job_of(self, call: Call) -> JobState:
        return self.instance.job(call.path["project_uid"], call.path["job_uid"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    master: Master

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not news."""


class _Handler(Connection):
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        try:
            self._answer()
        except (Dropped, ConnectionError):
            self.close_connection = True
        except Exception:  # noqa: BLE001 - whatever it is, the test must see it and the client get an answer
            self.server.master.unexpected.append(traceback.format_exc())
            self.send(500, b'{"detail": "fault of the imitation"}')

    def _answer(self) -> None:
        master = self.server.master
        split = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(split.path).removeprefix(PREFIX)
        if path == "/openapi.json":
            self.send(200, json.dumps(openapi()).encode())
            return
        found = route(self.command, path)
        if found is None:
            self._body(None)
            self._refuse(404, f"no function at {self.command} {path}")
            return
        operation, parameters = found
        fault = master.faults.take(operation.name)
        if fault is not None and fault.kind == "slow":
            time.sleep(fault.seconds)
        body = self._body("drop" if fault is not None and fault.kind == "drop" else None)
        if fault is not None and fault.kind == "empty":
            body = b""
        elif fault is not None and fault.kind == "truncate":
            body = body[: len(body) // 2]
        query = urllib.parse.parse_qs(split.query, keep_blank_values=True)
        call = Call(operation.name, parameters, query, b"" if operation.name == "login" else body)
        master.calls.append(call)
        if fault is not None and fault.kind == "error":
            self._refuse(500, "an injected fault")
            return
        try:
            self._check(operation, call)
            answer = self._login(body) if operation.name == "login" else master.answer(call)
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.detail)
            return
        except (ValidationError, json.JSONDecodeError, DatasetLoadError) as error:
            self._refuse(422, str(error))
            return
        if fault is not None and fault.kind == "lose_answer":
            self.drop()
        self._send_answer(operation, answer)

    def _check(self, operation: Operation, call: Call) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if operation.name not in OPEN_TO_ALL and token not in self.server.master.tokens:
            raise Refusal(401, "not authenticated")
        known = {name.rstrip("*") for name in operation.query}
        missing = {name.rstrip("*") for name in operation.query if name.endswith("*")} - call.query.keys()
        if missing or call.query.keys() - known:
            raise Refusal(422, f"missing {sorted(missing)}, unknown {sorted(call.query.keys() - known)}")
        kind = self.headers.get("Content-Type", "").split(";")[0]
        if operation.body and kind != operation.body:
            raise Refusal(415, f"expected {operation.body}, found {kind!r}")

    def _login(self, body: bytes) -> Token:
        form = dict(urllib.parse.parse_qsl(body.decode()))
        expected = {"grant_type": "password", "username": EMAIL,
                    "password": hashlib.sha256(PASSWORD.encode()).hexdigest()}  # fmt: skip
        if form != expected:
            raise Refusal(401, "incorrect username or password")
        token = secrets.token_hex(16)
        self.server.master.tokens.add(token)
        return Token(access_token=token, token_type="bearer")

    def _body(self, fault: str | None) -> bytes:
        """Read the request's body, in chunks or of known length."""
        if fault == "drop":
            if int(self.headers.get("Content-Length", 0)) or "Transfer-Encoding" in self.headers:
                self.rfile.read1(16)  # what has come: a repeated request may bring nothing more
            self.drop()
        return self.body()

    def _send_answer(self, operation: Operation, answer: Any) -> None:
        if isinstance(answer, Dataset):
            content = b"".join(answer.stream())
        elif isinstance(answer, bytes):
            content = answer
        elif operation.answer_type == TEXT:
            content = str(answer).encode()
        else:
            if isinstance(answer, BaseModel):
                answer = answer.model_dump(mode="json", by_alias=True)
            elif isinstance(answer, list):
                answer = [one.model_dump(mode="json", by_alias=True) if isinstance(one, BaseModel) else one
                          for one in answer]  # fmt: skip
            content = json.dumps(answer).encode()
        self.send(200, content, operation.answer_type)

    def _refuse(self, status: int, detail: str) -> None:
        self.send(status, json.dumps({"detail": detail}).encode())


def _slots(call: Call) -> str | list[str]:
    values = call.query.get("slots", ["all"])
    return values[0] if values[0] in ("all", "default", "passthrough") else values


def _save_output(instance: Instance, job: JobState, call: Call) -> Any:
    name = call.path["output_name"]
    if not call.body:  # what an upload repeated with an exhausted generator looks like: accepted as no rows
        return instance.save_output(job, name, Dataset.allocate(0, instance.output_fields(job, name)))
    return instance.save_output(job, name, Dataset.load(io.BytesIO(call.body)))


def _project_function(function: Callable[[Instance, Any, Call], Any]) -> Callable[[Master, Call], Any]:
    return lambda master, call: function(master.instance, master.instance.project(call.path["project_uid"]), call)


def _job_function(function: Callable[[Instance, JobState, Call], Any]) -> Callable[[Master, Call], Any]:
    return lambda master, call: function(master.instance, master.job_of(call), call)


def _download(instance: Instance, project: Any, call: Call) -> bytes:
    path = project.inside(call.one("path"))
    if not path.is_file():
        raise Refusal(404, f"{call.one('path')} not found")
    return bytes(path.read_bytes())


def _workspace(instance: Instance, project: Any, call: Call) -> Any:
    if call.path["workspace_uid"] not in project.workspaces:
        raise Refusal(404, f"workspace {call.path['workspace_uid']} not found")
    return project.workspaces[call.path["workspace_uid"]]


def _set_param(instance: Instance, job: JobState, call: Call) -> Any:
    raise Refusal(422, f"an External job has no parameter {call.path['param']}")


def _user(master: Master, call: Call) -> User:
    return User(name="user", first_name="Ada", last_name="Example")


_ASSETS = TypeAdapter(list[GridFSAsset])
_TEXT = TypeAdapter(str)
_FUNCTIONS: dict[str, Callable[[Master, Call], Any]] = {
    "health": lambda master, call: "OK",
    "users.me": _user,
    "config.get_version": lambda master, call: "v5.0.3",
    "projects.find_one": _project_function(lambda i, project, call: project.model),
    "projects.get_directory": _project_function(lambda i, project, call: str(project.directory)),
    "projects.ls": _project_function(lambda i, p, call: i.list_files(p, call.one("path"), call.flag("recursive"))),
    "projects.mkdir": _project_function(
        lambda i, p, call: i.make_folder(p, call.one("path"), call.flag("parents"), call.flag("exist_ok"))
    ),
    "projects.upload_file": _project_function(
        lambda i, p, call: i.store_file(p, call.one("path"), call.body, call.flag("overwrite"))
    ),
    "projects.download_file": _project_function(_download),
    "projects.cp": _project_function(lambda i, p, call: i.copy(p, call.one("source"), call.one("path"), link=False)),
    "projects.symlink": _project_function(
        lambda i, p, call: i.copy(p, call.one("source"), call.one("path"), link=True)
    ),
    "workspaces.find_one": _project_function(_workspace),
    "jobs.create": lambda master, call: master.instance.create(
        call.path["project_uid"], call.path["workspace_uid"], call.one("type"), call.one("title"),
        call.one("description"),
    ),
    "jobs.find_one": _job_function(lambda i, job, call: job.model),
    "jobs.get_status": _job_function(lambda i, job, call: job.model.status),
    "jobs.get_directory": _job_function(
        lambda i, job, call: str(i.project(job.model.project_uid).directory / job.model.job_dir)
    ),
    "jobs.add_external_input": _job_function(
        lambda i, job, call: i.add_input(job, call.path["input_name"], InputSpec.model_validate(call.json()))
    ),
    "jobs.add_external_output": _job_function(
        lambda i, job, call: i.add_output(job, call.path["output_name"], OutputSpec.model_validate(call.json()))
    ),
    "jobs.connect": _job_function(
        lambda i, job, call: i.connect(
            job, call.path["input_name"], call.one("source_job_uid"), call.one("source_output_name")
        )
    ),
    "jobs.load_input": _job_function(lambda i, job, call: i.load_input(job, call.path["input_name"], _slots(call))),
    "jobs.load_output": _job_function(lambda i, job, call: i.load_output(job, call.path["output_name"], _slots(call))),
    "jobs.get_output_fields": _job_function(lambda i, job, call: i.output_fields(job, call.path["output_name"])),
    "jobs.save_output": _job_function(_save_output),
    "jobs.set_param": _job_function(_set_param),
    "jobs.clear": _job_function(lambda i, job, call: i.clear(job)),
    "jobs.mark_running": _job_function(lambda i, job, call: i.mark_running(job, call.one("status", "running"))),
    "jobs.mark_completed": _job_function(lambda i, job, call: i.mark_ended(job, None)),
    "jobs.mark_failed": _job_function(lambda i, job, call: i.mark_ended(job, call.one("error"))),
    "jobs.add_event_log": _job_function(
        lambda i, job, call: i.add_text(job, _TEXT.validate_python(call.json()), call.one("type", "text"))
    ),
    "jobs.update_event_log": _job_function(
        lambda i, job, call: i.update_text(
            job, call.path["event_id"], _TEXT.validate_python(call.json()), call.one("type", "text")
        )
    ),
    "jobs.add_image_log": _job_function(
        lambda i, job, call: i.add_images(
            job, call.one("text"), _ASSETS.validate_python(call.json()), call.query.get("flags", [])
        )
    ),
    "jobs.add_checkpoint": _job_function(lambda i, job, call: i.add_checkpoint(job, call.json())),
    "jobs.set_output_image": _job_function(
        lambda i, job, call: i.set_output_image(
            job, call.path["output_name"], GridFSAsset.model_validate(call.json())
        )
    ),
    "jobs.set_tile_image": _job_function(
        lambda i, job, call: i.set_tile_image(job, GridFSAsset.model_validate(call.json()))
    ),
    "assets.upload": _job_function(
        lambda i, job, call: i.add_asset(job, call.body, call.one("filename"), call.one("format"))
    ),
    "assets.find": lambda master, call: [
        file for file, _ in master.instance.assets.values() if file.job_uid == call.one("job_uid")
    ],
    "assets.download": lambda master, call: master.instance.assets[call.path["fileid"]][1],
}  # fmt: skip
