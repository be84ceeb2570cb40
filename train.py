"""Train a denoiser on clean tissue: `python train.py ...` is `artifusion train ...`.

    python train.py he-small --data TISSUE_FOLDER --run-dir runs/mine --init he-small --max-minutes 60
    python restore.py slide.svs --mask mask.png --weights runs/mine/weights
    torchrun --nproc-per-node 8 train.py he-base --data TISSUE_FOLDER --run-dir runs/base --device cuda

The same command again goes on where the last one stopped; Ctrl-C saves first. `runs/mine/` holds weights/, log.csv,
curves.png and preview.png.

he-small is configs/train/he-small.toml. Copy it and give the copy's path to turn what people turn; everything else is
in `TrainConfig` (artifusion/config.py):

    crops            crops until the run ends; --max-minutes ends it earlier
    batch_size       of all processes together
    learning_rate    its peak; it falls to 0 over the last `cooldown` of the run
    seed             another order of crops, another start
    [denoiser]       dims, depths, heads, window_sizes: the network's size
    [data]           crop_px, spacing_um and weights by folder, validation, stain_jitter
    [targets]        kinds: how often each kind of hole is drawn; grafted, max_snr_weight

The loop is `artifusion.training.run.train`; docs/training.md tells the whole of it.
"""

import sys

from artifusion.cli.app import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]], prog_name="artifusion")
