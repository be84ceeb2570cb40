"""Huffman codes of baseline JPEG (ITU-T T.81, annexes C and F), as arrays that are indexed by the next 16 bits.

A block is coded as symbols, each followed by extra bits whose number is the symbol's low four bits. The first symbol
is the size of the DC difference; each further one stands for a run of zero coefficients and the one after it, or for
the end of the block.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from artifusion.errors import SlideError

END_OF_BLOCK, NO_CODE = 128, 255        # counts of coefficients that stand for the end of a block, and for no symbol
LEAP_LIMIT = 48                         # coefficients after which a leap takes in no further symbol

Huffman = tuple[tuple[bytes, bytes], ...]                   # DC and AC table per component, as in a DHT marker


def symbols_at(windows: np.ndarray, positions: np.ndarray, rows: np.ndarray, huffman: Huffman
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the symbols at some bits: (symbols, extra bits as a number, positions behind these), (N,) each.

    Args:
        windows: by position, the 16 bits from there on; it reaches 16 bits beyond the last position.
        positions: (N,) the first bit of each symbol.
        rows: (N,) the table of each symbol: 2 * component for DC, 2 * component + 1 for AC.

    Raises:
        SlideError: a code that no table holds.
    """
    entry = rows << 16 | windows[positions]
    symbols, code_bits = (table.take(entry).astype(np.int64) for table in _decoder(huffman))
    if not code_bits.all():
        raise SlideError("a Huffman code that no table holds")
    size = symbols & 15
    bits = windows[positions].astype(np.int64) << 16 | windows[positions + 16]
    return symbols, bits >> 32 - code_bits - size & (1 << size) - 1, positions + code_bits + size


def coded(symbols: np.ndarray, extras: np.ndarray, rows: np.ndarray, huffman: Huffman
          ) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of symbols with their extra bits behind them, as numbers, and their lengths in bits: (N,) each.

    Args:
        rows: as in `symbols_at`.

    Raises:
        SlideError: a table has no code for a symbol.
    """
    codes, code_bits = (table[rows, symbols] for table in _encoder(huffman))
    if not code_bits.all():
        raise SlideError("the Huffman tables lack a symbol")
    return codes << (symbols & 15) | extras, code_bits + (symbols & 15)


def _codes(table: bytes) -> list[tuple[int, int, int]]:
    """Return (symbol, code, bits of the code) of a DHT table: counts of codes with 1 to 16 bits, then their symbols.

    Raises:
        SlideError: more codes of a length than there are.
    """
    found, code, start = list[tuple[int, int, int]](), 0, 16
    for length, count in enumerate(table[:16], 1):
        if code + count > 1 << length:
            raise SlideError("a Huffman table with too many codes")
        found += [(table[start + i], code + i, length) for i in range(count)]
        code, start = code + count << 1, start + count
    return found


@lru_cache(maxsize=16)
def _lookup(table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return, by the next 16 bits, the symbol and the bits of its code (0: no code begins so): uint8 (65536,) each."""
    symbols, lengths = np.zeros((2, 1 << 16), np.uint8)
    for symbol, code, length in _codes(table):
        windows = slice(code << 16 - length, code + 1 << 16 - length)
        symbols[windows], lengths[windows] = symbol, length
    return symbols, lengths


@lru_cache(maxsize=16)
def step_table(table: bytes, dc: bool = False) -> tuple[bytes, bytes]:
    """Return, by the next 16 bits, the bits to the next symbol and the number of coefficients of this one.

    The end of a block counts as END_OF_BLOCK coefficients, bits that are no code as NO_CODE.
    """
    symbols, lengths = _lookup(table)
    run, size = symbols >> 4, symbols & 15
    ends = (size == 0) & (run < 15)
    coefficients = np.ones_like(run) if dc else np.where(ends, END_OF_BLOCK, run + 1).astype(np.uint8)
    return (lengths + size).tobytes(), np.where(lengths, coefficients, np.uint8(NO_CODE)).tobytes()


@lru_cache(maxsize=16)
def leap_table(first: bytes, then: bytes, dc: bool = False) -> tuple[bytes, bytes]:
    """Return, by the next 16 bits, the bits and the number of coefficients of all symbols whose codes lie within them.

    A leap stops at the end of the block, which adds END_OF_BLOCK, or after LEAP_LIMIT coefficients.

    Args:
        first: the table of the first symbol, which is a DC table with `dc`.
        then: the table of the symbols after it.
    """
    bits, coefficients = (np.frombuffer(values, np.uint8).copy() for values in step_table(first, dc))
    more_bits, more_coefficients = (np.frombuffer(values, np.uint8) for values in step_table(then))
    codes, window = _lookup(then)[1], np.arange(1 << 16)
    while len(window):
        rest = window << bits[window] & 0xFFFF
        known = (codes[rest] > 0) & (codes[rest] + bits[window] <= 16) & (coefficients[window] < LEAP_LIMIT)
        window, rest = window[known], rest[known]
        bits[window] += more_bits[rest]
        coefficients[window] += more_coefficients[rest]
    return bits.tobytes(), coefficients.tobytes()


@lru_cache(maxsize=8)
def _decoder(huffman: Huffman) -> tuple[np.ndarray, np.ndarray]:
    """Return what `_lookup` returns for all tables, one after the other: entry row << 16 | next 16 bits."""
    symbols, lengths = zip(*(_lookup(table) for tables in huffman for table in tables), strict=True)
    return np.concatenate(symbols), np.concatenate(lengths)


@lru_cache(maxsize=8)
def _encoder(huffman: Huffman) -> tuple[np.ndarray, np.ndarray]:
    """Return, by (row, symbol), the code and its bits (0: the table has no such symbol): int64 (rows, 256) each."""
    codes, lengths = np.zeros((2, 2 * len(huffman), 256), np.int64)
    for row, table in enumerate(table for tables in huffman for table in tables):
        for symbol, code, length in _codes(table):
            codes[row, symbol], lengths[row, symbol] = code, length
    return codes, lengths
