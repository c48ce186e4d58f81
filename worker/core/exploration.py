"""Now and then a query goes to an LLM that is drawn at random, so that what is learnt from the answers is honest. Pure.

A policy that always takes the best score leaves no answers of the other LLMs to the same kind of query. Nobody can tell
from such a log what another choice would have been worth. So a share of the queries that would be dispatched is drawn:
each LLM that could take the query has the same chance. The decision records the probability of each (`Routed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from worker.contract.messages import Configuration

# The first half of the hash says whether to draw, the second half whom.
HALF_BYTES = 8
OUTCOMES = 2 ** (8 * HALF_BYTES)


class Drawn(NamedTuple):
    """The LLM that a query goes to, by its number, and how likely each LLM was chosen."""

    llm: int
    probabilities: dict[str, float]


def draw(config: Configuration, partition: int, offset: int, usual: int, able: Sequence[int]) -> Drawn:
    """Draw for the query at `offset` of `partition`: mostly the policy's choice `usual`, else any LLM of `able`.

    `able` are the numbers of the LLMs that could take the query, `usual` among them. The draw depends on the seed and
    on the place of the query, and on nothing else: a replay draws the same.
    """
    share = config.exploration_share
    digest = blake2b(f"explore/{config.seed}/{partition}/{offset}".encode(), digest_size=2 * HALF_BYTES).digest()
    chance, which = (int.from_bytes(half, "little") for half in (digest[:HALF_BYTES], digest[HALF_BYTES:]))
    llm = able[which % len(able)] if chance < share * OUTCOMES else usual
    each = share / len(able)
    return Drawn(llm, {config.llms[one]: each + (1.0 - share if one == usual else 0.0) for one in able})
