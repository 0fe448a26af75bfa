"""Every public type is complete, as pyright sees the installed package."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import safedefer

PACKAGE = Path(safedefer.__file__).parent


def test_every_public_type_is_known(tmp_path: Path) -> None:
    # pyright wants to find the package installed, and not under the folder it runs in.
    venv.create(tmp_path / "venv", symlinks=True)
    packages = next((tmp_path / "venv/lib").iterdir()) / "site-packages"
    for folder in Path(sys.prefix).glob("lib/python*/site-packages/*"):
        if not (packages / folder.name).exists():
            (packages / folder.name).symlink_to(folder)
    (packages / "safedefer").symlink_to(PACKAGE)
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "safedefer", "--ignoreexternal"],
        cwd=tmp_path,
        env={**os.environ, "VIRTUAL_ENV": str(tmp_path / "venv"), "PATH": f"{tmp_path / 'venv/bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Type completeness score: 100%" in done.stdout, done.stdout
