"""The recipe of a language model from the options of `worldsheet train`."""

from collections.abc import Mapping, Set
from dataclasses import fields
from pathlib import Path
from typing import Any

from worldsheet.core.errors import InputError
from worldsheet_lab.choices import choose
from worldsheet_lab.commands.train import Train
from worldsheet_lab.names import MODELS
from worldsheet_lab.text.corpus import read_text
from worldsheet_lab.text.recipe import TextRecipe

_OF_IMAGES = frozenset(
    {
        *("data", "data_dir", "train_size", "test_size", "architecture", "activation", "depth", "dropout", "epochs"),
        *("rate", "schedule", "compare_every"),
    }
)
_ONLY_OF_TEXTS = frozenset({"blocks", "heads", "context", "updates", "warm_up", "prompt", "sample"})
_INSTEAD: Mapping[str, str] = {"depth": "--blocks", "epochs": "--updates", "data": "--text"}


def refuse_options_of_texts(named: Set[str]) -> None:
    """Refuse options of language models where no text was named.

    Raises:
        InputError: such options.
    """
    if strange := named & _ONLY_OF_TEXTS:
        raise InputError(
            f"{_listed(strange)} can be used with a language model only",
            "options of the network that is trained on images",
            "add --model gpt --text FILE, or leave them out",
        )


def text_recipe(options: Train) -> TextRecipe:
    """What is to be trained.

    Raises:
        DataMissingError: no text, or one that cannot be read.
        InputError: options that do not go together, a text that is none or too short, or a number out of range.
    """
    choose("model", options.model or MODELS[0], dict.fromkeys(MODELS))
    if options.text is None:
        raise InputError(
            f"--model {options.model} has nothing to learn from",
            "a text file beside it",
            f"add a file: --model {options.model} --text book.txt",
        )
    if strange := options.named & _OF_IMAGES:
        instead = [f"{_option(name)} is {_INSTEAD[name]} here" for name in sorted(strange) if name in _INSTEAD]
        raise InputError(
            f"{_listed(strange)} cannot be used with a language model",
            "--width, --blocks, --heads, --context, --batch-size, --updates, --warm-up, --optimizer, --lr, --seed",
            "; ".join([*instead, "leave them out"]) if len(instead) < len(strange) else "; ".join(instead),
        )
    given = _given(options)
    corpus = read_text(Path(options.text), given.get("context", TextRecipe.context))
    corpus.numbers(given.get("prompt", corpus.alphabet[0]))
    given.setdefault("prompt", "\n" if "\n" in corpus.alphabet else corpus.alphabet[0])
    about: dict[str, Any] = {"digest": corpus.digest, "symbols": corpus.symbols, "length": corpus.length}
    return TextRecipe(text=str(Path(options.text).resolve()), **about, **given)


def _given(options: Train) -> dict[str, Any]:
    """The fields of the recipe that the user named, with a warm-up of a tenth of the updates."""
    names = [field.name for field in fields(TextRecipe) if field.name != "text"]
    found = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    if found.get("context", 1) < 1:
        raise InputError(
            f"--context must be at least 1, got {found['context']}", "characters of a sequence", "try --context 64"
        )
    found.setdefault("warm_up", found.get("updates", TextRecipe.updates) // 10)
    return found


def _listed(names: Set[str]) -> str:
    return ", ".join(map(_option, sorted(names)))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
