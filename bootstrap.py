"""Set everything up and run the demo or the tests, on a machine that has only Python 3.11 and apt.

::

    python3.11 bootstrap.py demo [FOLDER] [options of cryodrgn-ext demo]
    python3.11 bootstrap.py test [arguments of pytest]
    python3.11 bootstrap.py docs [FOLDER]
    python3.11 bootstrap.py install
    python3.11 bootstrap.py programs

Each command makes ``.venv`` beside this file if it is not there, installs PyTorch (the CPU build where there is
no NVIDIA GPU, so that no CUDA packages are downloaded in vain) and this project, and then does its work. A second
call finds everything installed and starts at once. ``test`` also installs RELION and the few programs that the
tests call, through apt, which ``programs`` does alone; ``docs`` writes the pages of all public functions (``site``
unless a folder is given). Only the standard library is used here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "cryodrgn-ext-installed.json"
OLDEST_PYTHON = (3, 11)
# What the packages and the console scripts are made of: a new job brings a new script.
METADATA_FILES = (
    "pyproject.toml", "cryodrgn_ext/jobs/registry.py", "relion_wrappers/console_scripts.py",
    "relion_wrappers/build_hook.py",
)  # fmt: skip
# What is installed beyond what the program cannot do without: movies as MP4.
USUAL_EXTRAS = frozenset({"movies"})
# The CPU build that this version was tested with, and where PyTorch itself publishes its CPU builds.
TORCH_CPU_VERSION = "2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What the tests call, and the Debian package that brings it.
TEST_PROGRAMS = {
    "relion_refine": "relion",
    "relion": "relion-gui",
    "relion_pipeliner": "relion",
    "Xvfb": "xvfb",
    "pdftoppm": "poppler-utils",
    "chromium": "chromium",
}


class BootstrapError(Exception):
    """Something that the user has to do; the message says what."""


@dataclass(frozen=True)
class TorchCandidate:
    """One way to get PyTorch: arguments for ``pip install`` and what to say before trying it."""

    arguments: tuple[str, ...]
    message: str


def say(text: str) -> None:
    """Print one line at once, so that it stands before the output of what it announces."""
    print(f"[bootstrap] {text}", flush=True)


def run(command: Sequence[str | os.PathLike[str]], environment: dict[str, str] | None = None) -> int:
    """Run a command in the project's folder with our standard streams and return its exit status."""
    return subprocess.run([os.fspath(part) for part in command], cwd=ROOT, env=environment, check=False).returncode


@contextmanager
def aside(
    command: Sequence[str | os.PathLike[str]], environment: dict[str, str] | None = None
) -> Iterator[Callable[[], int]]:
    """Run a command in the project's folder beside the block; it has ended when the block is left, however that is.

    Yields a function that waits for its end, prints what it has written, and returns its exit status.
    """
    with tempfile.TemporaryFile() as output:  # a pipe would fill up
        process = subprocess.Popen(
            [os.fspath(part) for part in command], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

        def finish() -> int:
            status = process.wait()
            output.seek(0)
            sys.stdout.write(output.read().decode("utf-8", "replace"))
            sys.stdout.flush()
            return status

        try:
            yield finish
        finally:
            process.wait()


def has_nvidia_gpu() -> bool:
    """Tell whether an NVIDIA GPU with a driver is on this machine."""
    if Path("/dev/nvidia0").exists():
        return True
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU" in listing.stdout


def torch_candidates(gpu: bool, platform: str = sys.platform) -> tuple[TorchCandidate, ...]:
    """Return the ways to install PyTorch, best first.

    Parameters
    ----------
    gpu : bool
        Whether there is an NVIDIA GPU; then the ordinary build is right.
    platform : str
        ``sys.platform``. Only Linux wheels come with CUDA packages; elsewhere the ordinary build is the CPU build.
    """
    plain = TorchCandidate(("torch>=2.4",), "Installing PyTorch")
    if gpu or platform != "linux":
        return (plain,)
    return (
        TorchCandidate((f"torch=={TORCH_CPU_VERSION}",), "No NVIDIA GPU here: installing the CPU build of PyTorch"),
        TorchCandidate(
            ("--retries", "1", "--timeout", "15", "--index-url", TORCH_CPU_INDEX, "torch>=2.4"),
            "The configured package index has no CPU build of PyTorch: trying PyTorch's own index of CPU builds",
        ),
        TorchCandidate(
            plain.arguments,
            "No CPU build of PyTorch can be reached: installing the ordinary one, which brings several GB of CUDA "
            "packages that this machine does not need",
        ),
    )


def apt_install(packages: Sequence[str], why: str) -> None:
    """Install Debian packages, as root or through sudo.

    Raises
    ------
    BootstrapError
        When there is no apt, no right to use it, or the installation failed.
    """
    by_hand = f"install it by hand (Debian, Ubuntu: sudo apt-get install {' '.join(packages)}) and run this again"
    if shutil.which("apt-get") is None:
        raise BootstrapError(f"{why}, and there is no apt-get on this machine: {by_hand}.")
    prefix: list[str] = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise BootstrapError(f"{why}, and you are neither root nor is sudo installed: {by_hand}.")
        prefix = ["sudo"]
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    say(f"{why}: installing {', '.join(packages)} with apt-get")
    if run([*apt, "update"]) != 0:
        say("apt-get update failed; trying with the package lists that are there")
    if run([*apt, "install", "-y", "--no-install-recommends", *packages]) != 0:
        raise BootstrapError(f"{why}, and apt-get could not install {', '.join(packages)} (its message stands above).")


def venv_python() -> Path:
    """Return the interpreter of the virtual environment (which may not exist yet)."""
    return VENV / "bin" / "python"


def venv_works() -> bool:
    """Tell whether the virtual environment is there, complete, and of this Python."""
    if not venv_python().exists():
        return False
    probe = "import pip, sys; print(*sys.version_info[:2])"
    answer = subprocess.run([venv_python(), "-c", probe], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and answer.stdout.split() == [str(part) for part in sys.version_info[:2]]


def make_venv() -> None:
    """Make the virtual environment unless a working one is there.

    Raises
    ------
    BootstrapError
        When the venv module is missing and cannot be installed, or making the environment failed.
    """
    if venv_works():
        return
    if VENV.exists():
        say(f"{VENV} is incomplete or of another Python: making it anew")
        shutil.rmtree(VENV)
    # Debian splits ensurepip off into a package of its own.
    if importlib.util.find_spec("ensurepip") is None:
        major, minor = sys.version_info[:2]
        apt_install([f"python{major}.{minor}-venv"], f"Python {major}.{minor} has no ensurepip module")
    say(f"Making the virtual environment {VENV}")
    if run([sys.executable, "-m", "venv", VENV]) != 0 or not venv_works():
        raise BootstrapError(f"Python could not make a virtual environment in {VENV} (its message stands above).")


def pip_install(arguments: Sequence[str]) -> bool:
    """Run ``pip install`` in the virtual environment and tell whether it succeeded."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    return run([venv_python(), "-m", "pip", "--disable-pip-version-check", "install", *quiet, *arguments]) == 0


def install_torch(options: Sequence[str] = ()) -> None:
    """Install PyTorch unless it is there; ``options`` are those of ``pip install``.

    Raises
    ------
    BootstrapError
        When no way of installing it worked.
    """
    if run([venv_python(), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"]) == 0:
        return
    for candidate in torch_candidates(has_nvidia_gpu()):
        say(candidate.message)
        if pip_install([*options, *candidate.arguments]):
            return
    raise BootstrapError("PyTorch could not be installed (the messages of pip stand above): check the network.")


def fingerprint() -> str:
    """Return a hash of what the installation depends on: the metadata, the Python and where the project lies."""
    digest = hashlib.sha256()
    for name in METADATA_FILES:
        digest.update((ROOT / name).read_bytes())
    digest.update(f"{ROOT}\n{sys.version}\n{sysconfig.get_platform()}".encode())
    return digest.hexdigest()


def installed_extras(stamp: Path, expected: str) -> frozenset[str] | None:
    """Return the extras that a stamp file records, or None when it is missing, unreadable or out of date."""
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("fingerprint") != expected:
        return None
    return frozenset(record.get("extras", ()))


def install_project(extras: frozenset[str], options: Sequence[str] = ()) -> None:
    """Install this project (editable) with the extras, unless the stamp says that this was done.

    Parameters
    ----------
    extras : frozenset of str
    options : sequence of str
        Of ``pip install``, for all packages.

    Raises
    ------
    BootstrapError
        When pip failed.
    """
    make_venv()
    expected = fingerprint()
    before = installed_extras(STAMP, expected)
    if before is not None and extras <= before:
        return
    install_torch(options)
    wanted = extras | (before or frozenset())
    target = f"{ROOT}[{','.join(sorted(wanted))}]" if wanted else str(ROOT)
    say("Installing cryodrgn-ext and the packages that it needs")
    if not pip_install([*options, "--editable", target]):
        raise BootstrapError("cryodrgn-ext could not be installed (the message of pip stands above).")
    STAMP.write_text(json.dumps({"fingerprint": expected, "extras": sorted(wanted)}) + "\n", encoding="utf-8")


def install_test_programs() -> None:
    """Install RELION and the other programs that the tests call, where they are missing.

    Raises
    ------
    BootstrapError
        When a program is missing and cannot be installed.
    """
    missing = [program for program in TEST_PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    packages = list(dict.fromkeys(TEST_PROGRAMS[program] for program in missing))
    apt_install(packages, f"The tests need {', '.join(missing)}")
    still_missing = [program for program in missing if shutil.which(program) is None]
    if still_missing:
        raise BootstrapError(f"{', '.join(still_missing)} is still not on PATH after installing {', '.join(packages)}.")


#: Packages whose public functions have pages.
DOCUMENTED = ("cryodrgn_ext", "relion_wrappers", "cryosparc_jobs")
#: Processes that share the tests: each takes up to 2 GB.
MOST_TEST_PROCESSES = 4


def environment() -> dict[str, str]:
    """Return the environment with the console scripts of the virtual environment first on PATH."""
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": f"{VENV / 'bin'}{os.pathsep}{path}", "VIRTUAL_ENV": str(VENV)}


def demo_arguments(arguments: Sequence[str]) -> list[str]:
    """Turn a leading folder into the option that the demo calls it by; a relative one is where the user stands."""
    if arguments and not arguments[0].startswith("-"):
        return ["--o", str(Path.cwd() / arguments[0]), *arguments[1:]]
    return list(arguments)


def demo(arguments: Sequence[str]) -> int:
    """Set up and run the demo; the arguments go to ``cryodrgn-ext demo``."""
    install_project(USUAL_EXTRAS)
    return run([VENV / "bin" / "cryodrgn-ext", "demo", *demo_arguments(arguments)], environment())


def test_environment(processes: int) -> dict[str, str]:
    """Return :func:`environment` for tests that share the cores among so many processes.

    A plug-in of pytest imports numpy, whose library counts its threads then, before tests/conftest.py can say so.
    Compiled modules may be kept, whatever the user wants otherwise: the tests start hundreds of processes.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    own = {name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"OMP_NUM_THREADS": str(threads), **own}


def faults_found() -> bool:
    """Check format, lint and types; what finds faults prints them."""
    checks = (
        ("ruff format", ["ruff", "format", "--check", "."]),
        ("ruff", ["ruff", "check", "."]),
        ("mypy", ["mypy"]),
    )
    for name, command in checks:
        say(f"Running {name}")
        if run([VENV / "bin" / command[0], *command[1:]], environment()) != 0:
            say(f"{name} found the faults above; pytest was not run.")
            return True
    return False


def test(arguments: Sequence[str]) -> int:
    """Set up, then check format, lint and types, and run pytest; the arguments go to pytest."""
    make_venv()  # it may need apt, which then installs the programs while pip installs packages
    pytest = [os.fspath(venv_python()), "-m", "pytest"]
    # One process more than cores: tests wait for the programs that they start.
    processes = 1 if arguments else min((os.cpu_count() or 1) + 1, MOST_TEST_PROCESSES)
    shared = test_environment(processes)
    with aside([sys.executable, __file__, "programs"]) as installed:
        install_project(frozenset({"test"}), ["--no-compile"])  # most modules are never imported
        # Those that are, are compiled here, once for all processes that share the tests, while mypy has the other core.
        with nullcontext() if arguments else aside([*pytest, "--collect-only", "-q"], shared):
            faults = faults_found()
        if installed() != 0 or faults:
            return 1
    say("Running pytest")
    # A file's tests stay in one process, and files are handed out in the order of tests/conftest.py: the long ones
    # first, lest one process waits at the end.
    parallel = ["-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder", "--lines"]
    return run([*pytest, *(arguments or parallel)], shared)


def programs(arguments: Sequence[str]) -> int:
    """Install RELION and the other programs that the tests call."""
    if arguments:
        raise BootstrapError(f"programs takes no arguments, but got: {' '.join(arguments)}.")
    install_test_programs()
    return 0


def docs(arguments: Sequence[str]) -> int:
    """Set up and write the pages of all public functions; a relative folder is where the user stands."""
    if len(arguments) > 1:
        raise BootstrapError(f"docs takes one folder, but got: {' '.join(arguments)}.")
    folder = Path.cwd() / arguments[0] if arguments else ROOT / "site"
    install_project(frozenset({"docs"}))
    status = run([VENV / "bin" / "pdoc", *DOCUMENTED, "--docformat", "numpy", "-o", folder], environment())
    if status == 0:
        say(f"Open {folder / 'index.html'} in a browser")
    return status


def install(arguments: Sequence[str]) -> int:
    """Set up for daily use and say how to start."""
    if arguments:
        raise BootstrapError(f"install takes no arguments, but got: {' '.join(arguments)}.")
    install_project(USUAL_EXTRAS)
    say(f"Installed. Add the programs to your PATH: export PATH={VENV / 'bin'}:$PATH")
    return 0


COMMANDS = {"demo": demo, "test": test, "docs": docs, "install": install, "programs": programs}


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(str(part) for part in OLDEST_PYTHON)
        print(f"cryodrgn-ext needs Python {wanted} or newer: python{wanted} bootstrap.py ...", file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except BootstrapError as error:
        print(f"bootstrap.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
