"""`ladder init` writes an experiment that fits the text, or nothing."""

import random

import pytest

from ladder_jax import cli, experiment, template
from ladder_jax.data import pipeline
from ladder_jax.models import counts
from tests.helpers import one_line


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(cache))


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    """Forty documents of sentences over a vocabulary from which tasks can be made."""
    draw = random.Random(0)
    words = [
        "the",
        "of",
        "and",
        "people",
        "country",
        "great",
        "free",
        "law",
        "war",
        "peace",
        "work",
        "year",
        "house",
        "river",
        "stone",
        "light",
        "water",
        "is",
        "are",
        "was",
        "were",
        "has",
        "have",
        "this",
        "these",
        "that",
        "those",
        "a",
        "an",
        "nation",
        "union",
        "states",
        "public",
    ]
    folder = tmp_path_factory.mktemp("prose")
    for i in range(40):
        sentences = [" ".join(draw.choices(words, k=9)).capitalize() + "." for _ in range(60)]
        (folder / f"{i}.txt").write_text(" ".join(sentences), encoding="utf-8")
    return folder


def test_the_file_is_an_experiment_on_the_text_and_its_plan_is_printed(prose, tmp_path, capsys):
    path = tmp_path / "mine.py"
    assert cli.main(["init", str(path), "--text", str(prose)]) == 0
    printed = capsys.readouterr().out
    made = experiment.load(path)
    ladder = made.ladder
    assert all(
        run.name in printed for run in [*ladder.runs(), *(t.run for t in ladder.targets.values())]
    )
    assert ladder.base.data.path == str(prose)
    assert set(made.forecast["chance"]) == set(ladder.base.eval.tasks) != set()
    (target,) = ladder.targets.values()
    assert target.n_tokens > max(run.n_tokens for run in ladder.runs())
    assert counts.n_params(target.run.model) > max(
        counts.n_params(run.model) for run in ladder.runs()
    )


def test_multiples_follow_the_amount_of_text(prose, monkeypatch, tmp_path):
    found = {}
    for n_tokens in (30_000_000, 6_000_000, 1000):
        real = pipeline.prepare

        def prepared(*arguments, n_tokens=n_tokens, real=real):
            packed = real(*arguments)
            packed.info.n_tokens["train"] = n_tokens
            return packed

        monkeypatch.setattr(template, "prepare", prepared)
        path = tmp_path / f"of_{n_tokens}.py"
        written = template.write(path, prose)
        assert written.n_tokens == n_tokens
        found[n_tokens] = max(experiment.load(path).ladder.multiples), written.epochs
    multiples, epochs = zip(*found.values(), strict=True)
    assert multiples[0] == 1 > multiples[1] > multiples[2] == 0.1
    assert epochs[0] < 1
    assert epochs[1] == pytest.approx(1, rel=0.02)
    assert epochs[2] > 1


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("mine.txt", ".", "name a .py file"),
        ("taken.py", ".", "exists already"),
        ("mine.py", "nowhere", "--text"),
        ("mine.py", "empty", "empty"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(name, text, part, tmp_path, capsys):
    (tmp_path / "taken.py").write_text("x = 1\n")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    arguments = ["init", str(tmp_path / name), "--text", str(tmp_path / text)]
    one_line(capsys, arguments, "ladder init:", part)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken.py").read_text() == "x = 1\n"
