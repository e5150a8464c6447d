"""What the site's build does beyond mkdocs: mathematics, links to equations, and no page that needs another host."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.utils import get_relative_url

from markdown_math import CITED, INDENT, Mathematics
from notation import lines

THEORY = "theory.md"
_CITATION = re.compile(f'<a class="citation" href="{CITED}([^"]+)">')
_NOT_CITED = re.compile(f'<a class="citation" href="{CITED}[^"]+">(.*?)</a>')
_LOADED = re.compile(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"')


def equation_numbers(theory: Path) -> list[str]:
    """The numbers of the equations on the page of theory, in order."""
    indented = "\n".join(
        line for line in theory.read_text(encoding="utf-8").splitlines() if line.startswith(" " * INDENT)
    )
    return [line.number for line in lines(indented) if line.number]


@event_priority(100)
def on_config(config: Any) -> Any:
    """Add the mathematics before mkdocstrings copies the list of extensions."""
    config.markdown_extensions.append(Mathematics(set(equation_numbers(Path(config.docs_dir) / THEORY))))
    return config


@event_priority(-100)
def on_post_page(output: str, page: Any, config: Any) -> str:
    """Let citations point to their equations, if the page cites any, and refuse what is loaded from elsewhere."""
    del config
    if found := _LOADED.search(output):
        raise PluginError(f"{page.url} loads {found[1]}: the site must work offline")
    if not page.meta.get("equations", True):
        return _NOT_CITED.sub(r"\1", output)
    theory = get_relative_url(THEORY.removesuffix(".md") + "/", page.url)
    return _CITATION.sub(lambda cited: f'<a class="citation" href="{theory}#eq-{cited[1]}">', output)
