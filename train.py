"""`python train.py ...` is `artifusion train ...`."""

import sys

from artifusion.cli.app import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]], prog_name="artifusion")
