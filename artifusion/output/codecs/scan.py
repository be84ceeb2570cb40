"""Entropy-coded scans of baseline JPEG (ITU-T T.81, annex F), taken apart into blocks and written again.

A block's coefficients are Huffman symbols, each followed by extra bits. Only its first symbol depends on another
block, since DC coefficients are stored as differences. So the blocks of two scans can be mixed exactly: nothing is
transformed or rounded, the bits of AC coefficients are copied, and DC differences are coded again.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from artifusion.errors import SlideError
from artifusion.output.codecs.huffman import END_OF_BLOCK, NO_CODE, Huffman, coded, leap_table, step_table, symbols_at

RESTART = re.compile(rb"\xff[\xd0-\xd7]")
END = b"\xff\xd9"


@dataclass(frozen=True)
class Layout:
    """How a scan is coded, by its header."""

    huffman: Huffman
    components: tuple[int, ...]                             # the component of each block of an MCU, in order
    mcus: int
    restart: int = 0                                        # MCUs between restart markers; 0: no markers


@dataclass(frozen=True)
class Scan:
    """The blocks of a scan, in order; the code of each begins with its DC difference."""

    components: np.ndarray                                  # (blocks,)
    dc: np.ndarray                                          # (blocks,) the DC coefficients
    differences: np.ndarray                                 # (blocks,) the DC differences as coded in `bits`
    bits: np.ndarray                                        # (bits,) uint8, 0 or 1
    begins: np.ndarray                                      # (blocks,) the position in `bits` of each block's code,
    ac: np.ndarray                                          # (blocks,) of the codes of its AC coefficients,
    ends: np.ndarray                                        # (blocks,) and of its end


def read(data: bytes, layout: Layout, huffman: Huffman | None = None) -> Scan:
    """Return the blocks of a scan, with their bits in the codes of some Huffman tables (default: its own).

    Args:
        data: the entropy-coded data, from its first byte on; what follows an end marker is ignored.

    Raises:
        SlideError: the data end too early, hold a code that no table knows, or a symbol that `huffman` lacks.
    """
    end = data.find(END)
    intervals = [interval.replace(b"\xff\0", b"\xff")
                 for interval in RESTART.split(data[: end if end >= 0 else len(data)])]
    joined = np.frombuffer(b"".join(intervals), np.uint8)
    windows = _windows(joined)
    huffman = huffman or layout.huffman
    positions, recode = array("q"), huffman != layout.huffman
    indexable = array("H", windows[:-16].tobytes())         # an array is indexed many times faster than numpy's
    walk = _steps_walk(indexable, layout, positions) if recode else _leaps_walk(indexable, layout)
    begins, ends = _block_bounds(walk, [8 * len(interval) for interval in intervals], layout)
    components = np.tile(np.array(layout.components), layout.mcus)
    size, extra, ac = symbols_at(windows, begins, 2 * components, layout.huffman)
    differences = np.where(extra >= (1 << size) >> 1, extra, extra - (1 << size) + 1)              # T.81, F.2.2.1
    scan = Scan(components, _dc(differences, components, layout), differences, np.unpackbits(joined), begins, ac, ends)
    return _recoded(scan, windows, np.array(positions), layout.huffman, huffman) if recode else scan


def _dc(differences: np.ndarray, components: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the DC coefficients: sums of the differences of a component since the last restart marker."""
    dc = np.empty_like(differences)
    for component in range(len(layout.huffman)):
        own = components == component
        total = np.cumsum(differences[own])
        count = layout.components.count(component) * (layout.restart or layout.mcus)
        first = np.arange(len(total)) // count * count
        dc[own] = total - (total - differences[own])[first]
    return dc


def _recoded(scan: Scan, windows: np.ndarray, positions: np.ndarray, before: Huffman, huffman: Huffman) -> Scan:
    """Return a scan with its bits in the codes of other tables.

    Args:
        positions: in `windows`, of all symbols of the scan.
        before: the tables that the scan is coded in.
    """
    counts = np.diff(np.searchsorted(positions, scan.begins), append=len(positions))
    first = np.cumsum(counts) - counts
    rows = np.repeat(2 * scan.components + 1, counts)
    rows[first] -= 1                                        # a block's first symbol is for DC
    symbols, extras, _ = symbols_at(windows, positions, rows, before)
    values, lengths = coded(symbols, extras, rows, huffman)
    stops = np.cumsum(lengths)
    return replace(scan, bits=_bits(values, lengths), begins=(stops - lengths)[first], ac=stops[first],
                   ends=stops[first + counts - 1])


def splice(old: Scan, new: Scan, replaced: np.ndarray) -> Scan:
    """Return the old scan with some blocks, bool (blocks,), replaced by all blocks of the new one, in order."""
    order = np.arange(len(old.dc))
    order[replaced] = len(old.dc) + np.arange(np.count_nonzero(replaced))
    dc, differences, begins, ac, ends = (
        np.concatenate([getattr(old, name), getattr(new, name) + shift])[order] for name, shift in
        (("dc", 0), ("differences", 0), ("begins", len(old.bits)), ("ac", len(old.bits)), ("ends", len(old.bits))))
    return Scan(old.components, dc, differences, np.concatenate([old.bits, new.bits]), begins, ac, ends)


def write(scan: Scan, huffman: Huffman) -> bytes:
    """Return a scan as entropy-coded data without restart markers, with the end marker.

    Args:
        huffman: the tables that its bits are coded in.

    Raises:
        SlideError: the tables have no code for one of its DC differences.
    """
    differences = np.empty_like(scan.dc)
    for component in range(len(huffman)):
        own = scan.components == component
        differences[own] = np.diff(scan.dc[own], prepend=0)
    changed = np.flatnonzero(differences != scan.differences)
    difference = differences[changed]
    size = np.frexp(np.abs(difference))[1].astype(np.int64)                   # bits of the magnitude
    extras = np.where(difference < 0, difference + (1 << size) - 1, difference)
    values, lengths = coded(size, extras, 2 * scan.components[changed], huffman)
    bits, stops = np.concatenate([scan.bits, _bits(values, lengths)]), len(scan.bits) + np.cumsum(lengths)
    kept = scan.begins.copy()
    kept[changed] = scan.ac[changed]
    begins, ends = np.insert(kept, changed, stops - lengths), np.insert(scan.ends, changed, stops)
    first = np.flatnonzero(np.append(True, begins[1:] != ends[:-1]))          # contiguous blocks are copied as one
    last = np.append(first[1:], len(ends)) - 1
    runs = [bits[start:stop] for start, stop in zip(begins[first].tolist(), ends[last].tolist(), strict=True)]
    written = np.concatenate([*runs, np.ones(-(ends - begins).sum() % 8, np.uint8)])
    return np.packbits(written).tobytes().replace(b"\xff", b"\xff\0") + END


def _windows(data: np.ndarray) -> np.ndarray:
    """Return the 16 bits from each bit of some bytes on, and from 16 more, past the end: uint16 (8 * bytes + 16,)."""
    padded = np.pad(data, (0, 4)).astype(np.uint32)
    bits = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    windows = np.empty((len(bits), 8), np.uint16)
    for bit in range(8):
        windows[:, bit] = bits >> 8 - bit
    return windows.ravel()


Walk = Callable[[int, int], list[int]]                      # (position, MCUs) -> the position of each block's end


def _block_bounds(walk: Walk, lengths: list[int], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions at which each block begins and ends: (blocks,) each.

    Args:
        lengths: in bits, of the restart intervals.
    """
    interval = layout.restart or layout.mcus
    if len(lengths) != -(-layout.mcus // interval):
        raise SlideError(f"{len(lengths)} restart intervals for {layout.mcus} MCUs")
    begins, ends, start = list[int](), list[int](), 0
    try:
        for number, length in enumerate(lengths):
            interval_ends = walk(start, min(interval, layout.mcus - number * interval))
            begins += [start, *interval_ends[:-1]]
            ends += interval_ends
            start += length
            if interval_ends[-1] > start:
                raise IndexError
    except IndexError:
        raise SlideError("entropy-coded data ends too early") from None
    return np.array(begins), np.array(ends)


def _leaps_walk(windows: array, layout: Layout) -> Walk:
    """Return a walk in leaps, each over all symbols whose codes lie within the next 16 bits."""
    tables = [(*leap_table(dc, ac, True), *leap_table(ac, ac)) for dc, ac in layout.huffman]
    blocks = [(*tables[component], _steps_walk(windows, replace(layout, components=(component,)), array("q")))
              for component in layout.components]

    def walk(position: int, mcus: int) -> list[int]:
        ends = []
        for _ in range(mcus):
            for first_bits, first_coefficients, bits, coefficients, step_walk in blocks:
                begin, window = position, windows[position]
                position += first_bits[window]
                done = first_coefficients[window]
                while done < 64:
                    window = windows[position]
                    position += bits[window]
                    done += coefficients[window]
                if not END_OF_BLOCK < done < END_OF_BLOCK + 64:     # a full block has no symbol for its end, so a
                    (position,) = step_walk(begin, 1)               # leap may have gone beyond it
                ends.append(position)
        return ends

    return walk


def _steps_walk(windows: array, layout: Layout, positions: array) -> Walk:
    """Return a walk from symbol to symbol, which appends their positions to `positions`."""
    tables = [(step_table(dc, True)[0], *step_table(ac)) for dc, ac in layout.huffman]
    blocks = [tables[component] for component in layout.components]

    def walk(position: int, mcus: int) -> list[int]:
        ends = []
        for _ in range(mcus):
            for first_bits, bits, coefficients in blocks:
                positions.append(position)
                position += first_bits[windows[position]]
                done = 1
                while done < 64:
                    positions.append(position)
                    window = windows[position]
                    position += bits[window]
                    done += coefficients[window]
                    if done > NO_CODE:
                        raise SlideError("a Huffman code that no table holds")
                ends.append(position)
        return ends

    return walk


def _bits(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return numbers as bits, one after the other, each with its own length: uint8, 0 or 1."""
    ends = np.cumsum(lengths, dtype=np.uint32)
    shift = np.repeat(ends, lengths) - np.arange(lengths.sum(), dtype=np.uint32) - np.uint32(1)
    return (np.repeat(values.astype(np.uint32), lengths) >> shift).astype(np.uint8) & 1
