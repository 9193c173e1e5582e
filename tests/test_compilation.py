"""The compilation cache: a second process finds what the first one compiled."""

import subprocess
import sys

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
    assert run(clean_environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")})[0] == str(tmp_path / "own")
    (tmp_path / "file").write_text("")
    assert run(clean_environment | {"XDG_CACHE_HOME": str(tmp_path / "file")})[0] == "None"
