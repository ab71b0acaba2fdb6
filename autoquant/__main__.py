"""`python -m autoquant`."""

from autoquant.cli import main

main()
