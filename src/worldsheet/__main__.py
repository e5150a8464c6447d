"""`python -m worldsheet` and `torchrun -m worldsheet` are the command `worldsheet`."""

from worldsheet_lab.__main__ import main

if __name__ == "__main__":
    main()
