"""Small files in the format of the published OLMo ladder runs."""

HEADER = (
    "_step,eval/c4_en-validation/CrossEntropyLoss,"
    + ",".join(
        f"eval/{kind}/mmlu_{group}_test_rc_5shot_{suffix}"
        for kind, suffix in (
            ("downstream_bpb", "bpb"), ("downstream", "len_norm"),
            ("downstream_soft", "soft"), ("downstream_soft_log", "soft_log"),
        )
        for group in ("stem", "humanities", "social_sciences", "other")
    )
    + ",throughput/total_tokens,optim/learning_rate_group0,learning_rate_peak,batch_size_in_tokens"
)  # fmt: skip


def line(step: int) -> str:
    """The row of a step."""
    bpb, acc, soft = ["1.5", "1.4", "1.3", "1.2"], ["0.3", "0.31", "0.32", "0.33"], ["0.25"] * 4
    cells = [str(step), "3.1", *bpb, *acc, *soft, *["-1.38"] * 4, str(step * 1000)]
    return ",".join([*cells, "0.0005", "0.001", "1000"])


def write(directory, stem="190M-1xC", lines=None, header=HEADER):
    """A file with these rows, two by default; returns its path."""
    path = directory / f"{stem}.csv"
    path.write_text("\n".join([header, *(lines or [line(200), line(400)])]) + "\n")
    return path
