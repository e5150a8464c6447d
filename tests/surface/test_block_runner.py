"""The runner of code blocks catches what fails, reports what it skips, and passes what works."""

from pathlib import Path

import pytest

import run_blocks


def write(folder: Path, text: str) -> list[Path]:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return [path]


def test_passing_blocks_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```bash\npython -c 'print(2)'\n```\n\n```text\nnot a program\n```\n"
    assert run_blocks.check(write(tmp_path, page)) == 0
    out = capsys.readouterr().out
    assert "page.md:1 python ok" in out
    assert "page.md:5 bash ok" in out
    assert "2 blocks: 0 not run, 0 failed" in out


def test_a_failing_python_block_is_caught_with_its_line_and_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "# Title\n\n```python\nprint('before')\nraise ValueError('planted')\n```\n\n```python\npass\n```\n"
    assert run_blocks.check(write(tmp_path, page)) == 1
    out = capsys.readouterr().out
    assert "page.md:3 python FAILED with status 1" in out
    assert "before" in out
    assert "ValueError: planted" in out
    assert "page.md:8 python ok" in out


def test_a_shell_block_fails_at_its_first_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_blocks.check(write(tmp_path, "```bash\nfalse | cat\necho reached\n```\n")) == 1
    out = capsys.readouterr().out
    assert "page.md:1 bash FAILED" in out
    assert "reached" not in out


def test_a_block_marked_not_run_is_skipped_and_its_reason_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "<!-- not run: needs two machines -->\n\n```bash\nexit 3\n```\n\n```bash\nexit 4\n```\n"
    assert run_blocks.check(write(tmp_path, page)) == 1
    out = capsys.readouterr().out
    assert "page.md:3 bash not run: needs two machines" in out
    assert "page.md:7 bash FAILED with status 4" in out, "the comment covers one block only"


@pytest.mark.parametrize(
    "page",
    [
        "<!-- not run: -->\n```bash\nexit 0\n```\n",
        "```bash\npip install worldsheet\n```\n",
        "```console\n$ make demo\n```\n",
        "```console\nmake demo\n```\n",
    ],
    ids=["no reason given", "pip install unmarked", "make unmarked", "console block without a prompt"],
)
def test_what_cannot_run_must_say_why(tmp_path: Path, page: str) -> None:
    assert run_blocks.check(write(tmp_path, page)) == 1


def test_console_blocks_run_their_commands_and_not_the_output_shown(tmp_path: Path) -> None:
    page = "```console\n$ echo one \\\n    two > out\nexit 9\n$ grep 'one two' out\none two\n```\n"
    assert run_blocks.check(write(tmp_path, page)) == 0


def test_every_block_has_a_folder_of_its_own(tmp_path: Path) -> None:
    page = (
        "```bash\ntouch left\n```\n\n```python\nfrom pathlib import Path\nassert not list(Path.cwd().iterdir())\n```\n"
    )
    assert run_blocks.check(write(tmp_path, page)) == 0


def test_a_continued_block_sees_the_names_of_the_block_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = "```python\na = 1\n```\n\n<!-- continues -->\n```python\nassert a == 1\n```\n\n"
    between = "<!-- not run: an excerpt -->\n```python\na = 2\n```\n\n```bash\ntrue\n```\n\n"
    again = "<!-- continues -->\n```python\nassert a == 1\n```\n\n"
    page = first + between + again + "```python\nassert 'a' not in dir()\n```\n"
    assert run_blocks.check(write(tmp_path, page)) == 0
    out = capsys.readouterr().out
    assert "page.md:1+6+20 python ok" in out
    assert "page.md:11 python not run: an excerpt" in out


def test_a_block_that_continues_nothing_is_refused(tmp_path: Path) -> None:
    assert run_blocks.check(write(tmp_path, "<!-- continues -->\n```python\npass\n```\n")) == 1
    assert run_blocks.check(write(tmp_path, "```bash\ntrue\n```\n\n<!-- continues -->\n```python\npass\n```\n")) == 1
