"""The launch scripts: the local one runs, the others are checked for form and for commands that sacjax understands."""

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


def test_two_hosts_on_this_machine(tmp_path, small_overrides):
    command = [
        str(LAUNCH / "local_multiprocess.sh"),
        "2",
        "2",
        "--config",
        "configs/folder.py",
        "--workdir",
        str(tmp_path / "run"),
    ]
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    more = ["--config.supervised.train.steps=4", "--config.tensorboard=False"]
    done = subprocess.run(
        [*command, *small_overrides, *more],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "test/accuracy" in json.loads((tmp_path / "run" / "results.json").read_text())["supervised"]
    )
    failed = subprocess.run(
        [*command, "--config.sed=1"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100
    )
    assert failed.returncode == 2 and "did you mean 'seed'" in failed.stderr
    usage = subprocess.run(
        command[:1], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100
    )
    assert usage.returncode == 2 and "PROCESSES DEVICES_EACH" in usage.stderr


@pytest.mark.parametrize("name", ["local_multiprocess.sh", "tpu_pod.sh", "slurm.sbatch"])
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
