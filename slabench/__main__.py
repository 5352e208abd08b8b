"""`python -m slabench`: the command line."""

from slabench.cli.app import main

if __name__ == "__main__":
    main()
