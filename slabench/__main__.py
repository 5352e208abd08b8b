"""`python -m slabench`: the command line."""

from slabench.cli.app import main

main()
