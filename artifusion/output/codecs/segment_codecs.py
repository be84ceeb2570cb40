"""Codecs of TIFF segments: what a compressed segment holds, and how other pixels are written in its place.

A codec belongs to one page. Its samples are uint8 (H, W, 3) as the page stores them, so an exact codec gives back
what was written; `rgb` and `samples` convert between samples and colours. No more is unpacked than the page's segments
can hold, whatever a segment says. Everything that copies, builds or verifies
segments gets its codec from `codec_of`.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Protocol

import imagecodecs
import numpy as np
from PIL import Image

from artifusion.errors import SlideError
from artifusion.geometry import Box, Size
from artifusion.output.allowed_change import reencoded_reason
from artifusion.output.codecs import jpeg
from artifusion.slide import tiff
from artifusion.slide.whole import jpeg_ends_early

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, APERIO_YCBCR, APERIO_RGB = 1, 5, 7, 8, 32946, 33003, 33005
PACKED = {NONE: "uncompressed", LZW: "LZW", DEFLATE: "deflate", OLD_DEFLATE: "deflate"}
JPEG_2000 = {APERIO_YCBCR: "JPEG 2000 (YCbCr)", APERIO_RGB: "JPEG 2000 (RGB)"}
ONE_NUMBER = (tiff.WIDTH, tiff.HEIGHT, tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.FILL_ORDER, tiff.SAMPLES, tiff.PLANAR,
              tiff.PREDICTOR, tiff.TILE_WIDTH, tiff.TILE_HEIGHT, tiff.ROWS_PER_STRIP)
HORIZONTAL = 2                          # TIFF predictor: differences along a row


class Codec(Protocol):
    """The codec of one page."""

    @property
    def name(self) -> str:
        """The codec's common name, for messages and reports."""

    @property
    def exact(self) -> bool:
        """Whether samples that are written are decoded unchanged; pixels beside the mask then stay the same."""

    @property
    def generic(self) -> bool:
        """Whether OpenSlide reads the codec in a generic TIFF."""

    @property
    def how(self) -> str:
        """How touched segments are written, in words, for the report."""

    def why_not(self, data: bytes) -> str:
        """Return why a segment that can be decoded cannot be written again; empty where it can."""

    def decode(self, data: bytes) -> np.ndarray:
        """Return the samples of a segment, uint8 (H, W, 3). Raises SlideError where it is damaged."""

    def encode(self, samples: np.ndarray, like: bytes, touched: np.ndarray) -> bytes:
        """Return samples, uint8 (H, W, 3), as a segment in place of `like`.

        Args:
            touched: bool (H, W); everywhere else the samples are those of `like`.
        """

    def reach(self, touched: np.ndarray, like: bytes) -> np.ndarray:
        """Return where samples can change, bool (H, W): under `touched` and where codes are shared with these."""

    def rgb(self, samples: np.ndarray) -> np.ndarray:
        """Return the colours that OpenSlide shows for samples: uint8 (H, W, 3) -> uint8 (H, W, 3)."""

    def samples(self, rgb: np.ndarray) -> np.ndarray:
        """Return the samples nearest to colours: uint8 (H, W, 3) -> uint8 (H, W, 3)."""


@dataclass(frozen=True)
class JpegCodec:
    """Baseline JPEG, whose segments hold their own tables or use the page's."""

    tables: bytes
    photometric: int
    size: Size                          # of a whole segment
    name = "JPEG"
    exact = False
    generic = True
    how = "touched segments written with their own tables; blocks that the mask does not reach keep their coefficients"

    def why_not(self, data: bytes) -> str:
        return jpeg.why_not(data, self.tables, self.photometric)

    def decode(self, data: bytes) -> np.ndarray:
        try:
            size = jpeg.frame_size(data)
            if size.width > self.size.width or size.height > self.size.height:
                raise SlideError(f"{size.width} x {size.height} px in a tile of {self.size.width} x {self.size.height}")
            if jpeg_ends_early(data):                       # OpenSlide refuses it, others show gray
                raise SlideError("it ends before its pixels do")
            return jpeg.decode(data, self.tables, self.photometric)
        except SlideError as error:
            raise _damaged(self, error) from None

    def encode(self, samples: np.ndarray, like: bytes, touched: np.ndarray) -> bytes:
        """As in `Codec`. A segment that cannot be taken apart into blocks is encoded whole."""
        return self.spliced(samples, like, touched) or jpeg.encode(samples, like, self.tables, self.photometric)

    def spliced(self, samples: np.ndarray, like: bytes, touched: np.ndarray) -> bytes:
        """Return samples in place of `like`, whose blocks keep their coefficients where they are not reached.

        Empty where it cannot be taken apart, or was damaged so that its blocks alone are not what readers show.
        """
        try:
            data = jpeg.encode(samples, like, self.tables, self.photometric, touched)
            same = (self.decode(data) == samples).all(axis=2) | self.reach(touched, like)
        except SlideError:
            return b""
        return data if same.all() else b""

    def reach(self, touched: np.ndarray, like: bytes) -> np.ndarray:
        return jpeg.reach(touched, like, self.tables)

    def rgb(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def samples(self, rgb: np.ndarray) -> np.ndarray:
        return rgb


@dataclass(frozen=True)
class Jpeg2000Codec:
    """Aperio's JPEG 2000: bare codestreams, RGB (33005) or YCbCr without a declared transform (33003).

    Segments are written reversibly; with `same_size` at the rate of the segment that they replace, unless that moves
    pixels further than `verify` lets pass.
    """

    ycbcr: bool
    size: Size                          # of a whole segment
    same_size: bool = False
    generic = False

    @property
    def name(self) -> str:
        return JPEG_2000[APERIO_YCBCR if self.ycbcr else APERIO_RGB]

    @property
    def exact(self) -> bool:
        return not self.same_size

    @property
    def how(self) -> str:
        if self.same_size:
            return "touched segments written as JPEG 2000 of the size they had: kept pixels in them change a little"
        return "touched segments written as reversible JPEG 2000: exact beside the mask, and larger than they were"

    def why_not(self, data: bytes) -> str:
        return ""

    def decode(self, data: bytes) -> np.ndarray:
        """As in `Codec`. The decoder is told that samples are RGB: OpenJPEG converts subsampled YCbCr its own way."""
        try:
            if data[:2] != b"\xff\x4f" or data[40:42] != b"\0\3" or set(data[42:51:3]) != {7}:
                raise ValueError("not three 8-bit components")
            width, height, left, top = struct.unpack(">4I", data[8:24])
            if width - left > self.size.width or height - top > self.size.height:
                raise ValueError(f"{width - left} x {height - top} px in a tile of {self.size.width} x "
                                 f"{self.size.height}")
            with Image.open(io.BytesIO(_jp2(data, width - left, height - top))) as image:
                return np.asarray(image)                    # subsampled components are repeated, as OpenSlide does
        except (OSError, ValueError, SyntaxError, struct.error) as error:
            raise _damaged(self, error) from None

    def encode(self, samples: np.ndarray, like: bytes, touched: np.ndarray) -> bytes:
        if self.same_size:
            file = io.BytesIO()
            Image.fromarray(samples).save(file, "JPEG2000", no_jp2=True, irreversible=True, mct=int(not self.ycbcr),
                                          quality_mode="rates", quality_layers=[max(1.0, samples.size / len(like))])
            shift = self.decode(file.getvalue()).astype(np.int16) - samples
            if not reencoded_reason(shift, np.zeros(samples.shape[:2], bool), Box(0, 0, *samples.shape[1::-1])):
                return file.getvalue()
        return bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(samples), level=0, codecformat="J2K",
                                               reversible=True, mct=not self.ycbcr))

    def reach(self, touched: np.ndarray, like: bytes) -> np.ndarray:
        return np.ones_like(touched) if self.same_size else touched

    def rgb(self, samples: np.ndarray) -> np.ndarray:
        if not self.ycbcr:
            return samples
        y, cb, cr = np.moveaxis(samples.astype(np.float64), -1, 0) - np.array([0, 128, 128])[:, None, None]
        shift = np.stack([1.402 * cr, -0.34414 * cb - 0.71414 * cr, 1.772 * cb], axis=-1)
        return (y[..., None] + np.rint(shift)).clip(0, 255).astype(np.uint8)

    def samples(self, rgb: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(rgb).convert("YCbCr")) if self.ycbcr else rgb


@dataclass(frozen=True)
class PackedCodec:
    """Uncompressed, LZW or deflate, with or without the predictor that stores differences along rows."""

    compression: int
    predictor: int
    size: Size                          # of a whole segment
    exact = True
    generic = True

    @property
    def name(self) -> str:
        return PACKED[self.compression]

    @property
    def how(self) -> str:
        return f"touched segments written as {self.name}: exact beside the mask"

    def why_not(self, data: bytes) -> str:
        return ""

    def decode(self, data: bytes) -> np.ndarray:
        """As in `Codec`. What follows the last pixel is left out, as readers do."""
        most = 3 * self.size.width * self.size.height
        try:
            if self.compression == LZW:
                data = bytes(imagecodecs.lzw_decode(data, out=most))
            elif self.compression in (DEFLATE, OLD_DEFLATE):
                data = zlib.decompressobj().decompress(data, most)
            samples = np.frombuffer(data[:most], np.uint8).reshape(-1, self.size.width, 3)
        except (ValueError, zlib.error, imagecodecs.LzwError) as error:
            raise _damaged(self, error) from None
        return np.cumsum(samples, axis=1, dtype=np.uint8) if self.predictor == HORIZONTAL else samples

    def encode(self, samples: np.ndarray, like: bytes, touched: np.ndarray) -> bytes:
        if self.predictor == HORIZONTAL:
            samples = np.diff(samples, axis=1, prepend=np.uint8(0))
        data = samples.tobytes()
        if self.compression == LZW:
            return bytes(imagecodecs.lzw_encode(data))
        return bytes(imagecodecs.zlib_encode(data, level=6)) if self.compression != NONE else data

    def reach(self, touched: np.ndarray, like: bytes) -> np.ndarray:
        return touched

    def rgb(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def samples(self, rgb: np.ndarray) -> np.ndarray:
        return rgb


def codec_of(page: tiff.Page, same_size: bool = False) -> Codec:
    """Return the codec of a page; with `same_size` its JPEG 2000 segments are written with loss.

    Raises:
        SlideError: the page's tags say that its segments cannot be written again; the message is the reason alone.
    """
    odd = [code for code in ONE_NUMBER if code in page.tags and (
        len(page.numbers(code)) != 1 or page.tags[code].type == tiff.BYTE)]
    if odd:                                                   # which readers take for this or that
        raise SlideError(f"tag {odd[0]} does not hold one number of 16 bits or more")
    compression, photometric = page.number(tiff.COMPRESSION, 1), page.number(tiff.PHOTOMETRIC)
    size = page.segment_size
    if page.number(tiff.SAMPLES, 1) != 3 or set(page.numbers(tiff.BITS).tolist()) != {8}:
        raise SlideError("not three 8-bit samples")
    if page.number(tiff.PLANAR, 1) != 1 or page.number(tiff.DEPTH, 1) != 1:
        raise SlideError("samples in separate planes")
    if page.number(tiff.FILL_ORDER, 1) != 1:
        raise SlideError("bits in reverse order")
    if compression == JPEG and photometric in (jpeg.RGB, jpeg.YCBCR):
        tables = page.tags.get(tiff.JPEG_TABLES)
        return JpegCodec(tables.raw if tables else b"", photometric, size)
    if compression in JPEG_2000 and photometric in (jpeg.RGB, jpeg.YCBCR):
        return Jpeg2000Codec(compression == APERIO_YCBCR, size, same_size)
    if compression in PACKED and photometric == jpeg.RGB:
        predictor = page.number(tiff.PREDICTOR, 1)
        if predictor not in (1, HORIZONTAL):
            raise SlideError(f"predictor {predictor}")
        return PackedCodec(compression, predictor, size)
    if compression in (JPEG, *JPEG_2000, *PACKED):
        raise SlideError(f"photometric interpretation {photometric}")
    names = ", ".join(dict.fromkeys(["JPEG", "Aperio's JPEG 2000", *PACKED.values()]))
    raise SlideError(f"compression {compression} is not among those that can be copied ({names})")


def _damaged(codec: Codec, error: Exception) -> SlideError:
    return SlideError(f"a {codec.name.partition(' (')[0]} segment is damaged ({error}); get a whole copy of the slide")


def _jp2(codestream: bytes, width: int, height: int) -> bytes:
    """Return a JP2 file around a codestream, whose header says that the components are RGB."""
    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + name + content

    header = box(b"ihdr", struct.pack(">IIHBBBB", height, width, 3, 7, 7, 0, 0))
    header += box(b"colr", b"\x01\0\0" + struct.pack(">I", 16))
    return (box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", header)
            + box(b"jp2c", codestream))
