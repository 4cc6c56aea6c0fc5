"""Sums over tokens are those of all tokens at once, and least squares say nothing about what does not vary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_learngene import errors
from hf_learngene.pruning.moments import ROWS, Moments


def tokens(seed, count=60, inputs=5, outputs=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator, dtype=dtype) * 2 + 3
    y = torch.randn(count, outputs, generator=generator, dtype=dtype) - 5
    return x, y + x @ torch.randn(inputs, outputs, generator=generator, dtype=dtype)


def summed(x, y, parts):
    moments = Moments()
    for a, b in zip(x.split(parts), y.split(parts), strict=True):
        moments.add(a, b)
    return moments


@settings(max_examples=25)
@given(st.integers(0, 1000), st.lists(st.integers(1, 20), min_size=1, max_size=3), st.booleans())
def test_ordinary_tokens_give_the_ridge_regression_of_the_docs(seed, parts, with_bias):
    x, y = tokens(seed)
    moments = summed(x, y, [*parts, 60 - sum(parts)] if sum(parts) < 60 else 60)
    prior = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    torch.testing.assert_close(moments.gram, x.T @ x / 60)
    torch.testing.assert_close(moments.mean, x.mean(0))
    xc, yc = (x - x.mean(0), y - y.mean(0)) if with_bias else (x, y)
    gram = xc.T @ xc / 60
    damped = gram + 1e-3 * gram.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    wanted = prior + torch.linalg.solve(damped, xc.T @ (yc - xc @ prior.T) / 60).T
    weight, bias = moments.solve(prior, with_bias)
    torch.testing.assert_close(weight, wanted)
    if with_bias:
        torch.testing.assert_close(bias, y.mean(0) - weight @ x.mean(0))
    error = (x @ weight.T + (bias if with_bias else 0) - y).pow(2).sum(1).mean()
    torch.testing.assert_close(moments.error(weight, bias), error)
    torch.testing.assert_close(moments.spread(), (y - y.mean(0)).pow(2).sum(1).mean())


@settings(max_examples=25)
@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5)), min_size=2, max_size=4),
    st.booleans(),
)
def test_tokens_that_count_several_times_are_tokens_given_so_often(seed, parts, with_bias):
    x, y = tokens(seed, sum(count for count, _ in parts))
    counting, repeated = Moments(), Moments()
    ends = [count for count, _ in parts]
    for (_, times), a, b in zip(parts, x.split(ends), y.split(ends), strict=True):
        counting.add(a, b, times)
        for _ in range(times):
            repeated.add(a, b)
    assert (counting.count, repeated.count) == (sum(ends), sum(count * times for count, times in parts))
    prior = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    for name in ("mean", "wanted", "gram", "cross"):
        torch.testing.assert_close(getattr(counting, name), getattr(repeated, name))
    found, wanted = (m.solve(prior, with_bias) for m in (counting, repeated))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(counting.error(*found), repeated.error(*wanted))
    torch.testing.assert_close(counting.spread(), repeated.spread())


@pytest.mark.parametrize("width", [ROWS - 1, ROWS, 2 * ROWS + 3])
def test_products_that_are_added_by_rows_are_whole(width):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, width, generator=generator, dtype=torch.float64)
    given, moments = x.clone(), Moments()
    for part in x.split(17):
        moments.add(part)
        torch.testing.assert_close(moments.gram, moments.gram.T)  # read between two sums
    torch.testing.assert_close(moments.gram, x.T @ x / len(x))
    assert torch.equal(x, given)  # the tokens are the caller's


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_that_vary_by_rounding_alone_move_nothing(dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(1, 64, generator=generator) * 10).to(dtype).repeat(128, 1)
    y = (torch.randn(1, 8, generator=generator) * 10).to(dtype).repeat(128, 1)
    jitter = torch.finfo(dtype).eps * 4
    x = x * (1 + jitter * torch.randn(x.shape, generator=generator, dtype=dtype))
    y = y * (1 + jitter * torch.randn(y.shape, generator=generator, dtype=dtype))
    prior = torch.randn(8, 64, generator=generator, dtype=dtype)
    weight, bias = summed(x, y, 32).solve(prior, True)
    assert float((weight - prior).norm() / prior.norm()) < 1e-3
    torch.testing.assert_close((x.double() @ weight.T + bias).mean(0), y.double().mean(0), rtol=1e-5, atol=1e-4)


def test_a_small_variation_on_a_large_mean_is_not_lost():
    x, y = tokens(0, 500)
    weight, _ = summed(x.float(), y.float(), 100).solve(torch.zeros(3, 5), True, ridge=1e-9)
    large, _ = summed((x + 1e3).float(), y.float(), 100).solve(torch.zeros(3, 5), True, ridge=1e-9)
    assert float((large - weight).norm() / weight.norm()) < 2e-2


def test_what_is_no_number_is_refused():
    x, y = tokens(0)
    with pytest.raises(errors.CalibrationError, match="not all finite"):
        _ = summed(x * torch.inf, y, 60).gram
    with pytest.raises(errors.CalibrationError, match="not all finite"):
        _ = summed(x, y * torch.nan, 60).mean
    with pytest.raises(errors.CalibrationError, match="No token"):
        _ = Moments().gram
