"""The launch scripts: the local one runs, the one for pods runs with a `gcloud` that plays a part.

The others are checked for form and for commands that sacjax understands.
"""

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from processes import ROOT

from sacjax import config as config_lib

LAUNCH = ROOT / "launch"
SHELL = ("local_multiprocess.sh", "rehearse_pod.sh", "tpu_pod.sh", "slurm.sbatch")


def test_two_hosts_on_this_machine(tmp_path, small_overrides):
    command = [str(LAUNCH / "local_multiprocess.sh"), "2", "2", "--config", "configs/folder.py"]
    command += ["--workdir", str(tmp_path / "run"), *small_overrides]
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    how = dict(cwd=ROOT, env=env, capture_output=True, text=True)
    more = ["--config.supervised.train.steps=4", "--config.tensorboard=False"]
    more += [f"--config.supervised.augment.{kind}=()" for kind in ("waveform", "spectrogram")]
    done = subprocess.run([*command, *more], **how)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "test/accuracy" in results["supervised"]
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "no $*" >&2\nexit 2\n')
    python.chmod(0o755)
    failed = subprocess.run(command, **how | {"env": env | {"PYTHON": str(python)}})
    told = [line for line in failed.stderr.splitlines() if line.startswith("no -m sacjax.main")]
    assert failed.returncode == 2 and {line.split()[-1] for line in told} == {"0", "1"}
    usage = subprocess.run(command[:1], **how)
    assert usage.returncode == 2 and "PROCESSES DEVICES_EACH" in usage.stderr


# A slice is a file that holds its state; what a run does stands in a file, a line a run: its exit
# codes, one a worker, and the state that it leaves the slice in.
GCLOUD = """#!/usr/bin/env bash
cd "$FAKE"
echo "$4 $*" >>calls
case $4 in
  describe) cat slice 2>/dev/null || exit 1 ;;
  create) [ ! -f no_capacity ] || exit 1; echo READY >slice ;;
  delete) rm slice ;;
  ssh)
    [[ $* == *sacjax.main* ]] || exit 0
    read -r codes left <runs
    sed -i 1d runs
    echo "$left" >slice
    for code in ${codes//,/ }; do echo "sacjax ended with exit code $code"; done
    for code in ${codes//,/ }; do [ "$code" = 0 ] || exit "$code"; done ;;
esac
"""


@pytest.fixture
def pod(tmp_path):
    """Runs launch/tpu_pod.sh with runs that end as told; gives its code, stderr, gcloud's calls."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    (tmp_path / "tar").write_text("#!/bin/sh\n")  # the repository need not be packed
    (tmp_path / "tar").chmod(0o755)

    def run(*runs, **environment):
        (tmp_path / "runs").write_text("".join(f"{line}\n" for line in runs))
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE": str(tmp_path)}
        env |= dict(NAME="n", ZONE="z", TYPE="t", BUCKET="b", PAUSE="0") | environment
        command = [str(LAUNCH / "tpu_pod.sh"), "--config", "c.py", "--workdir", "gs://b/w"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        calls = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        return done.returncode, done.stderr, [call.split()[0] for call in calls]

    run.folder = tmp_path
    return run


def trainings(calls):
    """How often a run was started: each is the third ssh of an attempt."""
    return calls.count("ssh") // 3


def test_a_pod_that_finishes_is_deleted(pod):
    code, _, calls = pod("0,0 READY")
    assert code == 0 and trainings(calls) == 1 and calls[-1] == "delete"
    code, _, calls = pod("0,0 READY", KEEP="1")
    assert code == 0 and "delete" not in calls and (pod.folder / "slice").exists()


@pytest.mark.parametrize("codes", ["2,2", "134,2", "2,75"])
def test_a_mistake_of_the_user_ends_a_pod_at_once(pod, codes):
    code, said, calls = pod(f"{codes} READY", "0,0 READY")
    assert code == 2 and trainings(calls) == 1 and calls[-1] == "delete"
    assert "a mistake in the command or config" in said


def test_a_slice_that_was_taken_away_is_made_anew_with_a_bound(pod):
    lost, asked = "255,255 PREEMPTED", "75,75 READY"
    runs = [lost, asked, "255,0 PREEMPTED", asked, "0,0 READY"]
    code, said, calls = pod(*runs)
    assert code == 0 and trainings(calls) == 5 and calls.count("create") == 3
    assert "exit code 255; the slice is PREEMPTED" in said
    code, said, calls = pod(*runs, ATTEMPTS="4")
    assert code == 1 and trainings(calls) == 4 and "given up after 4 attempts" in said


def test_a_crash_is_tried_again_a_few_times_in_a_row(pod):
    code, said, calls = pod("1,0 READY", "1,0 READY", "75,75 READY", *["134,134 READY"] * 9)
    assert code == 134 and trainings(calls) == 6 and calls[-1] == "delete"
    assert "failed 3 times in a row" in said


def test_a_first_slice_that_cannot_be_made_ends_it(pod):
    (pod.folder / "no_capacity").touch()
    code, _, calls = pod("0,0 READY")
    assert code == 1 and calls.count("create") == 1 and not trainings(calls)


@pytest.mark.parametrize("name", SHELL)
def test_shell_scripts_have_no_mistake_that_shellcheck_knows(name):
    tool = shutil.which(
        "shellcheck", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    )
    if not tool:
        pytest.skip("needs shellcheck (extra `dev`)")
    done = subprocess.run([tool, str(LAUNCH / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_job_set_fits_its_slice_and_its_command_is_understood():
    job = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert job["kind"] == "JobSet" and job["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    (workers,) = job["spec"]["replicatedJobs"]
    spec = workers["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (
        rule["onExitCodes"]["values"] == [2]
        and rule["onExitCodes"]["containerName"] == container["name"]
    )
    command = container["command"]
    config = config_lib.load(
        command[command.index("--config") + 1],
        [word for word in command if word.startswith("--config.")],
    )
    assert config.pretrain.data.path.startswith(container["volumeMounts"][0]["mountPath"])
    assert pod["volumes"][0]["name"] == container["volumeMounts"][0]["name"]


def test_the_jobs_of_the_job_set_follow_the_schema_of_kubernetes():
    validator = pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate (extra `dev`)"
    )
    for jobs in yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["spec"]["replicatedJobs"]:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": jobs["name"]},
            **jobs["template"],
        }
        validator.validate(job, validator.latest_version(), strict=True)
        job["spec"]["template"]["spec"]["restartPolicies"] = "Never"
        with pytest.raises(validator.ValidationError, match="restartPolicies"):
            validator.validate(job, validator.latest_version(), strict=True)


def test_the_image_copies_what_there_is():
    for line in (LAUNCH / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line


@pytest.mark.parametrize(
    "script", sorted((LAUNCH / "benchmarks").glob("*.py")), ids=lambda p: p.name
)
def test_a_benchmark_leaves_its_folder_before_it_imports_jax(script):
    """Beside a script its folder's ssl.py hides Python's own, which JAX imports."""
    body = ast.parse(script.read_text()).body
    tests = [k for k, line in enumerate(body) if isinstance(line, ast.If)]
    leaves = [k for k in tests if "sys.path[0]" in ast.unparse(body[k])]
    jax = [
        k for k, line in enumerate(body) if ast.unparse(line).startswith(("import jax", "from jax"))
    ]
    runs = any("__main__" in ast.unparse(body[k].test) for k in tests)
    assert not (runs and jax) or leaves[0] < jax[0]
