"""Train the network of artifusion/detection/second_look.py on samples that tools/second_look_samples.py made.

    python -m tools.train_second_look SAMPLES OUT.safetensors [--seconds 900 --without NAME ...]

SAMPLES holds NAME.npz of each slide. Kinds are drawn as often as SHARES say, slides of one kind more alike than they
have places of it, and places alike. The stem and the normalizations of the tuned blocks stay ImageNet's. What is kept
is the mean of the weights over some hundred batches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artifusion.detection.network import CPU
from artifusion.detection.second_look import KINDS, SecondLook
from artifusion.device import autocast
from tools.second_look_samples import untrained
from tools.train_detector import Recipe, fit, save_halves

BATCH = 24
SHARES = {"normal": 0.40, "fold": 0.30, "dust": 0.10, "bubble": 0.04, "blur": 0.015, "dark": 0.005, "pen": 0.005,
          "other": 0.005, "laid normal": 0.06, "laid fold": 0.02, "laid bubble": 0.015, "laid pen": 0.02,
          "laid dark": 0.01, "laid dust": 0.005}
SMOOTHING = 0.05


class Samples:
    """Samples in memory."""

    def __init__(self, folder: Path, without: set[str]) -> None:
        parts = [(path.stem, dict(np.load(path))) for path in sorted(folder.glob("*.npz")) if path.stem not in without]
        self.stem, self.shares, kinds, places = (
            np.concatenate([part[name] for _, part in parts]) for name in ("stem", "shares", "kind", "place"))
        slides = np.concatenate([np.full(len(part["kind"]), n) for n, (_, part) in enumerate(parts)])
        self.kind = np.array([KINDS.index(kind.removeprefix("laid ")) for kind in kinds])
        self.odds = np.zeros(len(kinds))
        for name, share in SHARES.items():
            chosen = np.flatnonzero(kinds == name)
            if len(chosen):
                _, of_slide, by_slide = np.unique(slides[chosen], return_inverse=True, return_counts=True)
                _, of_place, by_place = np.unique(slides[chosen] * 100_000 + places[chosen], return_inverse=True,
                                                  return_counts=True)
                weight = 1 / np.sqrt(by_slide[of_slide]) / by_place[of_place]
                self.odds[chosen] = share * weight / weight.sum()
        self.odds /= self.odds.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A batch: what the stem saw, shares of cells, and kinds."""
        chosen = rng.choice(len(self.odds), BATCH, p=self.odds)
        stem = torch.from_numpy(self.stem[chosen]).view(torch.bfloat16).float()
        return stem, torch.from_numpy(self.shares[chosen]).float() / 255, torch.from_numpy(self.kind[chosen])


class Tuned(nn.Module):
    """The part that learns; normalizations of the tuned blocks stay as they are."""

    def __init__(self, net: SecondLook) -> None:
        super().__init__()
        self.net = net
        net.stem.requires_grad_(False)

    def train(self, mode: bool = True) -> Tuned:
        super().train(mode)
        self.net.stem.eval()
        for part in self.net.tuned.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, stem: Tensor, shares: Tensor) -> Tensor:
        return self.net.judge(stem, shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, metavar="SAMPLES")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    rng, samples = np.random.default_rng(given.seed), Samples(given.samples, set(given.without))
    tuned = Tuned(untrained())

    def loss() -> Tensor:
        stem, shares, kind = samples.draw(rng)
        with autocast(CPU):
            return F.cross_entropy(tuned(stem, shares), kind, label_smoothing=SMOOTHING)

    save_halves(fit(tuned, loss, Recipe(given.seconds, 5e-4, 0.05, 0.03, 2.0, 0.99)).net, given.out)


if __name__ == "__main__":
    main()
