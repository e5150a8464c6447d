"""The command `worldsheet`, if what it needs is installed."""

import sys

try:
    from worldsheet_lab.cli import main
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("worldsheet"):
        raise
    sys.exit(
        f"error: the command worldsheet needs {missing.name}, which is not installed\n"
        "  accepted: the extra `app`; the library itself needs torch and jaxtyping only\n"
        "  remedy: pip install 'worldsheet[app]'"
    )

__all__ = ["main"]

if __name__ == "__main__":
    main()
