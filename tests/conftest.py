"""Test environment: eight CPU devices, strict ranks, float64 only where asked."""

import functools
import gc
import importlib.metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads of numpy and scipy wait for each other in a busy loop
# Thousands of small programs are compiled and run a few times: the time goes into making them fast.
# Without fusion emitters they compile in half the time, and uncut by threads in a fifth less; later XLA may abort on
# flags that it has dropped, as jaxlib 0.12 does on the first of these.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import compile_cache
import jax
import pytest
from jax._src.interpreters import mlir  # private, and looked into with care below

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"

jax.config.update("jax_numpy_rank_promotion", "raise")
# Frames of JAX stay in tracebacks: they say who raised, and to look for them takes half the time of a refusal.
jax.config.update("jax_traceback_filtering", "off")
compile_cache.start()
# Tracing makes millions of objects that live for a module: fewer walks over them save a tenth of the time.
gc.freeze()
gc.set_threshold(50_000, 20, 1000)
# JAX makes a new MLIR context for each program, a third of the time of a small one: the programs of a module share one.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)


@pytest.fixture(autouse=True)
def _float64_never_leaks():
    assert not jax.config.jax_enable_x64
    yield
    assert not jax.config.jax_enable_x64, "a test left x64 on: use the x64 fixture or jax.enable_x64(True) as a context"


@pytest.fixture(scope="module", autouse=True)
def _programs_are_freed():
    """Thousands of compiled programs would fill the memory; the cache on disk keeps them for the next run."""
    yield
    jax.clear_caches()
    compile_cache.borrow()
    if hasattr(mlir, "make_ir_context"):
        mlir.make_ir_context.cache_clear()


@pytest.fixture
def x64():
    """Run one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared():
    """The folder of recorded material; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no recorded reference material beside the repository")
    return SHARED
