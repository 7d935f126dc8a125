"""Faults of real data: how each changes the parameters, the images or what the STAR file says of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault; every attribute is none of it by default.

    Attributes
    ----------
    contrast : float
        Particles are stronger or weaker by up to this share.
    turn_deg, shift_A : float
        Errors of the given poses, standard deviation per axis.
    frames_deg : float
        Two refinements are joined, the second in a frame turned by this.
    defocus_A, magnification : float
        Errors of the defocus (standard deviation); share by which the pixel of a second optics group is larger.
    empty, contaminant, ice, neighbours : float
        Shares of images without a particle, with another protein, under blobs, with a second particle in the box.
    hot : int
        Images with one hot pixel.
    gradient : float
        Background ramps, in deviations of the noise from edge to edge.
    coloured : bool
        Noise that falls with frequency.
    cone : float
        Share of views within 25 degrees of one axis.
    off_centre_px : float
        Largest displacement of particles.
    phase_shift_deg : float
        Of a phase plate.
    copies : bool
        Every image is there twice, in both half-sets.
    expanded : bool
        Every row is there twice, turned by 180 degrees about z (a symmetry expansion of a C2 dimer).
    images : int
        How many, where not as many as of all; 0 otherwise.
    disc_A : float
        Diameter of the disc that is cut from images, where it is too small; 0 for the default.
    named : str
        The words of which one must be in the verdict, the log or the warnings where the fault fools the engine,
        separated by bars; nothing where it is expected to be harmless.
    """

    contrast: float = 0.0
    turn_deg: float = 0.0
    shift_A: float = 0.0
    frames_deg: float = 0.0
    defocus_A: float = 0.0
    magnification: float = 0.0
    empty: float = 0.0
    contaminant: float = 0.0
    ice: float = 0.0
    neighbours: float = 0.0
    hot: int = 0
    gradient: float = 0.0
    coloured: bool = False
    cone: float = 0.0
    off_centre_px: float = 2.0
    phase_shift_deg: float = 0.0
    copies: bool = False
    expanded: bool = False
    images: int = 0
    disc_A: float = 0.0
    named: str = ""


FAULTS = {
    "none": Fault(),
    "contrast": Fault(contrast=0.5, named="contrast"),
    "empty": Fault(empty=0.2, named="junk|contrast|nothing of the consensus"),
    "poses": Fault(turn_deg=1.2, shift_A=2.0, named="orientation errors"),
    "worse poses": Fault(turn_deg=2.5, shift_A=5.0, named="orientation errors"),
    "joined": Fault(frames_deg=3.0, named="orientation errors"),
    "copies": Fault(copies=True, named="copies|same image|twice|duplicate"),
    "disc": Fault(disc_A=120.0, named="disc|mask|orientation errors"),
    "cone": Fault(cone=0.7),
    "neighbours": Fault(neighbours=0.5),
    "defocus": Fault(defocus_A=300.0, named="defocus"),
    "magnification": Fault(magnification=0.02, named="defocus|magnification"),
    "coloured": Fault(coloured=True),
    "gradient": Fault(gradient=1.0, named="background|gradient"),
    "hot": Fault(hot=10, named="far from all others|hot|outlier"),
    "off-centre": Fault(off_centre_px=5.0),
    "phase plate": Fault(phase_shift_deg=70.0),
    "expanded": Fault(expanded=True),
    "few": Fault(images=800),
    "contaminant": Fault(contaminant=0.15),
    "ice": Fault(ice=0.15),
    "all of it": Fault(contrast=0.3, turn_deg=1.2, shift_A=2.0, defocus_A=150.0, empty=0.1, neighbours=0.3,
                       gradient=0.5, coloured=True, cone=0.4, named="contrast|defocus|orientation errors|junk"),
}  # fmt: skip
#: Faults by which a set without motion holds two kinds of particles all the same: a proven state is right there.
TWO_KINDS = ("contaminant", "ice")
