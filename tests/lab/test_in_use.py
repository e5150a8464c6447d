"""One command at a time writes into a run folder."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from worldsheet_lab.cli import app
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.in_use import in_use
from worldsheet_lab.recipes import Recipe
from worldsheet_lab.run_folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from worldsheet_lab.in_use import in_use
with in_use(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_let_go_by_a_process_that_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="is in use by another command"), in_use(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with in_use(tmp_path):
            pass
    with in_use(tmp_path):
        pass


def test_a_second_command_touches_nothing_of_a_run_in_use(tmp_path: Path, tiny: Recipe) -> None:
    folder = RunFolder.create(tiny, tmp_path / "run")
    with in_use(folder.path):
        before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
        result = CliRunner().invoke(app, ["train", "--resume", str(folder.path)])
        assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    assert result.exit_code == 2
    assert f"{folder.path} is in use by another command that trains there" in result.stderr.replace("\n", " ")
