"""`ladder compile`: names of slices, counts, the search; libtpu's compiler where there is one."""

import importlib.util
import json
from dataclasses import replace

import jax
import pytest

from experiments.task_ladders import compile_table
from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.aot import compile as aot
from ladder_jax.aot import search as search_
from ladder_jax.aot.examine import COMPILER_ONLY
from ladder_jax.cli import main
from ladder_jax.config import MeshConfig, ModelConfig, RunConfig
from ladder_jax.config_text import override
from ladder_jax.models.registry import architecture
from ladder_jax.models.sizes import OLMO2_SIZES

GIB = 2**30
SMALL = ModelConfig(d_model=256, n_heads=2, n_layers=3, d_ff=1024, vocab_size=1024, seq_len=512)
RUN = RunConfig(size="small", model=SMALL, batch_seqs=8, mesh=MeshConfig(1, 4, 1, 1))


@pytest.fixture
def libtpu(monkeypatch):
    """The real compiler, where the extra `tpu` is installed."""
    pytest.importorskip("libtpu")
    for name, value in COMPILER_ONLY.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "n_chips", "gib"),
    [("v5e:4x4", 16, 15.75), ("v6e:16x16", 256, 31.25), ("v5p:8x8x8", 512, 95.74)],
)
def test_a_slice_has_chips_with_their_memory(name, n_chips, gib):
    slice_ = aot.topology(name)
    assert slice_.n_chips == n_chips
    assert slice_.chip.hbm_bytes == round(gib * GIB)


@pytest.mark.parametrize(
    ("size", "batch_seqs", "n_chips", "mesh"),
    [
        ("190M", 128, 16, (1, 16, 1)),
        ("190M", 128, 256, (1, 128, 2)),  # rows run out: heads are split
        ("190M", 128, 512, (1, 128, 4)),
        ("600M", 256, 256, (4, 64, 1)),  # 1,344 divides by no more than 64
        ("13B", 2048, 512, (1, 512, 1)),
    ],
)
def test_the_first_layout_splits_tensors_least(size, batch_seqs, n_chips, mesh):
    run = RunConfig(size=size, model=OLMO2_SIZES[size], batch_seqs=batch_seqs)
    found = aot.layouts(run, n_chips)
    assert found[0] == MeshConfig(*mesh)
    assert [m.tensor for m in found] == sorted({m.tensor for m in found})
    for config in found:
        abstract = parallel.abstract_mesh(config, n_chips)
        parallel.check_fit(architecture(run.model).divisibility(run.model), abstract)
        parallel.micro_batches(batch_seqs, config, abstract)


def test_collectives_count_once_where_they_start():
    hlo = """
%all-reduce-scatter.2 (input: bf16[64,8]) -> bf16[4,8] {
  %all-reduce.2 = bf16[64,8]{1,0} all-reduce(%pad), to_apply=%add
}

%body (p: f32[8]) -> f32[8] {
  %ag = (f32[8]{0}, f32[64]{0}) all-gather-start(%p), dimensions={0}
  %done = f32[64]{0} all-gather-done(%ag)
  %x = (bf16[8]{0}, bf16[8]{0}) all-reduce(%a, %b), to_apply=%add
}

ENTRY %main (q: f32[8]) -> f32[8] {
  %f = bf16[4,8]{1,0} fusion(%q), kind=kCustom, calls=%all-reduce-scatter.2
  %t = f32[8]{0} all-to-all(%q), dimensions={0}
  %c = (f32[8]{0}, f32[8]{0}) collective-permute-start(%t)
  %w = f32[8]{0} while(%c), body=%body
  ROOT %r = f32[4]{0} reduce-scatter(%all-reduce.2), to_apply=%add
}
"""
    assert aot.count_collectives(hlo) == {
        "all-gather": 1,
        "all-reduce": 1,
        "all-to-all": 1,
        "collective-permute": 1,
        "reduce-scatter": 2,
    }


def test_what_a_refused_program_needs_is_read_from_the_error():
    new = "Ran out of memory on HBM, the total memory required for HLO temporaries (19.99G) exceeds"
    old = "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    assert aot._needed(new) == round(19.99 * GIB)
    assert aot._needed(old) == round(20.5 * GIB)
    with pytest.raises(RuntimeError, match="something else"):
        aot._needed("something else")


def counted(model: ModelConfig, n_seqs: int) -> float:
    run = replace(RUN, model=model, batch_seqs=n_seqs, mesh=MeshConfig())
    mesh = parallel.make_mesh(run.mesh, jax.devices()[:1])
    with parallel.use_mesh(mesh):
        return aot._lower(run, mesh, 1)[0].cost_analysis()["flops"]


def test_flops_of_few_layers_and_sequences_give_those_of_all():
    whole = counted(replace(SMALL, attention="plain", loss_chunk=0), RUN.batch_seqs)
    assert aot.step_flops(RUN) == pytest.approx(whole, rel=1e-6)


def test_flops_before_compiling_are_those_after_and_near_the_closed_form():
    run = replace(RUN, model=replace(SMALL, n_layers=1, attention="plain", loss_chunk=0))
    run = replace(run, batch_seqs=1, mesh=MeshConfig())
    mesh = parallel.make_mesh(run.mesh, jax.devices()[:1])
    with parallel.use_mesh(mesh):
        lowered, _ = aot._lower(run, mesh, 1)
        before, after = lowered.cost_analysis(), lowered.compile().cost_analysis()
    assert before["flops"] == pytest.approx(after["flops"], rel=0.05)
    assert before["flops"] == pytest.approx(aot.closed_form_flops(run), rel=0.15)


def pretend(needs, tried):
    """A fake compiler: `needs` gives GiB from (mesh, remat); full effort needs a tenth less."""

    def compile_step(run, effort):
        tried.append((run.mesh.tensor, run.model.remat, run.mesh.micro_seqs, effort))
        total = round(needs(run.mesh, run.model.remat) * GIB * (1 if effort else 0.9))
        return aot.Compiled(total <= 16 * GIB, total, 16 * GIB, 1, 2, total - 3, {}, 0.5)

    return compile_step


def test_the_search_finds_the_least_recomputation_then_the_largest_micro_batch():
    tried = []
    share = {"none": 20.0, "dots": 5.0, "full": 1.0}
    compiler = pretend(lambda mesh, remat: 2 + share[remat] * mesh.micro_seqs, tried)
    run = replace(RUN, batch_seqs=64)
    found, result = search_.search(run, [MeshConfig(1, 4, 1), MeshConfig(1, 2, 2)], compiler)
    assert result.fits
    assert (found.mesh, found.model.remat) == (MeshConfig(1, 4, 1, 2), "dots")
    assert found.model.scan_layers
    least = aot.LEAST_EFFORT
    assert tried == [
        (1, "none", 1, least),
        (1, "full", 1, least),
        (1, "dots", 1, least),
        (1, "dots", 4, least),
        (1, "dots", 2, least),
        (1, "dots", 2, 0.0),
    ]


def test_the_printed_overrides_give_the_compiled_layout():
    model = replace(SMALL, attention="plain", remat="dots", scan_layers=True)
    found = RunConfig(model=model, mesh=MeshConfig(1, 4, 2, 8))
    words = search_.overrides(found)
    assert override(RunConfig(model=SMALL), words) == found


def test_the_search_goes_to_more_tensor_parallelism_and_ends_with_the_leanest():
    tried = []
    compiler = pretend(lambda mesh, remat: 40 / mesh.tensor, tried)
    meshes = [MeshConfig(1, 8, 1), MeshConfig(1, 4, 2), MeshConfig(1, 2, 4)]
    found, result = search_.search(RUN, meshes, compiler)
    assert result.fits
    assert found.mesh == MeshConfig(1, 2, 4, 4)
    assert [t[:3] for t in tried[:4]] == [(1, "none", 1), (1, "full", 1), (2, "none", 1),
                                          (2, "full", 1)]  # fmt: skip
    found, result = search_.search(RUN, meshes[:2], compiler)
    assert (found.mesh.tensor, found.model.remat, found.mesh.micro_seqs) == (2, "full", 1)
    assert not result.fits
    assert result.short_by == 2 * GIB  # 40 / 2 x .9 of 16


def test_the_search_goes_below_what_only_seemed_to_fit():
    def compile_step(run, effort):
        fits = effort < 0 or run.mesh.micro_seqs < 4
        return aot.Compiled(fits, 1, 1, 1, 1, 1, {}, 0.0)

    found, result = search_.search(replace(RUN, batch_seqs=32), [MeshConfig(1, 4)], compile_step)
    assert result.fits
    assert found.mesh.micro_seqs == 2


def test_json_holds_what_checks_read(monkeypatch, capsys):
    def compile_step(run, slice_, effort=0.0):
        hbm = slice_.chip.hbm_bytes
        return aot.Compiled(False, hbm + 5, hbm, 1, 2, hbm + 2, {"all-gather": 3}, 1.0)

    monkeypatch.setattr(aot, "compile_step", compile_step)
    monkeypatch.setattr(aot, "step_flops", aot.closed_form_flops)
    command = ["compile", "--size", "190M", "--topology", "v5e:4x4"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is False
    assert found["short_by"] == 5
    assert found["bytes_total"] == found["hbm_bytes"] + 5
    assert found["collectives"] == {"all-gather": 3}
    assert (found["batch_seqs"], found["flops_ratio"]) == (128, 1.0)
    assert found["mesh"] == {"data": 1, "fsdp": 16, "tensor": 1, "micro_seqs": 1}
    assert main([*command, "--mesh", "fsdp=8,tensor=2", "--micro-seqs", "4"]) == 0
    printed = capsys.readouterr().out
    assert "short by 0.00 GiB a chip" in printed
    assert "--mesh.fsdp 8 --mesh.tensor 2 --mesh.micro_seqs 4 --model.remat full" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["14B", "v5e:4x4"], "no size '14B'; there are 190M"),
        (["190M", "v5e"], "is not GENERATION:SHAPE"),
        (["190M", "v9:4x4"], "generations are v5e"),
        (["190M", "v5p:4x4"], "a v5p slice has 3 dimensions"),
        (["190M", "v5e:3x5"], "do not divide over 15 chips"),
        (["190M", "v5e:4x4", "--mesh", "fsdp=8"], "needs 8 devices, there are 16"),
        (["190M", "v5e:4x4", "--mesh", "fsdp=1,tensor=16"], " 12 does not divide over"),
        (["190M", "v5e:4x4", "--micro-seqs", "3"], "set it to one of 1, 2, 4, 8"),
        (["190M", "v5e:4x4", "--mesh", "fsdp=16", "--search"], "leave --mesh out"),
    ],
)
def test_bad_input_gets_one_line_before_anything_is_compiled(arguments, message, capsys):
    size, topology, *rest = arguments
    assert main(["compile", "--size", size, "--topology", topology, *rest]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_mesh_that_cannot_be_read_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["compile", "--size", "190M", "--topology", "v5e:4x4", "--mesh", "fsdp=8,tensr=2"])
    assert "'tensr=2' of 'fsdp=8,tensr=2'" in capsys.readouterr().err


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"ladder_jax\[tpu\]"):
        aot.compile_step(RUN, aot.topology("v5e:2x2"))


def test_the_table_keeps_its_rows_and_compiles_what_is_missing(tmp_path, monkeypatch, capsys):
    asked = []

    def examine(request):
        asked.append((request.size, request.topology))
        return {
            "mesh": {"data": 1, "fsdp": 16, "tensor": 1, "micro_seqs": 2},
            "remat": "none",
            "fits": request.size == "190M",
            "bytes_total": 9 * GIB,
            "short_by": 0 if request.size == "190M" else 3 * GIB,
            "collectives": {"all-gather": 3, "all-reduce": 1},
        }

    monkeypatch.setattr(compile_table, "examine", examine)
    out = str(tmp_path / "compiled.csv")
    compile_table.main(["--out", out, "--sizes", "190M", "--slices", "v6e:4x4", "v5e:4x4"])
    assert asked == [("190M", "v5e:4x4"), ("190M", "v6e:4x4")]
    compile_table.main(["--out", out, "--sizes", "190M", "13B", "--slices", "v5e:4x4"])
    assert asked[2:] == [("13B", "v5e:4x4")]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == [
        "| 190M | 9.0, 1x16x1, none 2 | 9.0, 1x16x1, none 2 |",
        "| 13B | short by 3.0 |  |",
    ]


@pytest.mark.usefixtures("libtpu")
def test_a_small_step_compiles_for_four_chips():
    model = replace(SMALL, scan_layers=True, remat="full")
    found = aot.compile_step(replace(RUN, model=model), aot.topology("v5e:2x2"), aot.LEAST_EFFORT)
    assert found.fits
    assert found.short_by == 0
    n_bytes = 4 * (2 * 1024 * 256 + 3 * (4 * 256**2 + 3 * 256 * 1024)) / 4
    assert n_bytes < found.bytes_parameters < 1.05 * n_bytes  # and norms
    assert found.bytes_optimizer == pytest.approx(2 * found.bytes_parameters, rel=1e-3)
    assert found.bytes_activations > 0
    assert sum(found.collectives.values()) > 3


@pytest.mark.usefixtures("libtpu")
def test_a_step_that_is_too_large_says_by_how_much():
    model = replace(SMALL, seq_len=4096, vocab_size=100_352, loss_chunk=0)
    run = replace(RUN, model=model, batch_seqs=64, mesh=MeshConfig(1, 4, 1))
    found = aot.compile_step(run, aot.topology("v5e:2x2"), aot.LEAST_EFFORT)
    assert not found.fits
    assert found.short_by > 5 * GIB
    assert found.bytes_total - found.short_by == found.hbm_bytes
