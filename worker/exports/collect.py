"""Recognises the files of an export and reads them into records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from worker.contract.errors import FixSetting
from worker.exports import logs, otel, suites, tables, traces
from worker.exports.files import READ, File, sample_of
from worker.exports.format import Format, Wishes
from worker.exports.long import LONG, ids_of, is_answers, is_judgements, is_prompts, judgements_of, prompts_of
from worker.exports.records import Answer, Judgement, LeftOut, PromptOf, Row, Told

FORMATS = (*logs.FORMATS, *traces.FORMATS, *otel.FORMATS, *suites.FORMATS, *tables.FORMATS, LONG)
Tell = Callable[[str], None]
TELL_EVERY = 10_000


@dataclass
class Recognised:
    """The files of an export by format and role, those with judgements or prompts in a form of the user's own, pickles,
    and those that are not read."""

    formats: dict[str, dict[str, list[File]]] = field(default_factory=dict)
    judgements: list[File] = field(default_factory=list)
    prompts: list[File] = field(default_factory=list)
    others: list[File] = field(default_factory=list)
    pickles: list[File] = field(default_factory=list)


def recognise(files: Iterable[File], wanted: str | None, judgement_files: Iterable[File] = ()) -> Recognised:
    """Each file's format and role. `wanted` is the only format that is looked for, if the user names one."""
    found = Recognised(judgements=[*judgement_files])
    formats = [one for one in FORMATS if wanted in (None, one.name)]
    firsts: list[tuple[File, Row]] = []
    for file in files:
        if file.is_pickle:
            found.pickles.append(file)
        elif file.kind not in READ or (first := file.sample()) is None:
            found.others.append(file)
        else:
            firsts.append((file, first))
    rest = [one for one in firsts if not _claimed(found, one, formats, is_beside=False)]
    if LONG.name in found.formats and len(found.formats) > 1:
        # A table of answers beside another tool's export holds the same answers again: it can only tell more of them.
        found.prompts += found.formats.pop(LONG.name)["answers"]
    present = [one for one in formats if one.name in found.formats]
    for file, first in rest:
        if not _claimed(found, (file, first), present, is_beside=True):
            place = found.judgements if is_judgements(first) else found.prompts if is_prompts(first) else found.others
            place.append(file)
    return found


def _claimed(found: Recognised, one: tuple[File, Row], formats: Iterable[Format], is_beside: bool) -> bool:
    file, first = one
    for form in formats:
        if (role := form.role_of(first, is_beside)) is not None:
            roles = found.formats.setdefault(form.name, {name: [] for name in form.roles})
            roles[role].append(file)
            return True
    return False


@dataclass
class Collected:
    """All records of an export. `formats` has the format of each answer's file."""

    answers: list[Answer] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    prompts: list[PromptOf] = field(default_factory=list)
    left: list[LeftOut] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    formats: dict[str, Format] = field(default_factory=dict)


def collect(recognised: Recognised, wishes: Wishes, tell: Tell) -> Collected:
    """Read every file. Raises FixSetting where a file or a choice is wrong."""
    found = Collected(left=[LeftOut(file.name, "pickle_refused") for file in recognised.pickles])
    for form in FORMATS:
        if form.name in recognised.formats:
            tell(f"reading {form.title}")
            _read(form, recognised.formats[form.name], wishes, found, tell)
    known = {name for one in found.answers for name in (one.id, one.query_id, *one.groups)}
    for file in [*recognised.judgements, *recognised.prompts]:
        tell(f"reading {file.name}")
        if not _read_beside(file, known, found):
            recognised.others.append(file)
    return found


def _read(form: Format, files: Mapping[str, list[File]], wishes: Wishes, found: Collected, tell: Tell) -> None:
    for role in files.values():
        found.formats |= {file.name: form for file in role}
    for number, record in enumerate(form.read(files, wishes), start=1):
        if number % TELL_EVERY == 0:
            tell(f"reading {form.title}: {number:,} records")
        match record:
            case Answer():
                found.answers.append(record)
            case Judgement():
                found.judgements.append(record)
            case PromptOf():
                found.prompts.append(record)
            case LeftOut():
                found.left.append(record)
            case Told():
                found.told.append(record.text)


def _read_beside(file: File, known: set[str], found: Collected) -> bool:
    """Read judgements or prompts of answers, whose ids are in the column that names most answers. False for a table of
    answers of its own."""
    rows = []
    for row in file.rows():
        if isinstance(row, LeftOut):
            found.left.append(row)
        else:
            rows.append(row)
    sample = sample_of(rows) or {}
    columns = ids_of(sample)
    if not columns:
        raise FixSetting(f"{file.path}: has no column with the ids of answers")
    hits = {name: sum(str(row.get(name)) in known for row in rows) for name in columns}
    column = max(columns, key=lambda name: hits[name])
    if is_judgements(sample):
        found.judgements += [one for row in rows for one in judgements_of(row, column, file.name)]
        return True
    if is_answers(sample) and not hits[column]:
        return False
    found.prompts += [prompts_of(row, column, file.name) for row in rows]
    found.judgements += [
        one for row in rows if str(row.get(column)) in known for one in judgements_of(row, column, file.name)
    ]
    return True
