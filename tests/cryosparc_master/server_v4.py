"""The master as cryosparc-tools 4.7 speaks to it: JSON-RPC and plain HTTP on three ports, over the same instance.

The client asks ``command_core`` (base port + 2), ``command_vis`` (+ 3) and ``command_rtp`` (+ 5) for their functions
(``system.describe``) and makes a method of each. Jobs are documents of nested dictionaries; files, datasets and plots
have addresses of their own. What is served here is what the client's source calls; what the documents hold beyond the
keys that the client's ``spec`` module names, and the codes of refusals, cannot be proven by it.
"""

from __future__ import annotations

import io
import json
import socket
import threading
import traceback
import urllib.parse
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryosparc.dataset import Dataset
from cryosparc.models.asset import GridFSAsset
from cryosparc.models.job_spec import InputSlot, InputSpec, OutputSlot, OutputSpec

from tests.cryosparc_master.connection import Connection, Dropped
from tests.cryosparc_master.faults import Faults
from tests.cryosparc_master.fields import columns_of
from tests.cryosparc_master.instance import Instance, JobState, Refusal

EMAIL_V4, PASSWORD_V4 = "user@example.org", "correct horse"
LICENSE_V4 = "0123abcd-0123-0123-0123-0123456789ab"
PORTS = (2, 3, 5)
STREAM = "application/x-cryosparc-dataset"


class MasterV4:
    """A running imitation; a context manager.

    Attributes
    ----------
    base_port : int
        For ``CryoSPARC(base_port=...)``.
    instance : Instance
    faults : Faults
        By the function's name; for addresses ``upload``, ``upload_asset``, ``save_output``.
    unexpected : list of str
        Tracebacks of faults of the imitation itself.
    """

    def __init__(self, root: Path) -> None:
        self.instance = Instance(root)
        self.faults = Faults()
        self.unexpected: list[str] = []
        self.lock = threading.RLock()
        self.base_port, self._servers = _bind(self)
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            for server in self._servers
        ]

    def __enter__(self) -> MasterV4:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def job(self, project_uid: str, job_uid: str) -> JobState:
        return self.instance.job(project_uid, job_uid)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    master: MasterV4

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not news."""


def _bind(master: MasterV4) -> tuple[int, list[_Server]]:
    """Find a base port whose three ports are free."""
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            base = probe.getsockname()[1]
        servers: list[_Server] = []
        try:
            for offset in PORTS:
                servers.append(_Server(("127.0.0.1", base + offset), _Handler))
                servers[-1].master = master
            return base, servers
        except (OSError, OverflowError):
            for server in servers:
                server.server_close()
    raise RuntimeError("no three free ports")


class _Handler(Connection):
    server: _Server

    def do_GET(self) -> None:
        self.send(200, b"ok", "text/plain")

    def do_POST(self) -> None:
        try:
            self._post()
        except Dropped:
            self.close_connection = True
        except Refusal as refusal:
            self.send(refusal.status, json.dumps({"detail": refusal.detail}).encode())
        except ConnectionError:
            self.close_connection = True
        except Exception:  # noqa: BLE001 - whatever it is, the test must see it and the client get an answer
            self.server.master.unexpected.append(traceback.format_exc())
            self.send(500, b"{}")

    def _post(self) -> None:
        master = self.server.master
        split = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(split.query).items()}
        parts = [urllib.parse.unquote_plus(part) for part in split.path.strip("/").split("/")]
        body = self.body()
        if self.headers.get("License-ID") != LICENSE_V4:
            raise Refusal(401, "wrong license")
        with master.lock:
            if parts == ["api"]:
                self._rpc(json.loads(body))
            elif parts == ["get_project_file"]:
                given = json.loads(body)
                path = master.instance.project(given["project_uid"]).inside(given["path"].removeprefix(">"))
                if not path.is_file():
                    raise Refusal(404, f"{given['path']} not found")
                self.send(200, path.read_bytes(), "application/octet-stream")
            elif parts == ["load_job_input"]:
                self._fault("load_job_input", b"")
                given = json.loads(body)
                job = master.job(given["project_uid"], given["job_uid"])
                rows = master.instance.load_input(job, given["input_name"], given["slots"] or "all")
                self.send(200, b"".join(rows.stream()), STREAM)
            elif parts[0] == "projects" and parts[2:] == ["files"]:
                body = self._fault("upload", body)
                overwrite = query.get("overwrite") == "1"
                master.instance.store_file(master.instance.project(parts[1]), query["path"], body, overwrite)
                self.send(200, b"{}")
            elif parts[0] == "projects" and parts[4:] == ["files"]:
                body = self._fault("upload_asset", body)
                asset = master.instance.add_asset(
                    master.job(parts[1], parts[3]), body, query.get("filename", ""), query["format"]
                )
                self.send(200, asset.model_dump_json(by_alias=True).encode())
            elif parts[0] == "external" and parts[-1] == "dataset":
                body = self._fault("save_output", body)
                job = master.job(parts[2], parts[4])
                name = parts[6]
                empty = Dataset.allocate(0, master.instance.output_fields(job, name))
                master.instance.save_output(job, name, Dataset.load(io.BytesIO(body)) if body else empty)
                self.send(200, b"{}")
            else:
                raise Refusal(404, f"no function at {split.path}")

    def _rpc(self, request: dict[str, Any]) -> None:
        name, params = request["method"], request["params"]
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            self._fault(name, b"")
            if name == "system.describe":
                answer["result"] = {"procs": [{"name": one} for one in _FUNCTIONS]}
            else:
                function = _FUNCTIONS[name]
                instance = self.server.master.instance
                keywords = isinstance(params, dict)
                answer["result"] = function(instance, **params) if keywords else function(instance, *params)
        except Refusal as refusal:
            answer["error"] = {"name": "ServerError", "message": refusal.detail, "code": refusal.status}
        self.send(200, json.dumps(answer).encode())

    def _fault(self, name: str, body: bytes) -> bytes:
        fault = self.server.master.faults.take(name)
        if fault is None:
            return body
        if fault.kind == "error":
            raise Refusal(500, "an injected fault")
        if fault.kind == "drop":
            self.drop()
        return b"" if fault.kind == "empty" else body[: len(body) // 2]


def _document(job: JobState) -> dict[str, Any]:
    """Return a job as 4.7's documents have it."""
    model, spec = job.model, job.model.spec
    inputs = [
        {
            "name": name, "type": one.type, "title": one.title, "count_min": one.count_min, "count_max": one.count_max,
            "slots": [{"prefix": slot.name, "type": f"{one.type}.{slot.dtype}"} for slot in one.slots],
            "connections": [{"job_uid": other.job_uid, "group_name": other.output, "slots": []}
                            for other in one.connections],
        }
        for name, one in spec.inputs.root.items()
    ]  # fmt: skip
    groups: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for name, output in spec.outputs.root.items():
        groups.append({"uid": f"{model.uid}-G{len(groups)}", "name": name, "type": output.type, "title": output.title,
                       "passthrough": output.passthrough or False, "num_items": output.num_items or 0,
                       "contains": []})  # fmt: skip
        for result in output.results:
            columns = columns_of(output.type, result.name, result.dtype)
            results.append({
                "uid": f"{model.uid}-R{len(results)}", "group_name": name, "name": result.name,
                "type": f"{output.type}.{result.dtype}", "passthrough": result.passthrough,
                "min_fields": [[column.partition("/")[2], kind] for column, kind in columns],
                "versions": result.versions, "num_items": result.num_items,
                "metafiles": [file.removeprefix(">") for file in result.metafiles],
            })  # fmt: skip
    return {
        "uid": model.uid, "project_uid": model.project_uid, "workspace_uids": model.workspace_uids,
        "job_type": spec.type, "status": model.status, "title": model.title, "description": model.description,
        "input_slot_groups": inputs, "output_result_groups": groups, "output_results": results,
    }  # fmt: skip


# Functions of command_core.


def _login(instance: Instance, email: str, password: str) -> str:
    if (email, password) != (EMAIL_V4, PASSWORD_V4):
        raise Refusal(401, "incorrect username or password")
    return "u1"


def _get_job(instance: Instance, project_uid: str, job_uid: str, *fields: str) -> dict[str, Any]:
    document = _document(instance.job(project_uid, job_uid))
    return {name: document[name] for name in fields} if fields else document


def _send_log(
    instance: Instance, project_uid: str, job_uid: str, message: str, error: bool = False,
    flags: list[str] | None = None, imgfiles: list[dict[str, Any]] | None = None,
) -> str:  # fmt: skip
    job = instance.job(project_uid, job_uid)
    if imgfiles:
        return str(instance.add_images(job, message, [GridFSAsset.model_validate(one) for one in imgfiles], []).id)
    return str(instance.add_text(job, message, "error" if error else "text").id)


def _set_status(instance: Instance, project_uid: str, job_uid: str, status: str) -> None:
    # As the original: nothing keeps a job that was killed from being marked as completed.
    instance._enter(instance.job(project_uid, job_uid), status)


# Functions of command_vis.


def _create(
    instance: Instance, project_uid: str, workspace_uid: str, user: str, title: str | None, desc: str | None
) -> str:
    return instance.create(project_uid, workspace_uid, "snowflake", title or "", desc or "").uid


def _slot_name(slot: Any) -> tuple[str, str, bool]:
    if isinstance(slot, str):
        return slot.removeprefix("?"), slot.removeprefix("?"), not slot.startswith("?")
    return slot["prefix"], slot["dtype"], bool(slot.get("required", True))


def _add_output(
    instance: Instance, project_uid: str, job_uid: str, type: str, name: str | None, slots: list[Any],
    passthrough: str | None, title: str | None,
) -> None:  # fmt: skip
    names = [_slot_name(slot) for slot in slots]
    spec = OutputSpec(type=type, title=title or name or type, passthrough=passthrough,
                      slots=[OutputSlot(name=prefix, dtype=dtype) for prefix, dtype, _ in names])  # fmt: skip
    instance.add_output(instance.job(project_uid, job_uid), name or type, spec)


def _connect(  # noqa: PLR0913 (the arguments of the master's function)
    instance: Instance, project_uid: str, source_job_uid: str, source_output: str, target_job_uid: str,
    target_input: str, slots: list[Any], title: str, desc: str,
) -> None:  # fmt: skip
    job = instance.job(project_uid, target_job_uid)
    if target_input not in job.model.spec.inputs.root:
        if not slots:
            raise Refusal(422, f"input {target_input} does not exist and no slots are given")
        outputs = instance.job(project_uid, source_job_uid).model.spec.outputs.root
        if source_output not in outputs:
            raise Refusal(422, f"job {source_job_uid} has no output {source_output}")
        made = [InputSlot(name=prefix, dtype=dtype, required=required)
                for prefix, dtype, required in map(_slot_name, slots)]  # fmt: skip
        kind = outputs[source_output].type
        instance.add_input(job, target_input, InputSpec(type=kind, title=title or target_input, slots=made))
    instance.connect(job, target_input, source_job_uid, source_output)


def _assets(instance: Instance, project_uid: str, job_uid: str) -> list[dict[str, Any]]:
    return [{"_id": file.id, "filename": file.filename, "length": file.length}
            for file, _ in instance.assets.values() if file.job_uid == job_uid]  # fmt: skip


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "get_id_by_email_password": _login,
    "get_running_version": lambda instance: "v4.7.1",
    "get_job": _get_job,
    "get_job_dir_abs": lambda i, project, job: str(i.project(project).directory / i.job(project, job).model.job_dir),
    "get_project": lambda instance, uid: {"uid": uid, "project_dir": str(instance.project(uid).directory)},
    "get_project_dir_abs": lambda instance, uid: str(instance.project(uid).directory),
    "job_send_streamlog": _send_log,
    "job_checkpoint_streamlog": lambda i, project_uid, job_uid, meta: str(
        i.add_checkpoint(i.job(project_uid, job_uid), meta).id
    ),
    "run_external_job": lambda i, project, job, status: i.mark_running(i.job(project, job), status) and None,
    "set_job_status": _set_status,
    "create_external_job": _create,
    "add_external_job_output": _add_output,
    "connect_external_job": _connect,
    "list_job_files": _assets,
    "project_mkdir": lambda i, project_uid, path, parents, exist_ok: i.make_folder(
        i.project(project_uid), path, parents, exist_ok
    ),
}
