r"""Error of the coordinate decoder and its gradients in one go, tile by tile, for processors with caches.

The decoder dominates the training of the published architecture: about :math:`3 w^2` multiplications for each of the
layers, coefficients and images of a batch, forward, and twice as many backward. Automatic differentiation walks
through the whole batch layer by layer, so every activation travels to memory and back several times. Here a tile (at
most ``TILE_ROWS`` coefficients of one image) goes forward and at once backward, while its activations are still in
the cache; what remains is matrix products at the full rate of the processor. Besides,

- the latent enters the first layer as one bias per image, not as columns of every row;
- the images of a batch are shared out among threads that each work through their own tiles: no thread waits for
  another at every layer, which on a busy machine costs more than the layer;
- gradients of weights are added up over tiles in float32, whatever the arithmetic of the products.

The plain form, autograd through :class:`cryodrgn_ext.engines.neural.vae.VaeModel`, is the oracle in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cryodrgn_ext.engines.neural.layers import FourierFeatures, ResidualLayer

T = TypeVar("T")
TILE_ROWS = 2048  # x 256 nodes x 7 activations in bfloat16 = 7 MB: within the last-level cache of two cores


def decoder_parameters(decoder: nn.Sequential) -> list[Tensor]:
    """Weights and biases of a :func:`~cryodrgn_ext.engines.neural.layers.residual_mlp`, first layer first."""
    linears = [m.linear if isinstance(m, ResidualLayer) else m for m in decoder]
    return [p for m in linears if isinstance(m, nn.Linear) for p in (m.weight, m.bias)]


def tiled_error(  # noqa: PLR0913 (what the autograd function below takes)
    features: FourierFeatures,
    decoder: nn.Sequential,
    points: Tensor,
    flipped: Tensor,
    z: Tensor,
    values: Tensor,
    gain: Tensor,
    weight: Tensor,
    workers: WorkerThreads,
) -> Tensor:
    """Sum over images of the weighted squared error between coefficients and a complex decoder's.

    Parameters
    ----------
    features : FourierFeatures
    decoder : nn.Sequential
        Features and latent in, real and imaginary part out.
    points : Tensor
        (B, M, 3) in the half space x >= 0.
    flipped : Tensor
        (B, M) bool: where the value is the conjugate of the decoder's.
    z : Tensor
        (B, q) latents; q may be 0.
    values : Tensor
        (B, M) complex64 data.
    gain : Tensor
        (B, M) what the decoder's output is multiplied by.
    weight : Tensor
        (M,) of each coefficient.
    workers : WorkerThreads
        Made for this decoder.

    Returns
    -------
    Tensor
        () float32, differentiable with respect to ``z`` and the decoder's parameters.
    """
    total: Tensor = _TiledError.apply(  # type: ignore[no-untyped-call]
        z, features.frequencies, points, flipped, values, gain, weight, workers, *decoder_parameters(decoder)
    )
    return total


class Workspace:
    """Activations of one tile, allocated once: fresh memory for each would cost more page faults than arithmetic.

    Parameters
    ----------
    decoder : nn.Sequential
        Of :func:`~cryodrgn_ext.engines.neural.layers.residual_mlp`.
    n_features : int
        Columns of the decoder's input that are features; the others are the latent.
    dtype : torch.dtype
        Of the matrix products.
    """

    def __init__(self, decoder: nn.Sequential, n_features: int, dtype: torch.dtype) -> None:
        width = decoder_parameters(decoder)[0].shape[0]
        hidden = [module for module in decoder if isinstance(module, ResidualLayer)]
        layers, self.of_sums = len(hidden), any(module.of_sums for module in hidden)
        self.dtype, self.n_features = dtype, n_features
        self.phase = torch.empty(TILE_ROWS, n_features // 2)
        self.circle = torch.empty(TILE_ROWS, n_features // 2)
        self.features = torch.empty(TILE_ROWS, n_features, dtype=dtype)
        self.inputs = [torch.empty(TILE_ROWS, width, dtype=dtype) for _ in range(layers + 1)]
        # What a layer adds, where that is not known from what comes out of it.
        self.branches = [torch.empty(TILE_ROWS, 0 if self.of_sums else width, dtype=dtype) for _ in range(layers)]
        self.slope = torch.empty(TILE_ROWS, width, dtype=dtype)
        self.inner = torch.empty(TILE_ROWS, width, dtype=dtype)


class WorkerThreads:
    """Threads that work through the images of a batch, each with its own workspace.

    Image i is worked on by thread i modulo their number, and their sums are added in order: the same result every time.

    Parameters
    ----------
    decoder, n_features, dtype
        As for :class:`Workspace`.
    images : int
        Of a batch: no more threads than these.
    """

    def __init__(self, decoder: nn.Sequential, n_features: int, dtype: torch.dtype, images: int) -> None:
        self.threads, self.dtype = torch.get_num_threads(), dtype
        count = max(1, min(self.threads, images))
        self.spaces = [Workspace(decoder, n_features, dtype) for _ in range(count)]
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            share = max(1, self.threads // count)
            # Torch keeps a number of threads for each thread, and one more for threads to come: put that one back.
            self._pool = ThreadPoolExecutor(count, "decoder", initializer=torch.set_num_threads, initargs=(share,))
            barrier = Barrier(count)
            list(self._pool.map(lambda _: barrier.wait(), range(count)))
            torch.set_num_threads(self.threads)

    def fits(self, dtype: torch.dtype, images: int) -> bool:
        """Whether the workers is the right one for this arithmetic and batch."""
        threads = torch.get_num_threads()
        return (self.dtype, self.threads, len(self.spaces)) == (dtype, threads, max(1, min(threads, images)))

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Do ``work(k)`` for every thread k, and return what it gives, in order."""
        if self._pool is None:
            return [work(0)]
        return list(self._pool.map(work, range(len(self.spaces))))

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class _Tile:
    """Weights of a step in the arithmetic of the products, and the passes of one tile through them."""

    def __init__(self, frequencies: Tensor, parameters: tuple[Tensor, ...], space: Workspace) -> None:
        self.space, self.n_features = space, space.n_features
        self.frequencies = frequencies.T.contiguous()
        weights = parameters[0::2]
        self.latent_weight = weights[0][:, self.n_features :]
        self.weights = [w.to(space.dtype) for w in (weights[0][:, : self.n_features], *weights[1:])]
        self.inner_biases = [b.to(space.dtype) for b in parameters[3::2]]
        self.gradients = [torch.zeros_like(p) for p in parameters]

    def forward(self, points: Tensor, bias: Tensor) -> Tensor:
        """Decoder's output (n, 2) float32 at points (n, 3), with the first layer's bias; keeps the activations."""
        space, n, half = self.space, len(points), self.n_features // 2
        phase = torch.mm(points, self.frequencies, out=space.phase[:n])
        features = space.features[:n]
        features[:, :half] = torch.cos(phase, out=space.circle[:n])
        features[:, half:] = torch.sin(phase, out=space.circle[:n])
        x = torch.addmm(bias, features, self.weights[0].T, out=space.inputs[0][:n]).relu_()
        for layer, output in enumerate(space.inputs[1:]):
            bias, weight = self.inner_biases[layer], self.weights[layer + 1].T
            if space.of_sums:
                x = torch.addmm(bias, x, weight, out=output[:n]).add_(x).relu_()
            else:
                branch = torch.addmm(bias, x, weight, out=space.branches[layer][:n]).relu_()
                x = torch.add(x, branch, out=output[:n])
        return functional.linear(x, self.weights[-1], self.inner_biases[-1]).float()

    def backward(self, slope: Tensor, z: Tensor) -> Tensor:
        """Add to the gradients, given the error's slope (n, 2) by the output; returns the gradient of ``z`` (q,)."""
        space, n = self.space, len(slope)
        slope = slope.to(space.dtype)
        layers = len(space.inputs) - 1
        self._add(layers + 1, slope, space.inputs[-1][:n])
        g = torch.mm(slope, self.weights[-1], out=space.slope[:n])
        inner = space.inner[:n]
        for layer in range(layers, 0, -1):
            active = space.inputs[layer] if space.of_sums else space.branches[layer - 1]
            torch.ops.aten.threshold_backward.grad_input(g, active[:n], 0, grad_input=inner)
            self._add(layer, inner, space.inputs[layer - 1][:n])
            through = inner if space.of_sums else g  # what goes around the layer
            g = torch.addmm(through, inner, self.weights[layer], out=g)
        torch.ops.aten.threshold_backward.grad_input(g, space.inputs[0][:n], 0, grad_input=inner)
        weight, bias = self.gradients[:2]
        weight[:, : self.n_features] += inner.T @ space.features[:n]
        column = inner.sum(0).float()
        bias += column
        weight[:, self.n_features :] += column[:, None] * z
        return column @ self.latent_weight

    def _add(self, layer: int, slope: Tensor, x: Tensor) -> None:
        self.gradients[2 * layer] += slope.T @ x
        self.gradients[2 * layer + 1] += slope.sum(0)


class _TiledError(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 (autograd takes tensors one by one)
        ctx: Any,
        z: Tensor,
        frequencies: Tensor,
        points: Tensor,
        flipped: Tensor,
        values: Tensor,
        gain: Tensor,
        weight: Tensor,
        workers: WorkerThreads,
        *parameters: Tensor,
    ) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        gains = torch.stack([gain, torch.where(flipped, -gain, gain)], -1)
        data = torch.view_as_real(values)
        z_slope = torch.zeros_like(z)
        count = points.shape[1]
        rows = math.ceil(count / math.ceil(count / TILE_ROWS))
        first = parameters[0][:, 2 * len(frequencies) :]
        biases = (parameters[1] + z @ first.T).to(workers.dtype)

        @torch.no_grad()
        def work(thread: int) -> tuple[Tensor, list[Tensor]]:
            tile = _Tile(frequencies, parameters, workers.spaces[thread])
            total = torch.zeros((), dtype=torch.float64)
            for i in range(thread, len(z), len(workers.spaces)):
                for start in range(0, count, rows):
                    part = slice(start, start + rows)
                    error = tile.forward(points[i, part], biases[i]).mul_(gains[i, part]).sub_(data[i, part])
                    weighted = error * weight[part, None]
                    total += (weighted * error).sum()
                    if differentiate:
                        z_slope[i] += tile.backward(weighted.mul_(gains[i, part]).mul_(2.0), z[i])
            return total, tile.gradients

        parts = workers.run(work)
        if differentiate:
            gradients = [torch.stack(same).sum(0) for same in zip(*(part[1] for part in parts), strict=True)]
            ctx.save_for_backward(z_slope, *gradients)
        return torch.stack([part[0] for part in parts]).sum().float()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        z_slope, *gradients = ctx.saved_tensors
        return slopes[0] * z_slope, *(None,) * 7, *(slopes[0] * g for g in gradients)
