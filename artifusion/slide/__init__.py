"""Room 1: slides, masks, regions and files, in numpy; never torch."""

from artifusion.slide.container import container_of, default_output
from artifusion.slide.maskfiles import read_mask
from artifusion.slide.masks import Mask, rectilinear
from artifusion.slide.patches import Patches
from artifusion.slide.reader import Slide, open_slide
from artifusion.slide.regions import Canvas, Region, batches, find_regions, plan_canvases
from artifusion.slide.verify import VerifyReport, verify_slide
from artifusion.slide.writer import WriteReport, write_slide

__all__ = [
    "Canvas",
    "Mask",
    "Patches",
    "Region",
    "Slide",
    "VerifyReport",
    "WriteReport",
    "batches",
    "container_of",
    "default_output",
    "find_regions",
    "open_slide",
    "plan_canvases",
    "read_mask",
    "rectilinear",
    "verify_slide",
    "write_slide",
]
