"""The built wheel alone, in a fresh environment and from another folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_installed_wheel_works_from_any_folder(tmp_path):
    result = subprocess.run(["bash", ROOT / "scripts/check_wheel.sh"], cwd=tmp_path, capture_output=True, text=True,
                            env={**os.environ, "PYTHON": sys.executable})
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("the wheel works on its own\n")
