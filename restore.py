"""`python restore.py ...` is `artifusion restore ...`."""

import sys

from artifusion.cli.app import main

if __name__ == "__main__":
    main(["restore", *sys.argv[1:]], prog_name="artifusion")
