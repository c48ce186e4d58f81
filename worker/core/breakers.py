"""Which LLMs a lane sends nothing to, because their calls fail or nobody answers: a circuit breaker for each LLM. Pure.

- Closed: the LLM is a candidate. FAILURES failures without an answer between them open its breaker. So does one failure
  that the next query would meet too: no money, a refused key, a wrong model or address, a server that loads its model,
  a provider that names a time to wait. So does an LLM whose dispatch went without an answer for the whole time that it
  may.
- Open: the LLM is no candidate, but for a probe. A probe is a query like any other that may go to the LLM when
  `until_ms` has come. It moves `until_ms` on, so there is one probe at a time. The waits double up to MOST_OUT_MS.
- An answer to a probe closes the breaker. So does any answer, if nobody had answered before.

Lanes do not know of each other. Each has a first wait and later waits of its own (`Configuration.first_probe_ms`,
`probe_ms`), so that all lanes together probe one LLM at most once in `routing.probe_seconds`.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from worker.contract.codes import ErrorClass
from worker.contract.completions import UsableCompletion
from worker.contract.messages import Breaker, Configuration

FAILURES = 5
# Times that providers name are often far too long.
MOST_OUT_MS = 600_000
LEAST_OUT_MS = 1_000

# What the next query would meet too, and what says nothing about the LLM.
OUT: tuple[ErrorClass, ...] = ("quota", "auth", "misconfigured")
OF_THE_QUERY: tuple[ErrorClass, ...] = ("context_length", "content_filter", "refused_request")
LOADING = "loading"
STAYS = {"limit_reached", "kept_connection", "deadline", "worker_lost", "worker_stopped"}
CLOSED = Breaker()


class Breakers:
    """The breakers of one lane, by LLM. An LLM without one has not failed. Methods that change a breaker return it if
    the LLM is taken out, probed or taken back by that."""

    def __init__(self, breakers: Mapping[str, Breaker]) -> None:
        self._breakers = dict(breakers)

    def all(self) -> dict[str, Breaker]:
        """The breakers that are open, or that count failures."""
        return self._breakers.copy()

    def keep(self, config: Configuration) -> None:
        """Another configuration is in force: forget other LLMs, and all of them where none is taken out any more."""
        kept = config.llms if config.probe_ms else ()
        self._breakers = {llm: breaker for llm, breaker in self._breakers.items() if llm in kept}

    def is_out(self, llm: str, now_ms: int) -> bool:
        """Whether no query may go to the LLM now, not even a probe."""
        return self._breakers.get(llm, CLOSED).until_ms > now_ms

    def probe(self, llm: str, now_ms: int, config: Configuration) -> Breaker | None:
        """A query goes to the LLM."""
        breaker = self._breakers.get(llm, CLOSED)
        if not breaker.is_open:
            return None
        wait_ms = min(config.probe_ms << min(breaker.probes, 10), max(config.probe_ms, MOST_OUT_MS))
        return self._put(llm, replace(breaker, until_ms=now_ms + wait_ms, probes=breaker.probes + 1))

    def completed(
        self, llm: str, made_ms: int, answer: UsableCompletion, now_ms: int, config: Configuration
    ) -> Breaker | None:
        """A dispatch of `made_ms` to the LLM was answered, or has failed."""
        breaker = self._breakers.get(llm, CLOSED)
        if answer.ok:
            return self._recovered(llm, breaker, made_ms)
        named = answer.error_class
        if named in OF_THE_QUERY or STAYS.intersection(answer.remarks) or breaker.is_open:
            return None
        names_wait = named in ("rate_limited", "overloaded") and answer.retry_after_ms is not None
        if named in OUT or names_wait or LOADING in answer.remarks:
            return self._open(llm, named, answer.retry_after_ms, now_ms, config)
        return self._count(llm, named, now_ms, config)

    def silent(self, llm: str, waited_ms: int, now_ms: int, config: Configuration) -> Breaker | None:
        """Nobody has answered a dispatch to the LLM for so long."""
        if self._breakers.get(llm, CLOSED).is_open:
            return None
        # Under an older configuration, dispatches may have been waited for otherwise.
        whole_ms = dict(zip(config.llms, config.unanswered_ms, strict=False)).get(llm)
        if whole_ms is not None and waited_ms >= whole_ms:
            return self._open(llm, None, None, now_ms, config)
        return self._count(llm, None, now_ms, config)

    def unavailable(self, llm: str, error_class: ErrorClass, now_ms: int, config: Configuration) -> Breaker:
        """An inference worker calls the LLM no more."""
        return self._open(llm, error_class, None, now_ms, config) or CLOSED

    def _recovered(self, llm: str, breaker: Breaker, made_ms: int) -> Breaker | None:
        """Dispatches that were made before the LLM was taken out say nothing, unless nobody had answered then."""
        if breaker.is_open and breaker.error_class is not None and made_ms < breaker.opened_ms:
            return None
        self._breakers.pop(llm, None)
        return CLOSED if breaker.is_open else None

    def _count(self, llm: str, named: ErrorClass | None, now_ms: int, config: Configuration) -> Breaker | None:
        failures = self._breakers.get(llm, CLOSED).failures + 1
        if failures >= FAILURES:
            return self._open(llm, named, None, now_ms, config)
        if config.probe_ms:
            self._breakers[llm] = Breaker(failures=failures)
        return None

    def _open(
        self, llm: str, named: ErrorClass | None, retry_after_ms: int | None, now_ms: int, config: Configuration
    ) -> Breaker | None:
        if not config.probe_ms:
            return None
        wait_ms = config.first_probe_ms
        if retry_after_ms is not None:
            wait_ms = min(max(retry_after_ms, LEAST_OUT_MS), MOST_OUT_MS)
        return self._put(llm, Breaker(0, now_ms, now_ms + wait_ms, 0, named))

    def _put(self, llm: str, breaker: Breaker) -> Breaker:
        self._breakers[llm] = breaker
        return breaker
