"""docs/generated/performance.md and its pictures, drawn from a benchmark's JSON."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

PARTS = ("tile", "denoiser", "slides", "commands")
STAGES = {
    "read": "read: open, hash, canvases; finished canvases kept", "plan": "plan: mask, regions, canvases",
    "denoise": "denoise (from a sample)", "encode": "encode: touched tiles found, decoded, painted, encoded",
    "write": "write: everything else into a fresh file",
    "verify": "verify: every segment compared, output hashed; fsync meanwhile",
    "rest": "rest: what fsync takes longer, declaration, publishing",
}
REACHED = {True: "yes", False: "**no**"}
QUICK = "\n**A quick run, to see that everything runs: its figures mean nothing.**\n"


def write(result: dict[str, Any], docs: Path) -> Path:
    """Draw a result; returns the page. Parts that were not measured are left out."""
    parts = {name: part["figures"] for name, part in result["parts"].items()}
    (docs / "pictures").mkdir(parents=True, exist_ok=True)
    sections = [head(result), aims(parts)]
    if "tile" in parts:
        sections.append(tile(parts["tile"]))
    if "denoiser" in parts:
        draw_denoiser(parts["denoiser"], docs / "pictures/performance-denoiser.jpg")
        sections.append(denoiser(parts["denoiser"]))
    if "slides" in parts:
        draw_slides(parts["slides"], docs / "pictures/performance-slides.jpg")
        sections.append(slides(parts["slides"], result["parts"]["slides"]["tissue"]))
    if "commands" in parts:
        sections.append(commands(parts["commands"]))
    page = docs / "performance.md"
    page.write_text("\n".join(map(filled, sections)))
    return page


def filled(section: str) -> str:
    """Markdown with its prose in lines of 120."""
    blocks = [block if block.startswith(("#", "|", "!")) else textwrap.fill(block, 120, break_on_hyphens=False)
              for block in section.strip("\n").split("\n\n")]
    return "\n\n".join(blocks) + "\n"


def figure(value: float) -> str:
    """A number as people read it: three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(figure(cell) if isinstance(cell, float) else str(cell) for cell in line) + " |"
                     for line in lines) + "\n"


def head(result: dict[str, Any]) -> str:
    machines = {name: part["machine"] for name, part in result["parts"].items()}
    facts = next(iter(machines.values()))
    took = ", ".join(f"{name} {part['took_s']:.0f} s" for name, part in result["parts"].items())
    load = ", ".join(f"{machine['load_at_start']:.1f} ({name})" for name, machine in machines.items())
    formats = "AVX-512 BF16 without AMX" if facts["avx512_bf16"] else "no bfloat16 of its own"
    formats = "AMX" if facts["amx"] else formats
    hardware = f"{facts['gpu']}, beside {facts['cpu']}" if facts["gpu"] else facts["cpu"]
    return f"""# Performance
{QUICK if result["quick"] else ""}
Drawn by `make bench` from `benchmarks/results/{result["version"]}/`; do not edit. Version {result["version"]}, on
{hardware}, {facts["cores"]} cores, {facts["threads"]} threads, {facts["memory_gb"]} GB ({facts["system"]};
{formats}), torch {facts["torch"]}.
It took: {took}. Load average of the machine when it began: {load}. Figures are medians of turns, and what is compared
takes turns in one run. `python -m benchmarks.speed.bench --help` tells how to measure a part alone.
"""


def aims(parts: dict[str, Any]) -> str:
    rows = [(*row[:3], REACHED[row[3]]) for row in rows_of_aims(parts)]
    return "## What it should reach\n\n" + table(("what", "aim", "measured", "reached"), rows)


def rows_of_aims(parts: dict[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """(what, aim, measured, whether it is reached)."""
    if found := parts.get("tile"):
        for key, what, least in (("evaluations", "evaluations per 256 x 256 tile, published / ours", 240),
                                 ("gflop", "GFLOP per tile, published / ours", 350)):
            ratio = found[key]["published"] / found[key]["ours"]
            yield what, f"at least {least}", figure(ratio), ratio >= least
        for name, seconds in found["seconds"].items():
            ratio = seconds["ratio"]
            yield (f"seconds per tile in {name}, published / ours", "at least 150, better 300", figure(ratio),
                   ratio >= 150)
    if found := parts.get("denoiser"):
        for name in found["peak_gflops"]:
            row = best(found, name)
            yield (f"denoiser in {name}, of the measured peak, at its best batch", "at least 40 %",
                   f"{row['share_of_peak']:.0%}", row["share_of_peak"] >= 0.4)
    if found := parts.get("slides"):
        yield from slide_aims(found)


def slide_aims(found: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, bool]]:
    least, middle, most = found[0], found[len(found) // 2], found[-1]
    name = f"slide work other than denoising, {figure(middle['gigapixels'])} Gpx"
    yield (f"{name}, against 3 plain copies with fsync + the touched tiles' codec time", "at most 1",
           f"{figure(middle['work_over_allowed'])} ({figure(middle['work_s'])} s; copy {figure(middle['copy_s'])} s, "
           f"codec {figure(middle['parts_s']['codec'])} s)", middle["work_over_allowed"] <= 1)
    faster = middle["reencode_over_work"]
    yield (f"{name}: full re-encode (pyvips) / ours", "at least 15",
           f"{figure(faster)} ({figure(middle['reencode_s'])} s)", faster >= 15)
    memory = [slide["peak_mb"] for slide in found]
    span = f"{figure(least['gigapixels'])} to {figure(most['gigapixels'])} Gpx"
    yield (f"peak memory of the process tree, {span}, largest / smallest", "at most 1.2",
           figure(max(memory) / min(memory)), max(memory) / min(memory) <= 1.2)
    yield f"peak memory of the process tree, {span}", "under 2 GB", f"{max(memory):,.0f} MB", max(memory) < 2000


def tile(found: dict[str, Any]) -> str:
    rows: list[Sequence[object]] = [
        (what, f"{found[key]['ours']:,.4g}", f"{found[key]['published']:,.6g}",
         found[key]["published"] / found[key]["ours"])
        for what, key in (("evaluations", "evaluations"), ("GFLOP per evaluation", "gflop_per_evaluation"),
                          ("GFLOP", "gflop"))]
    for name, seconds in found["seconds"].items():
        ratios = ", ".join(map(figure, seconds["all_ratios"]))
        rows.append((f"seconds, {name}", seconds["ours_s"], seconds["published_s"],
                     f"{figure(seconds['ratio'])} ({ratios})"))
    return f"""## A tile against the published procedure

One tile of {found["side_px"]} x {found["side_px"]} px with a hole of {found["hole_share"]:.0%}: ours at the default
(weights {found["weights"]}) against the published procedure (`configs/restore/paper.toml`) with the published network
(`configs/train/paper.toml`, untrained: for its cost alone). {found["sampled_evaluations"]} evaluations of the published
walk are timed, re-noising and known pixels included, and counted up to all; ours is timed whole. The number format is
forced, whatever the default here is. FLOP as torch counts them, of all that is evaluated (published: 16.2 GFLOP per
evaluation).

""" + table(("", "ours", "published", "published / ours"), rows)


def best(found: dict[str, Any], name: str) -> dict[str, Any]:
    return max((row for row in found["sampling"] if row["format"] == name), key=lambda row: row["share_of_peak"])


def denoiser(found: dict[str, Any]) -> str:
    names = list(found["peak_gflops"])
    by_canvas: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    for row in found["sampling"]:
        by_canvas.setdefault((row["canvas_px"], row["batch"]), {})[row["format"]] = row
    rows = [(f"{side} px, batch {batch}",
             *(f"{figure(row[name]['evaluations_per_second'])} ({row[name]['share_of_peak']:.0%})" for name in names))
            for (side, batch), row in by_canvas.items()]
    peaks = ", ".join(f"{figure(peak)} in {name}" for name, peak in found["peak_gflops"].items())
    learnt = found["training"]
    return f"""## The denoiser

Evaluations per second, in brackets the share of the matrix-multiply peak measured in the same format: {peaks} GFLOP/s.
{figure(found["gflop_per_evaluation_256"])} GFLOP per evaluation of 256 x 256 px. The default here is
{found["default_format"]}. Training, whole steps on {learnt["batch"]} crops of {learnt["crop_px"]} px in that format:
{figure(learnt["crops_per_second"])} crops per second ({learnt["share_of_peak"]:.0%} of the peak).

{table(("canvas", *names), rows)}
![share of the peak](pictures/performance-denoiser.jpg)
"""


def slides(found: list[dict[str, Any]], tissue: str) -> str:
    def row(what: str, *values: object) -> tuple[object, ...]:
        return what, *("not run" if value is None else value for value in values)

    middle, growth = found[len(found) // 2], found[-1]["gigapixels"] / found[0]["gigapixels"]
    touched_s = middle["stages_s"]["encode"] + middle["parts_s"]["compare_touched"]
    rows = [row("file, MB", *(slide["megabytes"] for slide in found)),
            row("masked", *(f"{slide['masked_share']:.2%}" for slide in found)),
            row("canvases (denoised in the sample)",
                *(f"{slide['canvases']:,} ({slide['sampled_canvases']:.0f})" for slide in found)),
            row("segments (touched)", *(f"{slide['segments']:,} ({slide['touched']:,})" for slide in found))]
    rows += [row(f"{text}, s", *(slide["denoise_s"] if name == "denoise" else slide["stages_s"][name]
                                 for slide in found)) for name, text in STAGES.items()]
    rows += [
        row("**all but denoising, s**", *(slide["work_s"] for slide in found)),
        row("of it codec of touched tiles (encode, verify), s", *(slide["parts_s"]["codec"] for slide in found)),
        row("of it other work on touched tiles, s", *(
            slide["stages_s"]["encode"] + slide["parts_s"]["compare_touched"] - slide["parts_s"]["codec"]
            for slide in found)),
        row("of it SHA-256 of the source, s", *(slide["parts_s"]["hash"] for slide in found)),
        row("plain copy with fsync, s", *(slide["copy_s"] for slide in found)),
        row("all but denoising and codec / plain copy", *(slide["besides_codec_over_copy"] for slide in found)),
        row("full re-encode with pyvips, s", *(slide.get("reencode_s") for slide in found)),
        row("full re-encode / all but denoising", *(slide.get("reencode_over_work") for slide in found)),
        row("peak memory, with the denoiser, MB", *(slide["peak_mb"] for slide in found)),
        row("peak memory, painted flat without torch, MB", *(slide["peak_without_denoiser_mb"] for slide in found)),
        row("peak memory of the re-encode, MB", *(slide.get("reencode_peak_mb") for slide in found)),
        row("turns", *(slide["turns"] for slide in found)),
    ]
    return f"""## Whole slides

Aperio-like pyramids (JPEG 4:2:0, tiles of 256 px cut from tissue ({tissue}), three levels), 1 % masked in discs, in
the page cache. `restore_slide` as it is, in a process of its own. **Denoising is not run to its end**: the painter
denoises the first batch of canvases, timed, and its seconds per pixel times all canvas pixels are the row "denoise";
all other canvases get one flat colour at once. Everything else really happens, verification included. Interpreter start
and imports are not in it (see the commands below). A re-encode paints nothing: it decodes and encodes the pyramid.

{table(("", *(f"{figure(slide['gigapixels'])} Gpx" for slide in found)), rows)}
From the smallest to the largest, {figure(growth)} times the pixels, all but denoising takes
{figure(found[-1]["work_s"] / found[0]["work_s"])} times as long and memory is
{figure(found[-1]["peak_mb"] / found[0]["peak_mb"])} times as much. At {figure(middle["gigapixels"])} Gpx the touched
tiles, painted and verified, take {touched_s / middle["work_s"]:.0%} of it; the rest is
{figure(middle["reencode_s"] / (middle["work_s"] - touched_s))} times faster than the re-encode and takes
{figure((middle["work_s"] - touched_s) / middle["copy_s"])} times as long as a plain copy.

![stages and memory](pictures/performance-slides.jpg)
"""


def commands(found: dict[str, Any]) -> str:
    rows = [(text, found[name]["seconds"], ", ".join(map(str, found[name]["all_seconds"]))) for name, text in
            (("help", "`artifusion --help`"),
             ("dry_run", f"`artifusion restore --dry-run`, {figure(found['gigapixels'])} Gpx, 1 % masked"))]
    return "## The command line\n\nWhole processes, start and imports included.\n\n" + table(
        ("command", "seconds, median", "all"), rows)


def draw_denoiser(found: dict[str, Any], picture: Path) -> None:
    plot = Figure(figsize=(8, 3.2), layout="constrained")
    axes = plot.subplots()
    names = list(found["peak_gflops"])
    for number, name in enumerate(names):
        rows = [row for row in found["sampling"] if row["format"] == name]
        axes.bar([at + 0.4 * number for at in range(len(rows))], [100 * row["share_of_peak"] for row in rows], 0.38,
                 label=name)
    axes.set_xticks([at + 0.2 * (len(names) - 1) for at in range(len(rows))],
                    [f"{row['canvas_px']} px\nx {row['batch']}" for row in rows])
    axes.axhline(40, color="black", linestyle="--", linewidth=1, label="aim")
    axes.set(ylabel="% of the format's peak", title="denoiser by canvas and batch")
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(plot, picture)


def draw_slides(found: list[dict[str, Any]], picture: Path) -> None:
    plot = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = plot.subplots(1, 2)
    names = [f"{figure(slide['gigapixels'])} Gpx" for slide in found]
    bottom = [0.0] * len(found)
    for stage in (stage for stage in STAGES if stage != "denoise"):
        values = [slide["stages_s"][stage] / slide["gigapixels"] for slide in found]
        left.bar(names, values, 0.6, bottom, label=stage)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    left.plot(names, [slide["copy_s"] / slide["gigapixels"] for slide in found], "k_", markersize=40,
              label="plain copy")
    left.set(ylabel="seconds per Gpx", title="all but denoising")
    left.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5),
                markerscale=0.4)
    right.bar(names, [slide["peak_mb"] for slide in found], 0.6)
    right.axhline(2000, color="black", linestyle="--", linewidth=1)
    right.set(ylabel="MB", title="peak memory of the process tree")
    save(plot, picture)


def save(plot: Figure, picture: Path) -> None:
    """As a JPEG of some 30 KB."""
    buffer = io.BytesIO()
    plot.savefig(buffer, dpi=100, format="png")
    Image.open(buffer).convert("RGB").save(picture, "JPEG", quality=80, optimize=True)
