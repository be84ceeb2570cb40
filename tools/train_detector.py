"""Train the network of artifusion/detection/network.py on samples that tools/detector_samples.py made.

    python -m tools.train_detector SAMPLES OUT.safetensors [--seconds 600 --init BEFORE.safetensors --without NAME ...]

Each batch is drawn anew: which kinds of samples how often, SHARES; turned, mirrored, at another scale, a little
differently stained. `--without` leaves out slides, to calibrate on (tools/calibrate_detector.py).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from artifusion.detection.network import KINDS, ArtifactNet
from artifusion.slide.tissue import DENSITIES

CROP_PX = 128
BATCH = 32
IGNORED = 255
WEIGHTS = (1.0, 2.0, 1.5, 1.0, 1.0, 1.5, 3.0)      # of KINDS in the cross-entropy


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
        self.odds = odds / odds.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A batch: network input (B, 3, C, C), and class ids (B, C / 2, C / 2)."""
        chosen = rng.choice(len(self.odds), BATCH, p=self.odds)
        xs, truths = [], []
        zoom = float(np.exp(rng.uniform(np.log(0.72), np.log(1.5))))
        span = round(CROP_PX * zoom)
        for i in chosen:
            y, x = rng.integers(0, self.pixels.shape[1] - span + 1, 2)
            pixels, truth = (a[i, y : y + span, x : x + span] for a in (self.pixels, self.truth))
            turn, mirror = int(rng.integers(4)), rng.random() < 0.5
            pixels, truth = (np.rot90(a[:, ::-1] if mirror else a, turn) for a in (pixels, truth))
            gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.07, 3)) / self.density[i]
            table = (DENSITIES[:, None] - self.glass[i] + rng.normal(0, 0.006)) * gain
            xs.append(np.stack([table[:, c].astype(np.float32)[pixels[..., c]] for c in range(3)]))
            truths.append(truth)
        x = torch.from_numpy(np.stack(xs))
        x = F.interpolate(x, size=(CROP_PX, CROP_PX), mode="bilinear", antialias=True, align_corners=False)
        if rng.random() < 0.3:
            x = x + torch.randn_like(x) * float(rng.uniform(0, 0.06))
        rows = ((np.arange(CROP_PX // 2) + 0.5) * 2 * span / CROP_PX).astype(int)
        truth = np.stack(truths)[:, rows][:, :, rows]
        return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(truth.astype(np.int64))


SHARES = {"laid": 0.36, "tissue": 0.18, "place normal": 0.16, "place fold": 0.20, "place bubble": 0.03,
          "place dust": 0.06, "place blur": 0.005, "place dark": 0.005, "place pen": 0.005, "place other": 0.01,
          "mined": 0.22}


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy, and soft Dice of whatever is an artifact (Milletari et al. 2016)."""
    entropy = F.cross_entropy(logits, truth, torch.tensor(WEIGHTS), ignore_index=IGNORED)
    known = (truth != IGNORED).float()
    found = (1 - torch.softmax(logits, 1)[:, 0]) * known
    true = (truth > 0).float() * known
    dice = (2 * (found * true).sum() + 1) / (found.sum() + true.sum() + 1)
    return entropy + 0.5 * (1 - dice)


def fit(net: ArtifactNet, samples: Samples, seconds: float, rate: float, rng: np.random.Generator) -> ArtifactNet:
    net.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    start, step, mean = time.monotonic(), 0, 0.0
    while (spent := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, spent / 0.05 + 0.02) * (0.5 + 0.5 * np.cos(np.pi * spent)) + 1e-5
        x, truth = samples.draw(rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x)
        loss = loss_of(logits.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        mean += (loss.item() - mean) * max(0.01, 1 / step)
        if step % 100 == 0:
            print(f"{time.monotonic() - start:.0f} s, step {step}: {mean:.4f}", flush=True)
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    samples = Samples(sorted(given.samples.glob("*.npz")), set(given.without))
    print(len(samples.odds), "samples", flush=True)
    net = ArtifactNet()
    if given.init:
        net.load_state_dict(load_file(given.init))
    net = fit(net, samples, given.seconds, given.rate, rng)
    save_file({name: value.half().contiguous() if value.is_floating_point() else value
               for name, value in net.state_dict().items()}, given.out)
    print(KINDS, sum(p.numel() for p in net.parameters()))


if __name__ == "__main__":
    main()
