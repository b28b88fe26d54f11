"""A model that shows what the data path gives it: its prediction follows from words and their places, not from ids."""

import hashlib

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.layers import dense

DIM = 3
UNKNOWN = "__OOV__"
NEWEST = 4  # history items that count


def vector(word: str) -> torch.Tensor:
    """(DIM,) float32 of a word; the same word, the same vector, wherever it stands. Padding is zero."""
    if word == "__PAD__":
        return torch.zeros(DIM)
    digest = hashlib.blake2b(word.encode(), digest_size=4 * DIM).digest()
    numbers = [int.from_bytes(digest[4 * i : 4 * i + 4], "big") / 2**32 - 0.5 for i in range(DIM)]
    return torch.tensor(numbers, dtype=torch.float32)


def score(context: torch.Tensor, target: torch.Tensor, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, 1) float32 logits; one operation after the other, so that the same input gives the same bits.

    Args:
        context, target: (B, C), (B, D).
        history, mask: (B, L, D), (B, L); the newest item is the last.
    """
    found = torch.zeros(len(target), dtype=torch.float64)
    for part, salt in ((context, 1.0), (target, 2.0)):
        for i in range(part.shape[1]):
            found = found + part[:, i].double() * (salt + i / 7)
    length = history.shape[1]
    for back in range(1, min(NEWEST, length) + 1):
        for i in range(history.shape[2]):
            item = torch.where(mask[:, length - back], history[:, length - back, i].double(), 0.0)
            found = found + item * (3.0 + back / 3 + i / 7)
    return found.float().view(-1, 1)


@register_model()
class WordProbe(ZooModel):
    """Scores words."""

    def __init__(self, feature_map, model_id="WordProbe", **kwargs):
        super().__init__(feature_map, model_id=model_id, **kwargs)

    @torch.no_grad()
    def know(self, words: dict[str, dict[str, int]]) -> None:
        """Gives every id the vector of its word; numbers stay numbers.

        Args:
            words: feature -> word -> id.
        """
        for name, table in self._tables.items():
            if isinstance(table, torch.nn.Linear):
                table.weight.fill_(1.0)
                continue
            table.weight.zero_()
            for word, number in words[name].items():
                # "5.0" is 5: how a vocabulary writes a number is its own affair
                table.weight[number] = vector(str(int(float(word))) if word.replace(".", "").isdecimal() else word)

    def logits(self, x):
        return score(x.context, x.target, dense(x.history), x.mask)
