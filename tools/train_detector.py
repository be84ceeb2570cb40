"""Train the network of artifusion/detection/network.py on samples that tools/detector_samples.py made.

    python -m tools.train_detector SAMPLES ... OUT.safetensors [--seconds 600 --init BEFORE.safetensors --without NAME]

Each batch is drawn anew: which kinds of samples and which scales how often, SHARES and SCALES; turned, mirrored, at
another scale, differently stained, softer, sharper or noisier. What is kept is the mean of the weights over some
hundred batches. `--without` leaves out slides, to calibrate on (tools/calibrate_detector.py).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from artifusion.detection.network import CPU, KINDS, ArtifactNet, Net
from artifusion.device import autocast
from artifusion.slide.tissue import DENSITIES
from tools.detector_samples import IGNORED

CROP_PX = 160
BATCH = 24
WEIGHTS = (1.0, 2.0, 1.5, 1.0, 1.0, 1.5, 3.0)      # of KINDS in the cross-entropy
SCALES = {1.0: 1.0, 2.0: 0.4, 4.0: 0.5, 8.0: 0.2}  # um per pixel: odds
ZOOM = (0.78, 1.2)
MEAN = 0.998


class Samples:
    """Samples in memory; `shares`: how often each kind of sample is drawn."""

    def __init__(self, paths: list[Path], without: set[str]) -> None:
        parts = [dict(np.load(path)) for path in paths if path.stem not in without]
        self.pixels, self.truth, self.um, self.glass, self.density, self.what, self.slide = (
            np.concatenate([part[name] for part in parts])
            for name in ("pixels", "truth", "um", "glass", "density", "what", "slide"))
        odds = np.ones(len(self.what))
        for prefix, share in SHARES.items():
            chosen = np.char.startswith(self.what, prefix)
            if chosen.any():
                weight = np.ones(chosen.sum())
                if prefix.startswith("place"):                       # slides alike, as far as they have such places
                    _, inverse, counts = np.unique(self.slide[chosen], return_inverse=True, return_counts=True)
                    weight = 1 / np.sqrt(counts[inverse])
                odds[chosen] = share * weight / weight.sum()
        odds *= np.array([SCALES[float(um)] for um in self.um])
        self.odds = odds / odds.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A batch: network input (B, 3, C, C), and class ids (B, C / 2, C / 2)."""
        chosen = rng.choice(len(self.odds), BATCH, p=self.odds)
        xs, truths = [], []
        zoom = float(np.exp(rng.uniform(*np.log(ZOOM))))
        span = round(CROP_PX * zoom)
        for i in chosen:
            y, x = rng.integers(0, self.pixels.shape[1] - span + 1, 2)
            pixels, truth = (a[i, y : y + span, x : x + span] for a in (self.pixels, self.truth))
            turn, mirror = int(rng.integers(4)), rng.random() < 0.5
            pixels, truth = (np.rot90(a[:, ::-1] if mirror else a, turn) for a in (pixels, truth))
            gain = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.09, 3)) / self.density[i]
            table = (DENSITIES[:, None] - self.glass[i] + rng.normal(0, 0.008)) * gain
            if rng.random() < 0.3:
                table = np.sign(table) * abs(table) ** np.exp(rng.normal(0, 0.12))
            xs.append(np.stack([table[:, c].astype(np.float32)[pixels[..., c]] for c in range(3)]))
            truths.append(truth)
        x = torch.from_numpy(np.stack(xs))
        x = F.interpolate(x, size=(CROP_PX, CROP_PX), mode="bilinear", antialias=True, align_corners=False)
        scan = rng.random()
        if scan < 0.25:
            x = x + torch.randn_like(x) * float(rng.uniform(0, 0.08))
        elif scan < 0.45:
            taps = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / float(rng.uniform(0.3, 1.0))) ** 2)
            kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(3, 1, 5, 5)
            soft = F.conv2d(F.pad(x, (2, 2, 2, 2), "replicate"), kernel, groups=3)
            x = soft if rng.random() < 0.6 else x + 0.5 * (x - soft)
        rows = ((np.arange(CROP_PX // 2) + 0.5) * 2 * span / CROP_PX).astype(int)
        truth = np.stack(truths)[:, rows][:, :, rows]
        return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(truth.astype(np.int64))


SHARES = {"laid": 0.30, "tissue": 0.20, "place normal": 0.20, "place fold": 0.20, "place bubble": 0.03,
          "place dust": 0.06, "place blur": 0.005, "place dark": 0.005, "place pen": 0.005, "place other": 0.01,
          "mined": 0.30}


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy, and soft Dice of whatever is an artifact (Milletari et al. 2016)."""
    entropy = F.cross_entropy(logits, truth, torch.tensor(WEIGHTS), ignore_index=IGNORED)
    known = (truth != IGNORED).float()
    found = (1 - torch.softmax(logits, 1)[:, 0]) * known
    true = (truth > 0).float() * known
    dice = (2 * (found * true).sum() + 1) / (found.sum() + true.sum() + 1)
    return entropy + 0.5 * (1 - dice)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: seconds, highest rate, share of the time until then, weight decay, longest gradient,
    and the share of the mean weights that a batch leaves."""

    seconds: float
    rate: float
    warm: float
    decay: float
    longest: float
    mean: float = MEAN


def fit(net: Net, loss_of_batch: Callable[[], Tensor], recipe: Recipe) -> Net:
    """The mean of the network's weights over its last batches, whose losses are asked for one after the other."""
    net.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    kept = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.mean), use_buffers=True)
    start, step, mean = time.monotonic(), 0, 0.0
    while (spent := (time.monotonic() - start) / recipe.seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (recipe.rate * min(1.0, spent / recipe.warm + 0.02) * (0.5 + 0.5 * np.cos(np.pi * spent))
                           + 1e-5)
        loss = loss_of_batch()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.longest)
        optimizer.step()
        kept.update_parameters(net)
        step += 1
        mean += (loss.item() - mean) * max(0.01, 1 / step)
        if step % 100 == 0:
            print(f"{time.monotonic() - start:.0f} s, step {step}: {mean:.4f}", flush=True)
    return cast(Net, kept.module.eval())


def save_halves(net: torch.nn.Module, out: Path) -> None:
    """Write a network's weights in float16."""
    save_file({name: value.half().contiguous() if value.is_floating_point() else value
               for name, value in net.state_dict().items()}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path, nargs="+")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    samples = Samples([path for folder in given.samples for path in sorted(folder.glob("*.npz"))], set(given.without))
    print(len(samples.odds), "samples", flush=True)
    net = ArtifactNet()
    if given.init:
        net.load_state_dict(load_file(given.init))

    def loss_of_batch() -> Tensor:
        x, truth = samples.draw(rng)
        with autocast(CPU):
            logits = net(x)
        return loss_of(logits.float(), truth)

    save_halves(fit(net, loss_of_batch, Recipe(given.seconds, given.rate, 0.05, 2e-2, 3.0)), given.out)
    print(KINDS, sum(p.numel() for p in net.parameters()))


if __name__ == "__main__":
    main()
