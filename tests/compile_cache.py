"""A compile cache for each test worker, so that a second run on a machine pays for tracing alone.

Folders are `<user's cache>/jsamp-tests/<jax version>/<worker>`. JAX does not write an entry atomically, so no two
processes share a folder: each holds a lock on its own, and takes what others finished by hard links, at its start and
after each module.
`JAX_COMPILATION_CACHE_DIR` chooses another place, `JAX_ENABLE_COMPILATION_CACHE=false` switches the cache off.
"""

import os
import pathlib
import time

import jax

LARGEST = 2 * 2**30  # bytes in one folder: one run of the suite leaves about .8 GB; the least recently used go first
SETTLED = 60.0  # seconds after which nobody is writing an entry any more
_held = []  # open lock files: the lock ends with the process


def start():
    """Choose, lock, bound and fill the folder of this worker; without one that can be written, tests just compile."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given and worker == "main":
        folder = _own(pathlib.Path(given).parent, pathlib.Path(given).name)
    else:
        folder = _own(pathlib.Path(given) if given else _users_cache() / "jsamp-tests" / jax.__version__, worker)
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    _bound(folder)
    if not given:
        borrow(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # XLA's own caches would put the name of the folder into the key of every program.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    for name, value in (("min_compile_time_secs", 0.0), ("min_entry_size_bytes", -1)):
        if f"JAX_PERSISTENT_CACHE_{name.upper()}" not in os.environ:
            jax.config.update(f"jax_persistent_cache_{name}", value)


def of_child():
    """The variables by which another interpreter uses the folder of this worker, which waits meanwhile."""
    folder = jax.config.jax_compilation_cache_dir
    settings = {"MIN_COMPILE_TIME_SECS": "0", "ENABLE_XLA_CACHES": "none"}
    shared = {f"JAX_PERSISTENT_CACHE_{name}": value for name, value in settings.items()}
    return shared | {"JAX_COMPILATION_CACHE_DIR": folder} if folder else {}


def _users_cache():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")


def _own(base, name):
    """The first folder of this name, or of the name with a number, that no other process holds; None if there is none."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return None
    for number in range(16):
        folder = base / (f"{name}.{number}" if number else name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = open(folder / ".lock", "w")  # noqa: SIM115 (held until the process ends)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        return folder
    return None


def _bound(folder):
    """Remove empty entries, which a full disk leaves behind, and the oldest of those beyond the largest size."""
    entries = [(max(s.st_atime, s.st_mtime), s.st_size, path) for path in folder.glob("*-cache") for s in [path.stat()]]
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries, key=lambda entry: entry[0]):
        if not size or total > LARGEST:
            path.unlink(missing_ok=True)
            total -= size


def borrow(folder=None):
    """Link the finished entries of the other workers into a folder, by default the one in use unless it was given."""
    if folder is None:
        folder = jax.config.jax_compilation_cache_dir
        if folder is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
            return
        folder = pathlib.Path(folder)
    now, mine = time.time(), {entry.name for entry in os.scandir(folder)}
    for entry in (entry for other in folder.parent.iterdir() if other.is_dir() for entry in os.scandir(other)):
        if entry.name in mine or not entry.name.endswith("-cache"):
            continue
        try:
            if entry.stat().st_size and now - entry.stat().st_mtime > SETTLED:
                os.link(entry.path, folder / entry.name)
        except OSError:  # removed meanwhile, linked meanwhile, or a file system without links
            continue
