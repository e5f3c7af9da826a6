"""Tasks as data: invalid documents are refused, and files of users are read."""

import pytest

from fitting.errors import InputError
from ladder_jax.tasks.task import Question, Task, read_jsonl

BAD = {
    "gold": (Question("a", (" b", " c"), 2), "gold index 2 for 2 choices"),
    "empty choice": (Question("a", (" b", ""), 0), "an empty context or choice"),
    "a space": (Question("a", (" b", " "), 0), "an empty context or choice"),
    "surrogate": (Question("a\ud800", (" b", " c"), 0), "a lone surrogate"),
    "empty context": (Question("", (" b", " c"), 0), "an empty context or choice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_task_gets_one_line(kind):
    document, line = BAD[kind]
    with pytest.raises(InputError, match=line):
        Task("t", [document])


def test_documents_with_and_without_a_choice_do_not_mix():
    """If mixed, a document's only choice would count as a right answer."""
    two, one = Question("a", (" b", " c"), 0), Question("a", (" b",), 0)
    for mixed in ([two, one], [one, two]):
        with pytest.raises(InputError, match=r"document 1 has \d choice"):
            Task("t", mixed)


ROWS = {
    '{"context": "a", "choices": [" b"], "gold": 1}': "gold index 1 for 1 choices",
    '{"context": ["a"], "choices": [" b", " c"], "gold": 1}': "1 contexts for 2 choices",
    '{"context": "a", "choices": " b", "gold": 0}': "'choices' must be a list",
    '{"context": 1, "choices": [" b"], "gold": 0}': "'context' must be a text",
    '{"context": "a", "choices": [" b"], "gold": true}': "'gold' must be the index",
    '{"context": "a", "choices": [" b"], "gold": 0, "golds": 1}': "'golds' is unknown",
    "[1]": "not a JSON object",
    "{": "Expecting property name",
}


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_row_of_a_users_task_is_named(row, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"context": ["x", "y"], "choices": [" b", " c"], "gold": 1}\n\n')
    assert read_jsonl(path) == Task("mine", [Question(("x", "y"), (" b", " c"), 1)])
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(InputError, match=r"mine\.jsonl: row 3: ") as caught:
        read_jsonl(path)
    assert ROWS[row] in str(caught.value)
    path.write_text("\n")
    with pytest.raises(InputError, match="no documents"):
        read_jsonl(path)
