import warnings

import numpy as np
import pytest
import torch

from glasslib.checks import check_range, check_shape, fuse_gelu, is_out_of_memory, map_batches


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((2, 3, 8, 8), "n 3 h w"), ((0, 3, 1, 9), "n 3 h w"), ((5,), "n"), ((4, 4), "n n"), ((7, 2), "n 2")],
)
def test_shape_that_fits_passes(shape, wanted):
    check_shape(torch.zeros(shape), "x", wanted)
    check_shape(np.zeros(shape), "x", wanted)


@pytest.mark.parametrize(
    ("shape", "wanted", "message"),
    [
        ((2, 8, 8, 3), "n 3 h w", r"images must have shape \(n, 3, h, w\), got \(2, 8, 8, 3\)"),
        ((3, 8, 8), "n 3 h w", r"got \(3, 8, 8\)"),
        ((4, 5), "n n", r"\(n, n\), got \(4, 5\)"),
        ((4, 1), "n", r"\(n,\), got \(4, 1\)"),
    ],
)
def test_shape_that_does_not_fit_is_refused(shape, wanted, message):
    with pytest.raises(ValueError, match=message):
        check_shape(torch.zeros(shape), "images", wanted)


def test_shape_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"x must be a tensor or array of shape \(n, 2\), got list"):
        check_shape([[1, 2]], "x", "n 2")


def test_range_accepts_its_ends():
    check_range(torch.tensor([0.0, 0.5, 1.0]), "x", 0.0, 1.0)
    check_range(np.array([-1, 1]), "x", -1, 1)
    check_range(torch.zeros(0), "x", 0, 1)


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_range_says_what_is_wrong(make):
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\], got 2 of 4 values outside, from -1 to 3"):
        check_range(make([0.5, 3.0, -1.0, 1.0]), "x", 0, 1)
    with pytest.raises(ValueError, match=r"got 1 NaN of 3 values"):
        check_range(make([0.5, float("nan"), 7.0]), "x", 0, 1)
    with pytest.raises(ValueError, match="1 of 2 values outside"):
        check_range(make([0.5, float("inf")]), "x", 0, 1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 100])
def test_batches_equal_the_whole(batch_size):
    x = torch.arange(14.0).reshape(7, 2)
    sizes = []

    def double(piece):
        sizes.append(len(piece))
        return 2 * piece

    assert torch.equal(map_batches(double, x, batch_size=batch_size), 2 * x)
    assert sizes == [min(batch_size, 7 - start) for start in range(0, 7, batch_size)]
    assert np.array_equal(map_batches(double, x.numpy(), batch_size=batch_size), 2 * x.numpy())


def test_batches_of_texts_and_of_nothing():
    x = torch.arange(5)
    assert map_batches(lambda piece: [str(int(i)) for i in piece], x, batch_size=2) == ["0", "1", "2", "3", "4"]
    assert map_batches(lambda piece: piece * 2, torch.zeros(0, 3), batch_size=4).shape == (0, 3)


def test_batches_refuse_bad_sizes_and_lost_rows():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        map_batches(lambda piece: piece, torch.zeros(3), batch_size=0)
    with pytest.raises(ValueError, match="one row per row of its input, got 1 for 2"):
        map_batches(lambda piece: piece[:1], torch.zeros(4), batch_size=2)
    with pytest.raises(ValueError, match="got None"):
        map_batches(lambda piece: None, torch.zeros(4), batch_size=2)


def cpu_allocator(n_bytes):
    """What torch really raises when the CPU allocator fails."""
    torch.empty(n_bytes, dtype=torch.uint8)


def numpy_allocator(n_bytes):
    np.empty(n_bytes, dtype=np.uint8)


def gpu_allocator(n_bytes):
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("allocate", [cpu_allocator, numpy_allocator, gpu_allocator])
def test_memory_running_out_halves_the_batch_and_says_so_once(allocate):
    sizes = []

    def fits_two_rows(piece):
        sizes.append(len(piece))
        if len(piece) > 2:
            allocate(2**60)
        return piece + 1

    x = torch.arange(10)
    with pytest.warns(UserWarning, match="out of memory with a batch of 8") as caught:
        result = map_batches(fits_two_rows, x, batch_size=8)
    assert torch.equal(result, x + 1)
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    assert len(caught) == 1


@pytest.mark.parametrize("allocate", [cpu_allocator, numpy_allocator, gpu_allocator])
def test_memory_too_small_for_one_row_ends_with_a_clear_error(allocate):
    def never_fits(piece):
        allocate(2**60)

    with pytest.warns(UserWarning), pytest.raises(MemoryError, match="out of memory with a batch of 1; use a smaller"):
        map_batches(never_fits, torch.zeros(5), batch_size=4)


def test_other_errors_pass_through_unchanged():
    def broken(piece):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="mat1 and mat2"):
        warnings.simplefilter("error")
        map_batches(broken, torch.zeros(4), batch_size=4)
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_a_composed_gelu_gives_way_to_torch_s():
    from transformers.activations import NewGELUActivation

    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sequential(NewGELUActivation()), torch.nn.GELU())
    x = torch.linspace(-6, 6, 90).reshape(30, 3)
    before = model(x)
    fuse_gelu(model)
    assert [type(layer) for layer in (model[1][0], model[2])] == [torch.nn.GELU, torch.nn.GELU]
    assert model[2].approximate == "none"
    torch.testing.assert_close(model(x), before)
