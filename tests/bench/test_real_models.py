"""The bench parts on real models, small: ranks at half size, the cost of a search itself, memory of kernels, parity."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from glasslib.bench import host, parity, peak


class Sleeper(torch.nn.Module):
    """Spends CPU time in its forward pass."""

    def forward(self, x):
        for _ in range(200):
            x = x.sin()
        return x


@pytest.mark.parametrize("make", [host.biggan, host.stylegan2])
def test_a_generation_takes_time_outside_the_networks(make):
    search, evaluate, stopwatch = make(popsize=4)
    spent = host.host_ms(search, evaluate, stopwatch, n_generations=host.N_WARM + 2)
    assert spent.shape == (2,) and (spent > 0).all() and stopwatch.seconds > 0
    assert search.generation == host.N_WARM + 2


def test_the_networks_own_time_is_taken_off():
    search, _, _ = host.stylegan2(popsize=4)
    slow = Sleeper()
    x = torch.rand(300, 300)

    def evaluate(candidates):
        slow(x)
        return np.random.default_rng(0).random((len(candidates), 2))

    stopwatch = host.Stopwatch(slow)
    spent = host.host_ms(search, evaluate, stopwatch, n_generations=host.N_WARM + 1)
    assert spent[0] < 1e3 * stopwatch.seconds / (host.N_WARM + 1) / 2


def test_only_kernels_memory_is_counted():
    hold = "import sys, time; x = bytearray(300_000_000); del x; time.sleep(1.5)"  # over before it is looked at

    def run(*arguments):
        return lambda: subprocess.run([sys.executable, "-c", hold, *arguments], check=True).returncode

    (code, kernel), (_, other) = peak.watched(run("ipykernel_launcher")), peak.watched(run())
    assert code == 0 and 0.3 < kernel < 0.4 and other == 0


def test_every_golden_network_equals_its_reference():
    with torch.inference_mode():
        found = [parity.stylegan2(name) for name in ("skip_res64", "cond_res32")]
        found += [parity.stylegan2_tensorflow(), parity.biggan()]
    assert [len(one) for one in found] == [6, 6, 3, 2]
    assert max(value for one in found for value in one.values()) <= 1e-4
    assert all(max(one.values()) > 0 for one in found)  # computed in another way, so not the same to the last bit
