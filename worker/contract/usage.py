"""Reads the token usage that a provider returned. Pure.

Every provider names the counts in its own way, and proxies mix the names. The reader knows names, not providers: it
compares them without case, `_` and `-`, so `promptTokenCount` and `prompt_token_count` are one name.

| provider | input | cached input | output | documented in |
|---|---|---|---|---|
| OpenAI chat | `prompt_tokens` | `prompt_tokens_details.cached_tokens`, inside | `completion_tokens` | Chat |
| OpenAI responses | `input_tokens` | `input_tokens_details.cached_tokens`, inside | `output_tokens` | Responses |
| Anthropic | `input_tokens` | `cache_read_input_tokens`, beside | `output_tokens` | Messages, `usage` |
| Bedrock | `inputTokens` | `cacheReadInputTokens`, beside | `outputTokens` | Converse, `TokenUsage` |
| Gemini | `promptTokenCount`, tools | `cachedContentTokenCount`, inside | candidates, thoughts | `UsageMetadata` |
| DeepSeek | `prompt_tokens` | `prompt_cache_hit_tokens`, inside | `completion_tokens` | Context caching |
| Cohere | `billed_units.input_tokens` | | `billed_units.output_tokens` | Chat v2, `usage` |
| Ollama | `prompt_eval_count` | | `eval_count` | API, `chat` |

A stated total decides where names alone do not: whether cached tokens are inside the input, and how many tokens of
reasoning are outside the output. Where two readings are left, the reader takes the dearer one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, Literal

from msgspec import Struct

MAX_TOKENS = 100_000_000

UsageProblemCode = Literal["absent", "no_counts", "not_a_count", "partial", "zero"]

# A response inside a batch line inside a list: deeper nesting is not a usage.
MAX_WRAPPERS = 5
MAX_DIGITS = 40
MAX_USD = Decimal(1_000_000)
MICROS_PER_USD = 1_000_000
# xAI states costs in ticks of 1e-10 US dollars.
TICKS_PER_USD = Decimal(10_000_000_000)

INPUT = (
    "prompttokens",
    "inputtokens",
    "prompttokencount",
    "inputtokencount",
    "inputtexttokencount",
    "promptevalcount",
)
OUTPUT = (
    "completiontokens",
    "outputtokens",
    "candidatestokencount",
    "responsetokencount",
    "outputtokencount",
    "completiontokencount",
    "generatedtokencount",
    "evalcount",
)
TOTAL = ("totaltokens", "totaltokencount")
INPUT_DETAILS = ("prompttokensdetails", "inputtokensdetails", "inputtokendetails", "prompttokendetails")
OUTPUT_DETAILS = (
    "completiontokensdetails",
    "outputtokensdetails",
    "outputtokendetails",
    "candidatestokensdetails",
    "responsetokensdetails",
)
# Names of tokens read from a cache: those of a detail of the input and of DeepSeek and Gemini are part of the input;
# Anthropic's and Bedrock's stand beside the input.
READ_DETAIL = ("cachedtokens", "cacheread", "cachereadtokens", "cachedtokencount")
READ_INSIDE = ("promptcachehittokens", "cachedcontenttokencount", "cachedtokens")
READ_BESIDE = ("cachereadinputtokens", "cachereadinputtokencount")
WRITTEN_DETAIL = ("cachecreationtokens", "cachewritetokens", "cachecreation")
WRITTEN_BESIDE = ("cachecreationinputtokens", "cachewriteinputtokens", "cachewriteinputtokencount")
WRITTEN_BY_TTL = ("cachecreation", "cachecreationtokendetails")
WRAPPERS = ("usage", "usagemetadata", "billedunits", "meta", "message", "response", "body", "tokens")
TOOL_CALLS = ("numsearchqueries", "websearchrequests", "searchunits")
STATED_USD = ("costusd", "responsecost", "totalcost", "cost", "estimatedcost")
ORDINARY_TIERS = {"", "standard", "default", "auto", "ondemand", "scale"}
BATCH_TIERS = {"batch", "flex"}


class Usage(Struct, frozen=True, gc=False):
    """What one call used. The counts are disjoint: no token is in two of them. Reasoning is output.

    `stated_micros` is the cost that the provider states itself, in micro-dollars; None where it states none.
    `tool_calls` are calls that are billed each (web searches). `service_tier` is a tier with prices of its own.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    tool_calls: int = 0
    batch: bool = False
    service_tier: str | None = None
    stated_micros: int | None = None

    @property
    def all_input_tokens(self) -> int:
        """Every token that went in: fresh, audio, read from a cache and written to one."""
        cached = self.cache_read_tokens + self.cache_write_tokens + self.cache_write_1h_tokens
        return self.input_tokens + self.input_audio_tokens + cached

    @property
    def all_output_tokens(self) -> int:
        """Every token that came out: text, reasoning and audio."""
        return self.output_tokens + self.output_audio_tokens


class UnusableUsage(Struct, frozen=True, gc=False):
    """Usage whose cost is unknown, which is never zero. `field` names the count at fault, where there is one."""

    code: UsageProblemCode
    field: str | None = None


class _NotACount(Exception):
    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def read_usage(given: object) -> Usage | UnusableUsage:
    """The usage in `given`: a provider's usage, a list of one, or a whole response that holds one."""
    found = _unwrapped(given)
    if found is None:
        return UnusableUsage("absent" if not given else "no_counts")
    try:
        return _read(*found)
    except _NotACount as error:
        return UnusableUsage("not_a_count", error.field)


def number(value: object) -> Decimal | None:
    """A finite number, from a number or its text; None for everything else, a boolean too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and len(value) > MAX_DIGITS:
        return None
    try:
        found = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def whole_number(value: object, most: int) -> int | None:
    """A whole number between 0 and `most` in any spelling (100, 100.0, "100"); a fraction is rounded up.

    None for everything else: a boolean, a negative number, NaN, other text.
    """
    found = number(value)
    return math.ceil(found) if found is not None and 0 <= found <= most else None


def usd_to_micros(value: object) -> int | None:
    """US dollars as micro-dollars, rounded up; None for what is not an amount of at least 0."""
    amount = usd(value)
    return None if amount is None else int((amount * MICROS_PER_USD).to_integral_value(ROUND_CEILING))


def usd(value: object) -> Decimal | None:
    """An amount in US dollars, from a number or its text; None for what is not an amount of at least 0."""
    amount = number(value)
    return amount if amount is not None and 0 <= amount <= MAX_USD else None


def _plain(name: object) -> str:
    return str(name).replace("_", "").replace("-", "").lower()


def _names(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    return {_plain(name): value for name, value in mapping.items()}


def _unwrapped(given: object) -> tuple[dict[str, Any], bool, object] | None:
    """The mapping that holds counts or a cost, whether it lists all that is billed, and the service tier beside it."""
    tier: object = None
    billed = False
    for _ in range(MAX_WRAPPERS):
        if isinstance(given, list) and len(given) == 1:
            given = given[0]
        if not isinstance(given, Mapping):
            return None
        names = _names(given)
        tier = names.get("servicetier", names.get("traffictype", tier))
        inner = next((name for name in WRAPPERS if isinstance(names.get(name), Mapping | list)), None)
        if inner != "billedunits" and (_states_counts(names) or inner is None):
            return (names, billed, tier) if _states_counts(names) or _states_cost(names) else None
        assert inner is not None, "a mapping without a wrapper was returned above"
        billed = inner == "billedunits"
        given = names[inner]
    return None


def _states_counts(names: Mapping[str, Any]) -> bool:
    return any(name in names for name in (*INPUT, *OUTPUT, *TOTAL))


def _states_cost(names: Mapping[str, Any]) -> bool:
    return any(names.get(name) is not None for name in (*STATED_USD, "costinusdticks"))


def _read(names: dict[str, Any], billed: bool, tier: object) -> Usage | UnusableUsage:
    stated_micros = _stated_micros(names)
    parts = _parts(names, billed)
    if isinstance(parts, UnusableUsage):
        return Usage(0, 0, stated_micros=stated_micros) if stated_micros else parts
    given, output, cache_read, written, written_1h = parts
    input_audio = min(_audio(names, INPUT_DETAILS), given)
    output_audio = min(_audio(names, OUTPUT_DETAILS), output)
    plain_tier = _plain(tier or "")
    usage = Usage(
        input_tokens=given - input_audio,
        output_tokens=output - output_audio,
        cache_read_tokens=cache_read,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        input_audio_tokens=input_audio,
        output_audio_tokens=output_audio,
        tool_calls=_tool_calls(names),
        batch=plain_tier in BATCH_TIERS,
        service_tier=None if plain_tier in ORDINARY_TIERS | BATCH_TIERS else plain_tier[:32],
        # A stated cost of 0 with tokens is a cost that is not known: a cached answer, a key of one's own, a free trial.
        stated_micros=stated_micros or None,
    )
    if usage.all_input_tokens + usage.all_output_tokens == 0 and not stated_micros:
        return UnusableUsage("zero")
    return usage


def _parts(names: Mapping[str, Any], billed: bool) -> tuple[int, int, int, int, int] | UnusableUsage:
    """Fresh input, output, tokens read from a cache, written to it, and written to it for an hour."""
    given, output, total = _first(names, INPUT), _first(names, OUTPUT), _first(names, TOTAL)
    thoughts, tools = _count(names, "thoughtstokencount"), _count(names, "tooluseprompttokencount")
    if thoughts is not None:
        output = (output or 0) + thoughts
    hit, miss = _count(names, "promptcachehittokens"), _count(names, "promptcachemisstokens")
    if given is None and hit is not None and miss is not None:
        given = hit + miss
    if given is not None:
        given += tools or 0
    if billed:
        given, output = given or 0, output or 0
    if given is None and output is None:
        return UnusableUsage("no_counts")
    if given is None or output is None:
        known = given if output is None else output
        if total is None or known is None or total < known:
            return UnusableUsage("partial")
        given, output = (given, total - known) if given is not None else (total - known, output)
    assert given is not None
    assert output is not None
    reasoning = _detail(names, OUTPUT_DETAILS, ("reasoningtokens", "reasoning"))
    if reasoning > output:
        output += reasoning
    read, written, written_1h = _cached(names)
    cached = read + written + written_1h
    fresh = given if _is_beside(names, given, cached, output, total) else given - cached
    if total is not None:
        # What the total has beyond all parts is reasoning that the provider counts outside its output.
        output += max(0, total - fresh - cached - output)
    return fresh, output, read, written, written_1h


def _cached(names: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tokens read from a cache, written for five minutes, and written for an hour."""
    read = max(_detail(names, INPUT_DETAILS, READ_DETAIL), *_counts(names, (*READ_INSIDE, *READ_BESIDE)), 0)
    flat = max(_detail(names, INPUT_DETAILS, WRITTEN_DETAIL), *_counts(names, WRITTEN_BESIDE), 0)
    by_ttl = [_mapping(names, name) for name in WRITTEN_BY_TTL]
    by_ttl += [_mapping(_mapping(names, name), ttl) for name in INPUT_DETAILS for ttl in WRITTEN_BY_TTL]
    hour = max(_counts_of(by_ttl, "ephemeral1hinputtokens"), default=0)
    minutes = max(_counts_of(by_ttl, "ephemeral5minputtokens"), default=0)
    return read, max(flat - hour, minutes), hour


def _is_beside(names: Mapping[str, Any], given: int, cached: int, output: int, total: int | None) -> bool:
    """Whether cached tokens are counted beside the input, not inside it."""
    if cached == 0 or cached > given:
        return True
    if total == given + output:
        return False
    if total == given + cached + output:
        return True
    stated_inside = _detail(names, INPUT_DETAILS, (*READ_DETAIL, *WRITTEN_DETAIL)) or any(_counts(names, READ_INSIDE))
    return not stated_inside


def _audio(names: Mapping[str, Any], details: Iterable[str]) -> int:
    """Tokens of audio, from a mapping (OpenAI) or a list by modality (Gemini)."""
    audio = 0
    for name in details:
        given = names.get(name)
        if isinstance(given, list):
            of_modality = [_names(item) for item in given if isinstance(item, Mapping)]
            audio += sum(
                _count(item, "tokencount") or 0 for item in of_modality if _plain(item.get("modality")) == "audio"
            )
    return audio + _detail(names, details, ("audiotokens", "audio"))


def _tool_calls(names: Mapping[str, Any]) -> int:
    by_server = _mapping(names, "servertooluse")
    requests = sum(_count(by_server, name) or 0 for name in by_server if name.endswith("requests"))
    return requests + sum(_counts(names, TOOL_CALLS))


def _stated_micros(names: Mapping[str, Any]) -> int | None:
    """The cost that the provider states in US dollars, as micro-dollars rounded up."""
    ticks = whole_number(names.get("costinusdticks"), int(MAX_USD * TICKS_PER_USD))
    if ticks is not None:
        return usd_to_micros(Decimal(ticks) / TICKS_PER_USD)
    costs = _mapping(names, "cost")
    stated = [usd(costs.get("totalcost"))] + [usd(names.get(name)) for name in STATED_USD]
    cost = next((amount for amount in stated if amount is not None), None)
    if names.get("isbyok") is True:
        # OpenRouter's `cost` is then its own fee; the provider's bill stands beside it.
        upstream = usd(_mapping(names, "costdetails").get("upstreaminferencecost"))
        return None if upstream is None else usd_to_micros((cost or Decimal(0)) + upstream)
    return usd_to_micros(cost)


def _mapping(names: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = names.get(name)
    return _names(value) if isinstance(value, Mapping) else {}


def _detail(names: Mapping[str, Any], details: Iterable[str], keys: Iterable[str]) -> int:
    """The largest count under any of these keys of any of these details."""
    return max((count for name in details for count in _counts(_mapping(names, name), keys)), default=0)


def _first(names: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    return next((count for key in keys if (count := _count(names, key)) is not None), None)


def _counts(names: Mapping[str, Any], keys: Iterable[str]) -> list[int]:
    return [count for key in keys if (count := _count(names, key)) is not None]


def _counts_of(mappings: Iterable[Mapping[str, Any]], key: str) -> list[int]:
    return [count for names in mappings if (count := _count(names, key)) is not None]


def _count(names: Mapping[str, Any], key: str) -> int | None:
    """A count of tokens; None where it is absent. Raises _NotACount for a value that cannot be one."""
    value = names.get(key)
    if value is None or isinstance(value, Mapping | list):
        return None
    count = whole_number(value, MAX_TOKENS)
    if count is None:
        raise _NotACount(key)
    return count
