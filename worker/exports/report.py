"""What is told about a conversion: rows, LLMs, scores, costs, what is left out, and what looks odd. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import get_args

from msgspec import Struct

from worker.exports.convert import Converted, CostFrom, Result
from worker.exports.names import Names, alike
from worker.exports.prices import PriceOf, differences
from worker.exports.records import Reason
from worker.exports.values import DAY_MS, plain, utc

# Pages, spans and files of exports end at such numbers of rows.
ROUND_ROWS = 500
# Days without any answer, among at least so many days with answers.
LEAST_DAYS = 5
LEAST_ROWS = 10
MOST_NAMED = 5
WITHOUT_PROMPT: tuple[Reason, ...] = ("no_prompt", "redacted", "truncated")
OWN_PICKLES = "router_dataset"
PANDAS_RECIPE = "python -c \"import pandas; pandas.read_pickle('{name}').to_parquet('{stem}.parquet')\""
ROUTEREVAL_RECIPE = (
    "python -c \"import csv, pickle; d = pickle.load(open('{name}', 'rb')); p = d['easy'][3]['all_strong']; "
    "w = csv.writer(open('{stem}.csv', 'w', newline='')); w.writerow(['query_id', 'prompt', 'model', 'score']); "
    "w.writerows([f'{{s}}/{{i}}', q, m, p['data'][s + '_score'][i][j]] for s in ('train', 'val', 'test') "
    "for i, q in enumerate(d['prompt'][s + '_prompt']) for j, m in enumerate(p['model']))\""
)


class OfLlm(Struct, frozen=True):
    """One LLM of the table: its answers, those with a score and those with a cost, the mean score, and all costs in US
    dollars."""

    llm: str
    answers: int
    scored: int
    priced: int
    mean_score: float | None
    cost_usd: float


class Report(Struct, frozen=True):
    """What a conversion did. Times are ISO 8601. `scores` has the scale of each score that was taken. `usable` answers
    have a score and a cost. `aliases` are the names that were joined, `alike` names that may mean one LLM."""

    formats: list[str]
    rows_read: int
    answers: int
    queries: int
    usable: int
    first_at: str | None
    last_at: str | None
    llms: list[OfLlm]
    scores: dict[str, str]
    costs: dict[str, int]
    left_out: dict[Reason, int]
    aliases: dict[str, str]
    alike: list[list[str]]
    files_not_read: list[str]
    notes: list[str]
    warnings: list[str]


def report_of(converted: Converted, names: Names, price_of: PriceOf) -> Report:
    """The report of a conversion."""
    results = converted.results
    times = [one.answer.at_ms for one in results if one.answer.at_ms is not None]
    return Report(
        [one.title for one in converted.formats],
        len(results) + converted.rows_left_out,
        len(results),
        len({one.answer.query_id for one in results}),
        sum(one.score is not None and one.cost_usd is not None for one in results),
        utc(min(times)) if times else None,
        utc(max(times)) if times else None,
        _llms(results),
        converted.scored.taken,
        {name: sum(one.cost_from == name for one in results) for name in get_args(CostFrom)},
        converted.reasons(),
        names.joined,
        alike(one.llm for one in results),
        [file.name for file in converted.recognised.others],
        list(dict.fromkeys(converted.told)),
        [*_of_left_out(converted), *_of_scores(converted), *_of_costs(converted, price_of), *_of_times(converted)],
    )


def _llms(results: Sequence[Result]) -> list[OfLlm]:
    by_llm: dict[str, list[Result]] = defaultdict(list)
    for one in results:
        by_llm[one.llm].append(one)
    return [_of_llm(llm, ones) for llm, ones in by_llm.items()]


def _of_llm(llm: str, results: Sequence[Result]) -> OfLlm:
    scores = [one.score for one in results if one.score is not None]
    costs = [one.cost_usd for one in results if one.cost_usd is not None]
    mean = float(sum(scores) / len(scores)) if scores else None
    return OfLlm(llm, len(results), len(scores), len(costs), mean, float(sum(costs, Decimal(0))))


def _of_left_out(converted: Converted) -> Iterator[str]:
    """What is odd about the rows that are left out, and what keeps them the next time."""
    reasons = converted.reasons()
    counts = {name: reasons[name] for name in WITHOUT_PROMPT if name in reasons}
    if counts:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        for form in converted.formats:
            yield f"rows without their prompt: {told}. To keep the prompts of {form.title}: {form.prompts}"
    if reasons.get("aggregate"):
        yield "a file has one row for each day and LLM: it has no answers; export one row for each call"
    for file in converted.recognised.pickles:
        recipe = ROUTEREVAL_RECIPE if OWN_PICKLES in file.name else PANDAS_RECIPE
        yield (
            f"{file.name} is a pickle, which can run any program, so it is never read. If you trust it, make a table "
            f"of it: {recipe.format(name=file.path.name, stem=file.path.name.partition('.')[0])}"
        )


def _of_scores(converted: Converted) -> Iterator[str]:
    results, unknown = converted.results, converted.scored.unknown_labels
    if unknown:
        named = ", ".join(f"{label!r} ({count})" for label, count in unknown.most_common(MOST_NAMED))
        pairs = ",".join(f"{label}=1" for label, _ in unknown.most_common(1))
        yield f"labels whose meaning is not known are no scores: {named}. Name their scores: --labels {pairs}"
    if any(form.votes for form in converted.formats):
        yield (
            "these scores are wins. A win depends on the LLM beside it: do not put this table together with scores of "
            "another kind"
        )
    scores = [one.score for one in results if one.score is not None]
    if results and not scores:
        yield "no answer has a score. Add a file with judgements: --scores FILE"
    elif len(scores) >= LEAST_ROWS and not any(scores):
        yield f"all {len(scores)} scores are 0. Is 0 a score here, or does it mean that nobody judged?"
    elif len(scores) >= LEAST_ROWS and len(scores) < len(results) and all(score == 1 for score in scores):
        yield (
            f"all {len(scores)} scores are 1, and {len(results) - len(scores)} are empty. Some exports write a score "
            "of 0 as an empty cell"
        )


def _of_costs(converted: Converted, price_of: PriceOf) -> Iterator[str]:
    results = converted.results
    for one in _llms(results):
        if one.priced >= LEAST_ROWS and one.cost_usd == 0:
            yield f"all {one.priced} costs of {one.llm} are 0. Is it free, or is its cost not measured?"
    unknown = [one for one in results if one.cost_usd is None]
    tokens = [one for one in unknown if one.answer.counts.input_tokens and one.answer.counts.output_tokens is not None]
    if tokens:
        llms = ", ".join(sorted({one.llm for one in tokens})[:MOST_NAMED])
        knows = [form.title for form in converted.formats if form.states_costs]
        more = f"; {knows[0]} knows prices and left them empty, so add --fill-costs" if knows else ""
        yield (
            f"{len(tokens)} answers have tokens and no cost ({llms}). Name their prices: --prices FILE or --prices "
            f"published{more}"
        )
    elif unknown:
        yield (
            f"{len(unknown)} answers have neither a cost nor tokens, so their cost is unknown. An index needs costs: "
            "name what an answer of each LLM costs with --cost LLM=USD"
        )
    stated = [one.answer for one in results if one.cost_from == "stated"]
    llms_of = {one.answer.model: one.llm for one in results}
    for llm, share in differences(stated, llms_of, price_of).items():
        yield (
            f"the stated costs of {llm} are {plain(share * 100, 1)} % from its tokens times its prices. Are cached "
            "tokens counted inside the input tokens, and are the prices those of that time?"
        )


def _of_times(converted: Converted) -> Iterator[str]:
    """Signs that an export ended early, or has holes."""
    rows: Counter[str] = Counter(one.answer.source for one in converted.results)
    total = len(converted.results) + converted.rows_left_out
    if len(rows) == 1 and total >= ROUND_ROWS and total % ROUND_ROWS == 0:
        yield f"{next(iter(rows))} has exactly {total:,} rows. Exports end silently at a limit: is this one whole?"
    days = sorted({one.answer.at_ms // DAY_MS for one in converted.results if one.answer.at_ms is not None})
    if len(days) >= LEAST_DAYS:
        for before, after in pairwise(days):
            if after - before > 1 and (after - before) * LEAST_DAYS > len(days):
                first, last = (utc(day * DAY_MS)[:10] for day in (before + 1, after - 1))
                yield f"no answer is of {first}" + ("" if first == last else f" to {last}")
