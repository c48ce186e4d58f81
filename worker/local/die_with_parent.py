"""Runs a command that the system kills when the thread that started it ends (on Linux; no effect elsewhere).

It is a script between parent and child: `python die_with_parent.py COMMAND...`. It imports nothing of ours, so it is up
in 20 ms. `subprocess`'s `preexec_fn` is not used, because it can deadlock if the parent has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, then become the command."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before it was asked for.
    if os.getppid() == parent:
        os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
