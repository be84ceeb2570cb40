"""The pipeline: slide + mask -> regions -> canvases -> patches -> touched segments -> file."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from artifusion import __version__
from artifusion.errors import MaskError, OutputError
from artifusion.evidence.index import DonorIndex
from artifusion.files import file_state, sha256, write_json
from artifusion.mask.classes import CLASSES, named_counts
from artifusion.mask.mask import Mask
from artifusion.mask.reading import ReadMask, read_to_restore
from artifusion.mask.selection import MaskFormat, MaskSelection, Polarity
from artifusion.mask.writer import write_class_png
from artifusion.output.container import say_left_out
from artifusion.output.history import earlier_passes
from artifusion.output.output import beside, digest
from artifusion.output.patches import Patches
from artifusion.output.preview import draw_comparison
from artifusion.output.progress_bar import byte_bar
from artifusion.output.provenance import Filled, declared, geojson, note, sidecar_of
from artifusion.output.region_colours import with_colours
from artifusion.output.verify import verify_slide
from artifusion.output.writer import sync_in_background, write_slide
from artifusion.restoration.grafting import Grafts, graft_regions
from artifusion.restoration.painting import paint
from artifusion.restoration.plan import Plan, check_length, foresee, plan_output, plan_restoration
from artifusion.restoration.recovering import Recoveries, recover_regions
from artifusion.restoration.unmasked import unmasked_artifacts
from artifusion.slide.reader import Slide, open_slide

if TYPE_CHECKING:
    from artifusion.detection.detected import Detection
    from artifusion.restorer import Restorer  # torch, which planning does without

RECOVERED = ("pen",)        # of what was detected: where tissue is recovered unless other classes are named


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
    recover: Sequence[str] | None = None,
    lossless: bool = False,
    same_size: bool = False,
    preview: str | Path | None = None,
    any_stain: bool = False,
    adapt_minutes: float | None = None,
    adapt_crops: int | None = None,
    undeclared: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> dict[str, Any] | None:
    """Restore the masked part of a slide or image into a new file; returns the sidecar, with "done_before" where the
    same call had been finished earlier and nothing was done now.

    Without a mask, what `detect` finds of `classes` is restored, and OUT.mask.png keeps it. Where that is nothing, or
    all of it is doubtful and kept, nothing is written and None is returned. Only pixels under the mask are painted; the
    source is never touched. Beside OUT lie OUT.json (what was done) and OUT.geojson (the painted regions, for QuPath).
    Work in progress lies in OUT.partial: the same call after a crash goes on with the canvases already painted. OUT
    appears last, verified and whole. What earlier passes over the slide declared beside it is declared with this one,
    and is neither donor nor learned from. Memory is bounded by a batch of canvases and the mask, not by the slide.

    Args:
        source: anything OpenSlide opens, or a PNG, JPEG or TIFF image.
        mask: a raster image of the slide at any scale (white = restore), a class mask of GrandQC or of our own, a
            folder of HistoQC, or GeoJSON of QuPath or GrandQC; by default detected.
        out: default `<name>.restored<suffix>` beside the source.
        restorer: default `Restorer.from_pretrained()`.
        mpp: um per pixel, where the slide does not tell or tells wrong.
        polarity: "keep" where white means keep; given explicitly, the mask may cover over half of the slide.
        grow_um: widen the mask by this much.
        classes: restore only these of fold, bubble, pen, blur, dark, dust, other; of what is detected by default none.
            The sidecar counts what is detected and left.
        mask_format: what the mask image is, where its content and name leave it open.
        recover: classes under which tissue still shows: what can be measured through them is, and only the rest is
            invented; by default pen where it was detected; () for none.
        any_stain: detect even on what is not H&E.
        lossless: re-encoded containers only: no lossy compression.
        same_size: touched tiles of copied JPEG 2000 keep about their size, by lossy compression, instead of being exact
            beside the mask; refused for other slides.
        preview: also draw before / mask / after into this .png or .jpg.
        adapt_minutes: first train the weights about so long on the slide's own clean tissue outside the mask.
        adapt_crops: the same for so many crops; what the sidecar of a run by minutes names gives the same bytes.
        undeclared: restore a restored slide although what declares its earlier passes is not beside it.

    Raises:
        SlideError, MaskError, OutputError: with what to do about it.
        DataError: too little clean tissue to adapt to.
        ConfigError: polarity "keep" or a format without a mask.
        ValueError: an argument that no slide makes right.
    """
    started = time.monotonic()
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    selection = MaskSelection.of(mask, polarity, grow_um, classes, mask_format)
    learning: dict[str, Any] = {"minutes": adapt_minutes, "crops": adapt_crops}
    if learns := any(length is not None for length in learning.values()):
        check_length(**learning)
    restorer = restorer or default_restorer()
    with open_slide(source, mpp=mpp) as slide:
        output = plan_output(slide, out, mask, preview, overwrite=overwrite, same_size=same_size)
        earlier = earlier_passes(slide, undeclared)
        found, left = (None, {}) if mask is not None else detected(slide, selection, any_stain, quiet)
        if found is not None and not found.counts(selection.classes or ()):
            return None
        read = read_given_or_found(selection, found, slide, output.target)
        plan = plan_restoration(slide, read.mask, restorer.config, restorer.multiple)
        state = file_state(source)
        job = {**job_of(slide, read, plan, restorer, seed), "lossless": lossless, "same_size": same_size,
               "recover": list(RECOVERED if recover is None and mask is None else recover or ())}
        avoid = earlier.with_mask(read.avoid, slide)
        foresee(slide, plan, output, lossless)
        if not quiet:
            print(plan.mask.summary, file=sys.stderr)
            say_left_out(slide, output.target)
        if earlier.passes:
            job["history"] = list(earlier.passes)
        if learns:
            job["adaptation"] = learning | restorer.threads
        if found is not None:
            job["mask"]["left"] = left
        output.check(job)
        with output.work_on(job) as work:
            if work is None:                                          # an earlier run had published everything
                return json.loads(beside(output.target, ".json").read_text()) | {"done_before": True}
            restorer, for_sidecar = learn_slide(restorer, slide, avoid, job, work, quiet)
            grafts = Grafts(work / "grafts", recover_plan(slide, plan, avoid, job["recover"], work, quiet))
            graft_plan(slide, plan, avoid, found, grafts, restorer, seed, quiet)
            verdicts = grafts.without_doubtful() if restorer.config.doubtful == "keep" else {}
            whole, plan = plan, plan.without(verdicts)
            if not plan.regions:
                return None
            for_sidecar["kept"] = declared([region for region in whole.regions if region.id in verdicts], verdicts)
            paint_plan(slide, whole.mask, plan, grafts, restorer, seed, work, quiet)
            filled = with_recovered(plan, grafts)
            patches = Patches(work / "patches", slide, plan.mask)
            report = write_slide(patches, output.target, note=note_of(plan, slide, filled, restorer, seed),
                                 work=work, lossless=lossless, same_size=same_size, progress=byte_bar("writing", quiet))
            for_sidecar |= {"canvases": len(plan.canvases), "job_sha256": digest(job),
                            "machine": job["machine"] | restorer.threads}
            sidecar = sidecar_of(job | for_sidecar, plan.regions, report.to_dict(),
                                 {"name": output.target.name}, time.monotonic() - started, filled)
            sidecar["regions"] = with_colours(sidecar["regions"], patches.read, plan.mask)
            polygons = earlier.joined(geojson(plan.mask, plan.regions, job["source"]["sha256"], report.bounds_offset,
                                              filled))
            sidecar |= verify_written(patches, report.path, output.target, sidecar, polygons,
                                      file_state(source) == state)
            output.publish({
                beside(output.target, ".json"): write_json(work / "sidecar.json", sidecar),
                beside(output.target, ".geojson"): write_json(work / "polygons.json", polygons, indent=None),
                **({} if found is None else {beside(output.target, ".mask.png"): detected_png(found, work)}),
                **({Path(preview): draw_preview(slide, plan, grafts, report.path, work, Path(preview))}
                   if preview else {}),
                output.target: report.path,
            })
    return sidecar


def detected(slide: Slide, selection: MaskSelection, any_stain: bool, quiet: bool) -> tuple[Detection, dict[str, int]]:
    """What is detected on a slide, and how many regions of each class are left, since nobody asked for them."""
    from artifusion.detection.detect import detect

    found = detect(slide, any_stain=any_stain, quiet=quiet)
    left = found.counts(set(CLASSES) - set(selection.classes or ()))
    if left and not quiet:
        print(how_to_accept(left, slide), file=sys.stderr)
    return found, left


def how_to_accept(left: Mapping[str, int], slide: Slide) -> str:
    """What was detected and is left as it is, how to look at it, and how to have it restored."""
    return (f"{slide.path.name}: {named_counts(left)} found and left as they are; look with `artifusion detect SLIDE "
            f"-o MASK.png --overlay LOOK.png`, and name with --classes what to restore (--classes {','.join(left)})")


def read_given_or_found(selection: MaskSelection, found: Detection | None, slide: Slide, target: Path) -> ReadMask:
    """The mask of a selection, of its file or, without one, of what was detected."""
    if found is None:
        return read_to_restore(selection, slide)
    with tempfile.TemporaryDirectory() as folder:
        path = beside(Path(folder) / target.name, ".mask.png")
        write_class_png(path, found.ids)
        try:
            return read_to_restore(replace(selection, path=path), slide)
        except MaskError as error:
            raise MaskError(str(error).replace(str(path), "what was detected")) from None


def detected_png(found: Detection, work: Path) -> Path:
    """The mask of what was detected, in the work folder: the bytes that were read."""
    write_class_png(work / "mask.png", found.ids)
    return work / "mask.png"


def job_of(slide: Slide, read: ReadMask, plan: Plan, restorer: Restorer, seed: int) -> dict[str, Any]:
    """All that decides the pixels: the job of a restoration, and what its sidecar says of it."""
    config = restorer.config
    return {
        "version": __version__,
        "source": {"name": slide.path.name, "sha256": sha256(slide.path)},
        "mask": dict(read.described),
        "weights": restorer.weights.named(),
        "sampler": {"name": config.sampler, "condition": f"{config.condition} known", "steps": config.steps,
                    "evaluations_per_canvas": config.evaluations, "seed": seed, "device": restorer.device.type},
        "machine": restorer.machine,
        "mpp": plan.spacing_um,
        "mpp_from": slide.mpp_origin,
        "mpp_doubt": slide.mpp_doubt,
        "config": config.model_dump(),
    }


def learn_slide(restorer: Restorer, slide: Slide, avoid: Mask, job: Mapping[str, Any], work: Path, quiet: bool
                ) -> tuple[Restorer, dict[str, Any]]:
    """The restorer, adapted to the slide's clean tissue where the job asks for it, and what the sidecar says of it."""
    if "adaptation" not in job:
        return restorer, {}
    from artifusion.restoration.adaptation import adapt

    length = {name: job["adaptation"][name] for name in ("minutes", "crops")}
    return adapt(restorer, slide, avoid, work / "adaptation", **length, quiet=quiet)


def recover_plan(slide: Slide, plan: Plan, avoid: Mask, classes: Sequence[str], work: Path, quiet: bool) -> Recoveries:
    """What is recovered of all regions of a plan; what an interrupted run recovered is taken as it is.

    Nothing of `avoid` is taken for clean tissue.
    """
    recoveries = Recoveries(work / "recovered")
    regions = [region for region in plan.regions if classes]
    for _ in tqdm(recover_regions(slide, plan.mask, regions, classes, plan.spacing_um, recoveries, avoid),
                  desc="recovering", unit="region", total=len(regions), disable=quiet or not regions or None):
        pass
    return recoveries


def with_recovered(plan: Plan, grafts: Grafts) -> dict[int, Filled]:
    """How each region was restored; nothing where all was painted without looking for anything else."""
    seen = {region.id: grafts.recoveries.of(region) for region in plan.regions}
    if not any(seen.values()):
        return grafts.filled
    return {number: replace(grafts.filled.get(number, Filled()), recovered=found) for number, found in seen.items()}


def graft_plan(slide: Slide, plan: Plan, avoid: Mask, found: Detection | None, grafts: Grafts, restorer: Restorer,
               seed: int, quiet: bool) -> None:
    """Find the grafts of all regions of a plan; those that an interrupted run found are taken as they are.

    Donors lie outside `avoid` and outside what detection finds, which `avoid` holds where it was asked before.
    """
    if restorer.config.graft == "auto" and not all(region.id in grafts.filled for region in plan.regions):
        index = DonorIndex.of(slide, plan.spacing_um, [avoid])
        if found is None:
            index = index.without(unmasked_artifacts(index))
        for _ in tqdm(graft_regions(slide, plan.mask, plan.regions, index, restorer, grafts, seed), desc="finding",
                      unit="region", total=len(plan.regions), disable=quiet or None):
            pass


def paint_plan(slide: Slide, hidden: Mask, plan: Plan, grafts: Grafts, restorer: Restorer, seed: int, work: Path,
               quiet: bool) -> None:
    """Paint the patches of all canvases of a plan; those that an interrupted run painted are taken as they are.

    `hidden`: what no canvas may take for tissue: the plan's mask, and the regions that are kept as scanned.
    """
    patches = Patches(work / "patches", slide, hidden)
    with closing(paint(plan.canvases, patches, restorer, plan.spacing_um, seed, grafts)) as painting:
        for _ in tqdm(painting, desc="painting", unit="canvas", total=len(plan.canvases), disable=quiet or None):
            pass


def note_of(plan: Plan, slide: Slide, filled: Mapping[int, Filled], restorer: Restorer, seed: int) -> str:
    """The line about a restoration in the slide's description."""
    config, slide_px = restorer.config, slide.size.width * slide.size.height
    grafted_px = sum(how.grafted_px for how in filled.values())
    seen_px = sum(sum(how.recovered.px.values()) for how in filled.values() if how.recovered)
    return note(regions=len(plan.regions), share=plan.area_px / slide_px, grafted=grafted_px / slide_px,
                recovered=seen_px / slide_px, weights=restorer.weights.name, weights_sha256=restorer.weights.sha256,
                sampler=f"{config.sampler} {config.evaluations} evaluations", seed=seed)


def verify_written(patches: Patches, written: Path, target: Path, sidecar: dict[str, Any], polygons: dict[str, Any],
                   unchanged: bool) -> dict[str, Any]:
    """What the sidecar says of a written slide: its SHA-256 and the verification, while it is brought to the disk.

    Args:
        unchanged: whether the source is still the file whose SHA-256 the sidecar holds.

    Raises:
        OutputError: the verification failed.
    """
    known = sidecar["source"]["sha256"] if unchanged else None
    with sync_in_background(written):
        verified = verify_slide(patches.slide, written, sidecar, polygons, source_sha256=known, patches=patches)
    if not verified.ok:
        raise OutputError(f"{target}: not written, verification failed: {'; '.join(verified.problems)}")
    return {"output": sidecar["output"] | {"sha256": verified.output_sha256}, "verified": verified.to_dict()}


def draw_preview(slide: Slide, plan: Plan, grafts: Grafts, written: Path, work: Path, preview: Path) -> Path:
    """The picture of a restoration, in the work folder."""
    picture = work / f"preview{preview.suffix}"
    parts = grafts.recoveries.areas()
    parts["grafted"] = [polygon for how in grafts.filled.values() for graft in how.grafts for polygon in graft.kept]
    masks = {name: Mask(tuple(polygons), slide.size) for name, polygons in parts.items() if polygons}
    with open_slide(written) as restored:
        draw_comparison(slide, plan.mask, masks, restored, [region.l0_box for region in plan.regions], picture)
    return picture


def default_restorer() -> Restorer:
    """A restorer with the embedded weights."""
    from artifusion.restorer import Restorer

    return Restorer.from_pretrained()
