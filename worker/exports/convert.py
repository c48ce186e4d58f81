"""Converts an export into answers of history, in named steps: recognise, read, join prompts, leave out, score, combine,
price. `doubts` looks at the result, `write` writes it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from worker.contract.errors import FixSetting
from worker.exports.collect import FORMATS, Collected, Recognised, collect, recognise
from worker.exports.files import File
from worker.exports.format import Format, Wishes
from worker.exports.judge import Scored, ScoreWishes, give_scores
from worker.exports.names import Names
from worker.exports.prices import PriceOf, no_prices, priced
from worker.exports.prompts import problem_of
from worker.exports.records import OF_JUDGEMENTS, Answer, LeftOut, Reason

Tell = Callable[[str], None]


CostFrom = Literal["stated", "computed", "given", "unknown"]


class Result(Struct, frozen=True):
    """One row: an answer with its LLM, its score from 0 to 1, and its cost in US dollars; None where unknown.
    `cost_from` says where the cost comes from: the source, the prices, or the user. `probabilities` say how likely each
    LLM was asked; empty where the source does not say it, or where only this LLM could be asked."""

    answer: Answer
    llm: str
    score: Decimal | None
    cost_usd: Decimal | None
    cost_from: CostFrom
    probabilities: dict[str, float] = {}


@dataclass(frozen=True)
class Choices:
    """What a user chose. `fills_costs` says that costs are computed also where a source that knows prices states none.
    `given_costs` is what an answer of an LLM costs in US dollars where nothing else says it."""

    wishes: Wishes
    scores: ScoreWishes = field(default_factory=ScoreWishes)
    price_of: PriceOf = no_prices
    fills_costs: bool = False
    given_costs: Mapping[str, Decimal] = field(default_factory=dict)
    format: str | None = None


@dataclass
class Converted:
    """An export as rows of history, and what is told about it."""

    results: list[Result]
    left: list[LeftOut]
    scored: Scored
    formats: list[Format]
    recognised: Recognised
    told: list[str]

    @property
    def rows_left_out(self) -> int:
        """Rows and files that did not become a row; a judgement that is lost is no row."""
        return sum(one.reason not in OF_JUDGEMENTS for one in self.left)

    def reasons(self) -> dict[Reason, int]:
        """The number of rows, files and judgements that are left out, by reason."""
        counted = Counter(one.reason for one in self.left)
        return dict(sorted(counted.items()))


def convert(files: Sequence[File], judgements: Sequence[File], choices: Choices, tell: Tell) -> Converted:
    """Read an export. Raises FixSetting where it cannot be read, or where the user must choose."""
    recognised = recognise(files, choices.format, judgements)
    found = collect(recognised, choices.wishes, tell)
    formats = [one for one in FORMATS if one.name in recognised.formats]
    _check(found, formats, recognised)
    names = choices.wishes.names
    _join_prompts(found)
    found.answers = [_named(answer, names.llm(answer.model)) for answer in found.answers]
    kept = _without(found, names)
    tell("scoring")
    mains = {one.main_score for one in formats if one.main_score is not None}
    scored = give_scores(
        kept, found.answers, found.judgements, choices.scores, mains.pop() if len(mains) == 1 else None, names.llm
    )
    results = _combined(kept, scored, found, names)
    results = [_priced(one, found.formats.get(one.answer.source), choices) for one in results]
    return Converted(results, [*found.left, *scored.left], scored, formats, recognised, [*found.told, *scored.told])


def _check(found: Collected, formats: Sequence[Format], recognised: Recognised) -> None:
    if not formats and not recognised.pickles:
        names = ", ".join(one.name for one in FORMATS)
        seen = ", ".join(file.name for file in [*recognised.judgements, *recognised.prompts, *recognised.others][:5])
        raise FixSetting(
            f"no file with answers of LLMs is among {seen or 'the files'}; the formats are {names}; a table of your "
            "own has columns for the prompt and the model (docs/how-to/bring-your-history.md)"
        )
    votes = [one.title for one in formats if one.votes]
    others = [one.title for one in formats if not one.votes and any(_has_answers(found, one))]
    if votes and (others or recognised.judgements):
        raise FixSetting(
            "votes and scores do not mix: a vote depends on the LLM beside it; convert the votes into a table of their "
            "own, or name the files of one kind only"
        )


def _has_answers(found: Collected, form: Format) -> Iterable[bool]:
    return (found.formats.get(answer.source) is form for answer in found.answers)


def _join_prompts(found: Collected) -> None:
    """Give answers the prompts of other files. A request that nobody answered is a row without an answer."""
    prompts = {one.of: one.prompt for one in found.prompts}
    answered = {name for answer in found.answers for name in (answer.id, answer.query_id)}
    found.answers = [
        replace(answer, prompt=prompts.get(answer.id, prompts.get(answer.query_id)))
        if answer.prompt is None
        else answer
        for answer in found.answers
    ]
    # A batch answers in any order: its rows stand as they were asked.
    places = {one.of: place for place, one in enumerate(found.prompts) if one.must_be_answered}
    found.answers.sort(key=lambda answer: places.get(answer.query_id, len(places)))
    missing = {one.of: None for one in found.prompts if one.must_be_answered and one.of not in answered}
    found.left += [LeftOut(of, "no_answer") for of in missing]


def _named(answer: Answer, llm: str) -> Answer:
    """An answer whose id among the rows left out has the name of its LLM in it."""
    return answer if answer.left_id is None else replace(answer, left_id=answer.left_id.replace("{llm}", llm))


def _without(found: Collected, names: Names) -> list[Answer]:
    """The answers that are rows. The others go to the rows left out, each with its reason."""
    inner = _with_calls_inside(found.answers)
    kept: list[Answer] = []
    seen: set[tuple[str, str, str]] = set()
    for answer in found.answers:
        reason: Reason | None = answer.left or ("parent_span" if answer.id in inner else None)
        # Who answered is not known, as in a row of a call that failed.
        reason = reason or ("no_answer" if not answer.model else problem_of(answer.prompt))
        form = found.formats.get(answer.source)
        key = (answer.query_id, names.llm(answer.model), "" if form is None or form.repeats == "first" else answer.id)
        if reason is None and key in seen:
            reason = "duplicate"
        if reason is None:
            seen.add(key)
            kept.append(answer)
        else:
            found.left.append(LeftOut(answer.left_id or answer.id, reason))
    return kept


def _with_calls_inside(answers: Sequence[Answer]) -> set[str]:
    """The calls of LLMs that hold other calls, such as a wrapper around a client: they count twice."""
    parents = {answer.id: answer.parent for answer in answers}
    inner: set[str] = set()
    for answer in answers:
        holder = answer.parent if answer.left is None else None
        while holder is not None and holder not in inner and holder != answer.id:
            inner.add(holder)
            holder = parents.get(holder)
    return inner


def _combined(kept: Sequence[Answer], scored: Scored, found: Collected, names: Names) -> list[Result]:
    """One row for each query and LLM. Several answers become one as their format says."""
    groups: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in kept:
        groups[answer.query_id, names.llm(answer.model)].append(answer)
    results = []
    for (_, llm), answers in groups.items():
        form = found.formats.get(answers[0].source)
        is_best = form is not None and form.repeats == "best"
        results.append(_best(answers, llm, scored, found) if is_best else _mean(answers, llm, scored, found))
    return results


def _best(answers: Sequence[Answer], llm: str, scored: Scored, found: Collected) -> Result:
    """The answer with the best score; the first of equal ones."""
    best = max(answers, key=lambda answer: scored.scores.get(answer.id, Decimal(-1)))
    others = [answer for answer in answers if answer is not best]
    found.left += [LeftOut(other.left_id or other.id, "duplicate_best_taken") for other in others]
    return Result(best, llm, scored.scores.get(best.id), best.cost_usd, "stated")


def _mean(answers: Sequence[Answer], llm: str, scored: Scored, found: Collected) -> Result:
    """The first answer, with the means of the scores and of the costs that are known."""
    first, *others = answers
    found.left += [LeftOut(other.left_id or other.id, "repeat_averaged") for other in others]
    scores = [scored.scores[answer.id] for answer in answers if answer.id in scored.scores]
    costs = [answer.cost_usd for answer in answers if answer.cost_usd is not None]
    return Result(first, llm, _mean_of(scores), _mean_of(costs), "stated")


def _mean_of(numbers: Sequence[Decimal]) -> Decimal | None:
    return sum(numbers, Decimal(0)) / len(numbers) if numbers else None


def _priced(result: Result, form: Format | None, choices: Choices) -> Result:
    """A row with a cost by prices or by the user, where its source states none."""
    answer = result.answer
    fills = choices.fills_costs or form is None or not form.states_costs
    if result.cost_usd is not None:
        return result
    prices = choices.price_of(result.llm, answer.model, answer.at_ms) if fills else None
    if (computed := priced(answer, prices)) is not None:
        return replace(result, cost_usd=computed, cost_from="computed")
    given = choices.given_costs.get(result.llm)
    return replace(result, cost_usd=given, cost_from="unknown" if given is None else "given")
