"""`python -m worker` is `tollgate`."""

from worker.commands.main import main

main()
