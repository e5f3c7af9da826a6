"""Scores of tasks: eval."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fitting import table
from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.cli.parsing import AddCommand, positive, processes

_SHOWN = ("bpb", "acc_per_char", "acc", "acc_uncond", "choice_prob")


class _Weights(NamedTuple):
    """One set of weights, the file of its scores, and its cells of the measurement table."""

    params: Any
    fingerprint: str
    store: Path
    cells: dict[str, Any]


def add(command: AddCommand) -> None:
    """Adds eval."""
    sub = command(
        "eval", evaluate,
        "Score tasks by log-likelihood, with a Hugging Face model or checkpoints of a run.",
        "ladder eval --hf allenai/OLMo-2-0425-1B --tasks main --tokenizer dolma2 --out evals.csv",
    )  # fmt: skip
    model = sub.add_mutually_exclusive_group(required=True)
    model.add_argument("--hf", metavar="DIR_OR_NAME",
                       help="an OLMo 2 model: a directory, or org/model[@revision]")  # fmt: skip
    model.add_argument("--checkpoint", metavar="RUN", help="a run's directory")
    sub.add_argument("--tasks", required=True, nargs="+", metavar="LABEL",
                     help="public labels, main (the paper's eight tasks), or your own .jsonl "
                          "files")  # fmt: skip
    sub.add_argument("--steps", default="last", metavar="STEPS",
                     help="steps of the run: last (default), all, or numbers such as "
                          "100,200")  # fmt: skip
    sub.add_argument("--tokenizer", metavar="NAME",
                     help="dolma2, or a tokenizer.json (default: the model's own)")  # fmt: skip
    sub.add_argument("--limit", type=positive, metavar="N",
                     help="score only the first N documents of each task")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="FILE", help="measurements, .csv")
    sub.add_argument("--store", metavar="FILE",
                     help="scores of each choice, .parquet (default: OUT.scores.parquet, or "
                          "the run's evals/); tasks in it are not scored again")  # fmt: skip
    sub.add_argument("--dtype", choices=["float32", "bfloat16"],
                     help="default: float32 on CPU, bfloat16 elsewhere")  # fmt: skip
    sub.add_argument("--window", type=positive, metavar="N",
                     help="tokens of context (default: the model's)")  # fmt: skip
    sub.add_argument("--no-unconditional", dest="unconditional", action="store_false",
                     help="leave out acc_uncond, which needs additional scores")  # fmt: skip
    sub.add_argument("--overlap", metavar="PATH",
                     help="report how many documents occur in this training text")  # fmt: skip
    sub.add_argument("--name", help="name of the run in OUT (default: the model's)")
    sub.add_argument("--n-tokens", type=float, metavar="D",
                     help="tokens that the model of --hf was trained on, for OUT")  # fmt: skip
    sub.add_argument("--fsdp", type=positive, default=1, metavar="N",
                     help="devices that split each parameter")  # fmt: skip
    sub.add_argument("--tensor", type=positive, default=1, metavar="N",
                     help="devices that split each layer's heads")  # fmt: skip
    processes(sub)


def evaluate(args: argparse.Namespace) -> None:
    """Scores tasks with a Hugging Face model, or with checkpoints of a run."""
    import pandas as pd

    from ladder_jax.runtime import compilation
    from ladder_jax.runtime.paths import cache_dir

    _check_flags(args)
    compilation.keep(cache_dir())  # before what follows imports JAX
    compilation.hold_memory()
    from ladder_jax import hf, parallel
    from ladder_jax.config import MeshConfig
    from ladder_jax.runtime import distributed, preemption
    from ladder_jax.training import restore

    distributed.initialize(args.coordinator, args.process_count, args.process_id)
    mesh = parallel.make_mesh(MeshConfig(fsdp=args.fsdp, tensor=args.tensor))
    with preemption.watch(), show.by_the_first_process(), parallel.use_mesh(mesh):
        if args.hf:
            directory = hf.locate(args.hf)
            model, tokenizer = hf.read_config(directory), hf.tokenizer_file(directory)
            weights = _hf_weights(args, directory, model, mesh)
        else:
            run = restore.read_config(Path(args.checkpoint))
            steps = _steps(args)
            own = restore.run_tokenizer(run, Path(args.checkpoint)) if not args.tokenizer else None
            tokenizer = own and own.file
            model, weights = run.model, _run_weights(args, run, mesh, steps, own)
        model = replace(model, dtype=_dtype(args))
        prepared = _prepare(args, model, tokenizer)
        if args.overlap:
            _report_overlap([part.tasks[0] for part in prepared], args.overlap)
        frames = [_score(model, each, prepared) for each in weights]
    if not parallel.is_primary():
        return
    table.write(pd.concat(frames, ignore_index=True), args.out)
    print(f"{args.out}: {sum(map(len, frames)):,} measurements of {len(prepared)} tasks")


def _check_flags(args: argparse.Namespace) -> None:
    """Checks, before anything is read, that flags do not contradict each other."""
    if Path(args.out).suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {args.out}: name a .csv or .parquet file")
    if args.store and (Path(args.store).suffix != ".parquet" or Path(args.store).is_dir()):
        raise InputError(f"--store {args.store}: name a .parquet file")
    if args.store and Path(args.store).resolve() == Path(args.out).resolve():
        raise InputError(f"--store {args.store}: is also --out: name another file")
    if args.hf and args.steps != "last":
        raise InputError(f"--steps {args.steps}: needs --checkpoint; a model of --hf has no steps")
    if args.n_tokens is None:
        return
    if args.checkpoint:
        raise InputError("--n-tokens: needs --hf; a run's config says its tokens: leave it out")
    if not 1 <= args.n_tokens <= table.MAX_INTEGER:
        raise InputError(f"--n-tokens {args.n_tokens:g}: give a number of tokens, such as 4e12")


def _prepare(args: argparse.Namespace, model: Any, own_tokenizer: Path | None) -> list[Any]:
    """The tasks, tokenised and packed."""
    from tqdm import tqdm

    from fitting.observations.preparation import MAIN_TASKS
    from ladder_jax.data.tokenizer import check_vocabulary, find_tokenizer
    from ladder_jax.eval import scoring
    from ladder_jax.tasks import olmes

    name = args.tokenizer or own_tokenizer
    if name is None:
        where = args.hf or args.checkpoint
        raise InputError(f"{where}: no tokenizer.json beside the weights: give --tokenizer")
    tokenizer = find_tokenizer(str(name))
    check_vocabulary(tokenizer, model.vocab_size, f"--tokenizer {name}")
    window = args.window or model.seq_len
    if window > model.seq_len:
        raise InputError(f"--window {window}: the model's limit is {model.seq_len} tokens")
    labels = [t for label in args.tasks for t in (MAIN_TASKS if label == "main" else [label])]
    tasks = [olmes.load(label, args.limit) for label in olmes.expand(labels)]
    if len({task.name for task in tasks}) < len(tasks):
        raise InputError("--tasks: two tasks have the same name: rename a file")
    bar = tqdm(tasks, desc="tokenising", unit="task", leave=False, disable=None)
    prepared = [scoring.prepare([t], tokenizer, window, args.unconditional) for t in bar]
    for part in prepared:
        if part.requests.n_truncated:
            print(
                f"note: {part.tasks[0].name}: {part.requests.n_truncated} of "
                f"{len(part.tasks[0].documents)} documents exceed the window of {window} "
                "tokens: their contexts lose tokens from the left"
            )
    return prepared


def _report_overlap(tasks: Sequence[Any], path: str) -> None:
    """Prints how many documents of each task occur, by 13 words in a row, in a training text."""
    from tqdm import tqdm

    from ladder_jax.config import DataConfig
    from ladder_jax.data import sources
    from ladder_jax.tasks import overlap

    source = DataConfig(source="local", path=path)
    documents = sources.SOURCES[source.source](source)
    texts = tqdm(
        (d.text for d in documents), desc="overlap", unit="text", leave=False, disable=None
    )
    found = overlap.overlap(tasks, texts)
    rows = [[f"in {path}", "documents", "long enough", "found", "share"]]
    for row in found.itertuples():
        counts = (row.n_documents, row.n_checked, row.n_overlapping)
        share = f"{row.share:.2%}" if row.n_checked else "-"
        rows.append([str(row.task), *(f"{n:,}" for n in counts), share])
    show.columns(rows)


def _score(model: Any, weights: _Weights, prepared: Sequence[Any]) -> Any:
    """Scores one set of weights, prints its values, and returns its measurements."""
    from ladder_jax import parallel
    from ladder_jax.eval import scoring
    from ladder_jax.measurements import own_runs

    names = [part.tasks[0].name for part in prepared]
    held = scoring.score_into(
        weights.store,
        model,
        weights.params,
        prepared,
        weights.fingerprint,
        weights.cells,
        progress=parallel.is_primary(),
    )
    scores = held[held["task"].isin(names)]
    scores.attrs = dict(held.attrs)
    frame = own_runs.of_store(scores, weights.store)
    _print(frame, scores, {p.tasks[0].name: p.tasks[0].chance for p in prepared}, weights)
    return frame


def _print(frame: Any, scores: Any, chance: dict[str, float], weights: _Weights) -> None:
    """Prints the table of values with standard errors, and warnings about them."""
    from ladder_jax.eval import metrics, sanity_checks
    from ladder_jax.tasks import olmes

    labels = list(dict.fromkeys(frame["task"]))
    values = {t: dict(zip(g["metric"], g["value"], strict=True)) for t, g in frame.groupby("task")}
    n = frame.groupby("task")["n_examples"].first()
    parts = {str(t): rows for t, rows in scores.groupby("task")}
    errors = {t: metrics.standard_errors(rows) for t, rows in parts.items()}
    errors = olmes.combine(errors, labels, errors=True)
    guess = olmes.combine({t: {"chance": c} for t, c in chance.items()}, labels)
    step = weights.cells.get("step")
    head = f"{weights.cells['run']}{'' if step is None else f', step {step}'}"
    rows = [[head, "documents", "chance", *_SHOWN]]
    for label in labels:
        cells = [
            f"{values[label][m]:.4f} ± {errors[label][m]:.4f}" if m in values[label] else "-"
            for m in _SHOWN
        ]
        ranked = "acc" in values[label]
        share = f"{guess[label]['chance']:.3f}" if ranked else "-"
        rows.append([label, f"{n[label]:,}", share, *cells])
    show.columns(rows)
    for label in labels:
        warning = "acc" in values[label] and sanity_checks.at_chance(
            label, values[label], guess[label]["chance"], int(n[label])
        )
        if warning:
            print(f"warning: {label}: {warning}")


def _hf_weights(
    args: argparse.Namespace, directory: Path, model: Any, mesh: Any
) -> Iterator[_Weights]:
    from ladder_jax import hf, parallel
    from ladder_jax.measurements import own_runs
    from ladder_jax.models.registry import architecture

    shardings = parallel.parameter_shardings(mesh, architecture(model).logical_axes(model))
    params = hf.read_params(directory, model, _dtype(args), shardings)
    store = Path(args.store or Path(args.out).with_suffix(".scores.parquet"))
    n_tokens = None if args.n_tokens is None else round(args.n_tokens)
    name = directory.resolve().name if Path(args.hf).is_dir() else args.hf
    cells = {"run": args.name or name, "size": ""} | own_runs.model_cells(model, n_tokens)
    yield _Weights(params, hf.fingerprint(directory), store, cells)


def _run_weights(
    args: argparse.Namespace, run: Any, mesh: Any, steps: list[int], tokenizer: Any
) -> Iterator[_Weights]:
    """Weights of a run's steps; `tokenizer` is the run's own, None where --tokenizer names one."""
    import jax

    from ladder_jax.measurements import own_runs
    from ladder_jax.training import checkpoint, restore, run_directory

    directory = Path(args.checkpoint)
    for found in restore.restore(run, directory, steps, mesh):
        if tokenizer is not None:
            restore.check_text(directory, found, tokenizer)
        fingerprint = checkpoint.digest(found.params)
        params = jax.tree.map(lambda x: x.astype(_dtype(args)), found.params)
        store = Path(args.store or run_directory.added_scores_path(directory, found.step))
        cells = own_runs.run_cells(run, directory, found.step)
        yield _Weights(params, fingerprint, store, cells | {"run": args.name or run.name})


def _steps(args: argparse.Namespace) -> list[int]:
    """The steps that --steps gives, without duplicates."""
    from ladder_jax.training import restore

    directory = Path(args.checkpoint)
    known = restore.saved_steps(directory)
    try:
        named = {"all": known, "last": known[-1:]}
        steps = named.get(args.steps) or [int(text) for text in args.steps.split(",")]
    except ValueError:
        raise InputError(
            f"--steps {args.steps}: give all, last, or numbers such as 100,200"
        ) from None
    steps = list(dict.fromkeys(steps))
    restore.check_steps(directory, steps)
    if args.store and len(steps) > 1:
        raise InputError("--store: a store holds one step: leave it out, to store into evals/")
    return steps


def _dtype(args: argparse.Namespace) -> str:
    import jax

    return args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
