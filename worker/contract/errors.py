"""Every error Tollgate raises, each named by what the caller does next.

Expected outcomes (an LLM that cannot reserve, a completion nobody waits for, bytes that are no query) are named
results, not errors. What is here ends a command or a process; `commands.main` turns each into its exit code.
"""

from __future__ import annotations


class TollgateError(Exception):
    """Anything Tollgate raises on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 1


class FixSetting(TollgateError):
    """A setting, a file it names, or a topic's layout is wrong: the operator corrects it and starts again."""

    exit_code = 4


class CheckBroker(TollgateError):
    """The broker cannot be reached or refused us: the operator looks at the broker, the address or the credentials."""

    exit_code = 3


class LeaveProcess(TollgateError):
    """A transaction did not end in a clean commit: this process must end, and the next owner restores from Kafka."""

    exit_code = 3


class CheckFailed(TollgateError):
    """A proof found a row that is wrong: somebody reads it."""

    exit_code = 1
