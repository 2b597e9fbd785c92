"""Cross entropy of a tied head that never holds all logits at once."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Teacher(NamedTuple):
    """A second target: the distribution of another model with the same tokenizer."""

    hidden: Tensor  # [N, H of the teacher]
    embedding: Tensor  # [V, H of the teacher]
    weight: float  # of the teacher's distribution; the next token has the rest


class HeadLoss(torch.autograd.Function):
    """Mean cross entropy of `hidden @ weight.T` against `targets`, by pieces of rows.

    `apply(hidden [B, T, H], weight [V, H], targets [B, T], teacher or None, rows of one piece)`. The gradient
    is made on the way. With a teacher the gradient is that of the mixed target, while the returned loss
    stays the plain cross entropy.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, teacher: Teacher | None, piece: int
    ) -> Tensor:
        shape, y = hidden.shape, targets.reshape(-1, 1)
        h = hidden.reshape(-1, shape[-1])
        w = weight.to(h.dtype)
        total = h.new_zeros((), dtype=torch.float32)
        dh, dw = torch.empty_like(h), torch.zeros_like(w)
        part = teacher.weight if teacher else 0.0
        for start in range(0, len(h), piece):
            s = slice(start, start + piece)
            z = (h[s] @ w.T).float()
            z -= z.amax(1, keepdim=True)
            total -= z.gather(1, y[s]).sum()
            z.exp_()
            norm = z.sum(1, keepdim=True)
            total += norm.log().sum()
            z /= norm  # the probabilities, from here on turned into the gradient of the logits
            if teacher:
                z.sub_(torch.softmax((teacher.hidden[s] @ teacher.embedding.T).float(), -1), alpha=part)
            z.scatter_add_(1, y[s], z.new_full((len(z), 1), part - 1.0))
            z /= len(h)
            z = z.to(h.dtype)
            torch.mm(z, w, out=dh[s])
            dw.addmm_(z.T, h[s])
        ctx.save_for_backward(dh.view(shape), dw.to(weight.dtype))
        return total / len(h)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        dh, dw = ctx.saved_tensors
        return dh * gradient.to(dh.dtype), dw * gradient.to(dw.dtype), None, None, None
