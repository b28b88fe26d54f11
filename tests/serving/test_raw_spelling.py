"""A request's values become the ids that the encoder gives the same values in a file, however they are written."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from qin_zoo.data.vocabulary import Vocabulary
from qin_zoo.errors import RequestError
from qin_zoo.serving.fields import FieldRequests
from qin_zoo.serving.raw_values import Field

RAW = {"dtype": "str", "fill": "", "missing": "", "splitter": "^", "keep": "newest", "shift": 0.0, "scale": 1.0}


@pytest.mark.parametrize("forms", [["unpadded", "whole"], ["whole"], []])
@pytest.mark.parametrize(
    "words",
    [["5", "12", "7"], ["5.0", "12.0", "7.0"], ["0005", "0012", "0007"], ["05", "5", "7.0"], ["5", "5.0", "5.5"],
     ["a", "-3", "0"], ["1.5", "x.0", "00"]],
)  # fmt: skip
def test_values_written_in_another_way(words, forms):
    tokens = ["5", "5.0", "05", "0005", "005.00", "7", "007", "-3", "-03.0", "0", "0.0", "000", "x", "x.0", "5.5", "a"]
    vocabulary = Vocabulary(pl.Series(words), forms=tuple(forms))
    others = pl.Series([t for t in tokens if t not in words])
    vocabulary = replace(vocabulary, spellings=vocabulary.spelled(others))
    expected = pl.DataFrame({"t": tokens}).select(vocabulary.encode(pl.col("t"))).to_series().to_list()
    ids = {word: n for n, word in enumerate(words, 1)}
    raw = {**RAW, "vocabulary": "f", "unknown": vocabulary.oov, **vocabulary.told_apart}
    field = Field({"name": "f", "type": "categorical", "vocab_size": 9, "raw": raw}, {"f": ids})
    found, unknown = field.encode(tokens, "f")
    assert found.tolist() == expected
    assert unknown == int(np.sum(found == vocabulary.oov))
    assert found.tolist().count(vocabulary.oov) < len(tokens)


def test_lists_of_a_request_that_are_read_together_have_one_length():
    fields = [
        {"name": n, "type": "sequence", "max_len": 4, "vocab_size": 9, "padding": "post", "padding_id": 0}
        for n in ("clicks", "cates")
    ]
    history = {"fields": fields, "targets": [], "pairs": [["clicks", "cates"]], "padded": True}
    requests = FieldRequests({"inputs": {"context": [], "history": history}, "vocabularies": {}}, 10, 10)
    with pytest.raises(RequestError, match="one length in clicks, cates"):
        requests.feed({"clicks": [1, 2, 3], "cates": [1, 2]}, [{}])
    shared, *_ = requests.feed({"clicks": [1, 0, 3], "cates": [4, 5, 6]}, [{}])
    assert [found.tolist() for found in shared.values()] == [[0, 0, 1, 3], [5, 0, 4, 6]]
