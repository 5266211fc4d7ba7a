"""Adam against its formula and PyTorch."""

import numpy as np
import pytest

import taichi_spec as ts
from support import field, signals


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)], ids=str)
def test_adam_is_torchs(cpu, shape):
    torch = pytest.importorskip("torch")
    start, *grads = signals(0, *shape, count=6)
    p = field(start)
    theirs = torch.tensor(start, requires_grad=True)
    ours = ts.optim.Adam([p], lr=0.1, betas=(0.8, 0.99), eps=1e-3)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.99), eps=1e-3)
    for grad in grads:
        p.grad.from_numpy(np.asarray(grad))
        theirs.grad = torch.tensor(grad)
        ours.step()
        adam.step()
    assert p.to_numpy() == pytest.approx(theirs.detach().numpy(), rel=1e-12)


def test_the_step_size_can_change_and_the_gradient_be_cleared(restarted):
    p = field(np.ones(3, dtype=np.float32))
    adam = ts.optim.Adam([p], lr=0.5)
    p.grad.fill(2)
    adam.step()
    assert p.to_numpy() == pytest.approx(0.5)
    adam.lr = 0.25
    adam.step()
    assert p.to_numpy() == pytest.approx(0.25)
    adam.zero_grad()
    assert not p.grad.to_numpy().any()
