"""Level 3: a small fully connected network (PyTorch), seeded, on one thread."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fraud.params import Mlp, Training
from fraud.stats.metrics import Ranked
from fraud.training.ladder.levels import Progress, Sample, SplitPoint
from fraud.training.ladder.onnx_graph import Graph
from fraud.training.ladder.scaling import Scaling, heavy_tailed

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """Scaling and network, on the CPU. `kept` is the best of the `epochs`, `loss` its loss on the validation part."""

    scaling: Scaling
    network: nn.Sequential
    epochs: int
    kept: int
    loss: float

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """PyTorch's probabilities."""
        parts = [
            _logits(self.network, _tensor(self.scaling, vectors[start : start + _ROWS_AT_ONCE]))
            for start in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        answer: NDArray[np.float64] = torch.sigmoid(torch.cat(parts)).numpy().astype(np.float64)
        return answer

    def to_onnx(self) -> bytes:
        """Scaling, then one Gemm per layer, in float64: the order of a sum depends on the processor."""
        graph = Graph(len(self.scaling.names))
        value = self.scaling.nodes(graph)
        layers = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        for position, layer in enumerate(layers):
            weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.weight, layer.bias))
            value = graph.node("Gemm", value, graph.constant(weight.T), graph.constant(bias))
            if position < len(layers) - 1:
                value = graph.node("Relu", value)
        return graph.to_bytes(graph.node("Sigmoid", value))

    def split_points(self) -> list[SplitPoint]:
        """None: the function is continuous."""
        return []

    def facts(self) -> dict[str, float]:
        """Number of epochs, the best epoch and its loss."""
        return {"epochs": float(self.epochs), "kept_epoch": float(self.kept), "validation_log_loss": self.loss}


def fit(train: Sample, validation: Sample, params: Training, progress: Progress) -> FittedNetwork:
    """Fit with AdamW on the log loss. Keeps the epoch with the lowest loss on the validation part.

    Stops `patience` epochs after the best one. On a CPU the bits are reproducible on the same kind of processor: one
    thread, seeded generators. On a GPU they are not guaranteed (docs/adr/0031-bytes-and-processors.md).
    """
    device = _device()
    scaling, x = _scaled(train)
    later = _tensor(scaling, validation.vectors).to(device)
    truth = torch.from_numpy(validation.is_fraud.astype(np.float32)).to(device)
    best, best_loss, best_epoch, epoch = None, float("inf"), 0, 0
    with _seeded(params.seed, device):
        for epoch, network in enumerate(_epochs(x, train.is_fraud, params, device, params.mlp.max_epochs), start=1):
            logits = _logits(network, later)
            now = float(nn.functional.binary_cross_entropy_with_logits(logits, truth))
            precision = Ranked(logits.cpu().numpy(), validation.is_fraud).average_precision()
            progress(
                "epoch", step=epoch, validation_loss=round(now, 6), validation_average_precision=round(precision, 4)
            )
            if best is None or now < best_loss:
                best, best_loss, best_epoch = copy.deepcopy(network), now, epoch
            elif epoch - best_epoch >= params.mlp.patience:
                break
    if best is None:
        raise ValueError("max_epochs is 0")
    return FittedNetwork(scaling, best.eval().cpu(), epoch, best_epoch, best_loss)


def refit(rows: Sample, first: FittedNetwork, params: Training, progress: Progress) -> FittedNetwork:
    """Fit with the number of epochs that was best in the first fit."""
    device = _device()
    scaling, x = _scaled(rows)
    with _seeded(params.seed, device):
        *_, network = _epochs(x, rows.is_fraud, params, device, first.kept)
    progress("network refitted", epochs=first.kept)
    return FittedNetwork(scaling, network.eval().cpu(), first.epochs, first.kept, first.loss)


def _scaled(rows: Sample) -> tuple[Scaling, torch.Tensor]:
    scaling, scaled = Scaling.fit(rows, heavy_tailed(rows))
    return scaling, torch.from_numpy(scaled.astype(np.float32))


def _device() -> torch.device:
    torch.set_num_threads(1)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators (initial weights, dropout) for a `with` block, then restore them."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _epochs(
    x: torch.Tensor, is_fraud: NDArray[np.bool_], params: Training, device: torch.device, epochs: int
) -> Iterator[nn.Sequential]:
    """Train one network; yield it after each epoch."""
    settings, order = params.mlp, torch.Generator().manual_seed(params.seed)
    x, y = x.to(device), torch.from_numpy(is_fraud.astype(np.float32)).to(device)
    network = _network(x.shape[1], settings).to(device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
    )
    for _ in range(epochs):
        network.train()
        for batch in torch.randperm(len(x), generator=order).to(device).split(settings.batch_size):
            optimiser.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(network(x[batch]).squeeze(1), y[batch])
            loss.backward()
            optimiser.step()
        yield network


def _network(inputs: int, settings: Mlp) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in settings.hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(settings.dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


def _tensor(scaling: Scaling, vectors: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(scaling.apply(vectors).astype(np.float32))


def _logits(network: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        logits: torch.Tensor = network(x).squeeze(1)
    return logits
