"""What a process does first: it finds what was compiled, and keeps the memory that it frees."""

import fnmatch
import platform
import subprocess
import sys

import jax
import pytest

from sacjax import compilation

PROGRAM = """
import jax, jax.numpy as jnp
from sacjax.compilation import enable_cache

hits = []

def note(name, **_):
    if name.endswith("/cache_hits"):
        hits.append(name)

jax.monitoring.register_event_listener(note)
print(enable_cache())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones([7, 7])).block_until_ready()
print(len(hits) > 0)
"""


def answer(program, environment):
    """Returns the words that a program of its own process prints."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_second_process_does_not_compile(tmp_path, clean_environment):
    environment = clean_environment | {"XDG_CACHE_HOME": str(tmp_path)}
    folder, hit = answer(PROGRAM, environment)
    assert folder.startswith(str(tmp_path / "sacjax")) and hit == "False"
    assert answer(PROGRAM, environment) == [folder, "True"]


@pytest.fixture
def cache_folder():
    """Puts JAX's cache folder back."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_of_the_users_choice_or_one_that_cannot_be_written(
    tmp_path, monkeypatch, cache_folder
):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))  # JAX_COMPILATION_…
    assert compilation.enable_cache() == tmp_path / "own" and (tmp_path / "own").is_dir()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    (tmp_path / "file").write_text("")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compilation.enable_cache() is None and jax.config.jax_compilation_cache_dir is None


MEMORY = """
import ctypes, os, resource
from sacjax import compilation

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def touched():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(1 << 28)
        libc.memset(block, 1, 1 << 28)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(compilation.keep_freed_memory(), touched())
del os.environ["SACJAX_KEEP_MEMORY"]
print(compilation.keep_freed_memory(), touched())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_freed_memory_is_kept_unless_it_shall_not(clean_environment):
    words = answer(MEMORY, clean_environment | {"SACJAX_KEEP_MEMORY": "0"})
    left, faults, kept, fewer = words
    assert left == "False" and int(faults) > 100
    if kept == "False":
        pytest.skip("an accelerator is here: memory is left alone")
    assert int(fewer) < int(faults) / 10


@pytest.mark.parametrize(
    ("chosen", "devices", "modules", "left_out"),
    [
        (None, [], ["libtpu"], True),
        ("tpu", [], ["libtpu"], False),
        (None, ["accel0"], ["libtpu"], False),
        (None, ["vfio/0"], ["libtpu"], False),
        (None, [], ["libtpu", "jax_plugins"], False),
        (None, [], [], False),
    ],
)
def test_libtpu_is_left_out_only_where_nothing_but_the_cpu_is_there(
    monkeypatch, chosen, devices, modules, left_out
):
    there = lambda _, pattern: (d for d in devices if fnmatch.fnmatch(d, pattern))
    monkeypatch.setattr(compilation.Path, "glob", there)
    monkeypatch.setattr(compilation.importlib.metadata, "entry_points", lambda group: ())
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: name in modules)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", chosen)
        assert compilation.leave_out_libtpu() == left_out
        assert jax.config.jax_platforms == ("cpu" if left_out else chosen)
    finally:
        jax.config.update("jax_platforms", before)
