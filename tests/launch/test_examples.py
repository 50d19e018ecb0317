"""The examples for Slurm and Kubernetes are what these take, and their commands train."""

import argparse
import json
import os
import shutil
import subprocess
import sys

import pytest
import worlds
import yaml

from environments import python_with

FOLDER = worlds.ROOT / "recipes/cluster"
SLURM = FOLDER / "slurm.sh"
JOBSETS = sorted(FOLDER.glob("jobset*.yaml"))

# Checks what the pydantic models of JobSet and the JSON schemas of Kubernetes say of a file, unknown keys included.
CHECK = """
import json, sys, typing
import kubernetes_validate, yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from pydantic import BaseModel

def unknown(value, cls, where):
    fields = {(field.alias or name): field.annotation for name, field in cls.model_fields.items()}
    for key, inner in value.items():
        if key not in fields:
            yield f"{where}.{key}: unknown"
        if key not in fields or key == "template":  # that one is a Job's, see below
            continue
        models = [each for each in leaves(fields[key]) if isinstance(each, type) and issubclass(each, BaseModel)]
        for each in inner if isinstance(inner, list) else [inner]:
            if models and isinstance(each, dict):
                yield from unknown(each, models[0], f"{where}.{key}")

def leaves(annotation):
    inner = typing.get_args(annotation)
    return [leaf for each in inner for leaf in leaves(each)] if inner else [annotation]

said = []
given = yaml.safe_load(open(sys.argv[1]))
try:
    JobsetV1alpha2JobSet.from_dict(given)
except ValueError as error:
    said.append(str(error))
said += unknown(given, JobsetV1alpha2JobSet, "JobSet")
for each in given["spec"]["replicatedJobs"]:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": each["template"]["spec"]}
    try:
        kubernetes_validate.validate(job, "1.31", strict=True)
    except kubernetes_validate.ValidationError as error:
        said.append(f"{each['name']}: {error.message}")
print(json.dumps(said))
"""


def pod(path, name):
    """The pod's only container, of a replicated job."""
    given = yaml.safe_load(path.read_text())
    [job] = [each["template"]["spec"] for each in given["spec"]["replicatedJobs"] if each["name"] == name]
    [container] = job["template"]["spec"]["containers"]
    return container


def options(script):
    """The #SBATCH lines, as sbatch reads them."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for name in ("job-name", "time", "signal", "open-mode", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--requeue", action="store_true")
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return parser.parse_args(lines)


def test_slurm_script():
    script = SLURM.read_text()
    subprocess.run(["bash", "-n", SLURM], check=True)
    found = options(script)
    assert found.ntasks_per_node == 1  # one torchrun, which starts the node's processes
    # sbatch reads no options behind the first command.
    assert "#SBATCH" not in script.partition("set -euo")[2]


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.stem)
def test_jobset_is_yaml_with_what_its_commands_name(path):
    given = yaml.safe_load(path.read_text())
    assert given["kind"] == "JobSet"
    name, jobs = given["metadata"]["name"], {each["name"]: each for each in given["spec"]["replicatedJobs"]}
    for job in jobs.values():
        spec = job["template"]["spec"]
        assert spec["parallelism"] == spec["completions"]
        [container] = spec["template"]["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
        if container["command"][0] == "bash":
            subprocess.run(["bash", "-n", "-c", container["command"][2]], check=True)
    # The names of pods that the file itself uses, as JobSet makes them: jobset-job-index-pod.jobset
    there = {
        f"{name}-{job}-{index}-{number}.{name}"
        for job, each in jobs.items()
        for index in range(each["replicas"])
        for number in range(each["template"]["spec"]["parallelism"])
    }
    used = {word.partition(":")[0] for word in path.read_text().replace("http://", " ").split() if f".{name}" in word}
    assert used - {"jobset.x-k8s.io/v1alpha2"} <= there
    assert used


def test_jobset_starts_as_many_as_it_has_pods():
    container = pod(FOLDER / "jobset.yaml", "trainer")
    [job] = yaml.safe_load((FOLDER / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    assert f"--nnodes {job['template']['spec']['parallelism']} " in container["command"][2]
    processes = {each["name"]: each["value"] for each in container["env"]}["PROCESSES"]
    assert int(processes) == container["resources"]["limits"]["nvidia.com/gpu"]


def on_two_nodes(folder, commands, environments):
    """The exit statuses of commands that run beside each other."""
    path = os.pathsep.join([str(worlds.ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    (bin_ / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (bin_ / "python").chmod(0o755)
    whole = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PATH": f"{bin_}:{os.environ['PATH']}"}
    begun = [
        subprocess.Popen(command, cwd=folder, env=whole | environment)
        for command, environment in zip(commands, environments, strict=True)
    ]
    return [each.wait(150) for each in begun]


@pytest.mark.slow
def test_the_jobsets_command_trains(world):
    folder = world(2)
    (folder / "recipe.toml").write_text((folder / "r.toml").read_text() + 'run = "run"\n')
    command = pod(FOLDER / "jobset.yaml", "trainer")["command"]
    here = {"PROCESSES": "1", "MASTER_ADDR": "127.0.0.1"}
    assert on_two_nodes(folder, [command] * 2, [here | {"JOB_COMPLETION_INDEX": str(i)} for i in (0, 1)]) == [0, 0]
    assert json.loads((folder / "run/summary.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_the_slurm_script_trains(world):
    """With an srun that runs its command for two nodes of this machine."""
    folder = world(2)
    (folder / "bin").mkdir()
    (folder / "bin/scontrol").write_text("#!/bin/bash\nprintf '127.0.0.1\\nother\\n'\n")
    (folder / "bin/srun").write_text(
        "#!/bin/bash\n"
        'while [[ "$1" == --* ]]; do shift; done\n'
        'SLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@"; first=$?; wait $! && exit $first\n'
    )
    for name in ("scontrol", "srun"):
        (folder / "bin" / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": "31",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
    }
    words = ["bash", str(SLURM), "ppo", "r.toml", "ppo.run=run"]
    assert on_two_nodes(folder, [words], [slurm]) == [0]
    assert json.loads((folder / "run/summary.json").read_text())["steps"] == 2


@pytest.mark.cluster
def test_sbatch_takes_the_script(tmp_path):
    """Slurm's own command, which reads a script before it looks for its controller."""
    if shutil.which("sbatch") is None:
        pytest.skip("no sbatch here: apt-get install slurm-client")
    (tmp_path / "slurm.conf").write_text(
        "ClusterName=c\nSlurmctldHost=localhost(127.0.0.1)\nGresTypes=gpu\nMessageTimeout=2\n"
        "NodeName=localhost CPUs=2\nPartitionName=main Nodes=ALL Default=YES\n"
    )

    def said(script):
        (tmp_path / "script.sh").write_text(script)
        command = ["sbatch", "--test-only", "script.sh", "ppo", "r.toml"]
        environment = os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        ).stderr

    script = SLURM.read_text()
    assert "Unable to contact slurm controller" in said(script)
    assert "unrecognized option" in said(script.replace("--requeue", "--requeued"))


@pytest.mark.cluster
@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.stem)
def test_kubernetes_takes_the_jobset(tmp_path, path):
    """By the schemas of Kubernetes 1.31 and JobSet v1alpha2 as their packages have them; no cluster was asked."""
    python = python_with("kubeflow_trainer_api", "kubernetes-validate kubeflow-trainer-api")

    def said(text):
        (tmp_path / "jobset.yaml").write_text(text)
        command = [python, "-c", CHECK, tmp_path / "jobset.yaml"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    text = path.read_text()
    assert said(text) == []
    assert any(
        "JobSet.spec.failurePolicy.maxRestartz: unknown" in each
        for each in said(text.replace("maxRestarts", "maxRestartz"))
    )
    assert any("trainer: " in each for each in said(text.replace("workingDir", "workingDirectory")))
    assert any("kind" in each or "replicas" in each for each in said(text.replace("replicas: 1", "replicas: one")))
