"""Text that a language model writes."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldsheet_lab.recipes import DTYPES
from worldsheet_lab.streams import seed_of
from worldsheet_lab.text.corpus import Corpus
from worldsheet_lab.text.gpt import bare
from worldsheet_lab.text.recipe import TextRecipe

_TEMPERATURE = 0.8


@torch.no_grad()
def written(recipe: TextRecipe, corpus: Corpus, weights: Mapping[str, Tensor]) -> str:
    """The prompt and what follows it, drawn character by character from logits divided by .8.

    Args:
        recipe: of the model.
        corpus: whose alphabet it writes in.
        weights: by the names of the whole network.
    """
    with torch.device("meta"):
        net = nn.Sequential(*(bare(recipe.shape, index) for index in range(recipe.depth)))
    net.load_state_dict({name: tensor.to(DTYPES[recipe.dtype]) for name, tensor in weights.items()}, assign=True)
    generator = torch.Generator().manual_seed(seed_of(recipe.seed, "sample"))
    found = corpus.numbers(recipe.prompt).tolist()
    for _ in range(recipe.sample):
        logits = net(torch.tensor([found[-recipe.context :]]))[0, -1]
        odds = torch.softmax(logits.double() / _TEMPERATURE, 0)
        found.append(int(torch.multinomial(odds, 1, generator=generator)))
    return "".join(corpus.alphabet[number] for number in found)
