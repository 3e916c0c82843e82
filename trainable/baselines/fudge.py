"""FUDGE (Yang and Klein, arXiv 2104.05218): an autoregressive LM whose next words a future
discriminator weighs.

p(word | prefix, target) is proportional to p_LM(word | prefix) * p(target will be met | prefix, word), over
the LM's most likely words. The discriminator sees every prefix of training texts, with targets that the text
meets and others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainable.baselines.coded import TELL_EVERY, Pairs, Tell, coded, padded
from trainable.control.base import ControlTask, Target
from trainable.corpora.tokenized import END, PAD, START, TokenizedCorpus
from trainable.seeds import stream, stream_seed
from trainable.training.optimizer import adamw, set_rate

STEPS, BATCH, RATE, DECAY, ROWS = 600, 64, 3e-3, 0.01, 6000
CANDIDATES = 50  # the LM's most likely next words that are weighed
WIDTH = 96


class Discriminator(nn.Module):
    """log-odds that a text which begins so will meet the target."""

    def __init__(self, symbols: int):
        super().__init__()
        self.table = nn.Embedding(symbols, WIDTH)
        self.prefix = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.code = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.judge = nn.Sequential(nn.Linear(3 * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    def encode(self, codes: Sequence[Sequence[int]]) -> Tensor:
        """[N, WIDTH] state at the last symbol of each code."""
        ids = padded(codes).to(self.table.weight.device)
        last = torch.tensor([len(code) - 1 for code in codes], device=ids.device)
        states, _ = self.code(self.table(ids))
        return states[torch.arange(len(ids), device=ids.device), last]

    def forward(self, states: Tensor, code: Tensor) -> Tensor:
        """[..., WIDTH] prefix states and codes -> [...] log-odds."""
        return self.judge(torch.cat([states, code, states * code], -1))[..., 0]


class Fudge:
    """A teacher with the discriminator of one task."""

    def __init__(self, task: ControlTask, corpus: TokenizedCorpus, teacher: nn.Module, seed: int = 0,
                 steps: int = STEPS, rows: int = ROWS, tell: Tell = lambda text: None):
        self.task, self.corpus, self.teacher, self.seed = task, corpus, teacher, seed
        self.pairs = Pairs(task, corpus, rows, stream("fudge", task.name, seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed("fudge", seed) % 2**31)
            self.model = Discriminator(self.pairs.book.size).to(next(teacher.parameters()).device)
        self._fit(steps, tell)

    def _fit(self, steps: int, tell: Tell) -> None:
        """Binary cross-entropy over all prefixes, the own target and another text's in equal parts.

        The other text's target counts as met only where its code is the same.
        """
        generator = stream("fudge batches", self.task.name, self.seed)
        device = self.model.table.weight.device
        optimizer = adamw(self.model.named_parameters(), lr=RATE, weight_decay=DECAY)
        for step in range(steps):
            if step % TELL_EVERY == 0:
                tell(f"{self.task.name}, FUDGE: training step {step} of {steps}")
            set_rate(optimizer, RATE * (1 - step / steps))
            rows = torch.randint(len(self.pairs), (BATCH,), generator=generator)
            ids = self.pairs.ids[rows].to(device)
            own = [self.pairs.codes[row] for row in rows.tolist()]
            half = BATCH // 2
            asked = own[:half] + [own[(i + 1) % BATCH] for i in range(half, BATCH)]
            truth = torch.tensor([float(a == b) for a, b in zip(asked, own, strict=True)], device=device)
            states, _ = self.model.prefix(self.model.table(ids))
            code = self.model.encode(asked)[:, None].expand_as(states)
            odds, used = self.model(states, code), ids != PAD
            loss = F.binary_cross_entropy_with_logits(odds, truth[:, None].expand_as(odds), reduction="none")
            optimizer.zero_grad(set_to_none=True)
            ((loss * used).sum() / used.sum()).backward()
            optimizer.step()

    @torch.no_grad()
    def generate(self, targets: Sequence[Target]) -> list[list[str]]:
        """One text per target."""
        device, n = self.model.table.weight.device, len(targets)
        generator = stream("fudge text", self.task.name, self.seed)
        code = self.model.encode(coded(self.pairs.book, self.task, targets))
        ids = torch.full((n, 1), START, device=device)
        _, state = self.model.prefix(self.model.table(ids))
        done = torch.zeros(n, dtype=torch.bool, device=device)
        for _ in range(self.pairs.ids.shape[1] - 1):
            log_p = self.teacher(input_ids=ids, use_cache=False).logits[:, -1].float().log_softmax(-1)
            log_p[:, [START, PAD]] = -torch.inf
            best, words = log_p.topk(min(CANDIDATES, log_p.shape[1]), dim=-1)
            k = words.shape[1]
            before = state.repeat_interleave(k, dim=1)
            after, _ = self.model.prefix(self.model.table(words.reshape(-1, 1)), before)
            odds = self.model(after[:, 0].view(n, k, -1), code[:, None].expand(-1, k, -1))
            weights = (best + F.logsigmoid(odds)).softmax(-1)
            choice = torch.multinomial(weights.cpu(), 1, generator=generator).to(device)
            word = words.gather(1, choice)[:, 0].masked_fill(done, PAD)
            _, state = self.model.prefix(self.model.table(word[:, None]), state)
            ids, done = torch.cat([ids, word[:, None]], 1), done | (word == END)
            if bool(done.all()):
                break
        return [self.corpus.decode(row) for row in ids.tolist()]
