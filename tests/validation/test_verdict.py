"""One verdict: what is concluded of planted motions and artefacts, and the sentences on all states of a job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cryodrgn_ext.images.joined import join_images
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.validation.evidence import Evidence, Verdict, not_tested
from cryodrgn_ext.validation.single_images import LEVELS, SingleImages, Tie
from cryodrgn_ext.validation.states import iterate_states
from cryodrgn_ext.validation.verdict import (
    PASSES_ALONE,
    Conclusion,
    conclude,
    earlier_conclusion,
    name_junk,
    overall,
    together,
)

from .conftest import Case, N, images_of


def concluded(images: ParticleImages, labels: NDArray[np.integer]) -> list[Conclusion]:
    return [conclude(state.evidence) for state in iterate_states(images, labels, reconstruct_half_maps(images))]


def tertiles(values: NDArray[np.floating]) -> NDArray[np.integer]:
    return np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))


def test_a_motion_is_proven(hinge: Case) -> None:
    found = concluded(hinge.images, hinge.particles.state // 7)
    assert {one.words for one in found} == {"proven"}
    assert max(found[0].explained_by.values()) < 0.5
    assert overall(found).startswith("Proven: 3 of 3 states differ")


def test_uneven_contrast_is_named(rigid: Case) -> None:
    """Each image of one structure times a number of its own; states by that number."""
    rng = np.random.default_rng(0)
    scale = torch.from_numpy(rng.uniform(0.3, 1.7, N)).float()
    noise = torch.from_numpy(rng.normal(0, rigid.particles.noise_sigma, (N, 32, 32))).float()
    images = images_of(rigid.particles, scale[:, None, None] * rigid.particles.clean_images(np.arange(N)) + noise)
    found = concluded(images, tertiles(scale.numpy()))
    assert [found[0].words, found[2].words] == ["an artefact of contrast"] * 2
    assert overall(found).startswith("An artefact of contrast: ")
    assert found[0].explained_by["scale"] > 0.9


def test_errors_of_the_poses_are_named(rigid: Case) -> None:
    """States by how far the particles lie from where they are said to lie, along one axis of the molecule."""
    error = np.random.default_rng(1).normal(0, 0.6, (N, 2)).astype(np.float32)
    along = np.einsum("nj,nj->n", error, rigid.particles.rotation[:, :2, 0])
    pixels = torch.from_numpy(rigid.particles.images())
    found = concluded(images_of(rigid.particles, pixels, rigid.particles.shift_px + error), tertiles(along))
    assert [found[0].words, found[2].words] == ["an artefact of orientation errors"] * 2
    assert "Treat the states as one" in overall(found)


def test_a_difference_between_optics_groups_is_tied_to_them_and_one_within_is_not(hinge: Case) -> None:
    """Two structures, each in a group of its own, or both in both."""
    ends = [np.flatnonzero(hinge.particles.state <= 3), np.flatnonzero(hinge.particles.state >= 17)]
    size = min(len(rows) for rows in ends)
    ends = [rows[:size] for rows in ends]
    mixed = [np.concatenate([rows[part] for rows in ends]) for part in (slice(None, None, 2), slice(1, None, 2))]
    for groups, words in ((ends, "likely, but tied to the optics group"), (mixed, "proven")):
        first, second = (hinge.images.subset(torch.from_numpy(rows)) for rows in groups)
        end = np.isin(np.concatenate(groups), ends[1]).astype(int)
        found = concluded(join_images(first, second), end)
        assert {one.words for one in found} == {words}
        assert (found[0].explained_by["optics group"] > 0.9) == (groups is ends)
    assert "it could come from the optics group instead of the molecule" in overall(
        [Conclusion("likely", "optics group"), Conclusion("not shown")]
    )


def evidence(single: SingleImages, halves_p: float = 0.0, n_states: int = 4) -> Evidence:
    shown = max(halves_p, single.p) < 0.01 / n_states
    verdict = Verdict.DISTINCT if shown else Verdict.NOT_DISTINGUISHABLE
    return Evidence(verdict, 0.9, np.zeros(12), halves_p, single, n_states)


def seen(*levels: float, ties: tuple[Tie, ...] = ()) -> SingleImages:
    return SingleImages(levels[0], levels[1:], 0.02, ties, ties)


def test_the_level_at_which_a_difference_vanishes_names_the_artefact() -> None:
    assert len(LEVELS) == 3
    assert conclude(evidence(seen(0.5, 0.5, 0.5, 0.5))).words == "proven"
    assert conclude(evidence(seen(0.5, 0.01, 0.0, 0.01))).words == "an artefact of contrast"
    assert conclude(evidence(seen(0.5, 0.4, 0.0, 0.01))).words == "an artefact of defocus"
    assert conclude(evidence(seen(0.5, 0.4, 0.4, 0.01))).words == "an artefact of orientation errors"
    assert conclude(evidence(seen(0.01, 0.0, 0.0, 0.01))).words == "not shown"
    assert conclude(evidence(seen(0.5, 0.5, 0.5, 0.5), halves_p=0.3)).words == "not shown"
    assert conclude(evidence(seen(0.052, 0.052, 0.052, 0.052))).words == "likely"


def test_what_is_left_of_a_large_error_proves_nothing() -> None:
    """No consensus is so exact that all of an error can be taken away: a tenth of what was is no proof."""
    assert conclude(evidence(seen(0.7, 0.7, 0.7, 0.08))).words == "an artefact of orientation errors"
    assert conclude(evidence(seen(0.08, 0.08, 0.08, 0.08))).words == "proven"


def test_a_state_of_empty_images_is_junk_and_uneven_ice_is_not() -> None:
    contrast, poses = Conclusion("an artefact", "contrast"), Conclusion("an artefact", "orientation errors")
    assert name_junk(contrast, 0.9).words == "an artefact of junk"
    assert name_junk(contrast, 0.1) == contrast
    assert name_junk(poses, 0.9) == poses
    assert name_junk(Conclusion("proven"), 0.9).words == "proven"  # a thing of its own that is not the consensus
    said = overall([name_junk(contrast, 0.9), poses, poses, name_junk(contrast, 0.9), contrast])
    assert "An artefact of junk: 2 of 5 states differ" in said
    assert "show nothing of the consensus" in said
    assert "Of the others, 2 are an artefact of orientation errors, 1 is an artefact of contrast." in said
    by_view = replace(contrast, of="contrast by view")
    assert overall([by_view]).startswith("An artefact of contrast by view: 1 of 1 states differ")
    assert "remove duplicates" in overall([replace(contrast, of="duplicates")]).lower()


def test_a_tie_needs_that_nothing_is_left_within() -> None:
    tied, left = Tie("micrograph", 0.8, 0.01, 0.02), Tie("micrograph", 0.8, 0.3, 0.02)
    assert conclude(evidence(seen(0.5, 0.5, 0.5, 0.5, ties=(tied,)))).words == "likely, but tied to the micrograph"
    assert conclude(evidence(seen(0.5, 0.5, 0.5, 0.5, ties=(left,)))).words == "proven"
    assert conclude(evidence(seen(0.5, 0.4, 0.4, 0.0, ties=(tied,)))).words == (
        "an artefact of orientation errors by micrograph"
    )


def test_the_other_states_are_named_after_what_was_found() -> None:
    junk = name_junk(Conclusion("an artefact", "contrast"), 0.9)
    said = overall([Conclusion("proven"), junk, Conclusion("not shown"), Conclusion("not shown")])
    assert said.endswith(" Of the others, 1 is an artefact of junk, 2 are not shown.")
    assert "Of the others" not in overall([Conclusion("proven")] * 2)


@pytest.mark.parametrize(
    ("claims", "beginning"),
    [
        (["proven", "not shown"], "Proven: 1 of 2 states"),
        (["not shown"] * 3, "Not shown: none of 3 states"),
        (["not tested"] * 2, "Not tested: no state could be tested"),
    ],
)
def test_one_sentence_stands_for_all_states(claims: list[str], beginning: str) -> None:
    assert overall([Conclusion(claim) for claim in claims]).startswith(beginning)
    assert overall([Conclusion(claim) for claim in claims], "set").startswith(beginning.replace("state", "set"))


def test_what_was_not_tested_says_why_and_older_verdicts_are_not_more_than_they_were() -> None:
    assert conclude(not_tested("it holds all particles")) == Conclusion("not tested", reason="it holds all particles")
    assert "(it holds all particles)" in overall([conclude(not_tested("it holds all particles"))])
    assert earlier_conclusion("distinct").claim == "likely"
    assert "an earlier version" in overall([earlier_conclusion("distinct")])
    assert earlier_conclusion("not distinguishable").claim == "not shown"


def test_a_state_that_passes_alone_needs_another_one() -> None:
    """Where particles differ, at least two states do: one of many that barely passes is chance."""
    barely = Conclusion("likely", reason=PASSES_ALONE)
    nothing, proven, tied = Conclusion("not shown"), Conclusion("proven"), Conclusion("likely", "view")
    assert [one.claim for one in together([barely, nothing, nothing])] == ["not shown"] * 3
    assert [one.claim for one in together([barely, barely, nothing])] == ["likely", "likely", "not shown"]
    assert [one.claim for one in together([barely, proven, nothing])] == ["likely", "proven", "not shown"]
    assert [one.words for one in together([tied, nothing])] == [tied.words, "not shown"]
    assert together([barely]) == [barely]
