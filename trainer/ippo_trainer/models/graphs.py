"""Decoding on a GPU that does not wait for the host: a step is a CUDA graph, replayed many times between two looks."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ippo_trainer.models import decoding
from ippo_trainer.models.attention import follows_the_batch
from ippo_trainer.models.cache import RaggedCache
from ippo_trainer.models.decoding import Decode, SamplingRequest, exchange
from ippo_trainer.models.parts import decoder, logits

LOOK = 16
"""Steps between two looks at which rows have ended."""
_COLUMNS = 512
"""A graph reads keys and values up to a multiple of this; longer texts need a new graph."""
_FEWEST_ROWS = 8
_FEWEST_STEPS = 4
_TILE = 128


class GraphDecode(Decode):
    """Draws what `Decode` draws, up to rounding, with all its tables on the device.

    A row that has ended goes on in vain, in the column after its end, until half of the rows have: then the others
    move together, and are captured anew. On a device without graphs, and for models whose forward asks the host, steps
    are run one by one.
    """

    def __init__(self, request: SamplingRequest, owners: list[int], cache: RaggedCache, last: Tensor) -> None:
        super().__init__(request, owners, cache, last)
        rows, steps, device = *self.tokens.shape, request.device
        self._drawn = torch.full((rows, steps), request.sampling.pad_id, device=device)
        self._scores = torch.zeros((rows, steps), device=device)
        self._stopped = torch.zeros(rows, dtype=torch.bool, device=device)
        self._sizes = torch.zeros(rows, dtype=torch.long, device=device)
        self._last = torch.zeros((rows, 1), dtype=torch.long, device=device)
        self._columns = torch.tensor(self.lengths, device=device).unsqueeze(1)
        self._step = torch.zeros(1, dtype=torch.long, device=device)
        self._width = 0
        self._graph: Any = None
        self._capturable = device.type == "cuda" and _asks_nothing(request.model)

    def finish(self) -> None:
        """Decodes until every row has ended or is full."""
        self._write(self.states)
        step, steps = 1, self.request.sampling.max_new_tokens
        while step < steps and self.running:
            count = min(LOOK, steps - step)
            self._widen(step + count)
            self._repeat(count)
            step += count
            self._drop_ended(step)
        order = torch.from_numpy(self.response).to(self.request.device).argsort()
        self.tokens, self.logprobs, self.sizes, self.ended = (
            table[order].numpy(force=True) for table in (self._drawn, self._scores, self._sizes, self._stopped)
        )
        self._graph = None

    def _repeat(self, count: int) -> None:
        """Runs `count` steps; the first of a new graph is an ordinary one, which warms up what the capture needs."""
        if not self._capturable or (self._graph is None and count < _FEWEST_STEPS):
            for _ in range(count):
                self._advance_all()
            return
        if self._graph is None:
            self._advance_all()
            count -= 1
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._advance_all()
            self._graph = graph
        for _ in range(count):
            self._graph.replay()

    def _advance_all(self) -> None:
        """Runs the newest tokens and draws the next ones."""
        rows = self.running
        columns, stopped = self._columns[:rows], self._stopped[:rows]
        self.cache.place(columns, first=0, width=self._width, plain=False)
        states = decoding.forward(decoder(self.request.model), self.cache, self._last[:rows], columns, self._width)[
            :, 0
        ]
        columns += ~stopped.unsqueeze(1)
        self._write(states)

    def _write(self, states: Tensor) -> None:
        """Draws from the states of the running rows and notes the tokens at the current step."""
        rows, sampling = self.running, self.request.sampling
        stopped = self._stopped[:rows]
        levels = self.uniforms[:rows].index_select(1, self._step)[:, 0]
        scores = sampling.scale(logits(self.request.model.get_output_embeddings(), states))
        tokens, logprobs = draw(scores, levels)
        tokens = tokens.masked_fill(stopped, sampling.pad_id).unsqueeze(1)
        self._drawn[:rows].index_copy_(1, self._step, tokens)
        self._scores[:rows].index_copy_(1, self._step, logprobs.unsqueeze(1))
        self._sizes[:rows] += ~stopped
        self._last[:rows] = tokens
        stopped |= (tokens == self.request.stops).any(1)
        self._step += 1

    def _widen(self, step: int) -> None:
        """Sees to it that texts may grow until `step`."""
        longest = int(self.lengths[self.response[: self.running]].max()) + step
        if longest > self._width:
            self._width = min(self.cache.layers[0].capacity, -(-longest // _COLUMNS) * _COLUMNS)
            self._graph = None

    def _drop_ended(self, step: int) -> None:
        """Lets the rows that go on come first, once they are the fewer ones."""
        stopped = self._stopped[: self.running].numpy(force=True)
        count, holes, movers = exchange(stopped)
        if count > max(_FEWEST_ROWS, self.running // 2):
            return
        if len(holes):
            device = self.request.device
            some, others = torch.from_numpy(holes).to(device), torch.from_numpy(movers).to(device)
            self.cache.swap(some, others, self._width)
            both, exchanged = torch.cat([some, others]), torch.cat([others, some])
            for table in (
                self._drawn,
                self._scores,
                self._stopped,
                self._sizes,
                self._last,
                self._columns,
                self.uniforms,
            ):
                table[both] = table[exchanged]
            self.response[holes], self.response[movers] = self.response[movers], self.response[holes]
        if count < self.running:
            self._graph = None
        self.running = count


def draw(scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Draws a token of each row by the inverse of its distribution function.

    The sums are in double, tile by tile of the vocabulary, and within one tile: with a large vocabulary, fp32 sums
    would bias the rare tokens, and a whole table in double costs more than the model.

    Args:
        scores: (n, V) fp32 logits, after temperature.
        levels: (n,) float64 in [0, 1).

    Returns:
        (n,) tokens, and their log-probabilities in nats.
    """
    total = scores.logsumexp(-1, keepdim=True)
    weights = (scores - total).exp_()
    weights = functional.pad(weights, (0, -weights.shape[1] % _TILE)) if weights.shape[1] % _TILE else weights
    tiles = weights.view(len(weights), -1, _TILE)
    heights = tiles.sum(-1, dtype=torch.double).cumsum_(-1)
    levels = (levels * heights[:, -1]).unsqueeze(1)
    tile = torch.searchsorted(heights, levels, right=True).clamp_(max=tiles.shape[1] - 1)
    before = heights.gather(1, (tile - 1).clamp_(min=0)) * (tile > 0)
    chosen = tiles.gather(1, tile.unsqueeze(2).expand(-1, -1, _TILE))[:, 0]
    place = torch.searchsorted(before + chosen.double().cumsum_(-1), levels, right=True)
    # Two roundings of one sum may differ: never beyond the tile's last token that can be drawn.
    numbers = torch.arange(_TILE, device=scores.device)
    place = torch.minimum(place, (numbers * (chosen > 0)).amax(-1, keepdim=True))
    tokens = tile * _TILE + place
    return tokens[:, 0], (scores.gather(1, tokens) - total)[:, 0]


def _asks_nothing(model: Any) -> bool:
    """Whether a forward can be captured: no step of it waits for a number on the host."""
    return bool(getattr(model, "_can_compile_fullgraph", False)) and not follows_the_batch(decoder(model).config)
