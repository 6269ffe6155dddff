"""SNAIL: acting equals the pass over sequences, and nothing looks ahead."""

import pytest
import torch

from sim2real.bridges.adapt.memory.network import RecurrentActorCritic
from sim2real.bridges.adapt.memory.snail import Snail, _Convolution
from sim2real.bridges.adapt.memory.trials import Actions
from sim2real.types import InputError

torch.set_num_threads(1)


def made(window=8, inputs=3, seed=0) -> Snail:
    torch.manual_seed(seed)
    return Snail(inputs, 6, window=window, filters=4, keys=5, values=4).requires_grad_(False)


def stepped(snail, x, z, begin):
    """Step by step, cleared where a trial begins."""
    out = []
    for t in range(len(x)):
        z = torch.where(begin[t, :, None], torch.zeros_like(z), z)
        h, z = snail.step(x[t], z)
        out.append(h)
    return torch.stack(out), z


def trials(T=8, B=5):
    x = torch.randn(T, B, 3)
    begin = torch.zeros(T, B, dtype=torch.bool)
    begin[0] = True
    begin[3, 1] = begin[5, 2] = begin[2, 3] = begin[6, 3] = True
    return x, begin


def test_a_pass_over_a_sequence_equals_its_steps_with_trials_that_begin_at_different_times():
    snail, (x, begin) = made(), trials()
    along = snail.unroll(x, snail.initial(5), begin)
    once, _ = stepped(snail, x, snail.initial(5), begin)
    torch.testing.assert_close(along, once, atol=1e-5, rtol=0)


def test_a_sequence_goes_on_where_the_one_before_ended():
    snail, (x, begin) = made(), trials()
    whole, _ = stepped(snail, x, snail.initial(5), begin)
    first, z = stepped(snail, x[:4], snail.initial(5), begin[:4])
    rest = snail.unroll(x[4:], z, begin[4:])
    torch.testing.assert_close(torch.cat([first, rest]), whole, atol=1e-5, rtol=0)


def test_nothing_looks_ahead_nor_into_another_trial():
    snail, (x, begin) = made(), trials()
    x.requires_grad_(True)
    h = snail.unroll(x, snail.initial(5), begin)
    h[4, 1].sum().backward()
    assert x.grad is not None
    size = x.grad.abs().sum(dim=2)
    assert size[3, 1] > 0
    assert size[4, 1] > 0
    size[3:5, 1] = 0  # of the trial that began at 3, up to 4
    assert not size.any()


def test_one_that_looks_ahead_is_found_out(monkeypatch):
    """The control arm: a convolution of this step and one after it."""

    def ahead(self, steps):
        later = torch.cat([steps[:, 1:], steps[:, :1]], dim=1)
        value, gate = self.both(torch.cat([later, steps], dim=-1)).chunk(2, dim=-1)
        return value.tanh() * gate.sigmoid()

    monkeypatch.setattr(_Convolution, "forward", ahead)
    snail, (x, begin) = made(), trials()
    along = snail.unroll(x, snail.initial(5), begin)
    once, _ = stepped(snail, x, snail.initial(5), begin)
    assert (along - once).abs().max() > 1e-3


def test_all_of_the_window_is_seen_and_no_more():
    snail = made(window=4)
    x = torch.randn(6, 1, 3)
    begin = torch.zeros(6, 1, dtype=torch.bool)
    out, _ = stepped(snail, x, snail.initial(1), begin)
    last, _ = stepped(snail, x[2:], snail.initial(1), begin[2:])
    torch.testing.assert_close(out[-1], last[-1], atol=1e-5, rtol=0)
    changed = x.clone()
    changed[2] += 1
    assert not torch.allclose(stepped(snail, changed, snail.initial(1), begin)[0][-1], out[-1])
    with pytest.raises(InputError, match="a trial has 6 steps; the window has 4"):
        snail.unroll(x, snail.initial(1), begin)


def test_it_stands_in_for_a_recurrent_memory():
    snail = made()
    network = RecurrentActorCritic(snail, Actions(2, discrete=True), network=[4])
    chosen, z = network.act(torch.randn(5, 3), network.initial(5))
    assert chosen.sample().shape == (5,)
    assert z.shape == (5, snail.z_size)
    assert len(list(network.parameters())) > len(list(snail.parameters()))


@pytest.mark.parametrize("name", ["hidden", "window", "filters", "keys", "values"])
def test_sizes_that_cannot_be_are_refused(name):
    sizes = {"hidden": 4, "window": 4, **{name: 0}}
    with pytest.raises(InputError, match=f"{name} is 0; it must be at least 1"):
        Snail(3, **sizes)
