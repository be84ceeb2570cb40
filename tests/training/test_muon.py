import pytest
import torch
from torch import nn

from artifusion.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(12, 12), (8, 24), (24, 8)])
def test_it_steps_as_the_one_of_torch_does(shape):
    """Up to the bfloat16 of torch's own iteration."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    steppers = Muon([ours], lr=0.1, weight_decay=0.01), torch.optim.Muon(
        [theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn(shape)
        for matrix, stepper in zip((ours, theirs), steppers, strict=True):
            matrix.grad = gradient.clone()
            stepper.step()
    moved = theirs.detach() - 1
    assert (ours - theirs).norm() < 0.02 * moved.norm()


def test_matrices_of_one_shape_are_stepped_as_if_alone():
    shapes = [(8, 24), (24, 8), (8, 24), (8, 8)]
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(shapes)]

    def stepped(picked):
        matrices = [nn.Parameter(torch.zeros(shapes[n])) for n in picked]
        for matrix, n in zip(matrices, picked, strict=True):
            matrix.grad = gradients[n].clone()
        Muon(matrices, lr=0.1, weight_decay=0.0).step()
        return matrices

    for n, together in enumerate(stepped(range(4))):
        torch.testing.assert_close(together, stepped([n])[0])


def test_the_update_is_orthogonal_within_what_five_steps_reach():
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5 and values.max() < 1.3
