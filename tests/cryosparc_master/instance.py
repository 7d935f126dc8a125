"""State of the imitation: projects on disk, jobs as the client's own models, and the rules of External jobs."""

from __future__ import annotations

import datetime
import itertools
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from cryosparc.dataset import Dataset
from cryosparc.models.asset import GridFSAsset, GridFSFile
from cryosparc.models.event import CheckpointEvent, ImageEvent, TextEvent
from cryosparc.models.job import Job, JobStatus, UiTileImage
from cryosparc.models.job_spec import (
    Connection,
    Input,
    InputResult,
    InputSlot,
    InputSpec,
    JobBuildError,
    JobSpec,
    Output,
    OutputResult,
    OutputSlot,
    OutputSpec,
)
from cryosparc.models.project import Project
from cryosparc.models.resource import ResourceSpec
from cryosparc.models.workspace import Workspace
from cryosparc.spec import ASSET_CONTENT_TYPES

from tests.cryosparc_master.fields import columns_of

NOW = datetime.datetime.now(datetime.UTC)
STATUSES = get_args(JobStatus)
RUNNING = ("running", "waiting")


class Refusal(Exception):
    """A request that the master does not grant: an HTTP status and a sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class ParentOutput:
    """An output of a job that is already there: its type, its rows, and the data types of its slots.

    ``passthrough`` names the slots that lie in a file of their own, as those handed on from further up do.
    """

    type: str
    dataset: Dataset
    slots: dict[str, str]
    passthrough: tuple[str, ...] = ()


@dataclass
class JobState:
    """One job: the client's model, and what the model does not hold."""

    model: Job
    events: list[TextEvent | ImageEvent | CheckpointEvent] = field(default_factory=list)
    # When each status was entered, in order.
    history: list[str] = field(default_factory=lambda: ["building"])

    def log_text(self) -> str:
        """All texts of the event log, one event a line."""
        return "\n".join(event.text for event in self.events if not isinstance(event, CheckpointEvent))


@dataclass
class ProjectState:
    """One project: a directory, workspaces and jobs."""

    model: Project
    directory: Path
    workspaces: dict[str, Workspace] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    read_only: bool = False

    def inside(self, path: str) -> Path:
        """Resolve a path relative to the project; what leads out of it is refused."""
        target = (self.directory / path).resolve()
        if not target.is_relative_to(self.directory.resolve()):
            raise Refusal(422, f"{path} is outside of the project directory")
        return target

    def check_writable(self) -> None:
        if self.read_only:
            raise Refusal(500, f"[Errno 30] Read-only file system: '{self.directory}'")


class Instance:
    """All projects, and what the functions of the interface do to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.projects: dict[str, ProjectState] = {}
        self.assets: dict[str, tuple[GridFSFile, bytes]] = {}
        self._ids = itertools.count(1)

    # What tests set up.

    def add_project(self, title: str = "Imitated project") -> str:
        """Make a project with workspace W1; returns its uid."""
        number = len(self.projects) + 1
        uid = f"P{number}"
        directory = self.root / uid
        directory.mkdir(parents=True)
        model = Project(uid=uid, project_dir=str(directory), owner_user_id="u1", title=title, uid_num=number,
                        size_last_updated=NOW)  # fmt: skip
        self.projects[uid] = ProjectState(model, directory)
        self.projects[uid].workspaces["W1"] = Workspace(uid="W1", project_uid=uid, workspace_type="base", uid_num=1,
                                                        project_uid_num=number)  # fmt: skip
        return uid

    def add_finished_job(self, project_uid: str, job_type: str, outputs: dict[str, ParentOutput]) -> str:
        """Make a completed job with these outputs on disk; returns its uid."""
        job = self._new_job(project_uid, "W1", job_type, job_type, "")
        for name, output in outputs.items():
            slots = [OutputSlot(name=slot, dtype=dtype) for slot, dtype in output.slots.items()]
            job.model.spec.outputs.root[name] = Output(type=output.type, title=name, slots=slots)
            own = [slot for slot in output.slots if slot not in output.passthrough]
            self._write_results(job, name, output.dataset, own, output.slots, passthrough=False)
            if output.passthrough:
                self._write_results(job, name, output.dataset, list(output.passthrough), output.slots, passthrough=True)
        self._enter(job, "completed")
        return job.model.uid

    def kill(self, project_uid: str, job_uid: str) -> None:
        """Kill a job as the web page does."""
        self._enter(self.job(project_uid, job_uid), "killed")

    # Functions.

    def project(self, uid: str) -> ProjectState:
        if uid not in self.projects:
            raise Refusal(404, f"project {uid} not found")
        return self.projects[uid]

    def job(self, project_uid: str, job_uid: str) -> JobState:
        jobs = self.project(project_uid).jobs
        if job_uid not in jobs:
            raise Refusal(404, f"job {project_uid}-{job_uid} not found")
        return jobs[job_uid]

    def create(self, project_uid: str, workspace_uid: str, job_type: str, title: str, description: str) -> Job:
        project = self.project(project_uid)
        if workspace_uid not in project.workspaces:
            raise Refusal(404, f"workspace {project_uid}-{workspace_uid} not found")
        project.check_writable()
        return self._new_job(project_uid, workspace_uid, job_type, title, description).model

    def add_input(self, job: JobState, name: str, spec: InputSpec) -> Job:
        self._check_external(job, "building")
        job.model.spec.inputs.root[name] = Input(
            type=spec.type, title=spec.title, description=spec.description,
            slots=[self._input_slot(slot) for slot in spec.slots], count_min=spec.count_min,
            count_max=spec.count_max, repeat_allowed=spec.repeat_allowed,
        )  # fmt: skip
        self._find_build_errors(job)
        return job.model

    def add_output(self, job: JobState, name: str, spec: OutputSpec) -> Job:
        self._check_external(job, *RUNNING, "building")
        slots = [OutputSlot(name=slot, dtype=slot) if isinstance(slot, str) else slot for slot in spec.slots]
        for slot in slots:
            try:
                columns_of(spec.type, slot.name, slot.dtype)
            except KeyError:
                raise Refusal(422, f"unknown data type {slot.dtype} of slot {slot.name}") from None
        results = [OutputResult(name=slot.name, dtype=slot.dtype) for slot in slots]
        if spec.passthrough is not None:
            inputs = job.model.spec.inputs.root
            if spec.passthrough not in inputs:
                raise Refusal(422, f"passthrough input {spec.passthrough} does not exist")
            if inputs[spec.passthrough].type != spec.type:
                raise Refusal(422, f"input {spec.passthrough} is not of type {spec.type}")
        output = Output(type=spec.type, title=spec.title, description=spec.description, slots=slots,
                        passthrough=spec.passthrough, results=results)  # fmt: skip
        job.model.spec.outputs.root[name] = output
        return job.model

    def connect(self, job: JobState, name: str, source_uid: str, source_output: str) -> Job:
        self._check_external(job, "building")
        source = self.job(job.model.project_uid, source_uid)
        if name not in job.model.spec.inputs.root:
            raise Refusal(422, f"job {job.model.uid} has no input {name}")
        if source_output not in source.model.spec.outputs.root:
            raise Refusal(422, f"job {source_uid} has no output {source_output}")
        target, output = job.model.spec.inputs.root[name], source.model.spec.outputs.root[source_output]
        if target.type != output.type:
            raise Refusal(422, f"output {source_output} is of type {output.type}, input {name} of type {target.type}")
        wanted = {slot.name for slot in target.slots}
        results = [InputResult(name=result.name if result.name in wanted else None, dtype=result.dtype,
                               job_uid=source_uid, output=source_output, result=result.name)
                   for result in output.results]  # fmt: skip
        target.connections.append(Connection(job_uid=source_uid, output=source_output, results=results))
        job.model.parents = sorted({*job.model.parents, source_uid})
        source.model.children = sorted({*source.model.children, job.model.uid})
        self._find_build_errors(job)
        return job.model

    def load_input(self, job: JobState, name: str, slots: str | list[str]) -> Dataset:
        if name not in job.model.spec.inputs.root:
            raise Refusal(422, f"job {job.model.uid} has no input {name}")
        target = job.model.spec.inputs.root[name]
        if not target.connections:
            raise Refusal(422, f"input {name} is not connected")
        if slots == "default":
            slots = [slot.name for slot in target.slots]
        parts = [self.load_output(self.job(job.model.project_uid, one.job_uid), one.output, slots)
                 for one in target.connections]  # fmt: skip
        return parts[0] if len(parts) == 1 else Dataset.append(*parts)

    def load_output(self, job: JobState, name: str, slots: str | list[str]) -> Dataset:
        output = self._output(job, name)
        saved = [result for result in output.results if result.metafiles]
        if isinstance(slots, list):
            missing = [slot for slot in slots if slot not in {result.name for result in saved}]
            if missing:
                raise Refusal(422, f"output {name} of {job.model.uid} has no saved slots {missing}")
            saved = [result for result in saved if result.name in slots]
        elif slots in ("default", "passthrough"):
            saved = [result for result in saved if result.passthrough == (slots == "passthrough")]
        if not saved:
            raise Refusal(422, f"output {name} of {job.model.uid} has no results")
        project = self.project(job.model.project_uid)
        loaded: Dataset | None = None
        for metafile in dict.fromkeys(result.metafiles[-1] for result in saved):
            prefixes = [result.name for result in saved if result.metafiles[-1] == metafile]
            part = Dataset.load(project.inside(metafile.removeprefix(">"))).filter_prefixes(prefixes)
            loaded = part if loaded is None else loaded.innerjoin(part)
        assert loaded is not None
        return loaded

    def output_fields(self, job: JobState, name: str) -> list[tuple[str, str]]:
        output = self._output(job, name)
        return [column for slot in output.slots for column in columns_of(output.type, slot.name, slot.dtype)]

    def save_output(self, job: JobState, name: str, dataset: Dataset) -> Job:
        self._check_external(job, *RUNNING)
        project = self.project(job.model.project_uid)
        project.check_writable()
        output = self._output(job, name)
        if len(set(dataset["uid"].tolist())) != len(dataset):
            raise Refusal(422, f"output {name}: uids are not unique")
        expected = {column: Dataset.allocate(0, [(column, kind)]).descr(exclude_uid=True)[0]
                    for column, kind in self.output_fields(job, name)}  # fmt: skip
        found = {one[0]: one for one in dataset.descr(exclude_uid=True)}
        if found != expected:
            wrong = sorted(column for column in {*expected, *found} if expected.get(column) != found.get(column))
            raise Refusal(422, f"output {name}: wrong, missing or additional columns {wrong}")
        if output.type in ("volume", "mask"):
            for column in (one for one in found if one.endswith("/path")):
                for path in dataset[column]:
                    if not project.inside(path).is_file():
                        raise Refusal(422, f"output {name}: {column} {path} does not exist")
        slots = {slot.name: slot.dtype for slot in output.slots}
        handed_on: Dataset | None = None
        if output.passthrough is not None:
            handed_on = self.load_input(job, output.passthrough, "all")
            unknown = set(dataset["uid"].tolist()) - set(handed_on["uid"].tolist())
            if unknown:
                raise Refusal(422, f"output {name}: uid {min(unknown)} is not in input {output.passthrough}")
        output.results = []
        self._write_results(job, name, dataset, list(slots), slots, passthrough=False)
        if handed_on is not None:
            rest = [slot for slot in handed_on.prefixes() if slot not in slots]
            connections = job.model.spec.inputs.root[str(output.passthrough)].connections
            dtypes = {result.result: result.dtype for one in connections for result in one.results}
            joined = Dataset({"uid": dataset["uid"]}).innerjoin(handed_on.filter_prefixes(rest))
            self._write_results(job, name, joined, rest, dtypes, passthrough=True)
        output.num_items = len(dataset)
        return job.model

    def mark_running(self, job: JobState, status: str) -> Job:
        self._check_external(job, "building", *RUNNING)
        if status not in RUNNING:
            raise Refusal(422, f"status must be running or waiting, not {status}")
        if job.model.build_errors:
            raise Refusal(422, f"job {job.model.uid} has build errors: {job.model.build_errors}")
        self._enter(job, status)
        return job.model

    def mark_ended(self, job: JobState, error: str | None) -> Job:
        # As the original: nothing keeps a job that was killed from being marked as completed.
        self._check_external(job, *(status for status in STATUSES if status != "building"))
        if error is not None:
            self.add_text(job, error, "error")
        self._enter(job, "completed" if error is None else "failed")
        return job.model

    def clear(self, job: JobState) -> Job:
        for output in job.model.spec.outputs.root.values():
            output.results = [OutputResult(name=slot.name, dtype=slot.dtype) for slot in output.slots]
            output.num_items = 0
        self._enter(job, "building")
        return job.model

    def add_text(self, job: JobState, text: str, kind: str) -> TextEvent:
        event = TextEvent(_id=self._id(), project_uid=job.model.project_uid, job_uid=job.model.uid, type=kind,
                          text=text, created_at=datetime.datetime.now(datetime.UTC))  # fmt: skip
        job.events.append(event)
        return event

    def update_text(self, job: JobState, event_id: str, text: str, kind: str) -> TextEvent:
        for event in job.events:
            if event.id == event_id and isinstance(event, TextEvent):
                event.text, event.type = text, kind
                return event
        raise Refusal(404, f"event {event_id} not found")

    def add_images(self, job: JobState, text: str, images: list[GridFSAsset], flags: list[str]) -> ImageEvent:
        for image in images:
            self._check_asset(image)
        event = ImageEvent(_id=self._id(), project_uid=job.model.project_uid, job_uid=job.model.uid, type="image",
                           text=text, imgfiles=images, flags=flags)  # fmt: skip
        job.events.append(event)
        return event

    def add_checkpoint(self, job: JobState, meta: dict[str, Any]) -> CheckpointEvent:
        event = CheckpointEvent(_id=self._id(), project_uid=job.model.project_uid, job_uid=job.model.uid,
                                type="checkpoint", meta=meta)  # fmt: skip
        job.events.append(event)
        return event

    def add_asset(self, job: JobState, content: bytes, filename: str, kind: str) -> GridFSAsset:
        if kind not in ASSET_CONTENT_TYPES:
            raise Refusal(422, f"unknown asset format {kind}")
        fileid = self._id()
        file = GridFSFile(_id=fileid, filename=filename, contentType=ASSET_CONTENT_TYPES[kind], length=len(content),
                          chunkSize=2**18, project_uid=job.model.project_uid, job_uid=job.model.uid)  # fmt: skip
        self.assets[fileid] = (file, content)
        return GridFSAsset(fileid=fileid, filename=filename, filetype=kind)

    def set_output_image(self, job: JobState, name: str, image: GridFSAsset) -> Job:
        self._check_asset(image)
        self._output(job, name).image = image.fileid
        return job.model

    def set_tile_image(self, job: JobState, image: GridFSAsset) -> Job:
        self._check_asset(image)
        job.model.ui_tile_images = [UiTileImage(name=image.filename, fileid=image.fileid)]
        return job.model

    # Files.

    def list_files(self, project: ProjectState, path: str, recursive: bool) -> list[str]:
        folder = project.inside(path)
        if not folder.exists():
            raise Refusal(404, f"{path} not found")
        found = folder.rglob("*") if recursive else folder.iterdir()
        return sorted(str(one.relative_to(project.directory.resolve())) for one in found)

    def make_folder(self, project: ProjectState, path: str, parents: bool, exist_ok: bool) -> str:
        project.check_writable()
        try:
            project.inside(path).mkdir(parents=parents, exist_ok=exist_ok)
        except OSError as error:
            raise Refusal(422, str(error)) from error
        return path

    def store_file(self, project: ProjectState, path: str, content: bytes, overwrite: bool) -> str:
        project.check_writable()
        target = project.inside(path)
        if target.exists() and not overwrite:
            raise Refusal(422, f"{path} already exists")
        if not target.parent.is_dir():
            raise Refusal(422, f"{PurePosixPath(path).parent} does not exist")
        temporary = target.with_name(target.name + ".arriving")
        temporary.write_bytes(content)
        temporary.replace(target)
        return path

    def copy(self, project: ProjectState, source: str, path: str, link: bool) -> str:
        project.check_writable()
        origin, target = project.inside(source), project.inside(path)
        if not origin.is_file() or target.exists():
            raise Refusal(422, f"cannot copy {source} to {path}")
        if link:
            target.symlink_to(origin)
        else:
            shutil.copyfile(origin, target)
        return path

    # Inside.

    def _id(self) -> str:
        return f"{next(self._ids):024x}"

    def _new_job(self, project_uid: str, workspace_uid: str, job_type: str, title: str, description: str) -> JobState:
        project = self.project(project_uid)
        number = len(project.jobs) + 1
        uid = f"J{number}"
        (project.directory / uid).mkdir()
        spec = JobSpec(type=job_type, ui_tile_width=1, ui_tile_height=1, resource_spec=ResourceSpec())
        model = Job(uid=uid, project_uid=project_uid, workspace_uids=[workspace_uid], spec=spec, job_dir=uid,
                    job_dir_size_last_updated=NOW, title=title or "", description=description or "", uid_num=number,
                    project_uid_num=project.model.uid_num, status_num=0, build_errors=[])  # fmt: skip
        project.jobs[uid] = JobState(model)
        self._dump(project.jobs[uid])
        return project.jobs[uid]

    def _enter(self, job: JobState, status: str) -> None:
        job.model.status = status
        job.model.status_num = STATUSES.index(status)
        job.history.append(status)
        self._dump(job)

    def _dump(self, job: JobState) -> None:
        folder = self.project(job.model.project_uid).directory / job.model.uid
        (folder / "job.json").write_text(job.model.model_dump_json(by_alias=True, indent=1), encoding="utf-8")

    def _check_external(self, job: JobState, *statuses: str) -> None:
        if job.model.spec.type != "snowflake":
            raise Refusal(422, f"job {job.model.uid} is not an External job")
        if job.model.status not in statuses:
            raise Refusal(422, f"job {job.model.uid} is {job.model.status}, not {' or '.join(statuses)}")

    def _output(self, job: JobState, name: str) -> Output:
        if name not in job.model.spec.outputs.root:
            raise Refusal(404, f"job {job.model.uid} has no output {name}")
        return job.model.spec.outputs.root[name]

    def _check_asset(self, image: GridFSAsset) -> None:
        if image.fileid not in self.assets:
            raise Refusal(404, f"asset {image.fileid} not found")

    @staticmethod
    def _input_slot(slot: InputSlot | str) -> InputSlot:
        if isinstance(slot, InputSlot):
            return slot
        return InputSlot(name=slot.removeprefix("?"), dtype=slot.removeprefix("?"), required=not slot.startswith("?"))

    @staticmethod
    def _find_build_errors(job: JobState) -> None:
        errors = []
        for name, one in job.model.spec.inputs.root.items():
            if len(one.connections) < one.count_min:
                errors.append(JobBuildError(type="too_short", loc=["inputs", name], input=name, input_type="str"))
            for slot in one.slots:
                for connection in one.connections:
                    if slot.required and slot.name not in {result.result for result in connection.results}:
                        errors.append(JobBuildError(type="missing", loc=["inputs", name, slot.name], input=slot.name,
                                                    input_type="str"))  # fmt: skip
        job.model.build_errors = errors

    def _write_results(
        self, job: JobState, name: str, dataset: Dataset, names: list[str], slots: dict[str, str], passthrough: bool
    ) -> None:
        """Write the columns of some slots as one .cs file, and enter them as results of the output."""
        uid = job.model.uid
        metafile = f"{uid}/{uid}_{'passthrough_' if passthrough else ''}{name}.cs"
        dataset.filter_prefixes(names, copy=True).save(self.project(job.model.project_uid).directory / metafile)
        output = job.model.spec.outputs.root[name]
        for slot in names:
            result = OutputResult(name=slot, dtype=slots[slot], versions=[0], metafiles=[f">{metafile}"],
                                  num_items=[len(dataset)], passthrough=passthrough)  # fmt: skip
            output.results.append(result)
        output.num_items = len(dataset)
