"""One verdict with one meaning: what is concluded of a state, and of all states of a job, in the same words everywhere.

proven
    The state differs in both half-sets and in single images, by more than contrast, optics and poses can make of one
    structure, and images of one view, micrograph and optics group differ among themselves.
likely
    The same, but it goes with views, micrographs or optics groups so much that nothing is left within them; or it would
    pass alone and not among as many states.
an artefact of X
    Both half-sets have it, and single images do, until what X makes of one structure is taken away.
not shown
    No more than chance, or than noise that was chosen, makes.
not tested
    The comparison could not be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryodrgn_ext.validation.covariates import BACKGROUND, MICROGRAPH, OPTICS_GROUP, VIEW
from cryodrgn_ext.validation.evidence import SIGNIFICANCE, Evidence, Verdict
from cryodrgn_ext.validation.single_images import CONTRAST, MOSTLY, OPTICS, ORIENTATION, SingleImages, Tie

PROVEN, LIKELY, NOT_SHOWN, ARTEFACT, NOT_TESTED = "proven", "likely", "not shown", "an artefact", "not tested"
JUNK, DUPLICATES = "junk", "duplicates"
PASSES_ALONE = "each passes alone, but not among so many"
#: Shares below this are not worth a word.
WORTH_A_WORD = 0.2
#: Covariates that may stand for a difference of the molecule or of the microscope: a state that is nothing beyond them
#: is tied to them. (How well the consensus fits an image, its scale and the noise that is left, follows a true motion.)
TYING = (VIEW, MICROGRAPH, OPTICS_GROUP, BACKGROUND)


@dataclass(frozen=True)
class Conclusion:
    """Conclusion on a state.

    Attributes
    ----------
    claim : str
        One of :data:`PROVEN`, :data:`LIKELY`, :data:`ARTEFACT`, :data:`NOT_SHOWN`, :data:`NOT_TESTED`.
    of : str
        What an artefact is of, or what a likely state is tied to.
    reason : str
        Why it was not tested, or is no more than likely.
    explained_by : dict
        Share of the difference, as single images show it, that goes with each covariate (0 to 1).
    single_images, error : float
        The correlation over single images that the claim rests on, with its standard error.
    """

    claim: str
    of: str = ""
    reason: str = ""
    explained_by: dict[str, float] = field(default_factory=dict)
    single_images: float = 0.0
    error: float = 0.0

    @property
    def words(self) -> str:
        """The conclusion as it is shown."""
        if self.claim == ARTEFACT:
            return f"{ARTEFACT} of {self.of}"
        return f"{LIKELY}, but tied to the {self.of}" if self.claim == LIKELY and self.of else self.claim

    def summary(self) -> dict[str, Any]:
        """Values for job.yaml."""
        known = {"conclusion": self.words}
        return {**known, "explained_by": dict(self.explained_by)} if self.explained_by else known


def conclude(evidence: Evidence) -> Conclusion:
    """Conclude what a state is from the evidence for it."""
    if evidence.verdict is Verdict.NOT_TESTED:
        return Conclusion(NOT_TESTED, reason=evidence.reason)
    single, allowed = evidence.single, evidence.significance
    numbers: dict[str, Any] = {"single_images": round(single.value, 4), "error": round(single.error, 4)}
    shown = evidence.verdict is Verdict.DISTINCT
    ties = single.ties if shown else single.whole_ties
    numbers["explained_by"] = {tie.name: round(tie.share, 3) for tie in ties}
    tied = _tied(ties, allowed)
    if shown and tied is not None:
        return Conclusion(LIKELY, tied, **numbers)
    if shown:
        return Conclusion(PROVEN, **numbers)
    if evidence.duplicates:
        reason = "nothing is left of it without the images of which the other half-set has a copy"
        return Conclusion(ARTEFACT, DUPLICATES, reason=reason, **numbers)
    if evidence.halves_p >= allowed:
        return Conclusion(NOT_SHOWN, **numbers)
    if max(evidence.halves_p, single.p) < SIGNIFICANCE:
        return Conclusion(LIKELY, reason=PASSES_ALONE, **numbers)
    cause = _cause(single, tied, allowed)
    return Conclusion(NOT_SHOWN, **numbers) if cause is None else Conclusion(ARTEFACT, cause, **numbers)


def together(conclusions: Sequence[Conclusion]) -> list[Conclusion]:
    """Conclusions on the states of one job, of which none stands alone on what passes for itself but not among as many.

    Where particles differ, what one state has more of, others have less: a state that is likely only because it passes
    for itself needs another one that is claimed. Alone, it would be claimed by chance in some sets of one structure.
    """
    claimed = sum(one.claim in (PROVEN, LIKELY) for one in conclusions)
    alone = claimed == 1 and len(conclusions) > 1
    return [
        replace(one, claim=NOT_SHOWN, reason="it passes alone, not among so many, and no other state does")
        if alone and one.claim == LIKELY and not one.of and one.reason == PASSES_ALONE
        else one
        for one in conclusions
    ]


def name_junk(conclusion: Conclusion, empty_share: float) -> Conclusion:
    """Name images without a particle where they, and not the ice, are what makes an artefact of contrast.

    Parameters
    ----------
    conclusion : Conclusion
    empty_share : float
        Of the state's images that show nothing of the consensus.
    """
    if conclusion.claim != ARTEFACT or not conclusion.of.startswith(CONTRAST) or empty_share < MOSTLY:
        return conclusion
    return replace(conclusion, of=JUNK, reason=f"{empty_share:.0%} of its images show nothing of the consensus")


def _cause(single: SingleImages, tied: str | None, allowed: float) -> str | None:
    """Name what makes a difference that single images show and that vanishes; None where they do not show one."""
    cause = single.cause(allowed)
    if cause is None or tied is None:
        return cause
    return f"{cause} by {tied}"


def _tied(ties: Sequence[Tie], allowed: float) -> str | None:
    """Name the covariate within which nothing is left of a difference, and that makes most of it."""
    found = [tie for tie in ties if tie.name in TYING and tie.share >= MOSTLY and tie.p >= allowed]
    return max(found, key=lambda tie: tie.share).name if found else None


def earlier_conclusion(verdict: str) -> Conclusion:
    """Conclude from the verdict of an earlier version, which asked less."""
    if verdict == Verdict.DISTINCT.value:
        return Conclusion(LIKELY, reason="an earlier version judged them, which asked less; validate asks again")
    known = {Verdict.NOT_DISTINGUISHABLE.value: NOT_SHOWN, Verdict.NOT_TESTED.value: NOT_TESTED}
    return Conclusion(known[verdict], reason="an earlier version did not say why")


def overall(conclusions: Sequence[Conclusion], what: str = "state") -> str:
    """Say in one sentence what was found, how sure it is, and what else it could be.

    Parameters
    ----------
    conclusions : sequence of Conclusion
        Of all sets of a job.
    what : str
        What these are called.
    """
    tested = [one for one in conclusions if one.claim != NOT_TESTED]
    n = len(conclusions)
    if not tested:
        reason = conclusions[0].reason if conclusions else "there are none"
        return (
            f"Not tested: no {what} could be tested against the rest ({reason}), so whether they differ is not known."
        )
    for claim in (PROVEN, LIKELY, ARTEFACT):
        found = [one for one in tested if one.claim == claim]
        if found:
            said = _commonest([one.words for one in found]) if claim == ARTEFACT else claim
            others = [one for one in conclusions if said not in (one.claim, one.words)]
            return _OVERALL[claim](found, n, what) + _others(others)
    return (
        f"Not shown: none of {n} {what}s differs from the rest by more than chance; these data show no heterogeneity "
        f"that this job can prove. Treat the {what}s as one; a smaller motion, or one of few particles, may be there "
        "all the same."
    )


def _some(found: Sequence[Conclusion], n: int, what: str) -> str:
    return f"{len(found)} of {n} {what}s {'differs' if len(found) == 1 else 'differ'}"


def _proven(found: Sequence[Conclusion], n: int, what: str) -> str:
    parts = _largest_shares(found)
    tied = f" Up to {parts} of the difference goes with where images come from." if parts else ""
    return (
        f"Proven: {_some(found, n, what)} from the rest, in both half-sets and in single images, by more "
        "than uneven contrast, defocus, magnification or errors of the poses can make of one structure (chance of a "
        f"false claim below {SIGNIFICANCE:.0%}).{tied} It can be a motion, another composition or another kind of "
        "particle: that is for the maps to tell."
    )


def _likely(found: Sequence[Conclusion], n: int, what: str) -> str:
    tied = [one for one in found if one.of]
    if not tied:
        reason = found[0].reason
        if reason == PASSES_ALONE:
            reason = f"each by so little that among {n} {what}s it could be chance: more particles would tell"
        return (
            f"Likely: {_some(found, n, what)} from the rest by more than errors of contrast, optics and "
            f"poses can make of one structure, but {reason}."
        )
    name = _commonest([one.of for one in tied])
    return (
        f"Likely, but tied to the {name}: {_some(found, n, what)} from the rest by more than errors of "
        f"contrast, optics and poses can make of one structure, but images of one {name} do not differ from each "
        f"other: it could come from the {name} instead of the molecule."
    )


#: How states of an artefact differ, and what to do.
_AS_ONE = "Treat the {what}s as one; a motion that looks like this is not excluded."
_ARTEFACTS = {
    CONTRAST: ("only in how strongly images show one structure (ice of uneven thickness, empty images)", _AS_ONE),
    OPTICS: ("by no more than errors of defocus or magnification, or blur, make of one structure", _AS_ONE),
    ORIENTATION: ("by no more than slightly wrong poses, as every refinement has, make of one structure", _AS_ONE),
    JUNK: (
        "in that most of their images show nothing of the consensus (no particle, ice, or another thing)",
        "Take these images out (select --junk no) and train again; treat the other {what}s as one.",
    ),
    DUPLICATES: (
        "no more when images of which the other half-set has a copy do not count",
        "Remove duplicates (copied, or picked twice); treat the {what}s as one.",
    ),
}


def _artefact(found: Sequence[Conclusion], n: int, what: str) -> str:
    cause = _commonest([one.of for one in found])
    kind, _, tied = cause.partition(" by ")
    how, advice = _ARTEFACTS[kind]
    with_what = f", and in one {tied} images do not differ" if tied else ""
    same = [one for one in found if one.of == cause]
    return f"An artefact of {cause}: {_some(same, n, what)} from the rest, but {how}{with_what}. " + advice.format(
        what=what
    )


def _others(conclusions: Sequence[Conclusion]) -> str:
    """Say what the sets are that the sentence before is not of."""
    words = [one.words for one in conclusions]
    parts = [f"{words.count(one)} {'is' if words.count(one) == 1 else 'are'} {one}" for one in dict.fromkeys(words)]
    return f" Of the others, {', '.join(parts)}." if parts else ""


_OVERALL = {PROVEN: _proven, LIKELY: _likely, ARTEFACT: _artefact}


def _commonest(names: Sequence[str]) -> str:
    return max(dict.fromkeys(names), key=list(names).count)


def _largest_shares(found: Sequence[Conclusion]) -> str:
    shares: dict[str, float] = {}
    for one in found:
        for name in TYING:
            shares[name] = max(shares.get(name, 0.0), one.explained_by.get(name, 0.0))
    worth = sorted((name for name in shares if shares[name] >= WORTH_A_WORD), key=lambda name: -shares[name])
    return ", ".join(f"{shares[name]:.0%} ({name})" for name in worth)
