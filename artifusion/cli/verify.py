"""`artifusion verify`: a restored slide compared with its source."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from artifusion.cli.options import PATH


@click.command()
@click.argument("source", type=PATH)
@click.argument("restored", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(source: Path, restored: Path, as_json: bool) -> None:
    """Compare RESTORED with its SOURCE; exit 1 if anything outside the declared regions differs.

    Reads the sidecar and the polygons beside RESTORED (RESTORED.json, RESTORED.geojson).
    """
    from artifusion.output.verify import verify_slide

    report = verify_slide(source, restored)
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else "\n".join(report.lines()))
    sys.exit(0 if report.ok else 1)
