"""etc/minicloud.conf.sample is what oslo-config-generator makes of the source."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = TOP / "etc" / "minicloud.conf.sample"


def generated(directory: pathlib.Path, source: pathlib.Path = TOP) -> str:
    """The sample of this checkout, under a name that no installed minicloud has; `directory` is
    for that."""
    about = directory / "checkout-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: checkout\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[oslo.config.opts]\ncheckout = minicloud.config:list_opts\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from oslo_config.generator import main; main()"),
            *("--namespace", "checkout"),
        ],
        env=os.environ | {"PYTHONPATH": f"{source}:{directory}"},
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.replace("# From checkout\n", "# From minicloud\n")


def test_the_sample_configuration_is_generated_from_this_source(tmp_path: pathlib.Path) -> None:
    assert SAMPLE.read_text() == generated(tmp_path), (
        "write it anew: oslo-config-generator --namespace minicloud"
        " --output-file etc/minicloud.conf.sample"
    )
