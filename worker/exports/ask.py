"""Asks LLMs what was asked before, so that a history with one answer a query gets answers of every LLM.

Each answer is a line of a file that `tollgate history convert` reads. Answers have costs; scores come from whoever
judges them. No more is spent than the user allows. Before a call, the most that it may cost is set aside. After the
call, its cost is booked; if that is unknown, all that was set aside is booked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from msgspec import Struct

from worker.contract.errors import FixSetting
from worker.contract.messages import Query
from worker.contract.settings import LlmSettings
from worker.contract.token_costs import PriceList, cost_of, exact_micros
from worker.contract.tokens import approximate_tokens
from worker.contract.usage import MICROS_PER_USD, UnusableUsage, Usage, usd
from worker.exports.collect import collect, recognise
from worker.exports.files import File, files_of
from worker.exports.format import Wishes
from worker.exports.names import Names
from worker.exports.prompts import problem_of
from worker.exports.values import plain, utc
from worker.inference.calls import Caller, Ended
from worker.inference.replies import answer_text

# A prompt may have more tokens than are counted, and a provider adds some around it.
MOST_TOKENS_A_COUNT, TOKENS_AROUND = 2, 64
# The name of the field that says what a line is.
MARK = "tollgate_history_ask"
PATIENCE_SECONDS = 86_400
HOPELESS = {"auth", "quota", "misconfigured"}

Prices = Mapping[str, PriceList]


class Question(Struct, frozen=True):
    """One past prompt that one LLM is asked, and the most that it may cost, in US dollars."""

    query_id: str
    prompt: str
    llm: str
    most_usd: Decimal


@dataclass
class Purse:
    """What may be spent, and what is spent or set aside, in US dollars."""

    limit_usd: Decimal
    spent_usd: Decimal = Decimal(0)
    held_usd: Decimal = Decimal(0)

    def hold(self, most_usd: Decimal) -> bool:
        """Set aside the most that a call may cost, if that much is left."""
        if self.spent_usd + self.held_usd + most_usd > self.limit_usd:
            return False
        self.held_usd += most_usd
        return True

    def book(self, most_usd: Decimal, cost_usd: Decimal | None) -> None:
        """Book what a call cost; all that was set aside, if that is unknown."""
        self.held_usd -= most_usd
        self.spent_usd += most_usd if cost_usd is None else cost_usd


@dataclass
class Asked:
    """How many questions were answered, how many failed by class, and how many were not asked: because the money is
    spent, or because the LLM refuses all."""

    answered: int = 0
    not_asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)


def questions_of(
    table: Path, llms: Mapping[str, LlmSettings], prices: Prices, count: int, seed: int, most_output: int
) -> list[Question]:
    """`count` past prompts of a table, drawn by a seed, each for every LLM that has not answered it.

    Raises FixSetting.
    """
    if unpriced := [llm for llm in llms if llm not in prices]:
        raise FixSetting(f"llms.{unpriced[0]}: has no prices, so what it may cost is not known; set its price_list")
    found = collect(recognise(files_of([table]), None), Wishes(Names({})), lambda _: None)
    prompts = {one.query_id: one.prompt for one in found.answers if one.prompt and problem_of(one.prompt) is None}
    answered = {(one.query_id, one.model) for one in found.answers if one.left is None}
    open_ones = [query for query in prompts if any((query, llm) not in answered for llm in llms)]
    drawn = np.random.default_rng(seed).permutation(len(open_ones))[:count]
    return [
        Question(query, prompts[query], llm, most_usd(prompts[query], llms[llm], prices[llm], most_output))
        for query in (open_ones[place] for place in sorted(drawn))
        for llm in llms
        if (query, llm) not in answered
    ]


def most_usd(prompt: str, llm: LlmSettings, prices: PriceList, most_output: int) -> Decimal:
    """The most that an answer may cost: twice the tokens that are counted in, and all output that is allowed."""
    counted = approximate_tokens(prompt) + (approximate_tokens(llm.system) if llm.system else 0)
    used = Usage(counted * MOST_TOKENS_A_COUNT + TOKENS_AROUND, most_output)
    return exact_micros(used, prices) / MICROS_PER_USD


def answered_in(file: Path) -> tuple[set[tuple[str, str]], Decimal]:
    """The queries and LLMs that a file of answers has answers for, and the US dollars that are booked for its lines."""
    rows = [row for row in File(file, file.name).rows() if isinstance(row, dict)] if file.exists() else []
    answered = {
        (str(row.get("query_id")), str(row.get("model"))) for row in rows if MARK in row and not row.get("error")
    }
    return answered, sum((usd(row.get("booked_usd")) or Decimal(0) for row in rows), Decimal(0))


async def ask(
    questions: Sequence[Question],
    llms: Mapping[str, LlmSettings],
    prices: Prices,
    purse: Purse,
    most_output: int,
    file: TextIO,
    tell: Callable[[str], None],
) -> Asked:
    """Ask all questions, and write each answer as a line as soon as it comes."""
    asked, done = Asked(), 0
    by_llm: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_llm[question.llm].append(question)

    async def serve(llm: str, waiting: Iterator[Question], caller: Caller) -> None:
        nonlocal done
        for question in waiting:
            if not purse.hold(question.most_usd):
                asked.not_asked += 1
                continue
            query = Query(text=question.prompt, max_output_tokens=most_output)
            ended = await caller.call(llm, query, _id_of(question), int((time.time() + PATIENCE_SECONDS) * 1_000))
            cost = _cost_usd(ended, prices[llm])
            purse.book(question.most_usd, cost)
            line = _line(question, ended, cost) | {"booked_usd": plain(question.most_usd if cost is None else cost)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            asked.answered += ended.outcome.ok
            if ended.outcome.error_class is not None:
                asked.failed[ended.outcome.error_class] += 1
            if ended.outcome.error_class in HOPELESS:
                # Every other call of this LLM would end the same way.
                asked.not_asked += sum(1 for _ in waiting)
            done += 1
            tell(f"asking: {done:,} of {len(questions):,}, {purse.spent_usd:.4f} US dollars")

    async with Caller(llms, "tollgate-history") as caller:
        await asyncio.gather(
            *(
                serve(llm, waiting, caller)
                for llm, ones in by_llm.items()
                for waiting in [iter(ones)]
                for _ in range(min(llms[llm].max_open, len(ones)))
            )
        )
    return asked


def _id_of(question: Question) -> str:
    """An id that fits into a header: a provider that keeps them does not work twice for one question."""
    return hashlib.sha256(json.dumps([question.query_id, question.llm, question.prompt]).encode()).hexdigest()[:32]


def _cost_usd(ended: Ended, prices: PriceList) -> Decimal | None:
    """What a call cost in US dollars; None where that is unknown."""
    outcome = ended.outcome
    if outcome.cost == "zero":
        return Decimal(0)
    priced = None if outcome.cost == "unknown" else cost_of(outcome.usage, prices)
    return None if priced is None or isinstance(priced, UnusableUsage) else Decimal(priced.micros) / MICROS_PER_USD


def _line(question: Question, ended: Ended, cost: Decimal | None) -> dict[str, Any]:
    outcome = ended.outcome
    return {
        MARK: 1,
        "id": f"{question.query_id}/{question.llm}",
        "query_id": question.query_id,
        "prompt": question.prompt,
        "model": question.llm,
        "answer": None if outcome.answer is None else answer_text(outcome.answer),
        "cost_usd": plain(cost) or None,
        "usage": outcome.usage,
        "at": utc(int(time.time() * 1_000)),
        "error": None if outcome.ok else f"{outcome.error_class}: {outcome.error or ''}",
    }
