# SPDX-License-Identifier: Apache-2.0
"""Stand-in for torch.autograd: see __init__.py."""
from . import Tensor, _grad


class _Context:
    pass


class Function:
    @classmethod
    def apply(cls, *arguments):
        ctx = _Context()
        out = cls.forward(ctx, *arguments)
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        if _grad[0] and any(t.requires_grad for t in tensors):
            out.requires_grad = True
            out.node = (lambda grad: cls.backward(ctx, grad)[:len(tensors)], tensors)
        return out
