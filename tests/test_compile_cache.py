"""The compile cache of the tests: folders of their own, bounded, filled from the others, and never needed."""

import os

import compile_cache
import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def held(monkeypatch):
    """Locks taken here end with the test."""
    locks = []
    monkeypatch.setattr(compile_cache, "_held", locks)
    yield
    for lock in locks:
        lock.close()


@pytest.fixture
def settings():
    """The configuration of JAX is put back, and its open cache is closed on both sides."""
    names = (
        *("jax_compilation_cache_dir", "jax_enable_compilation_cache"),
        *("jax_persistent_cache_enable_xla_caches", "jax_persistent_cache_min_compile_time_secs"),
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def entry(folder, name, size=3, age=0.0):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-cache"
    path.write_bytes(b"x" * size)
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


def test_no_two_processes_share_a_folder(tmp_path, held):
    assert [compile_cache._own(tmp_path, "gw0").name for _ in range(3)] == ["gw0", "gw0.1", "gw0.2"]
    assert compile_cache._own(tmp_path, "gw1").name == "gw1"


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, held, monkeypatch, settings):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    compile_cache.start()
    assert not jax.config.jax_enable_compilation_cache


def test_the_oldest_entries_and_the_empty_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "LARGEST", 10)
    entry(tmp_path, "empty", size=0)
    for name, age in (("old", 30.0), ("middle", 20.0), ("new", 10.0)):
        entry(tmp_path, name, size=5, age=age)
    compile_cache._bound(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"middle-cache", "new-cache"}


def test_finished_entries_of_other_workers_are_linked(tmp_path):
    entry(tmp_path / "gw0", "finished", age=100.0)
    entry(tmp_path / "gw0", "written now")
    entry(tmp_path / "gw0", "empty", size=0, age=100.0)
    mine = entry(tmp_path / "gw1", "mine").parent
    compile_cache.borrow(mine)
    assert {path.name for path in mine.iterdir()} == {"finished-cache", "mine-cache"}


def test_a_damaged_entry_is_compiled_again(tmp_path, held, monkeypatch, settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    compile_cache.start()
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    x = jnp.arange(5.0)

    def twice(x):
        return 2 * jnp.sin(x) + 1

    wanted = jax.jit(twice)(x)
    entries = list(tmp_path.rglob("jit_twice*-cache"))
    assert len(entries) == 1
    entries[0].write_bytes(entries[0].read_bytes()[:40])
    jax.clear_caches()
    assert jnp.array_equal(jax.jit(twice)(x), wanted)


def test_workers_give_a_program_one_key(tmp_path, held, monkeypatch, settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        compile_cache.start()
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        jax.clear_caches()
        jax.jit(lambda x: 3 * jnp.cos(x))(jnp.arange(5.0))
        names.append({path.name for path in tmp_path.rglob(f"{worker}/jit__lambda*-cache")})
    assert names[0] == names[1] != set()
