"""Trains nano. Survives an interruption: run the same command again and it goes on.

    python -m models.nano.train --minutes 75                    round 1
    python -m models.nano.train --minutes 35 --from CHECKPOINT  a further round, from these weights

The learning rate follows the time spent, so a round ends on time on a busy machine too.
Writes models/nano/work/checkpoint.pt every two minutes and a line of figures every 20 steps.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nano.batches import Coder, batches
from models.nano.network import Network, Shape
from models.nano.tokenizer import load

WORK = Path(__file__).parent / "work"
SAVE_EVERY_S = 120.0
TOKENS = 16_384
MUON_RATE, ADAM_RATE = 0.02, 3e-3
WARM_UP = 100


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal by Newton-Schulz steps. Source: Keller Jordan, "Muon" (2024).

    Matrices of one shape are worked on together: many small operations are slow on a busy machine.
    """

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.95, "decay": 0.02})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                alike.setdefault(p.shape, []).append(p)
            for params in alike.values():
                self._step(params, group["lr"], group["momentum"], group["decay"])

    def _step(self, params: list[nn.Parameter], lr: float, momentum: float, decay: float) -> None:
        gradient = torch.stack([p.grad for p in params])
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        kept = torch.stack([self.state[p]["momentum"] for p in params])
        kept.lerp_(gradient, 1 - momentum)
        update = orthogonal(gradient.lerp(kept, momentum))
        scale = max(1.0, params[0].size(0) / params[0].size(1)) ** 0.5
        for p, m, u in zip(params, kept, update, strict=True):
            self.state[p]["momentum"].copy_(m)
            p.mul_(1 - lr * decay).add_(u, alpha=-lr * scale)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest orthogonal matrix, about, of each of (n, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT.bfloat16() if tall else matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def rate(step: int, progress: float) -> float:
    """Factor of the learning rate: warm-up, level, then down in a straight line."""
    return min(1.0, (step + 1) / WARM_UP) * min(1.0, (1 - progress) / 0.55 + 0.01)


def loss_of(network: Network, ids: Tensor, marks: Tensor) -> Tensor:
    states = network(ids)[:, :-1][marks[:, 1:]]
    return F.cross_entropy(network.logits(states), ids[:, 1:][marks[:, 1:]])


class Round:
    """One round of training: what a checkpoint holds, and the loop."""

    def __init__(self, shape: Shape, seed: int, peak: float) -> None:
        torch.manual_seed(seed)
        self.network = Network(shape)
        named = list(self.network.named_parameters())
        self.matrices = [
            p for n, p in named if p.ndim == 2 and n.startswith("blocks") and "kernel" not in n
        ]
        chosen = {id(p) for p in self.matrices}
        self.rest = [p for _, p in named if id(p) not in chosen]
        self.muon = Muon(self.matrices, MUON_RATE)
        self.adam = torch.optim.AdamW(self.rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self.peak, self.seed = peak, seed
        self.step, self.tokens, self.spent = 0, 0, 0.0

    def save(self, path: Path) -> None:
        """Write everything that going on needs; the old file stays until the new one is whole."""
        state = {
            "shape": asdict(self.network.shape), "model": self.network.state_dict(),
            "muon": self.muon.state_dict(), "adam": self.adam.state_dict(), "seed": self.seed,
            "step": self.step, "tokens": self.tokens, "spent": self.spent, "peak": self.peak,
        }  # fmt: skip
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(path)

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.seed, self.step, self.tokens = state["seed"], state["step"], state["tokens"]
        self.spent, self.peak = state["spent"], state["peak"]

    def run(self, seconds: float, path: Path, late: bool) -> None:
        """Train until `seconds` are spent. `late`: leave out the easy beginning."""
        coder = Coder(load())
        self.network.forward = torch.compile(self.network.forward, dynamic=True)  # halves the time
        began, saved, shown = time.monotonic() - self.spent, time.monotonic(), 0.0
        while self.spent < seconds:
            r = Random(f"{self.seed}/{self.step}")
            stage = 1.0 if late else self.spent / seconds
            for ids, marks in batches(coder, r, stage, TOKENS):
                shown += self._learn(ids, marks, min(1.0, self.spent / seconds))
                self.spent = time.monotonic() - began
                if self.step % 20 == 0:
                    speed = self.tokens / self.spent
                    print(
                        f"step {self.step} loss {shown / 20:.4f} tokens {self.tokens / 1e6:.2f} M"
                        f" {speed:.0f}/s spent {self.spent:.0f} s of {seconds:.0f} s",
                        flush=True,
                    )
                    shown = 0.0
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self.save(path)
                    saved = time.monotonic()
        self.save(path)

    def _learn(self, ids: Tensor, marks: Tensor, progress: float) -> float:
        factor = self.peak * rate(self.step, progress)
        self.muon.param_groups[0]["lr"] = MUON_RATE * factor
        self.adam.param_groups[0]["lr"] = ADAM_RATE * factor
        loss = loss_of(self.network, ids, marks)
        loss.backward()
        nn.utils.clip_grad_norm_(self.rest, 1.0)
        self.muon.step()
        self.adam.step()
        self.network.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += ids.numel()
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano.")
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="source", type=Path, help="weights to begin with")
    parser.add_argument("--peak", type=float, default=1.0, help="factor of the learning rates")
    parser.add_argument("--out", type=Path, default=WORK / "checkpoint.pt")
    given = parser.parse_args()
    torch.set_num_threads(2)
    given.out.parent.mkdir(exist_ok=True)
    current = Round(Shape(), given.seed, given.peak)
    if given.out.exists():
        current.restore(given.out)
    elif given.source:
        current.network.load_state_dict(torch.load(given.source, weights_only=True)["model"])
    size = sum(p.numel() for p in current.network.parameters())
    print(f"{size / 1e6:.2f} M parameters, from step {current.step}", flush=True)
    current.run(given.minutes * 60, given.out, late=given.source is not None)


if __name__ == "__main__":
    main()
