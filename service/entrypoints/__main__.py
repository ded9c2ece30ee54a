"""`python -m service.entrypoints` is `lethe`, for processes that this one starts."""

from service.entrypoints.cli import main

main()
