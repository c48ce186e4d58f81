"""Runs a command that is killed when the thread that started it ends, however that ends (Linux; elsewhere no effect).

Run as a script between parent and child, `python leash.py COMMAND...`: setting it from `subprocess`'s `preexec_fn`
deadlocks now and then where the parent has threads.
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
