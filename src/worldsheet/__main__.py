"""`python -m worldsheet` is the command `worldsheet`."""

from worldsheet.app.cli import main

if __name__ == "__main__":
    main()
