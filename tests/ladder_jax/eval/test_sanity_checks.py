"""Checks of scores: accuracy at chance although bits per byte are low."""

from ladder_jax.eval import sanity_checks


def test_chance_accuracy_with_low_bpb_is_warned_about():
    good = {"bpb": 0.9, "acc_per_char": 0.251}
    assert "of guessing" in str(
        sanity_checks.at_chance("hellaswag_val_rc_5shot", good, 0.25, 10_000)
    )
    for values, task in (
        (good | {"bpb": 1.4}, "hellaswag_val_rc_5shot"),
        (good | {"acc_per_char": 0.3}, "hellaswag_val_rc_5shot"),
        (good, "another"),
        ({"bpb": 0.5}, "hellaswag_val_rc_5shot"),
    ):
        assert sanity_checks.at_chance(task, values, 0.25, 10_000) is None
