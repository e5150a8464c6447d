"""`python -m worldsheet` is the command `worldsheet`."""

import sys

try:
    from worldsheet.app.cli import main
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("worldsheet"):
        raise
    sys.exit(
        f"error: the command worldsheet needs {missing.name}, which is not installed\n"
        "  accepted: the extra `app`; the library itself needs torch and jaxtyping only\n"
        "  remedy: pip install 'worldsheet[app]'"
    )

if __name__ == "__main__":
    main()
