"""`ladder eval`: from labels of tasks to a table of scores, and the content of a store."""

import math
import sys

import jax
import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer

import ladder_jax
from fitting import table
from ladder_jax import cli, parallel
from ladder_jax.data.tokenizer import find_tokenizer
from ladder_jax.eval import metrics, store
from ladder_jax.models import counts, decoder
from ladder_jax.runtime import compilation
from ladder_jax.tasks import olmes
from tests.eval_home import (
    ARC,
    AVERAGE,
    GSM,
    MAKE_MESH,
    MINE,
    MODEL,
    RANKED,
    WEIGHTS,
    Scored,
    evaluate,
    read,
    values,
)
from tests.helpers import contents, one_line, story, write_jsonl


def test_a_model_of_hugging_face_is_scored(home, tmp_path, capsys):
    out, tasks = tmp_path / "evals.csv", [ARC, GSM, AVERAGE, home.mine]
    ask = ["--hf", home.root / "tiny", "--tasks", *tasks, "--limit", 2, "--out", out]
    assert evaluate(*ask, "--tokenizer", home.root / "tokenizer.json") == 0
    frame = read(out)
    (known,) = frame[["run", "n_params", "n_params_total"]].drop_duplicates().to_numpy().tolist()
    assert known == ["tiny", counts.n_params(MODEL), counts.n_params_total(MODEL)]
    assert (
        frame[["size", "seed", "step", "n_tokens", "flops", "lr"]]
        .replace("", pd.NA)
        .isna()
        .all(axis=None)
    )
    assert dict(zip(frame["task"], frame["n_examples"], strict=True)) == (
        {ARC: 2, GSM: 2, "mine": 2, AVERAGE: 8} | dict.fromkeys(WEIGHTS, 2)
    )
    found = values(frame)
    measured = {task: set(rows["metric"]) for task, rows in frame.groupby("task")}
    assert measured == {
        ARC: RANKED | {"acc_uncond"}, GSM: {"bpb", "bpb_with_space"}, "mine": RANKED,
        AVERAGE: RANKED, **dict.fromkeys(WEIGHTS, RANKED),
    }  # fmt: skip
    scores = store.read(tmp_path / "evals.scores.parquet")
    parts = {task: rows for task, rows in scores.groupby("task")}
    assert set(parts) == {ARC, GSM, "mine", *WEIGHTS}
    for task, rows in parts.items():
        own = {metric: value for (t, metric), value in found.items() if t == task}
        assert own == metrics.of_task(rows)
    for metric in RANKED:
        mean = sum(weight * found[part, metric] for part, weight in WEIGHTS.items())
        assert found[AVERAGE, metric] == pytest.approx(mean, rel=1e-12)

    shown = capsys.readouterr().out
    printed = {line.split()[0]: line for line in shown.splitlines() if "±" in line}
    bits = -parts[ARC].loc[parts[ARC]["gold"], "loglik"].to_numpy() / math.log(2)  # of one byte
    half = abs(bits[0] - bits[1]) / 2
    assert f"{bits.mean():.4f} ± {half:.4f}" in printed[ARC]
    errors = {task: metrics.standard_errors(rows)["bpb"] for task, rows in parts.items()}
    error = math.sqrt(sum((weight * errors[part]) ** 2 for part, weight in WEIGHTS.items()))
    assert f"{found[AVERAGE, 'bpb']:.4f} ± {error:.4f}" in printed[AVERAGE]
    assert printed[ARC].split()[1:3] == ["2", "0.333"]
    assert printed[AVERAGE].split()[1:3] == ["8", "0.250"]
    assert printed[GSM].split()[2] == "-"
    notes = [line for line in shown.splitlines() if line.startswith("note: ")]
    assert [line.split(": ")[1] for line in notes] == list(WEIGHTS)
    assert all(
        "2 of 2 documents exceed the window of 64 tokens: their contexts lose" in n for n in notes
    )
    check_against_plain_logits(home, parts)


def check_against_plain_logits(home, parts):
    """A document that fits and one that is cut, each choice alone, logits at every token."""
    words = find_tokenizer(str(home.root / "tokenizer.json"))
    forward = jax.jit(lambda tokens: decoder.bind(MODEL, home.params)(tokens))
    for task in (ARC, "mmlu_other_test_rc_5shot"):
        document = olmes.load(task, 2).documents[1]
        choices = [words.encode(choice).ids for choice in document.choices]
        room = MODEL.seq_len - max(map(len, choices)) + 1
        for k, choice in enumerate(choices):
            ids = [*words.encode(document.context).ids[-room:], *choice]
            tokens = np.zeros((1, MODEL.seq_len), np.int32)
            tokens[0, : len(ids) - 1] = ids[:-1]
            logs = jax.nn.log_softmax(np.asarray(forward(tokens))[0, : len(ids) - 1])
            expected = logs[np.arange(len(ids) - 1), ids[1:]][-len(choice) :].sum()
            found = parts[task].set_index(["doc", "choice"])["loglik"][1, k]
            assert found == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


def test_tokens_and_a_name_are_added_without_scoring_again(home, tmp_path, idle):
    out = tmp_path / "evals.parquet"
    ask = ["--hf", home.root / "tiny", "--tasks", ARC, "--out", out]
    assert evaluate(*ask) == 0
    plain = read(out)
    idle()
    assert evaluate(*ask, "--n-tokens", "4e18", "--name", "mine-4T") == 0
    named = read(out)
    assert values(named) == values(plain)
    assert set(named["run"]) == {"mine-4T"}
    assert set(named["n_tokens"]) == {4 * 10**18}
    assert set(named["flops"]) == {4e18 * counts.flops_per_token(MODEL)}  # no integer holds it


def test_what_a_store_holds_is_not_scored_again(home, tmp_path, idle):
    out, held = tmp_path / "evals.csv", tmp_path / "s.parquet"
    mine = write_jsonl(tmp_path / "mine.jsonl", MINE)

    def ask(limit, *more, tasks=()):
        flags = ["--hf", home.root / "tiny", "--out", out, "--store", held, "--limit", limit]
        return evaluate(*flags, *more, "--tasks", mine, *tasks)

    assert ask(2) == 0
    few, stamp = out.read_bytes(), held.stat().st_mtime_ns
    idle()
    assert ask(2) == 0
    assert ask(2, "--tokenizer", home.root) == 0  # the tokenizer beside the weights, by its path
    assert (out.read_bytes(), held.stat().st_mtime_ns) == (few, stamp)
    for limit, more, tasks in (
        (3, [], []), (2, [], [ARC]), (2, ["--dtype", "bfloat16"], []), (2, ["--window", 7], []),
    ):  # fmt: skip
        with pytest.raises(Scored):
            ask(limit, *more, tasks=tasks)
    assert (out.read_bytes(), held.stat().st_mtime_ns) == (few, stamp)
    idle(False)
    assert ask(4) == 0
    assert set(read(out)["n_examples"]) == {4}
    whole = store.read(held)
    assert ask(2) == 0
    assert out.read_bytes() == few
    pd.testing.assert_frame_equal(store.read(held), whole)  # a glance loses nothing
    idle()
    assert ask(4) == 0

    write_jsonl(mine, [row | {"gold": 1 - row["gold"]} for row in MINE])  # the same requests
    before = values(read(out))
    idle(False)
    assert ask(4) == 0
    after = values(read(out))
    assert before["mine", "acc"] + after["mine", "acc"] == 1
    assert after["mine", "bpb"] != before["mine", "bpb"]
    write_jsonl(mine, [row | {"context": "a"} for row in MINE])
    assert ask(2) == 0
    assert set(store.read(held)["doc"]) == {0, 1}  # other documents do replace them
    assert ask(2, tasks=[ARC]) == 0
    assert ask(2) == 0
    assert set(read(out)["task"]) == {"mine"}  # only the requested task, of those in the store


def test_devices_share_the_work(home, tmp_path, capsys, monkeypatch):
    ask = ["--hf", home.root / "tiny", "--tasks", ARC]
    assert evaluate(*ask, "--out", tmp_path / "a.csv") == 0
    monkeypatch.setattr(parallel, "make_mesh", MAKE_MESH)
    assert evaluate(*ask, "--fsdp", 2, "--tensor", 2, "--out", tmp_path / "b.csv") == 0
    one, eight = (store.read(tmp_path / f"{x}.scores.parquet") for x in "ab")
    np.testing.assert_allclose(eight["loglik"], one["loglik"], rtol=2e-6, atol=2e-5)
    ask = ["eval", *ask, "--fsdp", 3, "--out", tmp_path / "c.csv"]
    one_line(capsys, ask, "needs 6 devices, there are 8")


def test_unconditional_scores_can_be_left_out(home, tmp_path):
    ask = ["--hf", home.root / "tiny", "--tasks", ARC, "--no-unconditional"]
    assert evaluate(*ask, "--out", tmp_path / "a.csv") == 0
    assert set(read(tmp_path / "a.csv")["metric"]) == RANKED


def test_truncation_and_padding_of_a_tokenizer_are_switched_off(home, tmp_path, idle):
    ask = ["--hf", home.root / "tiny", "--tasks", ARC, "--out", tmp_path / "a.csv"]
    assert evaluate(*ask) == 0
    cutting = Tokenizer.from_file(str(home.root / "tokenizer.json"))
    cutting.enable_truncation(8)
    cutting.enable_padding(length=16)
    cutting.save(str(tmp_path / "cutting.json"))
    idle()
    assert evaluate(*ask, "--tokenizer", tmp_path / "cutting.json") == 0


def test_documents_that_are_cut_are_counted(home, tmp_path, capsys):
    rows = [MINE[0], MINE[1] | {"context": story(0)}, MINE[2]]
    ask = ["--hf", home.root / "tiny", "--tasks", write_jsonl(tmp_path / "long.jsonl", rows)]
    assert evaluate(*ask, "--out", tmp_path / "a.csv") == 0
    assert "note: long: 1 of 3 documents exceed the window of 64 tok" in capsys.readouterr().out


def test_measurements_come_from_stores_alone(home, tmp_path, capsys):
    folder = tmp_path / "stores"
    for name in ("tiny", "other"):
        flags = ["--tasks", ARC, *WEIGHTS, "--limit", 2, "--store", folder / f"{name}.parquet"]
        assert evaluate("--hf", home.root / name, *flags, "--out", tmp_path / f"{name}.csv") == 0
    ask, out = ["measure", "--from", "scores", "--runs"], tmp_path / "m.csv"
    assert cli.main([*ask, str(folder / "tiny.parquet"), "--out", str(out)]) == 0
    assert out.read_bytes() == (tmp_path / "tiny.csv").read_bytes()
    assert cli.main([*ask, str(folder), "--out", str(out)]) == 0
    both = [read(tmp_path / f"{name}.csv") for name in ("other", "tiny")]
    pd.testing.assert_frame_equal(read(out), pd.concat(both, ignore_index=True))

    measured, bad = tmp_path / "evals.parquet", tmp_path / "bad.parquet"
    table.write(both[0], measured)
    bad.write_text("no Parquet")
    plain = tmp_path / "plain.parquet"
    store.write(store.read(folder / "tiny.parquet"), plain)
    frame = store.read(plain)
    frame.attrs = {}
    store.write(frame, plain)
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    for path, message in (
        (measured, "column 'doc' is missing"), (bad, "cannot be read"),
        (plain, "does not say to which run it belongs: write it with ladder eval"),
        (tmp_path / "empty", "holds no score store"), (tmp_path / "none.parquet", "cannot be read"),
    ):  # fmt: skip
        one_line(capsys, [*ask, path, "--out", tmp_path / "n.csv"], str(path), message)
    assert contents(tmp_path) == before


def test_the_overlap_with_training_text_is_printed(home, tmp_path, capsys):
    passage = "the quick brown fox jumps over a lazy dog while owls hum softly"
    rows = [{"context": text, "choices": [" now", " never"], "gold": 0}
            for text in (passage, passage[::-1], "too short")]  # fmt: skip
    asked = write_jsonl(tmp_path / "asked.jsonl", rows)
    (tmp_path / "text.txt").write_text(f"Once: {passage.upper()}, now.")
    ask = ["--hf", home.root / "tiny", "--tasks", asked, ARC, "--out", tmp_path / "e.csv"]
    assert evaluate(*ask, "--overlap", tmp_path / "text.txt") == 0
    head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["in", str(tmp_path / "text.txt"), "documents", "long", "enough",
                            "found", "share"]  # fmt: skip
    assert first.split() == ["asked", "3", "2", "1", "50.00%"]
    assert second.split() == [ARC, "3", "0", "0", "-"]


def test_compiled_code_is_kept_from_before_jax_is_imported(home, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "ladder_jax.hf")
    monkeypatch.delattr(ladder_jax, "hf")

    def keep(cache):
        assert cache == home.cache
        assert "ladder_jax.hf" not in sys.modules
        raise Scored

    monkeypatch.setattr(compilation, "keep", keep)
    with pytest.raises(Scored):
        evaluate("--hf", home.root / "tiny", "--tasks", ARC, "--out", tmp_path / "e.csv")
