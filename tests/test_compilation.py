"""What a process does first: it finds what another one compiled, and keeps the memory that it frees."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys, jax, jax.numpy as jnp
from sacjax.compilation import enable_cache
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
print(enable_cache())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones([7, 7])).block_until_ready()
print(len(hits) > 0)
"""


def run(environment):
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    return answer.stdout.split()


def test_a_second_process_does_not_compile(tmp_path, clean_environment):
    environment = clean_environment | {"XDG_CACHE_HOME": str(tmp_path)}
    folder, hit = run(environment)
    assert folder.startswith(str(tmp_path / "sacjax")) and hit == "False"
    assert run(environment) == [folder, "True"]


def test_a_folder_of_the_users_choice_or_one_that_cannot_be_written(tmp_path, clean_environment):
    assert run(clean_environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")})[0] == str(
        tmp_path / "own"
    )
    (tmp_path / "file").write_text("")
    assert run(clean_environment | {"XDG_CACHE_HOME": str(tmp_path / "file")})[0] == "None"


MEMORY = """
import ctypes, resource
from sacjax import compilation
print(compilation.keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(1 << 28)
    libc.memset(block, 1, 1 << 28)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_freed_memory_is_kept_unless_it_shall_not(clean_environment):
    def touched(**more):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY],
            env=clean_environment | more,
            capture_output=True,
            text=True,
            check=True,
        )
        kept, faults = done.stdout.split()
        return kept == "True", int(faults)

    left, faults = touched(SACJAX_KEEP_MEMORY="0")
    assert not left and faults > 100
    kept, fewer = touched()
    if not kept:
        pytest.skip("an accelerator is here: memory is left alone")
    assert fewer < faults / 10
