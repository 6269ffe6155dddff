"""Meta-gradients against closed forms: two quadratic tasks, and bandits whose every path is
enumerated. The control arms are the mistakes that are made with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sim2real.bridges.adapt.gradient.inner_loop import Params, halved_after, inner_loop
from sim2real.bridges.adapt.gradient.meta_gradient import maml, meta_sgd, reptile
from sim2real.bridges.adapt.gradient.surrogate import dice, lvc
from sim2real.types import InputError

# Two tasks a/2 (θ - c)²: a step contracts the error by 1 - αa, so stationary points are known.

TASKS = torch.tensor([[1.0, 0.0], [4.0, 1.0]], dtype=torch.float64)
ALPHA = 0.1


def quadratic(params: Params, task: Tensor) -> Tensor:
    return (task[0] / 2 * (params["theta"] - task[1]) ** 2).sum()


def at(theta: float) -> dict[str, Tensor]:
    return {"theta": torch.tensor([theta], dtype=torch.float64)}


def stationary(gradient: Any) -> float:
    """Where a gradient that is linear in θ vanishes."""
    zero, one = (float(gradient(at(x)).params["theta"]) for x in (0.0, 1.0))
    return zero / (zero - one)


@pytest.mark.parametrize(
    ("steps", "first_order", "theta"),
    [(0, False, 0.8), (1, False, 0.64), (2, False, 0.441379), (1, True, 0.727273),
     (2, True, 0.64)],
)  # fmt: skip
def test_maml_and_its_first_order_form_end_where_they_must(steps, first_order, theta):
    def gradient(params):
        return maml(params, quadratic, [TASKS] * steps, TASKS, ALPHA, first_order=first_order)

    assert stationary(gradient) == pytest.approx(theta, abs=1e-6)


def test_the_loss_there_is_known():
    assert float(maml(at(0.64), quadratic, [TASKS], TASKS, ALPHA).loss) == pytest.approx(0.1296)


@pytest.mark.parametrize(("steps", "theta"), [(1, 0.8), (5, 0.692502)])
def test_reptile_ends_where_it_must(steps, theta):
    found = stationary(lambda params: reptile(params, quadratic, [TASKS] * steps, ALPHA))
    assert found == pytest.approx(theta, abs=1e-6)


def test_a_rate_that_is_learned_solves_both_tasks_in_one_step():
    """θ = 0 is the first task's answer; a rate of 1/4 leads from it to the second's."""
    rates = {"theta": torch.tensor([0.25], dtype=torch.float64)}
    found = meta_sgd(at(0.0), rates, quadratic, [TASKS], TASKS)
    assert float(found.loss) == pytest.approx(0, abs=1e-12)
    assert float(found.params["theta"]) == pytest.approx(0, abs=1e-12)
    assert float(found.rates["theta"]) == pytest.approx(0, abs=1e-12)
    off = meta_sgd(at(0.0), {"theta": rates["theta"] - 0.1}, quadratic, [TASKS], TASKS)
    assert float(off.rates["theta"]) < 0  # descending, the rate grows


def test_the_inner_loop_leaves_its_start_alone_and_may_take_another_batch_and_rate_each_step():
    start = at(1.0)
    phi = inner_loop(start, quadratic, [TASKS[0], TASKS[1]], [0.5, 0.1])
    assert float(start["theta"]) == 1.0
    assert float(phi["theta"]) == pytest.approx(0.5 - 0.1 * 4 * (0.5 - 1))
    assert float(inner_loop(start, quadratic, [], 0.1)["theta"]) == 1.0
    with pytest.raises(InputError, match="2 rates for 1 inner steps"):
        inner_loop(start, quadratic, [TASKS[0]], [0.5, 0.1])


def test_further_steps_than_were_trained_for_are_half_as_long():
    assert halved_after(1, 0.4, 3) == [0.4, 0.2, 0.2]
    assert halved_after(3, 0.4, 2) == [0.4, 0.4]
    assert halved_after(1, 0.4, 0) == []
    with pytest.raises(InputError, match="trained 0"):
        halved_after(0, 0.4, 1)


# A bandit with three arms and a softmax policy: every path is enumerated, nothing is drawn.

THETA = torch.tensor([0.0, 0.5, -0.3], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
HESSIAN = torch.tensor(
    [[0.032396, 0.066628, -0.099024], [0.066628, -0.009676, -0.056952],
     [-0.099024, -0.056952, 0.155975]], dtype=torch.float64,
)  # fmt: skip
NAIVE = torch.tensor(
    [[-0.152276, 0.105066, 0.047209], [0.105066, -0.182901, 0.077835],
     [0.047209, 0.077835, -0.125044]], dtype=torch.float64,
)  # fmt: skip


def expected(theta: Tensor) -> Tensor:
    return torch.softmax(theta, 0) @ REWARD


def of_pulls(surrogate: Any) -> Any:
    """theta -> the expectation over pulls, drawn as the policy is now, of a surrogate return."""

    def value(theta: Tensor) -> Tensor:
        log_prob = torch.log_softmax(theta, 0)
        return -(log_prob.detach().exp() * surrogate(log_prob[:, None], REWARD[:, None])).sum()

    return value


def hessian(value: Any) -> Any:
    return torch.func.jacrev(torch.func.jacrev(value))


def naive(log_prob: Tensor, reward: Tensor) -> Tensor:
    return -(log_prob * reward).sum(dim=-1)


def test_the_return_and_its_gradient():
    assert float(expected(THETA)) == pytest.approx(0.7321456, abs=1e-7)
    right = torch.tensor([0.079024, -0.356126, 0.277102], dtype=torch.float64)
    for surrogate in (dice, lvc, naive):
        gradient = torch.func.grad(of_pulls(surrogate))(THETA)
        torch.testing.assert_close(gradient, right, atol=1e-6, rtol=0)


def test_the_second_derivative_of_dice_is_exact_and_the_naive_one_is_not():
    exact = hessian(expected)(THETA)
    torch.testing.assert_close(exact, HESSIAN, atol=1e-6, rtol=0)
    for surrogate in (dice, lvc):  # of one pull there are no products across time
        found = hessian(of_pulls(surrogate))(THETA)
        torch.testing.assert_close(found, exact, atol=1e-10, rtol=0)
    torch.testing.assert_close(hessian(of_pulls(naive))(THETA), NAIVE, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("inner", "first_order", "gradient"),
    [(dice, False, [0.025513, -0.358803, 0.333289]), (lvc, False, [0.025513, -0.358803, 0.333289]),
     (dice, True, [0.051423, -0.353621, 0.302198]),
     (naive, False, [0.036064, -0.306820, 0.270756])],
    ids=["dice", "lvc", "first order", "naive, the planted bug"],
)  # fmt: skip
def test_maml_of_the_bandit(inner, first_order, gradient):
    """The query is the exact return; the inner step follows a surrogate."""

    def loss(params: Params, query: Tensor) -> Tensor:
        surrogate, exact = -of_pulls(inner)(params["theta"]), -expected(params["theta"])
        return torch.where(query, exact, surrogate)

    no, yes = torch.tensor([False]), torch.tensor([True])
    found = maml({"theta": THETA}, loss, [no], yes, 0.5, first_order=first_order)
    right = -torch.tensor(gradient, dtype=torch.float64)
    torch.testing.assert_close(found.params["theta"], right, atol=1e-6, rtol=0)
    assert float(found.loss) == pytest.approx(-0.8383107, abs=1e-6)


# Two pulls, the reward after the second: now there are products of scores across time.

BOTH = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
LVC = torch.tensor(
    [[-0.089592, 0.003923, 0.085669], [0.003923, 0.009429, -0.013352],
     [0.085669, -0.013352, -0.072317]], dtype=torch.float64,
)  # fmt: skip
ACROSS = torch.tensor(
    [[0.111104, -0.312513, 0.201409], [-0.312513, 0.560286, -0.247773],
     [0.201409, -0.247773, 0.046365]], dtype=torch.float64,
)  # fmt: skip


def expected_of_two(theta: Tensor) -> Tensor:
    p = torch.softmax(theta, 0)
    return p @ BOTH @ p


def of_two_pulls(surrogate: Any, late: bool) -> Any:
    """The same over nine paths; the reward stands at the second pull, or at both as advantage."""
    first, second = (x.ravel() for x in torch.meshgrid(*[torch.arange(3)] * 2, indexing="ij"))
    end = BOTH[first, second]
    reward = torch.stack([torch.zeros_like(end) if late else end, end], dim=1)

    def value(theta: Tensor) -> Tensor:
        log_pi = torch.log_softmax(theta, 0)
        log_prob = torch.stack([log_pi[first], log_pi[second]], dim=1)  # (9, 2)
        weight = log_prob.sum(dim=1).detach().exp()
        return -(weight * surrogate(log_prob, reward)).sum()

    return value


def whole_path(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """One ratio over the whole path: the planted bug of a low-variance estimator."""
    return lvc(log_prob.sum(dim=-1, keepdim=True), advantage[:, -1:])


def test_lvc_drops_the_products_across_time_and_nothing_else():
    exact = hessian(expected_of_two)(THETA)
    torch.testing.assert_close(
        hessian(of_two_pulls(dice, late=True))(THETA), exact, atol=1e-10, rtol=0
    )
    low = hessian(of_two_pulls(lvc, late=False))(THETA)
    torch.testing.assert_close(low, LVC, atol=1e-6, rtol=0)
    torch.testing.assert_close(exact - low, ACROSS, atol=1e-6, rtol=0)
    wrong = hessian(of_two_pulls(whole_path, late=False))(THETA)
    torch.testing.assert_close(wrong, exact, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("surrogate", "late", "gradient"),
    [(dice, True, [-0.395092, 0.698390, -0.303297]), (lvc, False, [-0.282538, 0.491669, -0.209131]),
     (naive, False, [-0.158766, 0.284949, -0.126182])],
    ids=["dice", "lvc", "naive, the planted bug"],
)  # fmt: skip
def test_maml_of_two_pulls(surrogate, late, gradient):
    def loss(params: Params, query: Tensor) -> Tensor:
        value = of_two_pulls(surrogate, late)(params["theta"])
        return torch.where(query, -expected_of_two(params["theta"]), -value)

    no, yes = torch.tensor([False]), torch.tensor([True])
    found = maml({"theta": THETA}, loss, [no], yes, 0.5)
    right = -torch.tensor(gradient, dtype=torch.float64)
    torch.testing.assert_close(found.params["theta"], right, atol=1e-6, rtol=0)


def test_lvc_of_another_policys_paths_weighs_them_by_how_likely_they_are_now():
    other = torch.log_softmax(torch.tensor([0.2, 0.1, 0.0], dtype=torch.float64), 0)
    now = torch.log_softmax(THETA, 0)
    value = -(other.exp() * lvc(now[:, None], REWARD[:, None], other[:, None])).sum()
    assert float(value) == pytest.approx(float(expected(THETA)), abs=1e-12)
