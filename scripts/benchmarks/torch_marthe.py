"""A step of MARTHE in PyTorch, by double backward, for the table of `online.py`.

Written as its authors' library does it: the gradient keeps its graph, a second backward pass gives
the Hessian-vector product, and tangents are moved array by array.
"""

import importlib.util
import itertools
import time
from typing import Any

import numpy as np

IS_INSTALLED = importlib.util.find_spec("torch") is not None


def measure(inner: str, rounds: int, plain_jax: dict[str, Any]) -> list[dict[str, Any]]:
    """Times PyTorch's plain step and MARTHE's, E = L, on the digits' network.

    Args:
      inner: "momentum" or "Adam".
      rounds: how many rounds of eight steps.
      plain_jax: the row of JAX's plain step, which ratios are of.
    """
    import torch  # heavy, and not everywhere installed
    from networks import DIGITS_BATCH, DIGITS_WIDTHS

    torch.set_num_threads(torch.get_num_threads())
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(DIGITS_BATCH, DIGITS_WIDTHS[0], generator=generator)
    labels = torch.randint(10, (DIGITS_BATCH,), generator=generator)
    rows = []
    for learns in (False, True):
        layers: list[Any] = []
        for inputs, outputs in itertools.pairwise(DIGITS_WIDTHS):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
        step = _Step(torch, model, inner, learns)
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for _ in range(8):
                step(images, labels)
            seconds.append((time.perf_counter() - start) / 8)
        milliseconds = 1e3 * float(np.median(seconds[1:]))
        rows.append(
            {
                "network": plain_jax["network"],
                "inner": inner,
                "method": "PyTorch, MARTHE, E = L" if learns else "PyTorch, plain",
                "milliseconds": milliseconds,
                "loop_ratio": milliseconds / plain_jax["milliseconds"],
            }
        )
    return rows


class _Step:
    """A training step with the rate 1e-3, or with one that is learned at μ = 0.9."""

    def __init__(self, torch: Any, model: Any, inner: str, learns: bool) -> None:
        self.torch, self.model, self.inner, self.learns = torch, model, inner, learns
        self.params = list(model.parameters())
        self.rate, self.count = 1e-3, 0
        names = ("momentum",) if inner == "momentum" else ("first", "second")
        zeros = {name: [torch.zeros_like(p) for p in self.params] for name in names}
        self.moments = zeros
        self.tangents = {name: [torch.zeros_like(p) for p in self.params] for name in names}
        self.tangent = [torch.zeros_like(p) for p in self.params]

    def __call__(self, images: Any, labels: Any) -> None:
        torch = self.torch
        loss = torch.nn.functional.cross_entropy(self.model(images), labels)
        grads = torch.autograd.grad(loss, self.params, create_graph=self.learns)
        products: Any = [None] * len(self.params)
        if self.learns:
            slope = sum((z * g).sum() for z, g in zip(self.tangent, grads, strict=True))
            products = torch.autograd.grad(slope, self.params)
            self.rate = max(self.rate - 1e-9 * slope.item(), 0.0)
        self.count += 1
        with torch.no_grad():
            for i, param in enumerate(self.params):
                update, along = self._update(i, grads[i].detach(), products[i])
                param -= self.rate * update
                if self.learns:
                    self.tangent[i] = 0.9 * (self.tangent[i] - self.rate * along) - update

    def _update(self, i: int, grad: Any, product: Any) -> tuple[Any, Any]:
        """The direction of the step and its derivative along the tangent."""
        if self.inner == "momentum":
            velocity = self.moments["momentum"]
            velocity[i] = 0.9 * velocity[i] + grad
            if self.learns:
                along = self.tangents["momentum"]
                along[i] = 0.9 * 0.9 * along[i] + product
                return velocity[i], along[i]
            return velocity[i], None
        first, second = self.moments["first"], self.moments["second"]
        first[i] = 0.9 * first[i] + 0.1 * grad
        second[i] = 0.999 * second[i] + 0.001 * grad * grad
        first_scale, second_scale = 1 - 0.9**self.count, 1 - 0.999**self.count
        root = (second[i] / second_scale + 1e-12).sqrt() + 1e-8
        update = first[i] / first_scale / root
        if not self.learns:
            return update, None
        first_dot, second_dot = self.tangents["first"], self.tangents["second"]
        first_dot[i] = 0.9 * 0.9 * first_dot[i] + 0.1 * product
        second_dot[i] = 0.9 * 0.999 * second_dot[i] + 0.002 * grad * product
        root_dot = second_dot[i] / second_scale / (2 * (root - 1e-8))
        return update, first_dot[i] / first_scale / root - update * root_dot / root
