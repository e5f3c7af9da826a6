"""Models of this package in the lm-evaluation-harness: its log-likelihood tasks, on packed rows.

    python -m ladder_jax.eval.harness --model ladder --model_args hf=DIR,tokenizer=dolma2 --tasks T

is that harness's own command line, with these models registered as `ladder`: its `--model_args` are
the arguments of `HarnessLM.from_hf`, whose `name` is called `hf`.  `--batch_size` and `--device`
have no effect: requests are packed, and JAX finds its devices.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax import hf, parallel
from ladder_jax.config import MeshConfig, ModelConfig
from ladder_jax.data.tokenizer import END_OF_TEXT, check_vocabulary, find_tokenizer
from ladder_jax.eval import loglik, scoring
from ladder_jax.eval.requests import Bundle, bos
from ladder_jax.models.protocol import Params
from ladder_jax.models.registry import architecture
from ladder_jax.runtime import compilation
from ladder_jax.runtime.paths import cache_dir

_COMMAND = "python -m ladder_jax.eval.harness"

try:
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
        get_rolling_token_windows,
        make_disjoint_window,
        simple_parse_args_string,
    )
except ModuleNotFoundError as e:
    absent = f"the package {e.name} is missing: pip install 'ladder_jax[bench]'"
    if __name__ == "__main__":
        sys.exit(f"{_COMMAND}: {absent}")
    raise InputError(absent) from None

_ROW = 1024  # tokens of continuations that a bundle may bring into its row
_ARGUMENTS = ("tokenizer", "dtype", "window", "end_of_text")  # of `from_hf`, beside its name


@register_model("ladder")
class HarnessLM(TemplateLM):
    """A model of ours as the harness sees models.

    An input longer than the window loses tokens from the left, as in the harness.

    Args:
        model: of the parameters.
        params: float32 or bfloat16.
        tokenizer: special tokens that it puts before a text (BOS) begin every context.
        window: longest input in tokens; by default `seq_len` of the model.
        end_of_text: id that replaces a missing context if there is no BOS; by default the
            tokenizer's `<|endoftext|>`.
        mesh: the devices of the parameters; by default the active mesh, if any.

    Raises:
        InputError: the tokenizer or the window does not fit the model.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        window: int | None = None,
        end_of_text: int | None = None,
        mesh: Any = None,
    ) -> None:
        super().__init__()
        check_vocabulary(tokenizer, model.vocab_size, "tokenizer")
        self._window = window or model.seq_len
        if not 0 < self._window <= model.seq_len:
            raise InputError(f"`window` is {window}: the model was made for {model.seq_len} tokens")
        self._model, self._params, self._mesh = model, params, mesh
        self._encode = tokenizer  # not `tokenizer`, where the harness looks for chat templates
        self._begin = bos(tokenizer)
        self._end = tokenizer.token_to_id(END_OF_TEXT) if end_of_text is None else end_of_text

    @classmethod
    def from_hf(
        cls,
        name: str,
        tokenizer: str | None = None,
        dtype: str = "float32",
        window: int | None = None,
        end_of_text: int | None = None,
    ) -> HarnessLM:
        """An OLMo 2 model in the format of Hugging Face, its rows split over all devices.

        Args:
            name: a directory, or a hub's `org/model[@revision]`.
            tokenizer: `dolma2` or a `tokenizer.json`; by default the one beside the weights.
            dtype: of the weights, `float32` or `bfloat16`.
            window: see the class.
            end_of_text: see the class.

        Raises:
            InputError: model or tokenizer cannot be read, or do not fit.
        """
        directory = hf.locate(name)
        model, beside = hf.read_config(directory), hf.tokenizer_file(directory)
        if not (tokenizer or beside):
            raise InputError(f"{name}: no tokenizer.json beside the weights: give a `tokenizer`")
        mesh = parallel.make_mesh(MeshConfig())
        shardings = parallel.parameter_shardings(mesh, architecture(model).logical_axes(model))
        params = hf.read_params(directory, model, dtype, shardings)
        words = find_tokenizer(str(tokenizer or beside))
        return cls(replace(model, dtype=dtype), params, words, window, end_of_text, mesh)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> HarnessLM:
        """The model of `--model_args`; ignores batch size and device (`additional_config`).

        Raises:
            InputError: an argument is missing or unknown, or see `from_hf`.
        """
        given = dict(arg_dict)
        name = given.pop("hf", None)
        if name is None:
            raise InputError("model_args: hf is missing: name a directory or org/model")
        unknown = sorted(set(given) - set(_ARGUMENTS))
        if unknown:
            known = ", ".join(("hf", *_ARGUMENTS))
            raise InputError(f"model_args: {unknown[0]!r} is unknown: use {known}")
        return cls.from_hf(str(name), **given)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> HarnessLM:
        """The model of a text such as `hf=DIR,tokenizer=dolma2`; see `create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """Id of the end of text."""
        if self._end is None:
            raise InputError(f"the tokenizer has no {END_OF_TEXT}: give `end_of_text`, an id")
        return self._end

    @property
    def prefix_token_id(self) -> int:
        """Id that precedes a text without context: BOS, or else the end of text."""
        return self._begin[0] if self._begin else self.eot_token_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids, after BOS (if there is one) unless `add_special_tokens` is False."""
        ids = self._encode.encode(string, add_special_tokens=False).ids
        return ids if add_special_tokens is False else [*self._begin, *ids]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """The log-likelihood of every text, in the harness's windows; BOS itself is not scored."""
        windows, owner = [], []
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self._window, 1):
                windows.append((None, *make_disjoint_window(window)))
                owner.append(i)
        found = [value for value, _ in self._loglikelihood_tokens(windows, disable_tqdm)]
        return np.bincount(np.array(owner, int), found, len(requests)).tolist()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Not supported."""
        raise NotImplementedError("only log-likelihood tasks are supported, not generate_until")

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each (texts, context ids, continuation ids)."""
        pairs = [self._pair(*ids) for _, *ids in requests]
        distinct = sorted(set(pairs))  # so that the order of requests changes nothing
        number = {pair: i for i, pair in enumerate(distinct)}
        with contextlib.nullcontext() if self._mesh is None else parallel.use_mesh(self._mesh):
            scores = self._scored(distinct, disable_tqdm)
        answers = list(zip(scores.loglik.tolist(), scores.greedy.tolist(), strict=True))
        return [answers[number[pair]] for pair in pairs]

    def _pair(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[bytes, bytes]:
        """The ids of a request, cut to the window."""
        if not 0 < len(continuation) <= self._window:
            raise InputError(
                f"a continuation has {len(continuation)} tokens: between one and the window's "
                f"{self._window} can be scored"
            )
        context = context or [self.prefix_token_id]
        kept = context[len(continuation) - 1 - self._window :]  # the last id is no input
        return np.array(kept, np.int32).tobytes(), np.array(continuation, np.int32).tobytes()

    def _scored(self, pairs: Sequence[tuple[bytes, bytes]], quiet: bool) -> loglik.Scores:
        plan = scoring.plan(list(_bundles(pairs)))
        scores = loglik.start(plan)
        calls = loglik.partial(self._model, self._params, plan, scores)
        for _ in tqdm(calls, "log-likelihoods", plan.n_calls, unit="call", disable=quiet):
            pass
        return scores


def _bundles(pairs: Sequence[tuple[bytes, bytes]]) -> Iterator[Bundle]:
    """Bundles of sorted requests, each of one context and of as many tokens as a row takes."""
    sums = itertools.accumulate(len(continuation) // 4 for _, continuation in pairs)
    rows = [(pair[0], total // _ROW) for pair, total in zip(pairs, sums, strict=True)]
    for _, numbers in itertools.groupby(range(len(pairs)), rows.__getitem__):
        numbers = tuple(numbers)
        context, continuation = (
            tuple(np.frombuffer(pairs[i][side], np.int32) for i in numbers) for side in (0, 1)
        )
        yield Bundle(context, continuation, numbers)


def main() -> None:
    """The harness's command line."""
    compilation.keep(cache_dir())
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    compilation.hold_memory()
    try:
        cli_evaluate()
    except (InputError, NotImplementedError) as e:
        sys.exit(f"{_COMMAND}: {e}")


if __name__ == "__main__":
    main()
