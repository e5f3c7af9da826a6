"""Sharding of the published sizes on their reference meshes: golden JSON, and its properties."""

import json

import pytest

from tests.golden.make_sharding import FOLDER, REFERENCE, text


@pytest.mark.parametrize("size", REFERENCE)
def test_specs_are_the_golden_ones(size):
    golden = (FOLDER / f"{size}.json").read_text(encoding="utf-8")
    assert text(size) == golden, "if it is meant: python -m tests.golden.make_sharding"


@pytest.mark.parametrize("size", REFERENCE)
def test_moments_lie_with_their_parameters_and_matrices_are_split_both_ways(size):
    golden = json.loads((FOLDER / f"{size}.json").read_text(encoding="utf-8"))
    arrays, mesh = golden["arrays"], golden["mesh"]
    params = [path for path in arrays if path.startswith("params/")]
    assert len(params) == 14
    for path in params:
        array = arrays[path]
        for moment in ("mu", "nu"):
            assert arrays[path.replace("params", f"moments/1/{moment}", 1)] == array
        if not path.endswith("scale"):
            split = [a // b for a, b in zip(array["shape"], array["per_device"], strict=True)]
            assert sorted(split)[-2:] == sorted([mesh["tensor"], mesh["fsdp"]])
    rows = arrays["batch"]["shape"][1] // arrays["batch"]["per_device"][1]
    assert rows == mesh["data"] * mesh["fsdp"]
    assert arrays["batch"]["per_device"][1] == mesh["micro_seqs"]
