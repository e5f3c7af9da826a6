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

_SHOWN = ("bpb", "acc_per_char", "acc", "acc_uncond", "choice_prob")


class _Weights(NamedTuple):
    """One set of weights, where its scores go, and its cells of the measurement table."""

    params: Any
    fingerprint: str
    store: Path
    cells: dict[str, Any]


def evaluate(args: argparse.Namespace) -> None:
    """Scores tasks with a model of Hugging Face, or with checkpoints of a run."""
    import pandas as pd

    from ladder_jax.runtime import compilation
    from ladder_jax.runtime.paths import cache_dir

    _check_flags(args)
    compilation.keep(cache_dir())  # before what follows imports JAX
    compilation.hold_memory()
    from ladder_jax import hf, parallel
    from ladder_jax.config import MeshConfig
    from ladder_jax.runtime import distributed, preemption

    distributed.initialize(args.coordinator, args.process_count, args.process_id)
    mesh = parallel.make_mesh(MeshConfig(fsdp=args.fsdp, tensor=args.tensor))
    with preemption.watch(), show.by_the_first_process(), parallel.use_mesh(mesh):
        if args.hf:
            directory = hf.locate(args.hf)
            model, beside = hf.read_config(directory), hf.tokenizer_file(directory)
            every = _of_hf(args, directory, model, mesh)
        else:
            run, steps = _run(args), _steps(args)
            beside, text = _run_tokenizer(args, run)
            model, every = run.model, _of_run(args, run, mesh, steps, text)
        model = replace(model, dtype=_dtype(args))
        asked = _asked(args, model, beside)
        if args.overlap:
            _report_overlap([questions.tasks[0] for questions in asked], args.overlap)
        frames = [_score(model, weights, asked) for weights in every]
    if not parallel.is_primary():
        return
    table.write(pd.concat(frames, ignore_index=True), args.out)
    print(f"{args.out}: {sum(map(len, frames)):,} measurements of {len(asked)} tasks")


def _check_flags(args: argparse.Namespace) -> None:
    """Complains of what cannot be meant, before anything is read."""
    if Path(args.out).suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {args.out}: name a .csv or .parquet file")
    if args.store and (Path(args.store).suffix != ".parquet" or Path(args.store).is_dir()):
        raise InputError(f"--store {args.store}: name a .parquet file")
    if args.store and Path(args.store).resolve() == Path(args.out).resolve():
        raise InputError(f"--store {args.store}: is --out as well: name another file")
    if args.hf and args.steps != "last":
        raise InputError(f"--steps {args.steps}: is of --checkpoint; --hf has one set of weights")
    if args.n_tokens is None:
        return
    if args.checkpoint:
        raise InputError("--n-tokens: is of --hf; a run's config tells its own: leave it out")
    if not 1 <= args.n_tokens <= table.MAX_INTEGER:
        raise InputError(f"--n-tokens {args.n_tokens:g}: give how many tokens, such as 4e12")


def _asked(args: argparse.Namespace, model: Any, beside: Path | None) -> list[Any]:
    """The tasks, tokenised and packed."""
    from tqdm import tqdm

    from fitting.observations.select import MAIN_TASKS
    from ladder_jax.data.tokenizer import check_vocabulary, find_tokenizer
    from ladder_jax.eval import scoring
    from ladder_jax.tasks import olmes

    name = args.tokenizer or beside
    if name is None:
        where = args.hf or args.checkpoint
        raise InputError(f"{where}: no tokenizer.json beside the weights: give --tokenizer")
    tokenizer = find_tokenizer(str(name))
    check_vocabulary(tokenizer, model.vocab_size, f"--tokenizer {name}")
    window = args.window or model.seq_len
    if window > model.seq_len:
        raise InputError(f"--window {window}: the model was made for {model.seq_len} tokens")
    labels = [t for label in args.tasks for t in (MAIN_TASKS if label == "main" else [label])]
    tasks = [olmes.load(label, args.limit) for label in olmes.expand(labels)]
    if len({task.name for task in tasks}) < len(tasks):
        raise InputError("--tasks: two of the tasks have one name: rename a file")
    bar = tqdm(tasks, desc="tokenising", unit="task", leave=False, disable=None)
    made = [scoring.prepare([t], tokenizer, window, args.unconditional) for t in bar]
    for questions in made:
        if questions.requests.n_truncated:
            print(
                f"note: {questions.tasks[0].name}: {questions.requests.n_truncated} of "
                f"{len(questions.tasks[0].documents)} documents exceed the window of {window} "
                "tokens: their contexts lose tokens from the left"
            )
    return made


def _report_overlap(tasks: Sequence[Any], path: str) -> None:
    """Prints how many documents of each task stand, by 13 words in a row, in training text."""
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


def _score(model: Any, weights: _Weights, asked: Sequence[Any]) -> Any:
    """Scores, prints, and returns the measurements of what was asked for."""
    from ladder_jax import parallel
    from ladder_jax.eval import scoring
    from ladder_jax.measurements import own_runs

    names = [questions.tasks[0].name for questions in asked]
    held = scoring.score_into(
        weights.store,
        model,
        weights.params,
        asked,
        weights.fingerprint,
        weights.cells,
        progress=parallel.is_primary(),
    )
    scores = held[held["task"].isin(names)]
    scores.attrs = dict(held.attrs)
    frame = own_runs.of_store(scores, weights.store)
    _print(frame, scores, {q.tasks[0].name: q.tasks[0].chance for q in asked}, weights)
    return frame


def _print(frame: Any, scores: Any, chance: dict[str, float], weights: _Weights) -> None:
    """The table of values with standard errors, and what is odd about them."""
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
        odd = "acc" in values[label] and sanity_checks.at_chance(
            label, values[label], guess[label]["chance"], int(n[label])
        )
        if odd:
            print(f"warning: {label}: {odd}")


def _of_hf(args: argparse.Namespace, directory: Path, model: Any, mesh: Any) -> Iterator[_Weights]:
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


def _run(args: argparse.Namespace) -> Any:
    from ladder_jax.config import RunConfig
    from ladder_jax.config_text import load_json

    return load_json(RunConfig, Path(args.checkpoint) / "config.json")


def _run_tokenizer(args: argparse.Namespace, run: Any) -> tuple[Path | None, str | None]:
    """An imported run's own, or the one its text was packed with and that text's fingerprint."""
    from ladder_jax import hf
    from ladder_jax.cli import models
    from ladder_jax.data.pipeline import prepare
    from ladder_jax.runtime.paths import cache_dir

    directory = Path(args.checkpoint)
    if args.tokenizer:
        return None, None
    if (directory / models._SOURCE_FILE).is_file():  # its config tells of no text
        return hf.tokenizer_file(directory), None
    packed = prepare(run.data, run.model.seq_len, cache_dir())
    return hf.tokenizer_file(packed.directory), packed.info.fingerprint


def _of_run(
    args: argparse.Namespace, run: Any, mesh: Any, steps: Sequence[int], text: str | None
) -> Iterator[_Weights]:
    """Weights of a run's steps; `text` is what it must have been trained on, if that matters."""
    import jax

    from ladder_jax.measurements import own_runs
    from ladder_jax.training import checkpoint, run_directory
    from ladder_jax.training.initialize import abstract_state

    directory = Path(args.checkpoint)
    checkpoints = checkpoint.Checkpoints(directory / "checkpoints")
    try:
        for step in steps:
            state, meta = checkpoints.restore(abstract_state(run, mesh), step)
            if text not in (None, meta["data"]["fingerprint"]):
                raise InputError(
                    f"{directory}: data.source gives other text now than this run was trained on, "
                    "so its tokenizer is lost: put the text back, or give --tokenizer"
                )
            fingerprint = checkpoint.digest(state.params)
            params = jax.tree.map(lambda x: x.astype(_dtype(args)), state.params)
            store = Path(args.store or run_directory.added_scores_path(directory, step))
            cells = own_runs.run_cells(run, directory, step)
            yield _Weights(params, fingerprint, store, cells | {"run": args.name or run.name})
    finally:
        checkpoints.close()


def _steps(args: argparse.Namespace) -> list[int]:
    """The steps asked for, none twice."""
    from ladder_jax.training.checkpoint import Checkpoints

    directory, asked = Path(args.checkpoint), args.steps
    saved = directory / "checkpoints"
    checkpoints = Checkpoints(saved) if saved.is_dir() else None
    there = checkpoints.steps() if checkpoints else []
    if checkpoints:
        checkpoints.close()
    if not there:
        raise InputError(f"{directory}: holds no checkpoint: train the run first")
    try:
        named = {"all": there, "last": there[-1:]}
        steps = named.get(asked) or list(dict.fromkeys(int(text) for text in asked.split(",")))
    except ValueError:
        raise InputError(f"--steps {asked}: give all, last, or numbers such as 100,200") from None
    lost = sorted(set(steps) - set(there))
    if lost:
        raise InputError(f"{directory}: no checkpoint of step {lost[0]}; there are {there}")
    if args.store and len(steps) > 1:
        raise InputError(f"--store: holds one step; those of {directory} are kept in its evals")
    return steps


def _dtype(args: argparse.Namespace) -> str:
    import jax

    return args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
