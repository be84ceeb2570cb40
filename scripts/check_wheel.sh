#!/usr/bin/env bash
# Builds the wheel, installs it alone into a fresh environment and uses it from another folder: the configurations and
# weights must have travelled along. Dependencies are borrowed from the environment of $PYTHON, so nothing is downloaded
# where that has setuptools 77 or newer. Also the scripts of the checkout: python restore.py, python train.py.
#
#   PYTHON=.venv/bin/python bash scripts/check_wheel.sh
set -euo pipefail
unset PYTHONPATH                                            # only what is installed counts
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

mkdir "$scratch/source" "$scratch/elsewhere"
cp -r "$root"/{artifusion,configs,setup.cfg,pyproject.toml,README.md,LICENSE} "$scratch/source"   # no stale build/
isolation=()
if "$python" -c 'import sys, setuptools; sys.exit(int(setuptools.__version__.split(".")[0]) < 77)' 2>/dev/null; then
    isolation=(--no-build-isolation)
fi
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps "${isolation[@]}" -w "$scratch" "$scratch/source"

"$python" -m venv --without-pip "$scratch/venv"
"$python" -m pip --python "$scratch/venv/bin/python" install --quiet --disable-pip-version-check --no-deps --no-index \
    "$scratch"/artifusion-*.whl
"$python" - "$scratch/venv" <<'PY'
import site, sys
from pathlib import Path
folder = next(Path(sys.argv[1]).glob("lib/python*/site-packages"))
borrowed = [path for path in site.getsitepackages() if Path(path).is_dir()]
(folder / "borrowed.pth").write_text("\n".join(borrowed) + "\n")      # .pth files in there are not read: no checkout
PY

cd "$scratch/elsewhere"
PATH="$scratch/venv/bin:$PATH"
python -c 'import artifusion, sys; sys.exit(not artifusion.__file__.startswith(sys.prefix) and artifusion.__file__)'
artifusion --help >/dev/null
artifusion info he-small | grep '^weights *he-small' >/dev/null
python - <<'PY'
from PIL import Image, ImageDraw
from artifusion.config import RestoreConfig, TrainConfig, load_config
load_config(RestoreConfig, "restore", "default")
load_config(TrainConfig, "train", "he-small")
Image.effect_noise((160, 128), 40).convert("RGB").save("image.png")
mask = Image.new("L", (160, 128))
ImageDraw.Draw(mask).ellipse((60, 50, 90, 80), fill=255)
mask.save("mask.png")
PY
artifusion restore image.png --mask mask.png --config default --steps 1 --device cpu --mpp 0.5 --quiet
artifusion verify image.png image.restored.png | tail -1 | grep -qx ok
for command in restore train; do
    "$python" "$root/$command.py" --help | grep "Usage: artifusion $command" >/dev/null
done
echo "the wheel works on its own"
