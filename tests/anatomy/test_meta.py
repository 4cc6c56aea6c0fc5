"""What is given at once on `meta` has the shape and dtype that torch works out, and what does not fit is torch's own error."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hf_learngene.anatomy import meta


def empty(*shape: int, dtype: torch.dtype = torch.float32, device: str = "meta") -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=device)


FITTING = [
    (functional.linear, (empty(2, 3, 8), empty(5, 8), empty(5)), {}),
    (functional.linear, (empty(8), empty(5, 8)), {}),
    (functional.linear, (empty(2, 8, dtype=torch.float64), empty(5, 8, dtype=torch.float64)), {"bias": None}),
    (functional.layer_norm, (empty(2, 3, 8), (8,)), {"weight": empty(8), "bias": empty(8), "eps": 1e-6}),
    (functional.layer_norm, (empty(2, 3, 8), (3, 8)), {}),
    (functional.gelu, (empty(2, 8),), {"approximate": "tanh"}),
    (functional.scaled_dot_product_attention, (empty(1, 2, 3, 4), empty(1, 2, 5, 4), empty(1, 2, 5, 4)), {}),
    (
        functional.scaled_dot_product_attention,
        (empty(1, 2, 3, 4), empty(1, 2, 5, 4), empty(1, 2, 5, 4)),
        {"attn_mask": empty(1, 1, 3, 5)},
    ),
    (functional.linear, (torch.ones(2, 8), torch.ones(5, 8)), {}),
]
MISFITS = [
    (functional.linear, (empty(2, 3, 7), empty(5, 8)), {}),
    (functional.linear, (empty(2, 8), empty(5, 8), empty(4)), {}),
    (functional.layer_norm, (empty(2, 3, 7), (8,)), {"weight": empty(8)}),
    (functional.layer_norm, (empty(2, 8), (8,)), {"weight": empty(7)}),
    (functional.scaled_dot_product_attention, (empty(1, 2, 3, 4), empty(1, 2, 5, 6), empty(1, 2, 5, 6)), {}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), FITTING)
def test_what_fits_is_as_torch_makes_it(function, args, kwargs):
    found, wanted = meta.run(function, args, kwargs), function(*args, **kwargs)
    assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, wanted.device)


@pytest.mark.parametrize(("function", "args", "kwargs"), MISFITS)
def test_what_does_not_fit_is_left_to_torch(function, args, kwargs):
    with pytest.raises(RuntimeError) as wanted:
        function(*args, **kwargs)
    with pytest.raises(RuntimeError) as found:
        meta.run(function, args, kwargs)
    assert str(found.value) == str(wanted.value)
