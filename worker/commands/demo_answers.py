"""What the demos print: the proof, and for `tollgate demo --llm` the questions with their answers."""

from __future__ import annotations

from rich.console import Console

from worker.audit.report import Report
from worker.commands.tables import Figures, usd
from worker.local.llm_demo import Asked, LlmDemoResult

ANSWER_CHARACTERS = 50


def show(console: Console, result: LlmDemoResult) -> None:
    """Each question with its answer, what each LLM answered, spent and was right in, and the proof."""
    console.print(Figures(("question", "answer", "right", "LLM", "$"), [_row(one) for one in result.asked], texts=4))
    llms, budgets = result.report.llms, {total.budget: total.amount for total in result.report.budgets}
    rows = [
        (llm, usd(budgets.get(llm, 0)), usd(total.spent_micros), *_right(result, llm)) for llm, total in llms.items()
    ]
    console.print(Figures(("LLM", "budget $", "spent $", "answered", "right", "right in history"), rows))
    answered = [one for one in result.asked if one.answer is not None]
    console.print(
        f"answers   {len(answered)} of {len(result.asked)} questions answered, "
        f"{sum(one.is_right for one in answered)} right; the first answer after {result.first_answer_seconds:g} s"
    )
    show_proof(console, result.report)


def _row(asked: Asked) -> tuple[str, ...]:
    if asked.answer is None:
        return asked.question, "(deferred: no budget)", "", "", ""
    line = " ".join(asked.answer.split())
    cut = line if len(line) <= ANSWER_CHARACTERS else line[: ANSWER_CHARACTERS - 1] + "…"
    cost = "unknown" if asked.cost_micros is None else f"{asked.cost_micros / 1_000_000:.6f}"
    return asked.question, cut, "yes" if asked.is_right else "no", str(asked.llm), cost


def _right(result: LlmDemoResult, llm: str) -> tuple[str, str, str]:
    own = [one for one in result.asked if one.llm == llm]
    return str(len(own)), str(sum(one.is_right for one in own)), f"{result.history[llm]} of {result.past}"


def show_proof(console: Console, report: Report) -> None:
    """One sentence about the books, green if they are right and red if not."""
    counts = report.counts
    if not report.ok:
        console.print(f"proof     FAILED, {report.wrong} wrong; the first: {report.findings[0]}", style="bold red")
        return
    console.print(
        f"proof     {counts.queries:,} queries = {counts.dispatched:,} dispatched + {counts.deferred:,} deferred + "
        f"{counts.dead_letters:,} dead letters; nothing twice; {counts.settled:,} settled, {counts.released:,} "
        f"released, {counts.expired:,} expired, {counts.open:,} open; ledger = settled + reserved; each overrun is a "
        f"charge above its reservation; chain of {counts.decisions:,} decisions whole",
        style="bold green",
    )
