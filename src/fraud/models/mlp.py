"""Level 3: a small fully connected network (PyTorch), seeded and on one thread."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from fraud.core.features import VECTOR_NAMES
from fraud.core.metrics import Ranked
from fraud.models.graph import Graph
from fraud.models.ladder import Sample, Say, SplitPoint
from fraud.models.scaled import Scaling
from fraud.params import Mlp, Training

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """Scaling and network; `epochs` were trained, `loss` is the kept epoch's on the validation part."""

    scaling: Scaling
    network: nn.Sequential
    epochs: int
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
        """Scaling in float64, then one Gemm per layer in float32."""
        graph = Graph(len(VECTOR_NAMES))
        value = graph.node("Cast", self.scaling.nodes(graph), to=TensorProto.FLOAT)
        layers = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        for position, layer in enumerate(layers):
            weight, bias = (graph.constant(p.detach().numpy()) for p in (layer.weight, layer.bias))
            value = graph.node("Gemm", value, weight, bias, transB=1)
            if position < len(layers) - 1:
                value = graph.node("Relu", value)
        return graph.to_bytes(graph.node("Sigmoid", value))

    def split_points(self) -> list[SplitPoint]:
        """None: the function is continuous."""
        return []

    def facts(self) -> dict[str, float]:
        """Epochs and the kept epoch's loss."""
        return {"epochs": float(self.epochs), "validation_log_loss": self.loss}


def fit(train: Sample, validation: Sample, params: Training, say: Say) -> FittedNetwork:
    """AdamW on the log loss; keeps the epoch with the lowest loss on the validation part.

    One thread and a seeded generator of our own: the same bits again on the same kind of processor.
    """
    torch.set_num_threads(1)
    wanted, random = params.mlp, torch.Generator().manual_seed(params.seed)
    scaling = Scaling.of(train.vectors)
    x, y = _tensor(scaling, train.vectors), torch.from_numpy(train.is_fraud.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        network = _network(x.shape[1], wanted)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=wanted.learning_rate, weight_decay=wanted.weight_decay, foreach=False
        )
        later = _tensor(scaling, validation.vectors)
        truth = torch.from_numpy(validation.is_fraud.astype(np.float32))
        best, best_loss, best_epoch, epoch = copy.deepcopy(network), float("inf"), 0, 0
        for epoch in range(1, wanted.max_epochs + 1):
            network.train()
            for rows in torch.randperm(len(x), generator=random).split(wanted.batch_size):
                optimiser.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(network(x[rows]).squeeze(1), y[rows])
                loss.backward()
                optimiser.step()
            logits = _logits(network, later)
            now = float(nn.functional.binary_cross_entropy_with_logits(logits, truth))
            precision = Ranked(logits.numpy(), validation.is_fraud).average_precision()
            say("epoch", epoch=epoch, validation_loss=round(now, 6), average_precision=round(precision, 4))
            if now < best_loss:
                best, best_loss, best_epoch = copy.deepcopy(network), now, epoch
            elif epoch - best_epoch >= wanted.patience:
                break
    return FittedNetwork(scaling, best.eval(), epoch, best_loss)


def _network(inputs: int, wanted: Mlp) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in wanted.hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(wanted.dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


def _tensor(scaling: Scaling, vectors: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(scaling.apply(vectors).astype(np.float32))


def _logits(network: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        logits: torch.Tensor = network(x).squeeze(1)
    return logits
