"""Programs that run for long are compiled with care, unlike the thousands that run once (see `conftest.py`)."""

import functools

import jax

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
)
