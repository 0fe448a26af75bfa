"""Many seeds, one after the other.

Seeds: `SAFEDEFER_SIMULATIONS=20000` tries that many, `SAFEDEFER_SIMULATION_START` says from where. A seed that fails is
printed, and runs alone, always the same, with `SAFEDEFER_SIMULATION_START=<seed> SAFEDEFER_SIMULATIONS=1`.
"""

import os
from collections.abc import Callable
from typing import Final

from tests.simulation.console import Console
from tests.simulation.driver import Driver
from tests.simulation.scheduler import MakeDriver, Scheduler
from tests.simulation.slices import Slice
from tests.simulation.world import ViolationError, World

SIMULATIONS: Final = int(os.environ.get("SAFEDEFER_SIMULATIONS", "1000"))
START: Final = int(os.environ.get("SAFEDEFER_SIMULATION_START", "0"))
MUTANT_SIMULATIONS: Final = 3_000


def first_violation(
    make_driver: MakeDriver,
    seeds: int,
    console: type[Console] = Console,
    fits: Callable[[World], bool] = lambda _: True,
) -> tuple[int, str] | None:
    """The first seed that ends badly, and why.

    Args:
        fits: Which worlds are tried.
    """
    for seed in range(seeds):
        if not fits(World(seed)):
            continue
        try:
            Scheduler(seed, make_driver, console).go()
        except ViolationError as violation:
            return seed, str(violation)
    return None


class SliceOf(Driver):
    """A driver whose slices are of another class."""

    kind: type[Slice] = Slice

    def make_slice(self) -> Slice:
        return self.kind(self)
