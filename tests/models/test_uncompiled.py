"""Optimisers whose process never imports torch's compiler, against the same with it."""

import subprocess
import sys

_STEPS = """
import sys, torch
if {real}:
    import torch._dynamo
from contextlib import nullcontext
from qin_zoo.models.uncompiled import no_compiler
weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
with no_compiler():
    optimizer = torch.optim.{kind}([weight], lr=0.1)
for step in range(3):
    (weight ** 3).sum().backward()
    with no_compiler():
        optimizer.step()
        optimizer.zero_grad()
with no_compiler():
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
assert ("torch._dynamo" in sys.modules) == {real}, "imported"
print(weight.tolist(), [sorted(s) for s in state["state"].values()])
doubled = torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(2))
assert doubled.tolist() == [2, 2] and hasattr(sys.modules["torch._dynamo"], "optimize")
"""


def run(kind: str, real: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _STEPS.format(kind=kind, real=real)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_steps_are_the_same_and_the_compiler_is_left_out_and_can_be_had_later():
    assert run("Adam", real=False) == run("Adam", real=True)
