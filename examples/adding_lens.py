"""Which unit of an LSTM holds a number? The adding problem, seen through the lens.

A row of random numbers is read, two of them marked: one in the first half, one in the second. The answer is
their sum (after Hochreiter and Schmidhuber 1997). So between the two marks something must hold the first
number. The lens finds the unit whose cell state does, and edits show that it is this one: with the memory of
another row in its place, the answer is the sum of that row's first number and this row's second.

Of itself an LSTM would spread the number over several units. Two things make one do the work. The forget
gates begin on a ladder: most shut, the last ones open, for keeping. And weights cost a little, more and more
as training goes on, so that units that are not needed fall silent.

    python adding_lens.py [--seed 2] [--page]
    recurra inspect adding_lens:trained adding_lens:samples     # the same page, from this folder
"""

import argparse
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from recurra import lens
from recurra.lens.search import Unit
from recurra.nn import LSTM
from recurra.nn.init import linspace_

T, H = 30, 8
ROUNDS, BATCH, RATE, COST = 1000, 64, 0.03, 0.006
HALF = T // 2  # the step at which the second half begins: the second number has not been read before
ROWS, SEED = 500, 2


class Problem(NamedTuple):
    x: Tensor  # (N, T, 2): numbers in -1..1, and marks
    numbers: Tensor  # (N, 2): the two that are marked
    places: Tensor  # (N, 2): their steps


def draw(rows: int, generator: Generator) -> Problem:
    values = 2 * torch.rand(rows, T, generator=generator) - 1
    halves = [torch.randint(HALF, (rows,), generator=generator) + start for start in (0, HALF)]
    places = torch.stack(halves, dim=1)
    marks = torch.zeros(rows, T).scatter_(1, places, 1.0)
    return Problem(torch.stack((values, marks), dim=2), values.gather(1, places), places)


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = linspace_(LSTM(2, H, batch_first=True), -20.0, 5.0)
        self.head = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])  # (N, 1)

    def size(self) -> Tensor:
        """The sum of |w| over the weights, and over the candidate's biases, which a memory would add up."""
        lstm, candidate = self.lstm, slice(2 * H, 3 * H)
        biases = lstm.bias_ih_l0[candidate], lstm.bias_hh_l0[candidate]
        return sum(w.abs().sum() for w in (lstm.weight_ih_l0, lstm.weight_hh_l0, self.head.weight, *biases))


def trained(seed: int = SEED) -> Adder:
    torch.manual_seed(seed)
    model, generator = Adder(), Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=ROUNDS, pct_start=0.1)
    for round in range(ROUNDS):
        x, numbers, _ = draw(BATCH, generator)
        loss = (model(x)[:, 0] - numbers.sum(1)).square().mean() + COST * round / ROUNDS * model.size()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def unseen() -> Problem:
    return draw(ROWS, Generator().manual_seed(445))  # with the marks of row 0 far apart


def samples() -> Tensor:
    """(20, T, 2): what the page shows."""
    return unseen().x[:20]


def holders(model: Adder, problem: Problem) -> list[Unit]:
    """The units, that one first whose cell state follows the first number best, from mark to mark."""
    first, second = problem.places.split(1, dim=1)  # (N, 1) each
    steps = torch.arange(T)
    between = (steps >= first) & (steps < second)  # (N, T)
    pattern = torch.where(between, problem.numbers[:, :1], torch.nan)
    return lens.best(lens.units_following(lens.trace(model, problem.x), pattern, variable="cell"), H)


def swap(model: Adder, problem: Problem, unit: int) -> Tensor:
    """(N): the answers with the next row's memory of this unit in the place of each row's own."""
    cell = torch.from_numpy(lens.trace(model, problem.x)["cell"].values[0, 0, :, HALF - 1, unit])
    memory = lens.Edit("cell", to=cell.roll(-1)[:, None], units=unit, steps=HALF - 1)
    return lens.what_if(model, problem.x, edits=[memory]).after[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED, help="of weights and rows (default: %(default)s)")
    parser.add_argument("--page", action="store_true", help="show it in the browser until Ctrl-C")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # for a network this small, handing out the work takes longer than doing it
    model, problem = trained(chosen.seed), unseen()
    x, numbers, places = problem
    with torch.no_grad():
        answers = model(x)[:, 0]
    error = (answers - numbers.sum(1)).square().mean().sqrt()
    print(f"error {error:.3f} over {ROWS} new rows; without reading {numbers.sum(1).std():.3f}\n")

    swapped = numbers[:, 0].roll(-1) - numbers[:, 0]  # what the next row's first number would change
    found = holders(model, problem)
    print("unit  correlation of its cell state     what the next row's memory of it changes")
    print("      with the first number             in the answer, by what that number would")
    for unit in found:
        change = swap(model, problem, unit.unit) - answers
        print(f"{unit.unit:4}  {unit.score:+.2f}{'':29} {change @ swapped / (swapped @ swapped):+.2f}")

    best, least = found[0].unit, found[-1].unit
    (first, second), (one, other) = numbers[0], places[0]
    print(f"\nrow 0: {first:+.2f} at step {one}, {second:+.2f} at step {other}; answer {answers[0]:+.2f}")
    cell = lens.trace(model, x)["cell"].values[0, 0, 0, :, best]
    print(f"cell state of unit {best}:", " ".join(f"{value:+.1f}" for value in cell))
    edits = {
        f"unit {best} with the next row's memory, {numbers[1, 0]:+.2f}": swap(model, problem, best)[0],
        f"unit {best}: cell state 0": lens.Edit("cell", to=0.0, units=best, steps=HALF - 1),
        f"unit {best}: forget gate shut": lens.Edit("forget", to=0.0, units=best, steps=HALF),
        f"unit {least}: cell state 0": lens.Edit("cell", to=0.0, units=least, steps=HALF - 1),
    }
    for told, edit in edits.items():
        after = lens.what_if(model, x, edits=[edit]).after[0, 0] if isinstance(edit, lens.Edit) else edit
        print(f"answer {after:+.2f}  {told}")
    if chosen.page:
        from recurra.web import serve

        serve(model, samples())


if __name__ == "__main__":
    main()
