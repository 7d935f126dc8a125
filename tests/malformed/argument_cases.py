"""Command lines that are wrong in one way each."""

from __future__ import annotations

from tests.malformed.tiny_project import Table, TinyProject

ARGUMENTS = Table()
case = ARGUMENTS.case
INPUT = ["--in_parts", "particles.star"]


def _with(project: TinyProject, *extra: str) -> list[str]:
    project.write()
    return [*INPUT, *extra]


@case("train", "in_parts")
def argument_input_missing(project: TinyProject) -> list[str]:
    project.write()
    return ["--zdim", "4"]


@case("train", "in_parts")
def argument_input_empty(project: TinyProject) -> list[str]:
    project.write()
    return ["--in_parts", "--zdim", "4"]


@case("train", "epoch", "did you mean", "epochs")
def argument_misspelt(project: TinyProject) -> list[str]:
    return _with(project, "--epoch", "3")


@case("train", "zdim", "whole number", "eight")
def argument_word_for_a_number(project: TinyProject) -> list[str]:
    return _with(project, "--zdim", "eight")


@case("train", "zdim", "whole number")
def argument_fraction_for_a_whole_number(project: TinyProject) -> list[str]:
    return _with(project, "--zdim", "2.5")


@case("train", "zdim", "at least 0")
def argument_below_its_bound(project: TinyProject) -> list[str]:
    return _with(project, "--zdim", "-3")


@case("train", "epochs", "at least 1")
def argument_no_epochs(project: TinyProject) -> list[str]:
    return _with(project, "--epochs", "0")


@case("train", "learning_rate", "finite")
def argument_nan(project: TinyProject) -> list[str]:
    return _with(project, "--learning_rate", "nan")


@case("train", "engine", "neural", "nueral")
def argument_unknown_engine(project: TinyProject) -> list[str]:
    return _with(project, "--engine", "nueral")


@case("train", "box", "even")
def argument_odd_box(project: TinyProject) -> list[str]:
    return _with(project, "--box", "31")


@case("train", "box", "64", "32")
def argument_box_larger_than_the_images(project: TinyProject) -> list[str]:
    return _with(project, "--box", "64")


@case("train", "mask diameter|mask_diameter", "5000")
def argument_mask_larger_than_the_images(project: TinyProject) -> list[str]:
    return _with(project, "--mask_diameter_A", "5000")


@case("train", "states", "particles|24")
def argument_more_states_than_particles(project: TinyProject) -> list[str]:
    return _with(project, "--states", "150")


@case("train", "one value", "quotes")
def argument_with_a_blank(project: TinyProject) -> list[str]:
    return _with(project, "--engine", "neural", "network")


@case("train", "in_parts", "wildcard")
def argument_expanded_wildcard(project: TinyProject) -> list[str]:
    project.write()
    return ["--in_parts", "particles.star", "other.star"]


@case("train", "zdim", "twice")
def argument_given_twice(project: TinyProject) -> list[str]:
    return _with(project, "--zdim", "4", "--zdim", "8")


@case("train", "-zdim", "two dashes")
def argument_with_one_dash(project: TinyProject) -> list[str]:
    return _with(project, "-zdim", "4")


@case("train", "Input micrographs")
def argument_input_that_is_not_used(project: TinyProject) -> list[str]:
    return _with(project, "--in_mics", "micrographs.star")


@case("train", "device|cuda", "GPU|cuda")
def argument_gpu_that_is_not_there(project: TinyProject) -> list[str]:
    return _with(project, "--device", "cuda:99")


@case("train", "j", "at most|at least")
def argument_negative_threads(project: TinyProject) -> list[str]:
    return _with(project, "--j", "-2")


@case("train", "in_parts", "needs|required")
def argument_blank_input(project: TinyProject) -> list[str]:
    project.write()
    return ["--in_parts", "", "--zdim", "4"]
