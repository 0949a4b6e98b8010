"""Check that a wheel holds every file of the tree, nothing else, and is small: scripts/check_wheel.py WHEEL"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 12_000_000  # bytes
HOMES = {"led_agent": "led_agent", "strategies": "led_agent/strategies", "verifiers": "led_agent/verifiers"}


def expected() -> set[str]:
    """Where each tracked file of the three folders belongs in the wheel."""
    listed = subprocess.run(["git", "ls-files", *HOMES], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in listed.stdout.splitlines() if not (ROOT / name).is_symlink()]
    return {str(Path(HOMES[file.parts[0]], *file.parts[1:])) for file in files}


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    missing, extra = expected() - found, found - expected()
    if missing or extra:
        sys.exit(
            f"the wheel lacks {sorted(missing)} and has {sorted(extra)} too many; see [tool.setuptools] in pyproject"
        )
    size = Path(sys.argv[1]).stat().st_size
    if size > LARGEST:
        sys.exit(f"the wheel has {size / 1e6:.1f} MB; at most {LARGEST / 1e6:g} are allowed: the models grew")
    print(f"the wheel holds all {len(found)} files in {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
