"""`python -m artifusion` is `artifusion`."""

from artifusion.cli.app import main

if __name__ == "__main__":
    main(prog_name="artifusion")
