"Training on several processes: what `accelerate launch` or torchrun start."

import json
import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import json, sys
import torch
from accelerate import Accelerator
from icportrait.training.loop import train

accelerator = Accelerator(cpu=True)
folder = sys.argv[1]
shares = int(sys.argv[2])
torch.manual_seed(0)
net = torch.nn.Linear(4, 1)


def part(k):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(k))


def batch_at(k):  # one process takes the shares of all
    return torch.cat([part(k * shares + j) for j in range(shares)])


def loss(x, generator):
    return (net(x) - x.sum(1, keepdim=True)).square().mean(), {}


how = dict(lr=0.05, ema=0.9, checkpoint_every=5, progress=False)
train(loss, list(net.named_parameters()), batch_at, 12, folder=folder, accelerator=accelerator, **how)
with open(f"{folder}/rank-{accelerator.process_index}.json", "w") as f:
    json.dump(dict(processes=accelerator.num_processes, weights=net.weight.flatten().tolist()), f)
"""


def start(tmp_path, name, processes, shares):
    "Train in a folder, and tell what every process ended with."
    script = tmp_path / "script.py"
    folder = tmp_path / name
    script.write_text(SCRIPT)
    folder.mkdir()
    env = dict(os.environ, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    launch = []
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launch, str(script), str(folder), str(shares)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:4000] + "\n…\n" + done.stderr[-2000:]
    return folder, [json.loads(p.read_text()) for p in sorted(folder.glob("rank-*.json"))]


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo"
)
def test_two_processes_train_as_one_with_both_batches(tmp_path):
    "The ranks hold the same weights, those of one process that takes both shares of each batch; one of them writes."
    folder, two = start(tmp_path, "two", 2, 1)
    _, one = start(tmp_path, "one", 1, 2)
    assert [o["processes"] for o in two] == [2, 2]
    assert [o["processes"] for o in one] == [1]
    assert two[0]["weights"] == two[1]["weights"]
    torch.testing.assert_close(torch.tensor(two[0]["weights"]), torch.tensor(one[0]["weights"]), rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in folder.glob("step-*")) == ["step-000010", "step-000012"]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) == list(range(1, 13))
