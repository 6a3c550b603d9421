"""Eight CPU devices, strict dtypes and ranks, warnings as errors: set before jax is first used."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the suite's time is compiling, a quarter of that optimizing code that runs once. Child processes inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax
import pytest
import shapes_run
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.path.join(os.path.dirname(__file__), "..", ".cache", "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


# The same inputs in each run, so that what fails fails again; launch/soak.sh fuzz looks at ever new ones.
settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    """A missing device fails the suite; nothing is skipped."""
    assert len(jax.devices()) == 8, f"the tests need 8 CPU devices, found {jax.devices()}"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The work directory of a run of the main program that nothing interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    shapes_run.finish("align_jax.main", f"--config={shapes_run.write_config(folder)}", f"--workdir={folder / 'run'}")
    return folder / "run"
