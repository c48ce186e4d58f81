"""Results of test suites: promptfoo, lm-evaluation-harness, HELM and LLMRouterBench.

The schemas are those of promptfoo's summary version 3, lm-evaluation-harness 0.4, HELM 0.5, and LLMRouterBench of
January 2026. Ids are the same for every LLM, so that the answers to one query stand in one row.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worker.contract.errors import FixSetting
from worker.exports.files import File, field, mapping, mappings
from worker.exports.format import Format, Wishes, having, rows_of, text
from worker.exports.prompts import text_of
from worker.exports.records import Answer, Judgement, LeftOut, Reason, Record, Row, Told
from worker.exports.scores import short
from worker.exports.values import cost, counts, millis

# promptfoo's ResultFailureReason: 1 is a wrong answer, 2 an error.
FAILED_BY_ERROR = 2
SAMPLES = re.compile(r"^samples_(?P<task>.+?)_(?P<time>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?)\.jsonl(?:\.gz)?$")
RUN_TIME = re.compile(r"(\d{8}_\d{6})(?=\.json)")
# Statistics of HELM that measure the run and not the answer.
HELM_COUNTS = re.compile(r"^(num_|max_|inference_|batch_|training_|prompt_truncated|finish_reason|estimated_|logprob)")


def _promptfoo(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    texts: dict[str, list[str | None]] = defaultdict(list)
    for file, row in rows_of([*files["summary"], *files["results"]]):
        if isinstance(row, LeftOut):
            yield row
            continue
        results = mappings(row, "results.results") if "results" in row else [row]
        at_ms = millis(field(row, "results.timestamp"))
        for result in results:
            yield from _promptfoo_result(result, at_ms, texts, file.name)


def _promptfoo_result(
    result: Row, at_ms: int | None, texts: dict[str, list[str | None]], source: str
) -> Iterator[Record]:
    given, response = text(field(result, "id")), mapping(result, "response")
    prompt = text_of(field(result, "prompt.raw")) or text_of(result.get("vars"))
    query = text(result.get("testIdx"))
    # Two templates of one test ask two questions.
    if prompt not in texts[query]:
        texts[query].append(prompt)
    place = texts[query].index(prompt)
    given = given or f"{query}/{text(result.get('promptIdx'))}"
    is_error = result.get("failureReason") == FAILED_BY_ERROR
    left: Reason | None = None
    if is_error and not response.get("output"):
        left = "error"
    elif response.get("cached"):
        left = "cached"
    used = mapping(result, "tokenUsage") or mapping(response, "tokenUsage")
    yield Answer(
        given,
        query if place == 0 else f"{query}/{place}",
        text(field(result, "provider.id", "provider")),
        prompt,
        cost(field(result, "cost", "response.cost")) or None,
        counts(used.get("prompt"), used.get("completion")),
        at_ms,
        left,
        source=source,
    )
    # Where only the grader failed, the answer stays and its score is unknown.
    if not is_error:
        yield Judgement(given, "score", result.get("score"), inside=True, source=source)
        for name, value in mapping(result, "namedScores").items():
            yield Judgement(given, name, value, inside=True, source=source)


def _lm_eval(files: Mapping[str, list[File]], wishes: Wishes) -> Iterator[Record]:
    results = {file.path.parent: row for file, row in rows_of(files["results"]) if not isinstance(row, LeftOut)}
    newest: dict[tuple[str, str], tuple[str, File]] = {}
    for file in files["samples"]:
        named = SAMPLES.match(file.path.name)
        key = (file.path.parent.as_posix(), named["task"] if named else file.path.stem)
        found = (named["time"] if named else "", file)
        older, newest[key] = sorted([newest.get(key, found), found], key=lambda one: one[0])
        if older[1] is not file or newest[key][1] is not file:
            yield LeftOut(f"{older[1].path.parent.name}/{older[1].path.name}", "older_run")
    for (_, task), (time, file) in newest.items():
        yield from _samples(file, task, _time_of(time), results.get(file.path.parent, {}), wishes)


def _time_of(time: str) -> int | None:
    """The time in a file's name: `2026-10-02T10-11-12.131415`."""
    day, _, clock = time.partition("T")
    return millis(f"{day}T{clock.replace('-', ':')}") if clock else None


def _samples(file: File, task: str, at_ms: int | None, results: Row, wishes: Wishes) -> Iterator[Record]:
    model = text(field(results, "model_name", "config.model_name")) or file.path.parent.name.replace("__", "/")
    rows = [row for row in file.rows() if not isinstance(row, LeftOut)]
    metric = _metric(rows, wishes)
    chosen = _filter(rows, task, results, wishes)
    yield Told(f"{task}: {metric} of the filter {chosen}" if chosen else f"{task}: {metric}")
    for row in rows:
        number, own = text(row.get("doc_id")), text(row.get("filter"))
        given = f"{file.path.parent.name}/{task}/{number}" + (f"/{own}" if own else "")
        left: Reason | None = "other_filter" if chosen is not None and own != chosen else None
        yield Answer(given, f"{task}/{number}", model, _asked(row), None, at_ms=at_ms, left=left, source=file.name)
        yield Judgement(given, metric, row.get(metric), inside=True, is_main=True, source=file.name)


def _metric(rows: Sequence[Row], wishes: Wishes) -> str:
    """The metric of a task: the first that the user names, else the first that the task lists."""
    listed = [text(name) for name in rows[0].get("metrics") or ()] if rows else []
    named = [name for wish in wishes.scores for name in listed if short(name) == wish]
    return (named or listed or ["score"])[0]


def _filter(rows: Sequence[Row], task: str, results: Row, wishes: Wishes) -> str | None:
    """The filter of a task: the user's, the only one, or the only one in the results. Raises FixSetting."""
    filters = list(dict.fromkeys(text(row.get("filter")) for row in rows if row.get("filter")))
    if len(filters) < 2:
        return filters[0] if filters else None
    if wishes.filter in filters:
        return wishes.filter
    measured = mapping(results, f"results.{task}")
    told = [name for name in filters if any(str(key).endswith(f",{name}") for key in measured)]
    if len(told) == 1:
        return told[0]
    raise FixSetting(
        f"the task {task} has each answer once for each filter ({', '.join(filters)}); one answer is one row: choose "
        f"with --filter {filters[-1]}"
    )


def _asked(row: Row) -> str | None:
    """The prompt as it was sent. A question with choices is asked once for each choice, always with the same prompt."""
    arguments = field(row, "arguments")
    if isinstance(arguments, dict):
        arguments = next(iter(arguments.values()), None)
        asked = arguments.get("arg_0") if isinstance(arguments, dict) else arguments
    else:
        asked = arguments
    while isinstance(asked, list) and asked and not isinstance(asked[0], dict):
        asked = asked[0]
    return text_of(asked)


def _helm(files: Mapping[str, list[File]], wishes: Wishes) -> Iterator[Record]:
    scenarios = {
        file.path.parent: _scenario(row) for file, row in rows_of(files["run"]) if not isinstance(row, LeftOut)
    }
    several = len(set(scenarios.values())) > 1
    stats = {file.path.parent: file for file in files["stats"]}
    for file, row in rows_of(files["states"]):
        if isinstance(row, LeftOut):
            yield row
            continue
        prefix = f"{scenarios.get(file.path.parent, file.path.parent.name)}/" if several else ""
        yield from _helm_run(file, row, prefix, stats.get(file.path.parent), wishes)


def _scenario(run: Row) -> str:
    """The name of a run without its LLM: `lamps:method=generation`."""
    name, _, parts = text(run.get("name")).partition(":")
    rest = [part for part in parts.split(",") if part and not part.startswith(("model=", "model_deployment="))]
    return f"{name}:{','.join(rest)}" if len(rest) > 1 else name


def _helm_run(file: File, row: Row, prefix: str, stats: File | None, wishes: Wishes) -> Iterator[Record]:
    measured: dict[str, dict[str, Any]] = defaultdict(dict)
    for one in stats.rows() if stats is not None else ():
        if not isinstance(one, LeftOut):
            for stat in mappings(one, "stats"):
                if text(field(stat, "name.split")) in {"", wishes.split}:
                    measured[_helm_key(one, text(one.get("instance_id")))].setdefault(
                        text(field(stat, "name.name")), stat.get("mean")
                    )
    for state in mappings(row, "request_states"):
        instance = text(field(state, "instance.id"))
        key = _helm_key(mapping(state, "instance"), instance, state.get("train_trial_index"))
        answer = _helm_answer(state, prefix + instance, f"{file.name}/{key}", measured[key], file.name, wishes)
        yield answer
        for name, value in measured[key].items():
            if not HELM_COUNTS.match(name):
                yield Judgement(answer.id, name, value, inside=True, source=file.name)


def _is_stats(row: Row) -> bool:
    """Whether a row has the statistics of one instance. `display_predictions.json` has them as an object, and fewer."""
    return "instance_id" in row and isinstance(field(row, "stats"), list)


def _helm_key(holder: Row, instance: str, trial: Any = None) -> str:
    number = holder.get("train_trial_index") if trial is None else trial
    return f"{instance}/{text(field(holder, 'perturbation.name'))}/{text(number or 0)}"


def _helm_answer(state: Row, query: str, given: str, measured: Row, source: str, wishes: Wishes) -> Answer:
    perturbed, result = text(field(state, "instance.perturbation.name")), mapping(state, "result")
    model = text(field(state, "request.model", "request.model_deployment"))
    left: Reason | None = None
    if perturbed:
        left = "perturbed"
    elif text(field(state, "instance.split")) not in {"", wishes.split}:
        left = "other_split"
    elif result.get("success") is False or result.get("error"):
        left = "error"
    elif state.get("prompt_truncated"):
        left = "truncated"
    elif not result.get("completions"):
        left = "no_answer"
    return Answer(
        given,
        query,
        model,
        text_of(field(state, "request.prompt", "request.messages")),
        None,
        counts(
            measured.get("num_prompt_tokens"), measured.get("num_output_tokens", measured.get("num_completion_tokens"))
        ),
        millis(result.get("request_datetime")),
        left,
        "{llm}/" + query + (f"/{perturbed}" if perturbed else ""),
        source=source,
    )


def _llmrouterbench(files: Mapping[str, list[File]], _wishes: Wishes) -> Iterator[Record]:
    newest: dict[tuple[str, str, str], tuple[str, File, Row]] = {}
    for file, row in rows_of(files["run"]):
        if isinstance(row, LeftOut):
            yield row
        elif row.get("demo"):
            yield LeftOut(file.path.name, "demo")
        else:
            key = (text(row.get("dataset_name")), text(row.get("split")), text(row.get("model_name")))
            named = RUN_TIME.search(file.path.name)
            found = (named.group(1) if named else "", file, row)
            if key in newest:
                found, older = sorted([newest[key], found], key=lambda one: one[0], reverse=True)
                yield LeftOut(older[1].path.name, "older_run")
            newest[key] = found
    for (dataset, split, model), (_, file, row) in newest.items():
        for record in mappings(row, "records"):
            yield from _record(record, "/".join(filter(None, (dataset, split))), model, file.name)


def _record(record: Row, task: str, model: str, source: str) -> Iterator[Record]:
    query = f"{task}/{text(record.get('index'))}"
    given = f"{query}/{model}"
    used = counts(record.get("prompt_tokens"), record.get("completion_tokens"))
    # The benchmark's own models run on its own machines: a cost of 0 is what they cost there.
    stated = cost(record.get("cost"))
    prompt = text_of(field(record, "prompt", "origin_query"))
    yield Answer(given, query, model, prompt, stated, used, source=source)
    yield Judgement(given, "score", record.get("score"), inside=True, source=source)


FORMATS = (
    Format(
        "promptfoo",
        "promptfoo results",
        {
            "summary": having("results.results", "results.version"),
            "results": having("testIdx", "promptIdx", "provider"),
        },
        _promptfoo,
        "write the results with `promptfoo eval -o results.json`, with prompts",
        main_score="score",
        repeats="mean",
    ),
    Format(
        "lm-eval",
        "lm-evaluation-harness samples",
        {"samples": having("doc_id", "arguments", "filter|resps"), "results": having("results", "model_name")},
        _lm_eval,
        "run the harness with `--log_samples`",
        frozenset({"results"}),
        repeats="mean",
    ),
    Format(
        "helm",
        "HELM runs",
        {
            "states": having("request_states"),
            "stats": _is_stats,
            "run": having("name", "adapter_spec", "scenario_spec"),
        },
        _helm,
        "keep `scenario_state.json` of each run",
        frozenset({"stats", "run"}),
        repeats="mean",
    ),
    Format(
        "llmrouterbench",
        "LLMRouterBench results",
        {"run": having("records", "model_name", "dataset_name")},
        _llmrouterbench,
        main_score="score",
    ),
)
