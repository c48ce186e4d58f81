"""Scores from 0 to 1 out of what people, judges and programs wrote. Pure.

| written | score |
|---|---|
| thumbs up, pass, yes, true, correct | 1 |
| thumbs down, fail, no, false, incorrect | 0 |
| partial | 0.5 |
| a number on a scale from a to b | (number - a) / (b - a) |
| 85% | 0.85 |

Numbers from 0 to 1 are scores as they are, and -1 and 1 are thumbs. Any other scale cannot be known, and is asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal

from msgspec import Struct

from worker.contract.errors import FixSetting
from worker.contract.usage import number
from worker.exports.records import Judgement

ZERO, HALF, ONE = Decimal(0), Decimal("0.5"), Decimal(1)
UP = {"👍", ":thumbsup:", "+1", "up", "thumbs_up", "thumbs up", "thumbsup", "thumb_up", "like", "liked", "upvote"}
DOWN = {"👎", ":thumbsdown:", "down", "thumbs_down", "thumbs down", "thumbsdown", "thumb_down", "dislike", "downvote"}
PASS = {"pass", "passed", "yes", "y", "true", "correct", "success", "ok", "✓", "✅", "✔"}
FAIL = {"fail", "failed", "no", "n", "false", "incorrect", "wrong", "failure", "✗", "❌", "✘"}
PARTIAL = {"partial", "partially correct", "partially_correct", "partly", "mixed"}
# Words for "nobody judged this": no score, and nothing to ask about.
UNJUDGED = {
    "",
    "n/a",
    "na",
    "none",
    "null",
    "nan",
    "skipped",
    "skip",
    "unknown",
    "unjudged",
    "pending",
    "-",
    "?",
    "n.a.",
}
WORDS = {
    **dict.fromkeys(UP | PASS, ONE),
    **dict.fromkeys(DOWN | FAIL, ZERO),
    **dict.fromkeys(PARTIAL, HALF),
}
# Colours of skin, and what makes a picture of a sign.
MODIFIERS = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")
STARS = re.compile(r"^[★☆⭐]+$")
RATIO = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(?:/|of|out of)\s*(\d+(?:\.\d+)?)$")
PERCENT = re.compile(r"^(-?\d+(?:\.\d+)?)\s*%$")
PERCENT_NAME = re.compile(r"percent|pct|%", re.IGNORECASE)
TAIL = re.compile(r"[-_][0-9a-f]{4,}$")
SCALE = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(?:\.\.|-|:)\s*(-?\d+(?:\.\d+)?)$")


class Scale(Struct, frozen=True):
    """A scale from its worst to its best number."""

    worst: Decimal
    best: Decimal

    def score(self, value: Decimal) -> Decimal | None:
        """The score of a number; None for a number outside the scale."""
        share = (value - self.worst) / (self.best - self.worst)
        return share if 0 <= share <= 1 else None


UNIT, THUMBS, PERCENTS = Scale(ZERO, ONE), Scale(-ONE, ONE), Scale(ZERO, Decimal(100))


def read_scale(text: str) -> Scale:
    """A scale as a user writes it: `1..10`, or `percent`. Raises FixSetting."""
    if text.strip().lower() in {"percent", "%"}:
        return PERCENTS
    found = SCALE.match(text.strip())
    if found is None or Decimal(found.group(1)) == Decimal(found.group(2)):
        raise FixSetting(f"--scale {text}: write the worst number, .., and the best one: 1..10")
    return Scale(Decimal(found.group(1)), Decimal(found.group(2)))


def read_labels(texts: Iterable[str]) -> dict[str, Decimal]:
    """Scores of labels as a user writes them: `good=1,bad=0`. Raises FixSetting."""
    labels: dict[str, Decimal] = {}
    for pair in (pair for text in texts for pair in text.split(",") if pair.strip()):
        label, _, score = pair.rpartition("=")
        value = number(score)
        if not label.strip() or value is None or not 0 <= value <= 1:
            raise FixSetting(f"--labels {pair}: write a label, =, and its score from 0 to 1: good=1,bad=0")
        labels[label.strip().lower()] = value
    return labels


def short(name: str) -> str:
    """A score's name as it is asked for: without the random tail of a grader's name (`correct-3f21`), in lower case."""
    return TAIL.sub("", name.strip()).lower()


class Reader(Struct, frozen=True):
    """Reads the values of one score. `scale` is None where the values are words only."""

    name: str
    scale: Scale | None
    labels: dict[str, Decimal]

    def score(self, judgement: Judgement) -> Decimal | str | None:
        """The score; the text `outside` for a number outside the scale; None for no score, and for an unknown label."""
        given = value_of(judgement.value, self.labels)
        if given is None and judgement.label is not None:
            given = value_of(judgement.label, self.labels)
        if isinstance(given, Number):
            found = None if self.scale is None else given.on(self.scale)
            return "outside" if found is None else found
        return given if isinstance(given, Decimal) else None


class Number(Struct, frozen=True):
    """A number that needs a scale. `out_of` is the best number of its scale, where it says so (`9/10`)."""

    value: Decimal
    out_of: Decimal | None = None

    def on(self, scale: Scale) -> Decimal | None:
        """The score on a scale; None outside of it."""
        if self.out_of is not None and self.out_of != scale.best:
            return UNIT.score(self.value / self.out_of) if scale in {UNIT, THUMBS} and self.out_of > 0 else None
        return scale.score(self.value)


def value_of(given: object, labels: Mapping[str, Decimal]) -> Decimal | Number | str | None:
    """A score that is clear by itself, a number that needs a scale, an unknown label as text, or None for no score."""
    text = "" if given is None else MODIFIERS.sub("", str(given)).strip()
    word = text.lower()
    if word in UNJUDGED and word not in labels:
        return None
    if (clear := labels.get(word, WORDS.get(word))) is not None:
        return clear
    if STARS.match(text):
        return Number(Decimal(len(text) - text.count("☆")), Decimal(len(text)) if "☆" in text else None)
    if (percent := PERCENT.match(text)) is not None:
        return PERCENTS.score(Decimal(percent.group(1)))
    if (ratio := RATIO.match(text)) is not None:
        return Number(Decimal(ratio.group(1)), Decimal(ratio.group(2)))
    value = number(text)
    return text if value is None else Number(value)


def reader_of(name: str, judgements: Iterable[Judgement], scale: Scale | None, labels: Mapping[str, Decimal]) -> Reader:
    """What reads the values of a score, by what they look like. Raises FixSetting where a scale must be asked for.

    A label beside numbers gets the number that always stands beside it.
    """
    found = [*judgements]
    learnt = _learnt(found) | dict(labels)
    values = [value_of(one.value if one.value is not None else one.label, learnt) for one in found]
    numbers = [value for value in values if isinstance(value, Number)]
    unknown = sorted({value for value in values if isinstance(value, str)})
    if unknown and not any(isinstance(value, Decimal | Number) for value in values):
        pairs = ",".join(f"{label}=1" for label in unknown[:3])
        raise FixSetting(
            f"the score {name!r} has labels whose meaning is not known ({', '.join(unknown[:5])}); "
            f"name the score of each from 0 to 1: --labels {pairs}"
        )
    return Reader(name, scale if scale is not None else _guessed(name, numbers), learnt)


def _learnt(judgements: Iterable[Judgement]) -> dict[str, Decimal]:
    """Labels that always stand beside one number from 0 to 1."""
    beside: dict[str, set[Decimal]] = defaultdict(set)
    for one in judgements:
        value = number(one.value)
        if one.label and value is not None:
            beside[one.label.strip().lower()].add(value)
    return {label: min(values) for label, values in beside.items() if len(values) == 1 and 0 <= min(values) <= 1}


def _guessed(name: str, numbers: list[Number]) -> Scale | None:
    """The scale of numbers that need none to be asked for."""
    if not numbers:
        return None
    values = {one.value for one in numbers}
    if all(one.out_of is None for one in numbers):
        if all(0 <= value <= 1 for value in values):
            return UNIT
        if values <= {-ONE, ZERO, ONE}:
            return THUMBS
        if PERCENT_NAME.search(name) and all(0 <= value <= 100 for value in values):
            return PERCENTS
    low, high = min(values), max(values)
    raise FixSetting(
        f"the scale of the score {name!r} cannot be known: its numbers go from {low} to {high}; "
        f"name the worst and the best number of its scale, for example --scale {name}=1..{max(high, Decimal(5))}"
    )


def combined(scores: Iterable[Decimal]) -> Decimal:
    """One score of several of the same rank: their mean."""
    found = list(scores)
    return sum(found, ZERO) / len(found)
