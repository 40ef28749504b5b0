"""Random numbers are those of Philox 4x32-10, wherever and in whatever pieces they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

import attnc
from attnc.backends import interpreter
from attnc.backends.random import philox, uniform

ONES = 0xFFFFFFFF

# The known answers of Random123, the authors' own implementation: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in philox(counter, key)) == words


def test_a_counter_may_be_arrays_that_broadcast() -> None:
    rows, columns = np.arange(3)[:, None], np.arange(4)[None, :]
    together = philox((rows, columns, 0, 7), (5, 6))
    for row, column in ((0, 0), (2, 3), (1, 2)):
        alone = philox((row, column, 0, 7), (5, 6))
        assert [int(word[row, column]) for word in together] == [int(word) for word in alone]


def test_the_number_is_the_upper_24_bits_of_the_first_word() -> None:
    assert uniform(0, 0, 0, 0, 0) == (0x6627E8D5 >> 8) / 2**24
    assert uniform(0) == uniform(0, 0), "positions that are not given are 0"


def test_the_seed_is_64_bits_of_key() -> None:
    seed = (0x299F31D0 << 32) | 0xA4093822
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert uniform(seed, *counter) == (0xD16CFE09 >> 8) / 2**24
    assert uniform(-1, *(-1,) * 4) == (0x408F276D >> 8) / 2**24, "negative numbers are their bits"


def test_every_position_counts_beyond_the_fourth_too() -> None:
    base = [3, 1, 4, 1, 5, 9]
    drawn = {float(uniform(7, *base))}
    for axis in range(len(base)):
        drawn.add(float(uniform(7, *(b + (i == axis) for i, b in enumerate(base)))))
    drawn.add(float(uniform(8, *base)))
    assert len(drawn) == len(base) + 2
    swapped = uniform(7, 3, 1, 4, 1, 9, 5)
    assert swapped != uniform(7, *base)


def test_numbers_are_uniform_and_exact_in_float32() -> None:
    numbers = uniform(11, np.arange(200)[:, None], np.arange(300)[None, :])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.array_equal(numbers, numbers.astype(np.float32))
    counts = np.histogram(numbers, bins=16, range=(0, 1))[0]
    assert np.abs(counts - numbers.size / 16).max() < 5 * np.sqrt(numbers.size / 16)
    lagged = np.corrcoef(numbers[:, 1:].ravel(), numbers[:, :-1].ravel())[0, 1]
    assert abs(lagged) < 5 / np.sqrt(numbers.size)


TEXT = """cascade drop[b](X[p, m], seed[;]: int) -> Y[p, m]:
    Y[p, m] = uniform(seed[], b, p, m) + 0 * X[p, m]"""


def test_the_language_draws_at_positions() -> None:
    cascade = attnc.parse(TEXT)["drop"]
    found = interpreter.run(cascade, {"X": np.zeros((2, 3, 4)), "seed": np.asarray(5)})["Y"]
    b, p, m = np.ogrid[:2, :3, :4]
    assert np.array_equal(found, uniform(5, b, p, m))


def test_a_draw_does_not_depend_on_the_pieces_it_is_made_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cascade = attnc.parse(TEXT)["drop"]
    arrays = {"X": np.zeros((2, 3, 4)), "seed": np.asarray(5)}
    whole = interpreter.run(cascade, arrays)["Y"]
    monkeypatch.setattr(interpreter, "LARGEST_SPACE", 5)
    assert np.array_equal(whole, interpreter.run(cascade, arrays)["Y"])
