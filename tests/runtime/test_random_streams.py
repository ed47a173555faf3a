"""The noise of a row equals NumPy's, whichever rows are drawn with it."""

import numpy as np
import pytest
import torch

from pipeline.runtime.random_streams import Stream, generator, uniforms


@pytest.mark.parametrize("width", [1, 4, 6, 33])
def test_rows_are_those_of_numpys_generator(width):
    """Bit for bit, for keys up to 2⁶³, against one generator object for each row."""
    rows = [tuple(row) for row in np.random.default_rng(0).integers(2**63, size=(50, 3)).tolist()]
    key = generator(3, Stream.COMPLETION, 7).integers(2**63, size=2, dtype=np.uint64)
    wanted = [np.random.Generator(np.random.Philox(key=key, counter=[0, *row])).random(width) for row in rows]
    together = uniforms(3, Stream.COMPLETION, 7, rows, width)
    assert np.array_equal(together.numpy(), np.stack(wanted))
    assert torch.equal(uniforms(3, Stream.COMPLETION, 7, rows[20:30], width), together[20:30])


def test_no_rows_no_noise():
    assert uniforms(0, Stream.COMPLETION, 1, [], 5).shape == (0, 5)
