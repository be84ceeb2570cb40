"""What a restoration will do, known before it paints anything: where it writes, what it paints, what would fail."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from artifusion.config import RestoreConfig
from artifusion.errors import ConfigError
from artifusion.mask.mask import Mask
from artifusion.mask.regions import Canvas, Region, find_regions, plan_canvases, without_regions
from artifusion.output.container import check_same_size, container_of, default_output
from artifusion.output.forecast import Forecast, forecast
from artifusion.output.lookover import look_over
from artifusion.output.output import Output
from artifusion.output.preview import check_picture_name
from artifusion.slide.reader import Slide


@dataclass(frozen=True)
class Plan:
    """What will be painted, in which order; a resumed run follows the same plan and so rounds like a straight one."""

    mask: Mask
    regions: tuple[Region, ...]
    canvases: tuple[Canvas, ...]
    spacing_um: float

    @property
    def area_px(self) -> int:
        return sum(region.area_px for region in self.regions)

    def without(self, ids: Collection[int]) -> Plan:
        """The plan without the regions of these ids."""
        away = [region for region in self.regions if region.id in ids]
        return Plan(without_regions(self.mask, away), tuple(region for region in self.regions if region not in away),
                    tuple(canvas for canvas in self.canvases if canvas.region not in ids), self.spacing_um)


def check_length(minutes: float | None, crops: int | None) -> None:
    """Raise ValueError unless one length of an adaptation is given, and above 0."""
    if (minutes is None) == (crops is None):
        raise ValueError(f"give adapt_minutes (--adapt) or adapt_crops (--adapt-crops), not {minutes} and {crops}")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise ValueError(f"adapt_minutes must be above 0, got {minutes}")
    if crops is not None and crops < 1:
        raise ValueError(f"adapt_crops must be at least 1, got {crops}")


def plan_restoration(slide: Slide, mask: Mask, config: RestoreConfig, multiple: int) -> Plan:
    """The regions of a mask and the canvases in which they are painted; reads no pixels of the slide.

    Raises:
        ConfigError: the largest canvas has no room for its context.
    """
    if config.max_canvas_px < 4 * config.context_px + multiple:
        raise ConfigError(f"max_canvas_px must be at least 4 context_px + {multiple} = "
                          f"{4 * config.context_px + multiple}, not {config.max_canvas_px}")
    regions = find_regions(mask, config.merge_px)
    canvases = plan_canvases(
        regions, slide.size, multiple=multiple, context_px=config.context_px, max_px=config.max_canvas_px, mask=mask
    )
    return Plan(mask, regions, canvases, slide.mpp or config.default_spacing_um)


def foresee(slide: Slide, plan: Plan, output: Output, lossless: bool) -> Forecast:
    """What will be written. What would fail then, but for the disk, fails now: all that will be read is looked over.

    Raises:
        SlideError: the slide is damaged where it will be read.
        OutputError: no room on the disk.
    """
    expected = forecast(slide, output.target, lossless)
    output.check_space(expected.size_bytes + 3 * sum(canvas.l0_target.area for canvas in plan.canvases))
    boxes = [canvas.l0_box for canvas in plan.canvases]
    return replace(expected, whole=look_over(slide, plan.mask, output.target, boxes))


def plan_output(slide: Slide, out: str | Path | None, mask: str | Path | None, preview: str | Path | None, *,
                overwrite: bool, same_size: bool) -> Output:
    """The output of a restoration, with its sidecar, its polygons and its preview, checked before any work.

    Raises:
        OutputError: a file that may not be written, or that the slide cannot be written as.
    """
    target = Path(out) if out is not None else default_output(slide.path, slide)
    inputs, suffixes = [slide.path], [".json", ".geojson"]
    if mask is None:
        suffixes.append(".mask.png")                                  # of what will be detected
    else:
        inputs.append(Path(mask))
    output = Output(target, inputs, suffixes=suffixes, others=[Path(preview)] if preview else [],
                    overwrite=overwrite)
    output.check()
    if preview:
        check_picture_name(Path(preview))
    container_of(slide, target)
    if same_size:
        check_same_size(slide, target)
    return output
