"""Discrete Adjoint Matching on a uniform-noise CTMC with two tokens: rollouts, path weights, generalised KL.

    python -m tests.derivations.uniform_training --values 11 --bins 8 --rounds 8 --rollouts 8192 --updates 200 --lr 0.05

trains a policy and prints its row of the table in section 7 of docs/uniform.md; `--rounds 0` trains none.
"""

import argparse
import math

import torch
from torch import Tensor

from pipeline.ctmc.weights import effective_sample_size, self_normalized
from tests.derivations.uniform import (
    all_states,
    bridge_rate,
    chain_law,
    matching_loss,
    neighbors,
    optimal_rate,
    posterior,
    renoise,
    reversal_rate,
    rollout,
    value,
)

LENGTH, START, ALPHA, BATCH = 2, 1e-2, 0.5, 1024


class Problem:
    """Base and reward r(x) = cos(2π(x¹ - x²)/(M - 1)) on M values, and a chain of `steps` steps from κ = `START`."""

    def __init__(self, values: int, steps: int):
        self.values, self.steps, self.states = values, steps, values**LENGTH
        self.tokens, self.moves = all_states(LENGTH, values), neighbors(LENGTH, values)
        self.step = -math.log(START) / steps
        self.kappa = (math.log(START) + self.step * (torch.arange(steps) + 0.5)).exp()
        drawn = torch.randn(self.states, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.base = (0.7 * drawn).softmax(0)
        distance = (self.tokens[:, 0] - self.tokens[:, 1]).double()
        self.cost = -torch.cos(2 * math.pi * distance / (values - 1)) / ALPHA
        self.optimum = (self.base.log() - self.cost).softmax(0)
        self.base_logits = posterior(self.base, self.kappa.double(), LENGTH).log().float()

    def kl_of(self, rate: Tensor) -> float:
        """KL(p* ‖ p) with the exact law p of the chain with these rates [S, X, L, M], started from uniform noise."""
        law = chain_law(torch.full_like(self.base, 1 / self.states), rate.double(), self.step, self.moves)
        return float((self.optimum * (self.optimum / law).log()).sum())

    def kl_of_optimal_rate(self) -> float:
        """What remains of the steps' size where at most one token jumps in each."""
        base = TabularPolicy(self, 1).table().double()
        return self.kl_of(optimal_rate(base, value(self.base, self.cost, self.kappa.double(), LENGTH), self.moves))


class TabularPolicy:
    """p_θ(v|x, i, κ) ∝ p^base(v|x, i, κ) e^{θ(κ, x, i, v)}, with θ linear in κ between `bins` + 1 tables."""

    def __init__(self, problem: Problem, bins: int):
        self.problem = problem
        self.theta = torch.zeros(bins + 1, problem.states, LENGTH, problem.values, requires_grad=True)
        self.before = (problem.kappa * bins).long().clamp(max=bins - 1)
        self.fraction = problem.kappa * bins - self.before

    def rate(self, step: Tensor, state: Tensor) -> Tensor:
        """u^θ at each pair of a step and a state, [n, L, M]."""
        before, fraction, problem = self.before[step], self.fraction[step, None, None], self.problem
        tilt = torch.lerp(self.theta[before, state], self.theta[before + 1, state], fraction)
        logits = problem.base_logits[step, state] + tilt
        return reversal_rate(logits.softmax(-1), problem.tokens[state], problem.kappa[step])

    def table(self) -> Tensor:
        """u^θ at every step and state, [S, X, L, M]."""
        problem = self.problem
        with torch.no_grad():
            pairs = torch.cartesian_prod(torch.arange(problem.steps), torch.arange(problem.states))
            return self.rate(pairs[:, 0], pairs[:, 1]).view(problem.steps, problem.states, LENGTH, problem.values)

    def kl(self) -> float:
        return self.problem.kl_of(self.table())


def train(policy: TabularPolicy, rounds: int, rollouts: int, updates: int, lr: float, seed: int = 0) -> list[float]:
    """Per round: X_1 ~ p^u with weights, then gKL on X_κ re-noised from all rounds' X_1; returns ESS/K by round."""
    problem, random = policy.problem, torch.Generator().manual_seed(seed)
    base = TabularPolicy(problem, 1).table()
    optimizer = torch.optim.Adam([policy.theta], lr=lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, rounds * updates))
    ends, masses, sizes = [], [], []
    for _ in range(rounds):
        start = torch.randint(problem.states, (rollouts,), generator=random)
        end, log_ratio = rollout(start, base, policy.table(), problem.step, problem.moves, random)
        # One group for all starts: X_0 is independent of X_1 under p*, so its law is not tilted.
        weight = self_normalized((log_ratio - problem.cost.float()[end])[None])
        sizes.append(effective_sample_size(weight).item())
        ends.append(end)
        masses.append(weight[0] * sizes[-1])
        for _ in range(updates):
            drawn = torch.multinomial(torch.cat(masses), BATCH, replacement=True, generator=random)
            x_1 = problem.tokens[torch.cat(ends)[drawn]]
            step = torch.randint(problem.steps, (BATCH,), generator=random)
            tokens = renoise(x_1, problem.kappa[step], problem.values, random)
            rate = policy.rate(step, tokens @ torch.tensor([problem.values, 1]))
            target = bridge_rate(x_1, tokens, problem.kappa[step], problem.values)
            loss = matching_loss(rate, target).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    return [size / rollouts for size in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"values": 7, "steps": 64, "bins": 4, "rounds": 5, "rollouts": 4096, "updates": 150, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"({default})")
    parser.add_argument("--lr", type=float, default=0.1, help="(0.1), falls linearly to 0")
    args = parser.parse_args()
    problem = Problem(args.values, args.steps)
    policy = TabularPolicy(problem, args.bins)
    base = policy.kl()
    shares = train(policy, args.rounds, args.rollouts, args.updates, args.lr, args.seed)
    sizes = [args.values, problem.states, args.steps, args.bins]
    effort = [f"{args.rounds} × {args.rollouts}", f"{args.rounds} × {args.updates}, {args.lr}"]
    kls = [f"{kl:.2g}" for kl in (base, policy.kl(), problem.kl_of_optimal_rate())]
    ess = f"{shares[0]:.2f} to {shares[-1]:.2f}" if shares else ""
    print("|", " | ".join(map(str, [*sizes, *effort, *kls, ess])), "|")


if __name__ == "__main__":
    main()
