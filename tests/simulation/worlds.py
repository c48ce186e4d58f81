"""The worlds that are simulated, by the name that `make simulate` knows."""

from __future__ import annotations

from typing import Any

from tests.simulation import treasury_world, world
from tests.simulation.shrink import Simulator
from tests.simulation.treasury_world import TreasuryWorld
from tests.simulation.world import World


def _of_lanes(world: World) -> dict[str, int]:
    books = world.auditor.books
    return {
        "partitions": world.partitions,
        "processes": len(world.processes),
        "queries": len(world.traffic.committed),
        "dispatches": sum(book.dispatches for book in books),
        "closed": sum(len(book.closed) for book in books),
        "transactions": sum(book.sequence for book in books),
    }


def _of_treasury(world: TreasuryWorld) -> dict[str, int]:
    return {
        "lanes": world.count,
        "queries": sum(map(len, world.arrivals)),
        "reports": sum(map(len, world.asks)),
        "messages of the treasury": sum(map(len, world.grants)),
        "control records": len(world.control),
    }


LANES = Simulator(world.plan, world.simulate, world.SOUND, _of_lanes, "make simulate")
TREASURY = Simulator(
    treasury_world.plan,
    treasury_world.simulate,
    treasury_world.SOUND,
    _of_treasury,
    "make simulate WORLD=treasury",
)
WORLDS: dict[str, Simulator[Any, Any, Any]] = {"lanes": LANES, "treasury": TREASURY}
