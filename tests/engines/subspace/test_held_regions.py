"""Where components are held: reliable where both half-sets show a difference, and nothing where each shows its own."""

import torch

from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.held_regions import HeldRegions

BOX, RADIUS = 24, 8


def test_places_count_by_what_half_sets_share() -> None:
    grid = ComponentGrid(BOX, RADIUS)
    axis = torch.arange(BOX) - BOX // 2
    distance2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + (axis - 5) ** 2
    blob = torch.exp(-distance2 / (2 * 1.5**2))
    generator = torch.Generator().manual_seed(0)
    halves = []
    for _ in range(2):
        values = torch.zeros(grid.n_voxels, 2, 8)
        for j in range(4):
            values[..., j] = grid.from_map(blob + 0.1 * torch.randn(BOX, BOX, BOX, generator=generator))
        halves.append(values)
    everywhere = torch.ones(BOX, BOX, BOX)
    found = HeldRegions(everywhere, everywhere, everywhere, everywhere, everywhere, 1.0).measured(
        grid, halves[0], halves[1], 4
    )
    inside, outside = distance2 < 2, distance2 > 8**2
    for reliability, chance in ((found.reliability, 0.15), (found.average, 0.25)):
        assert reliability[inside].min() > 0.9
        assert reliability[outside].mean() < chance
    kept, both = (found.hold(grid, halves[0], 4, together) for together in (False, True))
    for j in (0, 1):  # the average and a difference
        before, after, longer = (
            grid.to_map(v[..., j].contiguous())[outside].square().mean() for v in (halves[0], kept, both)
        )
        assert after < longer < before / 2


def test_a_region_reaches_a_half_period_beyond_what_stands_out_and_stays_in_the_focus() -> None:
    moving, particle = torch.zeros(2, BOX, BOX, BOX)
    moving[12, 12, 12] = 1.0
    wide = HeldRegions.about(particle, moving, RADIUS).moving
    assert wide[12, 12, 13] > 0.5
    focus = torch.ones(BOX, BOX, BOX)
    focus[..., 13:] = 0
    assert HeldRegions.about(particle, moving, RADIUS, focus, None).moving[..., 13:].max() == 0
