"""Restore the masked part of a slide: `python restore.py ...` is `artifusion restore ...`.

    python restore.py slide.svs --mask mask.png --preview look.png      # writes slide.restored.svs
    python restore.py slide.svs --mask mask.png --dry-run               # says how much work it is
    python restore.py slide.svs                                         # finds the artifacts first

The same command again goes on where the last one stopped. What people turn:

    --classes fold,bubble    only these
    --grow UM                widen the mask: what it misses of an artifact stays
    --steps N                evaluations of the denoiser per canvas; fewer is softer and faster
    --seed N                 other tissue
    --weights NAME|DIR       he-small, or the weights/ of a run of train.py
    --adapt MINUTES          first learn this slide's own clean tissue
    --device cuda:0,cuda:1   several GPUs share the work
    --config FILE.toml       any of `RestoreConfig` (artifusion/config.py): sampler, context_px, max_canvas_px, ...

`python restore.py --help` has all of them. The pipeline is `artifusion.restoration.pipeline.restore_slide`.
"""

import sys

from artifusion.cli.app import main

if __name__ == "__main__":
    main(["restore", *sys.argv[1:]], prog_name="artifusion")
