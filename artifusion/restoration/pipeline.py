"""The pipeline: slide + mask -> regions -> canvases -> patches -> touched segments -> file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from artifusion import __version__
from artifusion.config import RestoreConfig
from artifusion.errors import ConfigError, OutputError
from artifusion.mask.classes import CLASSES
from artifusion.mask.mask import Mask
from artifusion.mask.reading import fingerprint, read_selection
from artifusion.mask.regions import Canvas, Region, find_regions, plan_canvases
from artifusion.mask.selection import MaskFormat, MaskSelection, Polarity
from artifusion.output.container import check_same_size, container_of, default_output
from artifusion.output.patches import Patches
from artifusion.output.preview import check_picture_name, draw_comparison
from artifusion.output.provenance import geojson, note, sidecar
from artifusion.output.verify import verify_slide
from artifusion.output.workspace import (
    bar,
    beside,
    check_outputs,
    finished,
    publish,
    published,
    sweep,
    workspace,
    write_json,
)
from artifusion.output.writer import synced, write_slide
from artifusion.restoration.painting import paint
from artifusion.slide.reader import Slide, file_state, open_slide, sha256

if TYPE_CHECKING:
    from artifusion.restorer import Restorer  # torch, which planning does without

REPAINTED = tuple(name for name in CLASSES if name != "blur")     # of what is detected: blur still carries information


@dataclass(frozen=True)
class Plan:
    """What will be painted, in which order; a resumed run follows the same plan and so rounds like a straight one."""

    mask: Mask
    regions: tuple[Region, ...]
    canvases: tuple[Canvas, ...]

    @property
    def area_px(self) -> int:
        return sum(region.area_px for region in self.regions)


def plan_restoration(slide: Slide, selection: MaskSelection, config: RestoreConfig, multiple: int) -> Plan:
    """The regions of a mask and the canvases in which they are painted; reads no pixels of the slide.

    Raises:
        MaskError: the mask cannot be read, cannot belong to this slide, or leaves nothing to paint from.
        ConfigError: the largest canvas has no room for its context.
    """
    if config.max_canvas_px < 4 * config.context_px + multiple:
        raise ConfigError(f"max_canvas_px must be at least 4 context_px + {multiple} = "
                          f"{4 * config.context_px + multiple}, not {config.max_canvas_px}")
    mask = read_selection(selection, slide)
    regions = find_regions(mask, config.merge_px)
    canvases = plan_canvases(
        regions, slide.size, multiple=multiple, context_px=config.context_px, max_px=config.max_canvas_px, mask=mask
    )
    return Plan(mask, regions, canvases)


def restore_slide(
    source: str | Path,
    mask: str | Path | None = None,
    out: str | Path | None = None,
    *,
    restorer: Restorer | None = None,
    seed: int = 0,
    mpp: float | None = None,
    polarity: Polarity | None = None,
    grow_um: float = 0.0,
    classes: Sequence[str] | None = None,
    mask_format: MaskFormat = "auto",
    lossless: bool = False,
    same_size: bool = False,
    preview: str | Path | None = None,
    any_stain: bool = False,
    adapt_minutes: float | None = None,
    adapt_crops: int | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> dict[str, Any] | None:
    """Restore the masked part of a slide or image into a new file; returns the sidecar's content.

    Without a mask what `detect` finds is restored, and OUT.mask.png keeps it; where that is nothing, nothing is
    written and None is returned. Only pixels under the mask are painted; the source is never touched. Beside OUT lie
    OUT.json (what was done) and OUT.geojson (the painted regions, for QuPath). Work in progress lies in OUT.partial:
    the same call after a crash goes on with the canvases already painted. OUT appears last, verified and whole.
    Memory is bounded by a batch of canvases and the mask, not by the slide.

    Args:
        source: anything OpenSlide opens, or a PNG, JPEG or TIFF image.
        mask: a raster image of the slide at any scale (white = restore), a class mask of GrandQC or of our own, a
            folder of HistoQC, or GeoJSON of QuPath or GrandQC; by default detected.
        out: default `<name>.restored<suffix>` beside the source.
        restorer: default `Restorer.from_pretrained()`.
        mpp: um per pixel, where the slide does not tell or tells wrong.
        polarity: "keep" where white means keep; given explicitly, the mask may cover over half of the slide.
        grow_um: widen the mask by this much.
        classes: restore only these of fold, bubble, pen, blur, dark, dust, other; of what is detected by default all
            but blur, which still carries information.
        mask_format: what the mask image is, where its content and name leave it open.
        any_stain: detect even on what is not H&E.
        lossless: re-encoded containers only: no lossy compression.
        same_size: touched tiles of copied JPEG 2000 keep about their size, by lossy compression, instead of being exact
            beside the mask; refused for other slides.
        preview: also draw before / mask / after into this .png or .jpg.
        adapt_minutes: first train the weights about so long on the slide's own clean tissue outside the mask.
        adapt_crops: the same for so many crops; what the sidecar of a run by minutes names gives the same bytes.

    Raises:
        SlideError, MaskError, OutputError: with what to do about it.
        DataError: too little clean tissue to adapt to.
    """
    started, adaptation = time.monotonic(), {}
    if adapt_minutes is not None or adapt_crops is not None:
        from artifusion.restoration.adaptation import adapt, check_length

        check_length(adapt_minutes, adapt_crops)
        adaptation = {"adaptation": {"minutes": adapt_minutes, "crops": adapt_crops}}
    if restorer is None:
        from artifusion.restorer import Restorer

        restorer = Restorer.from_pretrained()
    config = restorer.config
    with open_slide(source, mpp=mpp) as slide:
        target = Path(out) if out is not None else default_output(Path(source), slide)
        declaration, polygons = beside(target, ".json", ".geojson")
        outputs = [target, declaration, polygons, *([Path(preview)] if preview else [])]
        inputs = [Path(source), *([Path(mask)] if mask else [])]
        sweep(target)
        check_outputs(inputs, outputs, overwrite, published(target))     # tell it before the mask is outlined
        if preview:
            check_picture_name(Path(preview))
        container_of(slide, target)
        if same_size:
            check_same_size(slide, target)
        if mask is None:
            from artifusion.detection.detect import detect_mask

            classes = REPAINTED if classes is None else classes
            (mask,) = beside(target, ".mask.png")
            if not detect_mask(slide, mask, classes, any_stain, overwrite, quiet):
                return None
            inputs.append(mask)
        selection = MaskSelection(Path(mask), polarity, grow_um, classes, mask_format)
        plan = plan_restoration(slide, selection, config, restorer.multiple)
        if not quiet:
            print(plan.mask.summary, file=sys.stderr)
        spacing_um, state = slide.mpp or config.default_spacing_um, file_state(source)
        job: dict[str, Any] = {
            "version": __version__,
            "source": {"name": Path(source).name, "sha256": sha256(source)},
            "mask": {"name": selection.path.name, "sha256": fingerprint(selection, slide), "origin": plan.mask.origin,
                     "classes": list(selection.classes) if selection.classes is not None else None,
                     "polarity": polarity or "restore", "grow_um": grow_um},
            "weights": {"name": restorer.weights.name, "sha256": restorer.weights.sha256},
            "sampler": {"name": config.sampler, "condition": f"{config.condition} known", "steps": config.steps,
                        "evaluations_per_canvas": config.evaluations, "seed": seed, "device": restorer.device.type},
            "mpp": spacing_um,
            "mpp_from": slide.mpp_origin,
            "mpp_doubt": slide.mpp_doubt,
            "config": config.model_dump(),
            "lossless": lossless,
            "same_size": same_size,
            **adaptation,
        }
        avoid = plan.mask
        if adaptation and classes is not None:         # what is not repainted is still nothing to learn from
            avoid = read_selection(replace(selection, classes=CLASSES), slide)
        check_outputs(inputs, outputs, overwrite, published(target, job))
        done = finished(target, job)
        with workspace(target, job) as work:
            if done:
                return json.loads(declaration.read_text())
            declared_job = job
            if adaptation:
                restorer, facts = adapt(restorer, slide, avoid, spacing_um, work / "adaptation",
                                        minutes=adapt_minutes, crops=adapt_crops, quiet=quiet)
                declared_job = job | facts
            patches = Patches(work / "patches", slide, plan.mask)
            with closing(paint(plan.canvases, patches, restorer, spacing_um, seed)) as painting:
                for _ in tqdm(painting, desc="painting", unit="canvas", total=len(plan.canvases),
                              disable=quiet or None):
                    pass
            text = note(regions=len(plan.regions), share=plan.area_px / (slide.size.width * slide.size.height),
                        weights=restorer.weights.name, weights_sha256=restorer.weights.sha256,
                        sampler=f"{config.sampler} {config.evaluations} evaluations", seed=seed, version=__version__)
            report = write_slide(slide, plan.mask, patches, target, note=text, work=work, lossless=lossless,
                                 same_size=same_size, progress=bar("writing", quiet))
            content = sidecar(declared_job, plan.regions, len(plan.canvases), report.to_dict(), target.name, "",
                              time.monotonic() - started)
            declared = geojson(plan.mask, plan.regions, job["source"]["sha256"], slide.bounds_offset)
            known = job["source"]["sha256"] if file_state(source) == state else None    # else it is taken again
            with synced(report.path):
                verified = verify_slide(source, report.path, content, declared, source_sha256=known)
            if not verified.ok:
                raise OutputError(f"{target}: not written, verification failed: {'; '.join(verified.problems)}")
            content["output"]["sha256"] = verified.output_sha256
            content["verified"] = verified.to_dict()
            files = {declaration: write_json(work / "declaration.json", content),
                     polygons: write_json(work / "polygons.json", declared)}
            if preview:
                picture = work / f"preview{Path(preview).suffix}"
                with open_slide(report.path) as restored:
                    draw_comparison(slide, plan.mask, restored, [region.l0_box for region in plan.regions], picture)
                files[Path(preview)] = picture
            publish(work, job, {**files, target: report.path})
    return content
