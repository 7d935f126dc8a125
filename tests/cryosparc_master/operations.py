"""The functions that the imitation serves, and the openapi.json that describes them to the client.

The client makes its methods from the schema: ``summary`` is the function's name, path parameters are positional,
query parameters keywords, the title of the body's schema the body's keyword, and ``$ref`` names a model that it
knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

DATASET = "application/x-cryosparc-dataset"
OCTETS = "application/octet-stream"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
TEXT = "text/plain"

Schema = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One function of the interface.

    Attributes
    ----------
    name : str
        Namespace and function.
    method : str
        HTTP method, lower case.
    path : str
        With ``{parameters}``.
    answer : dict
        JSON schema of the answer, or None for a stream or plain text.
    answer_type : str
        Media type of the answer.
    query : tuple of str
        Keywords; those that end in ``*`` are required.
    body : str
        Media type of the body; "" for none.
    title : str
        Title of a JSON body's schema.
    """

    name: str
    method: Literal["get", "post", "put"]
    path: str
    answer: Schema | None = None
    answer_type: str = JSON
    query: tuple[str, ...] = ()
    body: str = ""
    title: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Pattern that a request's path must match."""
        return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", self.path))

    def schema(self) -> Schema:
        """Describe the operation as openapi.json does."""
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                      for name in re.findall(r"{(\w+)}", self.path)]  # fmt: skip
        parameters += [{"name": name.rstrip("*"), "in": "query", "required": name.endswith("*"), "schema": {}}
                       for name in self.query]  # fmt: skip
        content = {self.answer_type: {"schema": {"title": "Answer"} if self.answer is None else self.answer}}
        described: Schema = {
            "summary": self.name,
            "parameters": parameters,
            "responses": {
                "200": {"description": "Successful Response", "content": content},
                "422": {"description": "Refused", "content": {JSON: {"schema": {}}}},
            },
        }
        if self.body:
            described["requestBody"] = {"required": True, "content": {self.body: {"schema": {"title": self.title}}}}
        return described


def _model(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_STRING: Schema = {"type": "string"}
_STRINGS: Schema = {"type": "array", "items": _STRING}
_FIELDS: Schema = {"type": "array", "items": {"type": "array", "prefixItems": [_STRING, _STRING]}}
_NOTHING: Schema = {}
_P = "/projects/{project_uid}"
_J = _P + "/jobs/{job_uid}"
_JOB = _model("Job")

OPERATIONS: tuple[Operation, ...] = (
    Operation("login", "post", "/login", _model("Token"), body=FORM, title="Credentials"),
    Operation("health", "get", "/health", answer_type=TEXT),
    Operation("users.me", "get", "/users/me", _model("User")),
    Operation("config.get_version", "get", "/config/version", _STRING),
    Operation("projects.find_one", "get", _P, _model("Project")),
    Operation("projects.get_directory", "get", _P + "/directory", _STRING),
    Operation("projects.ls", "get", _P + "/ls", _STRINGS, query=("path", "recursive")),
    Operation("projects.mkdir", "post", _P + "/mkdir", _STRING, query=("path*", "parents", "exist_ok")),
    Operation("projects.upload_file", "post", _P + "/files", _STRING, query=("path*", "overwrite"), body=OCTETS,
              title="Stream"),
    Operation("projects.download_file", "get", _P + "/files", answer_type=OCTETS, query=("path*",)),
    Operation("projects.cp", "post", _P + "/cp", _STRING, query=("source*", "path")),
    Operation("projects.symlink", "post", _P + "/symlink", _STRING, query=("source*", "path")),
    Operation("workspaces.find_one", "get", _P + "/workspaces/{workspace_uid}", _model("Workspace")),
    Operation("jobs.create", "post", _P + "/workspaces/{workspace_uid}/jobs", _JOB,
              query=("type*", "title", "description"), body=JSON, title="Params"),
    Operation("jobs.find_one", "get", _J, _JOB),
    Operation("jobs.get_status", "get", _J + "/status", _model("JobStatus")),
    Operation("jobs.get_directory", "get", _J + "/directory", _STRING),
    Operation("jobs.add_external_input", "post", _J + "/inputs/{input_name}", _JOB, body=JSON, title="Input Spec"),
    Operation("jobs.add_external_output", "post", _J + "/outputs/{output_name}", _JOB, body=JSON,
              title="Output Spec"),
    Operation("jobs.connect", "post", _J + "/inputs/{input_name}/connections", _JOB,
              query=("source_job_uid*", "source_output_name*")),
    Operation("jobs.load_input", "get", _J + "/inputs/{input_name}", answer_type=DATASET,
              query=("slots", "force_join")),
    Operation("jobs.load_output", "get", _J + "/outputs/{output_name}", answer_type=DATASET,
              query=("slots", "version")),
    Operation("jobs.get_output_fields", "post", _J + "/outputs/{output_name}/fields", _FIELDS, body=JSON,
              title="Dtype Params"),
    Operation("jobs.save_output", "post", _J + "/outputs/{output_name}/dataset", _JOB, query=("version", "filename"),
              body=DATASET, title="Dataset"),
    Operation("jobs.set_param", "put", _J + "/params/{param}", _JOB, body=JSON, title="Value"),
    Operation("jobs.clear", "post", _J + "/clear", _JOB, query=("descendants",)),
    Operation("jobs.mark_running", "post", _J + "/mark_running", _JOB, query=("status",)),
    Operation("jobs.mark_completed", "post", _J + "/mark_completed", _JOB),
    Operation("jobs.mark_failed", "post", _J + "/mark_failed", _JOB, query=("error",)),
    Operation("jobs.add_event_log", "post", _J + "/events", _model("TextEvent"), query=("type",), body=JSON,
              title="Text"),
    Operation("jobs.update_event_log", "put", _J + "/events/{event_id}", _model("TextEvent"), query=("type",),
              body=JSON, title="Text"),
    Operation("jobs.add_image_log", "post", _J + "/images", _model("ImageEvent"), query=("text*", "flags"), body=JSON,
              title="Images"),
    Operation("jobs.add_checkpoint", "post", _J + "/checkpoints", _model("CheckpointEvent"), body=JSON, title="Meta"),
    Operation("jobs.set_output_image", "put", _J + "/outputs/{output_name}/image", _JOB, body=JSON, title="Image"),
    Operation("jobs.set_tile_image", "put", _J + "/tile", _JOB, body=JSON, title="Image"),
    Operation("assets.upload", "post", _J + "/assets", _model("GridFSAsset"), query=("filename", "format"),
              body=OCTETS, title="Stream"),
    Operation("assets.find", "get", "/assets", {"type": "array", "items": _model("GridFSFile")},
              query=("project_uid", "job_uid")),
    Operation("assets.download", "get", "/assets/{fileid}", answer_type=OCTETS),
)  # fmt: skip
OPEN_TO_ALL = frozenset({"login", "health"})


def openapi() -> Schema:
    """Return the document that the client asks for first."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation.schema()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Imitation of the CryoSPARC master", "version": "5.0.3"},
        "paths": paths,
        "components": {"schemas": {}},
    }


def route(method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
    """Find the operation of a request, and its path parameters."""
    for operation in OPERATIONS:
        match = operation.pattern.fullmatch(path)
        if match and operation.method == method.lower():
            return operation, match.groupdict()
    return None
