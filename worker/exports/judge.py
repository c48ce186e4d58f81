"""Gives answers their scores: which score is taken, whose it is, and what several come to. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from worker.contract.errors import FixSetting
from worker.exports.records import Answer, Judgement, LeftOut
from worker.exports.scores import Number, Reader, Scale, combined, reader_of, short, value_of

# A person before whoever is not named, before a judge, before code.
RANKS = {"person": 0, None: 1, "judge": 2, "code": 3}
THUMBS = {Decimal(-1), Decimal(0), Decimal(1)}


@dataclass(frozen=True)
class ScoreWishes:
    """Which scores a user takes, by their short names; scales by name (`""` is any); and labels."""

    names: Sequence[str] = ()
    scales: Mapping[str, Scale] = field(default_factory=dict)
    labels: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass
class Scored:
    """The score of each answer by its id, judgements that were lost, labels whose meaning is not known, the scores that
    were taken with their scales, and notes for the user."""

    scores: dict[str, Decimal] = field(default_factory=dict)
    left: list[LeftOut] = field(default_factory=list)
    unknown_labels: Counter[str] = field(default_factory=Counter)
    taken: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)


def give_scores(
    kept: Sequence[Answer],
    all_answers: Sequence[Answer],
    judgements: Sequence[Judgement],
    wishes: ScoreWishes,
    main: str | None,
    llm_of: Callable[[str], str],
) -> Scored:
    """The score of each answer that is kept. Raises FixSetting where a score, a scale or a label must be chosen."""
    found = Scored()
    chosen = _chosen(judgements, wishes, main, found)
    by_name: dict[str, list[Judgement]] = defaultdict(list)
    for one in chosen:
        by_name[short(one.name)].append(one)
    readers = {name: _reader(name, ones, wishes, len(by_name)) for name, ones in by_name.items()}
    found.taken = {name: _scale_text(reader.scale) for name, reader in readers.items()}
    order = [short(name) for name in wishes.names]
    of_answers = _assigned(chosen, _Places(kept, all_answers, llm_of), found)
    for answer in kept:
        names = of_answers.get(answer.id, {})
        for name in sorted(names, key=lambda name: order.index(name) if name in order else len(order)):
            score = _score(names[name], readers[name], answer, found)
            if score is not None:
                found.scores[answer.id] = score
                break
    return found


def _scale_text(scale: Scale | None) -> str:
    return "words" if scale is None else f"{scale.worst}..{scale.best}"


def _reader(name: str, judgements: Sequence[Judgement], wishes: ScoreWishes, scores: int) -> Reader:
    """What reads a score. A scale without a name is that of the only score, or of each whose scale cannot be known."""
    named, other = wishes.scales.get(name), wishes.scales.get("")
    if named is not None or (other is not None and scores == 1):
        return reader_of(name, judgements, named or other, wishes.labels)
    try:
        return reader_of(name, judgements, None, wishes.labels)
    except FixSetting:
        if other is None:
            raise
        return reader_of(name, judgements, other, wishes.labels)


def _chosen(judgements: Sequence[Judgement], wishes: ScoreWishes, main: str | None, found: Scored) -> list[Judgement]:
    """The judgements of the scores that are taken. Raises FixSetting where the user must choose."""
    offered: dict[str, dict[str, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
    for one in judgements:
        offered[one.source][short(one.name)].append(one)
    asked = [short(name) for name in wishes.names]
    everywhere = sorted({name for names in offered.values() for name in names})
    if missing := [name for name in asked if everywhere and name not in everywhere]:
        raise FixSetting(f"--score {missing[0]}: the export has the scores {', '.join(everywhere)}")
    if not asked and main in everywhere:
        asked = [main]
    elif not asked:
        _check_one(offered)
        asked = everywhere
    chosen: list[Judgement] = []
    for source, names in offered.items():
        taken = [name for name in names if name in asked or any(one.is_main for one in names[name])]
        if not taken and len(names) == 1 and _are_verdicts(only := next(iter(names.values()))) and only[0].inside:
            taken = [*names]
            found.told.append(f"{source} has none of the scores asked for, and one verdict, {taken[0]}: it is taken")
        if not taken and any(_has_value(ones) for ones in names.values()):
            found.told.append(
                f"no score of {source} is taken; it has {', '.join(sorted(names))}: --score NAME takes one more"
            )
        chosen += [one for name in taken for one in names[name]]
    return chosen


def _check_one(offered: Mapping[str, Mapping[str, Sequence[Judgement]]]) -> None:
    """Raises FixSetting where the scores of one answer have several names."""
    several = [names for names in offered.values() if len([n for n, ones in names.items() if _has_value(ones)]) > 1]
    outside = {name for names in offered.values() for name, ones in names.items() if not ones[0].inside}
    inside = {name for names in offered.values() for name, ones in names.items() if ones[0].inside}
    if several or (outside and len(outside | inside) > 1):
        counted: Counter[str] = Counter()
        for source in offered.values():
            counted.update({name: len(ones) for name, ones in source.items()})
        names = sorted(counted, key=lambda name: (-counted[name], name))
        told = ", ".join(f"{name} ({counted[name]:,})" for name in names)
        raise FixSetting(f"the export has several scores: {told}; choose one: --score {names[0]}")


def _has_value(judgements: Iterable[Judgement]) -> bool:
    return any(one.value not in (None, "") or one.label for one in judgements)


def _are_verdicts(judgements: Iterable[Judgement]) -> bool:
    """Whether all values are verdicts that need no scale: thumbs, pass and fail."""
    values = [value_of(one.value, {}) for one in judgements]
    return all(
        value is None or isinstance(value, Decimal) or (isinstance(value, Number) and value.value in THUMBS)
        for value in values
    )


def _assigned(judgements: Sequence[Judgement], places: _Places, found: Scored) -> dict[str, dict[str, list[Judgement]]]:
    """The judgements of each answer that is kept, by name."""
    of_answers: dict[str, dict[str, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
    unknown: dict[str, None] = {}
    for one in judgements:
        if not places.knows(one):
            unknown[one.of] = None
        elif (answer := places.answer_of(one)) is not None:
            of_answers[answer][short(one.name)].append(one)
    found.left += [LeftOut(of, "judgement_without_row") for of in unknown]
    return of_answers


class _Places:
    """Which answer a judgement belongs to: the one that it names, the one of its LLM to the query that it names, or the
    last answer inside what it names."""

    def __init__(self, kept: Sequence[Answer], all_answers: Sequence[Answer], llm_of: Callable[[str], str]) -> None:
        self._llm_of = llm_of
        self._of_query: dict[str, list[Answer]] = defaultdict(list)
        for answer in kept:
            self._of_query[answer.query_id].append(answer)
        self._kept = {answer.id: (answer.at_ms or 0, place) for place, answer in enumerate(kept)}
        self._inside: dict[str, list[str]] = defaultdict(list)
        for answer in all_answers:
            for holder in {answer.parent, *answer.groups} - {None, answer.id}:
                self._inside[str(holder)].append(answer.id)
        self._ids = {name for answer in all_answers for name in (answer.id, answer.query_id)}
        self._last: dict[str, str | None] = {}

    def knows(self, one: Judgement) -> bool:
        """Whether a judgement names anything in the export, and not the answers of several LLMs at once."""
        if one.of not in self._ids and one.of not in self._inside:
            return False
        return one.of in self._kept or len(self._asked(one)) <= 1

    def _asked(self, one: Judgement) -> list[Answer]:
        """The answers to the query that a judgement names, of its LLM if it names one."""
        answers = self._of_query.get(one.of, [])
        if one.model is None:
            return answers
        return [answer for answer in answers if self._llm_of(answer.model) == self._llm_of(one.model)]

    def answer_of(self, one: Judgement) -> str | None:
        """The answer that a judgement belongs to; None where what it names holds no answer that is kept."""
        name = one.of
        if name in self._kept:
            return name
        if asked := self._asked(one):
            return asked[0].id
        if name not in self._last:
            inside = [one for one in self._within(name) if one in self._kept]
            self._last[name] = max(inside, key=lambda one: self._kept[one], default=None)
        return self._last[name]

    def _within(self, name: str) -> Iterable[str]:
        seen, pending = {name}, [name]
        while pending:
            new = [one for one in self._inside.get(pending.pop(), ()) if one not in seen]
            seen.update(new)
            pending += new
        return seen


def _score(judgements: Sequence[Judgement], reader: Reader, answer: Answer, found: Scored) -> Decimal | None:
    """One score of all judgements of an answer: of the highest rank, and their mean."""
    by_rank: dict[int, list[Decimal]] = defaultdict(list)
    for one in _in_force(judgements):
        score = reader.score(one)
        if score == "outside":
            found.left.append(LeftOut(answer.left_id or answer.id, "score_outside_scale"))
        elif isinstance(score, Decimal):
            by_rank[RANKS[one.by]].append(score)
        elif isinstance(unknown := value_of(one.value if one.value is not None else one.label, reader.labels), str):
            found.unknown_labels[unknown] += 1
    return combined(by_rank[min(by_rank)]) if by_rank else None


def _in_force(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The judgements that no later one replaces, and that are not told a second time by another file."""
    outside = [one for one in judgements if not one.inside]
    listed = outside if outside and any(one.id is None for one in judgements if one.inside) else judgements
    latest: dict[object, Judgement] = {}
    for number, one in enumerate(listed):
        # A judgement without an id and without a time cannot replace another.
        key = one.id or ((one.of, one.by) if one.at_ms is not None and not one.inside else number)
        before = latest.get(key)
        if before is None or (one.at_ms or 0) >= (before.at_ms or 0):
            latest[key] = one
    return list(latest.values())
