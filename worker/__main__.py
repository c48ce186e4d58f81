"""`python -m worker` is `tollgate`."""

from worker.cli import main

main()
