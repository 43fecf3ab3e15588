"""Compiled programs are kept on disk, so that a second start of the same command compiles nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from platformdirs import user_cache_path


def keep_compiled_programs() -> None:
    """Have JAX keep every program it compiles, in avemo/xla of the user's cache folder; call it before JAX is imported.

    That is ~/.cache (or XDG_CACHE_HOME), on macOS ~/Library/Caches, on Windows %LOCALAPPDATA%. JAX's own variables go
    first: JAX_COMPILATION_CACHE_DIR is another folder, JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.

    JAX finds a program again by what it computes, by versions, settings, and kind of devices and processor, so that
    machines may share the folder. It is safe to delete. Where it can't be made, programs are compiled at every start.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = user_cache_path("avemo", appauthor=False) / "xla"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@contextmanager
def without_kept_programs() -> Iterator[None]:
    """Inside, every program is compiled anew, so that it is compiling that is timed."""
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # JAX looks at the setting once, when it first compiles
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()
