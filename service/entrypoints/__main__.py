"""`python -m service.entrypoints` is `lethe`, for processes that this one starts."""

from service.entrypoints.commands.main import main

main()
