"""One BLAS thread for all tests, set before any of them loads numpy: threads of its own spin on cores that are busy."""

from __future__ import annotations

import os

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(pool, "1")
