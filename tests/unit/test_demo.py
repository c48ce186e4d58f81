"""What `tollgate demo` and `tollgate bench` make of a result, without what it takes to get one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from worker.audit.mismatch import Mismatch
from worker.audit.report import Counts, LlmTotals, Report
from worker.commands import bench as bench_command
from worker.commands import demo as demo_command
from worker.commands import main
from worker.contract.errors import FixSetting
from worker.local import bench, demo

MACHINE = demo.Machine(cores=2, load=0.4)
TIMING = demo.Timing(demo.Latency(100, 50.0, 9.5, 41.0), demo.Latency(200, 250.0, 120.0, 610.0), 208.4, 3.2)
COUNTS = Counts(queries=300, dispatched=290, deferred=10, settled=280, released=10, decisions=640)
LLMS = {"gpt-4o": LlmTotals(spent_micros=4_000, dispatched=290, judged=280, mean_quality=0.7)}
FINDINGS = [Mismatch("was altered [field]").at("decisions", 2, 17), Mismatch("another").at("ledger", 0, None)]
PROVEN = "proof     300 queries = 290 dispatched + 10 deferred + 0 dead letters"
REFUTED = "proof     FAILED, 2 wrong; the first: decisions/2 offset 17: was altered [field]"


def demo_that_finds(findings: list[Mismatch]) -> type[demo.Demo]:
    """A demo that routes nothing and whose audit found this."""
    report = Report(not findings, COUNTS, LLMS, [], len(findings), findings, [], {})

    class Made(demo.Demo):
        def __init__(self, *_: Any) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

        def start(self) -> Any:
            return None

        def route(self, settings: Any) -> demo.Timing:
            return TIMING

        def result(self, settings: Any, timing: demo.Timing) -> demo.DemoResult:
            return demo.DemoResult(MACHINE, "priced", 210.0, {"random": 100.0, "port": 140.0}, timing, report)

    return Made


ENDS = [("proven", [], 0, PROVEN, False), ("refuted", FINDINGS, 1, REFUTED, True)]


@pytest.mark.parametrize(("findings", "code", "line", "kept"), [c[1:] for c in ENDS], ids=[c[0] for c in ENDS])
def test_the_exit_code_is_that_of_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, findings: list[Mismatch], code: int, line: str, kept: bool
) -> None:
    """A proof that fails names the first row that is wrong and keeps the logs; one that holds leaves nothing."""
    monkeypatch.setattr(demo, "Demo", demo_that_finds(findings))
    monkeypatch.setenv("COLUMNS", "400")
    place = tmp_path / "demo"
    done = CliRunner().invoke(main.app, ["demo", "--directory", str(place)])
    assert done.exit_code == code, done.output
    assert line in done.output, done.output
    assert place.exists() == kept, done.output


@pytest.mark.parametrize(("load", "is_busy"), [(0.4, False), (1.0, False), (7.9, True)])
def test_each_latency_says_of_which_load_it_is(load: float, is_busy: bool) -> None:
    """The demo tells the cores and the load, and the latencies of a light load and of a full machine apart."""
    report = Report(True, COUNTS, LLMS, [], 0, [], [], {})
    result = demo.DemoResult(demo.Machine(2, load), "priced", 210.0, {"random": 100.0}, TIMING, report)
    written = io.StringIO()
    demo_command.show(Console(file=written, width=400), result)
    lines = {line.split()[0]: line for line in written.getvalue().splitlines() if line.strip()}
    assert f"2 cores, load {load} when the demo started" in lines["machine"]
    assert ("other programs keep it busy" in lines["machine"]) == is_busy, lines["machine"]
    assert "100 queries at 50/s, from produced to decided p50 9.5 ms, p99 41.0 ms" in lines["steady"]
    assert "200 queries at 250/s, from produced to decided p50 120.0 ms, p99 610.0 ms" in lines["burst"]
    assert "208 decided/s; SIGKILL: taken over after 3.2 s" in lines["burst"]


def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    """It is named and left alone; a link may lead there."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "demo").symlink_to(tmp_path / "theirs")
    with pytest.raises(FixSetting, match="demo is no directory of yours; name another with --directory"):
        demo.own_directory(tmp_path / "demo")
    assert (tmp_path / "theirs").exists()


def test_files_that_are_not_a_demos_are_never_deleted(tmp_path: Path) -> None:
    """A directory with other files is refused; an empty one and an old demo's are taken."""
    place = tmp_path / "mine"
    place.mkdir()
    (place / "thesis.txt").touch()
    with pytest.raises(FixSetting, match="mine holds files that are not a demo's; delete them, or name another"):
        demo.own_directory(place)
    assert (place / "thesis.txt").exists(), "the file is gone"
    (place / "thesis.txt").unlink()
    (demo.own_directory(place) / "old.log").touch()
    demo.own_directory(place)
    assert not (place / "old.log").exists(), "the old demo is still there"


FIGURES = bench.BenchResult(
    searches_per_second=8_000.0,
    decisions_per_second=6_400.0,
    share=0.8,
    rate=200.0,
    p50_latency_ms=9.5,
    p99_latency_ms=41.0,
    bare_latency_ms=3.1,
    latency_ratio=3.06,
    ledger_records=1_000_000,
    restore_seconds=8.0,
    bare_read_seconds=4.0,
    restore_ratio=2.0,
    memory_mb=300.0,
)
MISSES = [
    ("none", {}, []),
    ("just met", {"share": 0.5, "p50_latency_ms": 15.0, "p99_latency_ms": 50.0, "restore_seconds": 15.0}, []),
    ("throughput", {"share": 0.49}, ["share"]),
    ("latency", {"p50_latency_ms": 15.1, "p99_latency_ms": 50.1}, ["p50_latency_ms", "p99_latency_ms"]),
    ("restore", {"restore_seconds": 15.1}, ["restore_seconds"]),
]


@pytest.mark.parametrize(("changes", "missed"), [c[1:] for c in MISSES], ids=[c[0] for c in MISSES])
def test_a_missed_target_is_flagged(changes: dict[str, float], missed: list[str]) -> None:
    """Each beside its figure, and all of them below the table, which fits a terminal of 80 columns."""
    written = io.StringIO()
    bench_command.show(Console(file=written, width=80), msgspec.structs.replace(FIGURES, **changes))
    said = written.getvalue()
    assert said.count("MISSED") == len(missed), said
    assert ("missed: " + ", ".join(missed) in said) is bool(missed), said
    assert "…" not in said, said
