"""Virtual adversarial training, rows without labels, and where attention looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_classify import TINY, ordered, reviews

from recurra.errors import ArgumentError, DataError, Interrupted
from recurra.tasks.classify import Classifier
from recurra.tasks.classify_network import Batch, Reader

VIRTUAL = {**TINY, "adversarial": "virtual:0.2", "seed": 7}


def drawn(seed: int) -> Batch:
    """Seven rows of tokens of different lengths, of three classes."""
    x = torch.randint(1, 33, (7, 9), generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([9, 0, 1, 7, 3, 9, 2])
    x[torch.arange(9) >= lengths.unsqueeze(1)] = 0
    return Batch(x, lengths, torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]])


def test_attention_is_where_the_readers_look() -> None:
    model = Classifier(**TINY, pooling="attention", seed=3).fit(*reviews(163))
    texts = ["the lovely film", "", "grim", "it was a " * 201 + "sour story"]
    found = model.attention(texts)
    assert found[0].tokens == ("the", "lovely", "film")
    assert [len(one.tokens) for one in found] == [3, 0, 1, 400]
    assert found[3].tokens[-2:] == ("sour", "story")
    assert [one.weights.shape for one in found] == [(3,), (0,), (1,), (400,)]
    for one in (found[0], found[2], found[3]):
        assert one.weights.sum() == pytest.approx(1, abs=1e-5)
    assert model.network is not None
    rows = model.preparation.encode(Classifier().check([*texts[:1], "a", "b", "c"], ["x", "y", "x", "y"]))
    batch = rows.batch(np.array([0]))
    by_hand = []
    for reader in model.network.readers:
        states = reader.lstm(_read_by(reader, batch.x), lengths=batch.lengths)[0]
        pooled, weights = reader.pooling.attention(states, batch.lengths)
        torch.testing.assert_close(reader.output(pooled), reader(batch.x, batch.lengths))
        by_hand.append(weights[0].detach().numpy())
    np.testing.assert_allclose(found[0].weights, np.mean(by_hand, 0), atol=1e-6)
    values, labels = ordered(33)
    steps = Classifier(**TINY, pooling="attention").fit(values, labels).attention(values[:1])[0]
    assert steps.tokens == tuple(str(k + 1) for k in range(len(values[0])))
    assert steps.weights.sum() == pytest.approx(1, abs=1e-5)


def _read_by(reader: Reader, x: torch.Tensor) -> torch.Tensor:
    """What the LSTM of a reader with regions reads of tokens."""
    assert reader.region is not None
    words = reader.embed(x)
    return torch.cat((words, reader.region(words.transpose(1, 2)).relu().transpose(1, 2)), 2)


def test_another_pooling_has_no_attention() -> None:
    fitted = Classifier(**TINY).fit(*reviews(33))
    with pytest.raises(ArgumentError, match="pooling is 'max', which weighs no words; expected a classifier"):
        fitted.attention(["a"])


@pytest.mark.parametrize("several", [False, True])
def test_virtual_adversarial_training_moves_where_the_prediction_changes_most(
    seed: int, several: bool
) -> None:
    torch.manual_seed(seed)
    reader = Reader(
        3,
        hidden_size=5,
        tokens=33,
        embedding_size=4,
        region=3,
        adversarial=0.3,
        virtual=True,
        several=several,
    ).double()
    with torch.no_grad():
        reader.output.weight.mul_(5)
    batch = drawn(seed)
    values, lengths = reader.eval().embed(batch.x).detach(), batch.lengths
    reader.train()
    assert reader.training
    worst = reader.worst(values, lengths)
    assert reader.training, "dropout is as before"
    size = values.flatten(1).norm(dim=1)
    torch.testing.assert_close(worst.flatten(1).norm(dim=1), 0.3 * size)
    assert (worst[torch.arange(9) >= lengths.unsqueeze(1)] == 0).all()
    assert (reader.divergence(values, lengths, torch.zeros_like(values)) == 0).all()

    def change(moved: torch.Tensor) -> torch.Tensor:
        return reader.divergence(values, lengths, moved)

    assert torch.autograd.gradcheck(change, (worst.clone().requires_grad_(),), fast_mode=True)
    rows = lengths > 2
    random = sum(
        change(worst.norm(dim=(1, 2), keepdim=True) * one / one.norm(dim=(1, 2), keepdim=True))
        for one in torch.randn(21, *values.shape, dtype=torch.float64)
    )
    assert (change(worst)[rows] > 1.5 * random[rows] / 21).all()
    given = torch.rand(3, 2, dtype=torch.float64).softmax(0)
    reader.eval()
    logits = reader.read(values, lengths).detach()
    moved = reader.read(values + worst, lengths).detach()
    if several:
        given, found = torch.stack((logits.sigmoid(), 1 - logits.sigmoid())), moved.sigmoid()
        by_hand = (given * (given / torch.stack((found, 1 - found))).log()).sum(0).mean(1)
    else:
        given, found = logits.softmax(1), moved.softmax(1)
        by_hand = (given * (given / found).log()).sum(1)
    torch.testing.assert_close(change(worst), by_hand)


def test_the_gradient_of_the_weights_is_that_of_the_moved_prediction(seed: int) -> None:
    torch.manual_seed(seed)
    reader = Reader(3, hidden_size=5, tokens=33, embedding_size=4, adversarial=0.3, virtual=True, dropout=0.0)
    reader = reader.double()
    batch = drawn(seed)
    values = reader.embed(batch.x).detach()
    worst = reader.worst(values, batch.lengths)
    given = reader.read(values, batch.lengths).softmax(1).detach()
    reader.divergence(values, batch.lengths, worst).sum().backward()
    for weights in (reader.output.weight, reader.lstm.weight_ih_l0, reader.lstm.weight_hh_l0_reverse):
        assert weights.grad is not None
        for place in (0, weights.numel() // 2, weights.numel() - 1):
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weights.view(-1)[place] += step
                    logs = reader.read(values + worst, batch.lengths).log_softmax(1)
                    weights.view(-1)[place] -= step
                sides.append(float((given * (given.log() - logs)).sum()))
            slope = (sides[0] - sides[1]) / 2e-5
            assert float(weights.grad.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_rows_without_labels_change_the_weights_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    texts, labels = reviews(63)
    more = reviews(127, seed=9)[0]

    def weights(model: Classifier) -> list[torch.Tensor]:
        assert model.network is not None
        return [one.detach() for one in model.network.readers.parameters()]

    def stop(row: dict[str, Any]) -> None:
        if (row["stage"], row["epoch"]) == ("training reader 2 of 2", 1):
            raise KeyboardInterrupt

    whole = Classifier(**VIRTUAL).fit(texts, labels, unlabelled=more)
    assert whole.plan.virtual
    assert whole.plan.adversarial == 0.2
    assert whole.notes[-1] == "127 rows of the texts counted without their labels."
    for other in (Classifier(**VIRTUAL).fit(texts, labels), Classifier(**TINY, seed=7).fit(texts, labels)):
        assert not all(map(torch.equal, weights(whole), weights(other)))
    with pytest.raises(Interrupted):
        Classifier(**VIRTUAL).fit(texts, labels, unlabelled=more, checkpoints=tmp_path, log=stop)
    again = Classifier(**VIRTUAL).fit(texts, labels, unlabelled=more, checkpoints=tmp_path)
    assert all(map(torch.equal, weights(whole), weights(again)))
    with pytest.raises(ArgumentError, match="checkpoint"):
        Classifier(**VIRTUAL).fit(texts, labels, unlabelled=more[1:], checkpoints=tmp_path)
    whole.save(tmp_path / "m.safetensors")
    loaded = Classifier.load(tmp_path / "m.safetensors")
    assert np.array_equal(loaded.predict(more).probabilities, whole.predict(more).probabilities)


def test_sequences_and_few_rows_without_labels() -> None:
    values, labels = ordered(33)
    model = Classifier(**VIRTUAL).fit(values, labels, unlabelled=ordered(3, seed=5)[0])
    assert np.isfinite(model.predict(values).probabilities).all()
    model = Classifier(**VIRTUAL).fit(*reviews(33), unlabelled=["", "zzz"])
    assert np.isfinite(model.predict(["a", ""]).probabilities).all()


def test_what_virtual_adversarial_training_cannot_use_is_told() -> None:
    texts, labels = reviews(33)
    for given in ("virtul", "virtual:", "virtual:much", "virtual:0", "virtual:nan", "virtual:10"):
        with pytest.raises(ArgumentError, match="adversarial must be a number, 'virtual', or 'virtual:' and"):
            Classifier(adversarial=given)
    with pytest.raises(ArgumentError, match="unlabelled rows count in virtual adversarial training only"):
        Classifier(**TINY, adversarial=0.02).fit(texts, labels, unlabelled=texts)
    with pytest.raises(DataError, match="are texts and sequences of numbers; expected the same of both"):
        Classifier(**VIRTUAL).fit(texts, labels, unlabelled=np.zeros((4, 7, 2)))
    with pytest.raises(DataError, match="has 3 numbers in a step where the model has learnt from 2"):
        Classifier(**VIRTUAL).fit(*ordered(33), unlabelled=np.zeros((4, 7, 3)))
    with pytest.raises(DataError, match="has no rows"):
        Classifier(**VIRTUAL).fit(texts, labels, unlabelled=[])
