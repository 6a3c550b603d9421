"""`plan`: names of slices, counts of operations and traffic, and the real step compiled for TPUs that are not here."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from tiny_run import config as tiny_config
from tiny_run import manifest

from align_jax import sharding
from align_jax.planning import ask, collectives, compile, flops, gpu
from align_jax.planning import topology as topologies
from align_jax.planning.topology import parse
from align_jax.types import AlignError


@pytest.mark.parametrize(
    ("text", "chips", "unit", "teraflops", "limit"),
    [
        ("v3:16x32", 512, "core", 61.5, 15.48),
        ("v4:8x8x8", 512, "chip (2 cores as one)", 275, 30.75),
        ("v4:8x8x8:legacy", 512, "core", 137.5, 15.375),
        ("v5e:16x16*4", 1024, "chip", 197, 15.75),
        ("tpu7x:4x4x4", 64, "core", 1153.5, 94.75),
    ],
)
def test_topologies(text, chips, unit, teraflops, limit):
    topology = parse(text)
    assert (topology.chips, topology.device_unit, topology.teraflops) == (chips, unit, teraflops)
    assert topology.limit_bytes == int(limit * 2**30)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("v4", r"expected generation:AxB\[xC\].*v4:8x8x8.*found 'v4'"),
        ("v9:2x2", "unknown generation 'v9'"),
        ("v5:2x2", "unknown generation 'v5'; did you mean 'v5"),
        ("v4:8x8", "a v4 slice has 3 dimensions, as in v4:8x8x8"),
        ("v5e:4x4:legacy", "legacy is for v4 and v5p"),
    ],
)
def test_topologies_that_there_are_not(text, match):
    with pytest.raises(AlignError, match=match):
        parse(text)


def operations(fn, *shapes):
    return flops.count(jax.make_jaxpr(fn)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).jaxpr)


def test_operations_of_products_are_counted_under_loops():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(lambda x: jnp.tanh(x @ w))(x), None), x, None, length=5)[0]

    once = 2 * 3 * 4 * 4
    assert operations(loop, (3, 4), (4, 4)) == 5 * once
    # The backward pass: each product anew, and those of both gradients.
    assert operations(jax.grad(lambda x, w: loop(x, w).sum(), argnums=(0, 1)), (3, 4), (4, 4)) == (5 + 15) * once


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_of_convolutions(groups, stride):
    """Without padding, forward and both gradients take the same number."""

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    shapes = (2, 9, 9, 8), (3, 3, 8 // groups, 16)
    side = (9 - 3) // stride + 1
    once = 2 * 2 * side * side * 16 * 9 * 8 // groups
    assert operations(conv, *shapes) == once
    weights = operations(jax.grad(lambda k, x: conv(x, k).sum()), shapes[1], shapes[0])
    assert weights == 2 * once, "forward, and the gradient of the kernel"


def test_traffic_is_counted_under_loops():
    mesh = sharding.make_mesh()

    def step(x):
        def body(carry, _):
            return jax.lax.psum(carry, sharding.AXES) * 0.5 + carry, None

        looped = jax.lax.scan(body, x, None, length=7)[0]
        return looped, jax.lax.all_gather(x, sharding.AXES)

    both = jax.shard_map(step, mesh=mesh, in_specs=P(sharding.AXES), out_specs=(P(sharding.AXES), P(sharding.AXES)))
    compiled = jax.jit(both).lower(jax.ShapeDtypeStruct((8 * 16, 4), jnp.float32)).compile()
    found = collectives.read(compiled.as_text())
    assert found == {
        "all-reduce": collectives.Traffic(1, 7, 7 * 16 * 4 * 4),
        "all-gather": collectives.Traffic(1, 1, 8 * 16 * 4 * 4),
    }


def test_asynchronous_traffic_counts_once():
    hlo = """HloModule x
ENTRY %main (a: f32[4]) -> f32[8] {
  %a = f32[4]{0} parameter(0)
  %s = (f32[4]{0}, f32[8]{0}) all-gather-start(f32[4]{0} %a), dimensions={0}
  %p = (bf16[2,4]{1,0}, bf16[2,4]{1,0}, u32[], u32[]) collective-permute-start(bf16[2,4]{1,0} %b)
  %e = bf16[2,4]{1,0} collective-permute-done((bf16[2,4]{1,0}, bf16[2,4]{1,0}, u32[], u32[]) %p)
  %r = (f32[3]{0}, f32[5]{0}) all-reduce(f32[3]{0} %u, f32[5]{0} %v), to_apply=%add
  ROOT %d = f32[8]{0} all-gather-done((f32[4]{0}, f32[8]{0}) %s)
}
"""
    found = {kind: traffic.bytes for kind, traffic in collectives.read(hlo).items()}
    assert found == {"all-gather": 32, "collective-permute": 16, "all-reduce": 32}


def test_a_loop_whose_length_stands_in_its_condition():
    """As libtpu writes it at its least effort."""
    hlo = """HloModule x
%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce(f32[4]{0} %g), to_apply=%add
}

%cond.1 (p: (s32[], f32[4])) -> pred[] {
  %c = s32[]{:T(128)} constant(6), metadata={op_name="while"}
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %c), direction=LT, metadata={op_name="lt"}
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while(%t), condition=%cond.1, body=%body.1, metadata={op_name="while"}
}
"""
    assert collectives.read(hlo) == {"all-reduce": collectives.Traffic(1, 6, 6 * 16)}


def test_what_the_compiler_says_of_too_much_memory():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (62.54G) exceeds "
        "available HBM (15.48G)\nmore"
    )
    found = compile._too_much(message)
    assert (found["fits"], found["peak_bytes"], found["limit_bytes"]) == (False, 62.54 * 2**30, 15.48 * 2**30)
    assert "limit_bytes" not in compile._too_much("RESOURCE_EXHAUSTED: no numbers"), "what is known of the chip stands"


def run(path, topology, *arguments):
    command = [sys.executable, "-m", "align_jax.plan", f"--config={path}", f"--topology={topology}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """The tiny task, 64 pairs a step, as a config file."""
    folder = tmp_path_factory.mktemp("plan")
    config = tiny_config(manifest(folder))
    config.batch_size, config.mesh.devices = 64, None
    path = folder / "tiny.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({json.dumps(config.to_dict())!r}))\n"
    )
    return path


def test_the_real_step_compiles(config_file, tmp_path, monkeypatch):
    """For eight cores of v3; for other chips: launch/soak.sh plan."""
    topology = "v3:2x2"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = run(config_file, topology, "--json", "--price=2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["fits"] and found["devices"] == 8 and found["rows_per_device"] == 8
    assert 0 < found["parameter_bytes"] < found["peak_bytes"] < found["limit_bytes"] == parse(topology).limit_bytes
    # The gradients are reduced once: not much more is sent than there are parameters.
    assert found["parameter_bytes"] < found["collectives"]["all-reduce"]["bytes"] < 1.5 * found["parameter_bytes"]
    again = run(config_file, topology, "--json", "--price=2")
    assert again.stdout == done.stdout and "compil" not in again.stderr, "the second time it comes from the cache"


def test_mistakes_are_one_line(config_file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for topology, batch, match in (
        ("v5e:3x3", 64, "a multiple of the 9 devices of v5e:3x3, found 64"), ("v5e:32x32", 4096, "refuses"),
    ):  # fmt: skip
        done = run(config_file, topology, f"--config.batch_size={batch}")
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ") and match in done.stderr.splitlines()[-1]


def test_a_missing_libtpu_is_named(monkeypatch):
    monkeypatch.setattr(topologies, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    for target, extra in (("v4:2x2x1", "tpu"), ("h100:8", "gpu")):
        with pytest.raises(AlignError, match=rf'pip install "align-jax\[{extra}\]"'):
            ask.ask({}, parse(target), full=False)


def test_gpus_are_described():
    found = parse("h100:4x8")
    assert (found.devices, found.chips, found.device_unit) == (32, 32, "GPU")
    assert found.described()["topology"] == "1x4x8" and "major: 9" in found.described()["target_config"]
    assert 70 * 2**30 < found.limit_bytes < 80 * 2**30 and found.estimate
    assert parse("a100:8").devices == 8
    for text, match in (
        ("h100:0", "expected GPUs as h100:8"),
        ("h100:2x2x2", "of several hosts"),
        ("h10:8", "expected generation"),
    ):
        with pytest.raises(AlignError, match=match):
            parse(text)
