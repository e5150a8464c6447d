"""Build wheel and sdist, install the wheel in an empty environment, and use it there as a newcomer would.

    python tools/smoke_release.py [--keep FOLDER]

Checks that the version is the same everywhere, that the wheel built from the sdist holds the same files, that the
library needs torch and jaxtyping only and makes autograd's gradient, that the command says what is missing without its
extra, and walks through a newcomer's first hour with it (`first_hour.py`). Exit status 1, and what went wrong, if
anything does.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from first_hour import FirstHourError, walk

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = """
import importlib.metadata, sys, torch, worldsheet as ws
from torch import nn
torch.manual_seed(0)
model, loss = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), nn.CrossEntropyLoss()
x, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
exact = torch.autograd.grad(loss(model(x), target), list(model.parameters()))
ws.backward(ws.Chain(model, loss), x, target)
for parameter, wanted in zip(model.parameters(), exact):
    torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=0)
assert ws.__version__ == importlib.metadata.version("worldsheet")
assert not {"typer", "rich", "matplotlib", "scipy", "sklearn"} & set(sys.modules)
print(ws.__version__)
"""


def say(*words: str | Path, cwd: Path, status: int = 0) -> str:
    """Run a command; what it prints, errors if it is to fail. Ends this script if it ends otherwise than expected."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != status:
        sys.exit(f"FAILED with status {done.returncode}: {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stderr if status else done.stdout


def files_of(wheel: Path) -> dict[str, int]:
    """Names and checksums of what a wheel installs."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.CRC for info in archive.infolist() if not info.filename.endswith("RECORD")}


def build(folder: Path) -> Path:
    """Sdist and wheel, and the wheel of the sdist, which must be the same; the wheel."""
    say(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "direct",
        "--sdist",
        "--wheel",
        ROOT,
        cwd=ROOT,
    )
    (sdist,) = (folder / "direct").glob("*.tar.gz")
    (wheel,) = (folder / "direct").glob("*.whl")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    say(*pip, "-w", folder / "again", sdist, cwd=folder)
    (again,) = (folder / "again").glob("*.whl")
    if files_of(wheel) != files_of(again):
        apart = files_of(wheel).keys() ^ files_of(again).keys()
        sys.exit(f"FAILED: {wheel.name} and the wheel of {sdist.name} differ: {apart or 'other contents'}")
    if not any(name.endswith("py.typed") for name in files_of(wheel)):
        sys.exit("FAILED: py.typed is not in the wheel")
    return wheel


def use(wheel: Path, folder: Path) -> str:
    """Install and use the wheel in `folder`; the version it says it has."""
    say(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    bin_ = folder / "venv" / "bin"
    pip = (bin_ / "python", "-m", "pip", "--disable-pip-version-check")
    install = (*pip, "install", "-q", "-c", ROOT / "requirements.lock")
    say(*install, wheel, cwd=folder)
    version = say(bin_ / "python", "-W", "error:::worldsheet", "-c", LIBRARY, cwd=folder).split()[-1]
    missing = say(bin_ / "worldsheet", "--version", cwd=folder, status=1)
    if "pip install 'worldsheet[app]'" not in missing:
        sys.exit(f"FAILED: without its extra the command says\n{missing}")
    say(*install, f"{wheel}[app]", cwd=folder)
    if say(bin_ / "worldsheet", "--version", cwd=folder).split()[-1] != version:
        sys.exit("FAILED: command and library are of different versions")
    (folder / "hour").mkdir()
    try:
        for step, seconds in walk(str(bin_ / "python"), folder / "hour").items():
            print(f"first hour, {step}: {seconds:.1f} s", flush=True)
    except FirstHourError as error:
        sys.exit(f"FAILED: {error}")
    return version


def main() -> None:
    """Build, install, use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="put wheel and sdist here; otherwise they go with the build folder")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        version = use(wheel, folder)
        print(f"worldsheet {version}: wheel and sdist build, install and train")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for file in (folder / "direct").iterdir():
                file.replace(keep / file.name)


if __name__ == "__main__":
    main()
