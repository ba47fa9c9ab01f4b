"""`python -m ldmdown` and `torchrun -m ldmdown` are the command line."""

from ldmdown.cli import main

if __name__ == "__main__":
    main()
