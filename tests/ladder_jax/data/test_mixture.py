"""The config of a mixture: one line for each error."""

import json

import pytest

from fitting.errors import InputError
from ladder_jax.data import (
    mixture,
)

BAD = {
    "field": ({"seqlen": 4}, "The fields `seqlen` are not valid for Mixture"),
    "source": (
        {"sources": {"a": {"path": "x", "weigt_": 1}}},
        "`sources.a`: The fields `weigt_`",
    ),
    "kind": ({"sources": {"a": {"path": "x", "kind": "csv"}}}, "`kind` 'csv' is not one of jsonl"),
    "type": ({"n_tokens": "many"}, "`n_tokens`: Couldn't parse 'many'"),
    "none": ({"sources": {}}, "`sources` is empty"),
    "name": ({"sources": {"a/b": {"path": "x"}}}, "'a/b': use letters, digits"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mixture_gets_one_line(tmp_path, name):
    changes, line = BAD[name]
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"sources": {"a": {"path": "x"}}, "n_tokens": 10} | changes))
    with pytest.raises(InputError, match=line) as caught:
        mixture.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
