"""The check at loading names the function that computes something else than PyTorch."""

import pytest
import torch

from fast.kernel_check import first_wrong
from fast.search_step import TorchStep
from fast.synthesis import TorchKernels

OF_NETWORK = ("styled", "styles", "styles_grad", "affine", "picture", "style_grad", "leaky_grad")
OF_NETWORK += ("noise_grad", "blur")
OF_STEP = ("downscale", "to_sphere", "geocross", "keep_best")


def faulty(fault: str) -> TorchKernels:
    """PyTorch's operations, one of which has a fault."""

    class Step(TorchStep):
        def downscale(self, factor):
            down = TorchStep.downscale(factor)
            return lambda x: down(x.flip(3))

        def to_sphere(self, x, radius):
            TorchStep.to_sphere(x, radius[:1].expand_as(radius))

        def geocross(self, w):
            return TorchStep.geocross(w.detach() + 0.999 * (w - w.detach()))  # of its gradient

        def keep_best(self, best, present, number, eps, more, final):
            TorchStep.keep_best(best, present, number, eps, more, final + 1)

    class Faulty(TorchKernels):
        def styled(self, *given):
            x, mean, rstd, a, b = super().styled(*given)
            return x, mean, rstd.square(), a, b

        def styles(self, w, affine):
            return super().styles(w.flip(1), affine)

        def styles_grad(self, whole, grads, affine):
            return super().styles_grad(whole, grads, affine).flip(1)

        def affine(self, x, mean, a, b, overwrite):
            return super().affine(x, mean.abs(), a, b, overwrite)

        def picture(self, x, mean, a, b, weight, bias, overwrite):
            return super().picture(x, mean, a, b, weight.flip(0), bias, overwrite)

        def style_grad(self, *given):
            grad, p, q = super().style_grad(*given)
            return grad, q, p

        def leaky_grad(self, g, x, mean, a, q, p, blur):
            return super().leaky_grad(g, x, mean, a, q, p, False)

        def noise_grad(self, g, weight):
            return super().noise_grad(g, weight.abs())

        def blur(self, y):
            return super().blur(y).flip(2)

    kernels = TorchKernels()
    if fault in OF_STEP:
        kernels.step = TorchStep()
        setattr(kernels.step, fault, getattr(Step(), fault))
    elif fault:
        setattr(kernels, fault, getattr(Faulty(), fault))
    return kernels


@pytest.mark.parametrize("fault", OF_NETWORK + OF_STEP)
def test_a_function_with_a_fault_is_named(fault):
    assert first_wrong(faulty(fault), torch.float32) == fault


def test_where_there_is_none_none_is_named():
    assert first_wrong(faulty(""), torch.float32) is None
