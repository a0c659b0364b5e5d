"""The lens in one go: what a recurrent tagger does with a sentence, as figures. Nothing is trained.

    python see_inside.py [folder for the figures]

In a notebook, leave out `save_figure`: a figure that ends a cell is shown, and so is a layer of recurra.
"""

import sys
from pathlib import Path

import torch

from recurra import lens
from recurra.nn import LSTM, init

torch.manual_seed(0)
SENTENCE = "the network that the gates of its cells rule forgets only what they let go"
E, H, K = 8, 16, 4

said = SENTENCE.split(" ")
words = sorted(set(said))
sentence = torch.tensor([[words.index(word) for word in said]])  # (N 1, T)


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(words), E)
        self.encoder = LSTM(E, H, batch_first=True)
        self.head = torch.nn.Linear(H, K)

    def forward(self, sentence: torch.Tensor) -> torch.Tensor:
        output, _ = self.encoder(self.embedding(sentence))
        return self.head(output)  # (N, T, K)


tagger = Tagger()
traced = lens.trace(tagger, sentence, time=said)
usual = lens.time_constants(traced)
init.forget_bias_(tagger.encoder, 3.0)  # the forget gates open: units keep more
opened = lens.time_constants(lens.trace(tagger, sentence))
flow = lens.gradient_flow(tagger, sentence, loss=lambda tags: tags[:, -1].sum(), time=said)
answer = {"target": lambda tags: tags[:, -1, 0], "embedding": tagger.embedding, "time": said}
reasons = lens.integrated_gradients(tagger, sentence, **answer)
effect = lens.what_if(tagger, sentence, edits=[lens.Edit("cell", to=0.0, steps=7)], time=said)

figures = {
    "gates": lens.plot(traced),
    "unit": lens.plot_unit(traced, 3),
    "memory": lens.plot(lens.compare(usual, opened)),
    "gradients": lens.plot(flow),
    "reasons": lens.plot(reasons),
    "forgotten": lens.plot(effect, traced=lens.trace(tagger, sentence), variable="cell"),
}
print(flow)
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
for name, figure in figures.items():
    print("wrote", lens.save_figure(figure, folder / f"{name}.html"))
