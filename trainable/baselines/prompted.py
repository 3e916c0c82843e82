"""A conditional autoregressive model: the teacher's own weights, fine-tuned on `code of the target, text`
for one task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from trainable.baselines.coded import TELL_EVERY, Pairs, Tell, coded, padded
from trainable.control.base import ControlTask, Target
from trainable.corpora.tokenized import END, PAD, START, TokenizedCorpus
from trainable.seeds import stream, stream_seed
from trainable.training.optimizer import adamw, set_rate

STEPS, BATCH, RATE, DECAY, ROWS = 500, 64, 2e-3, 0.01, 6000
IGNORED = -100
BEAMS = 4


class Prompted:
    """Fine-tuned for one task; the code is the prompt, the loss is on the text alone."""

    def __init__(self, task: ControlTask, corpus: TokenizedCorpus, teacher: GPT2LMHeadModel, seed: int = 0,
                 steps: int = STEPS, rows: int = ROWS, tell: Tell = lambda text: None):
        """`teacher` is a GPT-2 over the corpus's words; it is copied, and gets rows for
        the codes' symbols."""
        self.task, self.corpus, self.seed = task, corpus, seed
        self.pairs = Pairs(task, corpus, rows, stream("prompted", task.name, seed))
        self.length = self.pairs.ids.shape[1]
        self.model = self._grown(teacher)
        self._fit(steps, tell)

    def _grown(self, teacher: GPT2LMHeadModel) -> GPT2LMHeadModel:
        """The teacher with more words and positions; the new rows start as small noise."""
        longest = max(len(code) for code in self.pairs.codes)
        positions = 2 * longest + teacher.config.n_positions
        shape = teacher.config.to_dict() | {"vocab_size": self.pairs.book.size, "n_positions": positions,
                                            "attn_implementation": "sdpa"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed("prompted", self.seed) % 2**31)
            model = GPT2LMHeadModel(GPT2Config(**shape))
        state, known = model.state_dict(), teacher.state_dict()
        for name, value in known.items():
            state[name][tuple(slice(0, size) for size in value.shape)] = value
        model.load_state_dict(state)
        return model.to(next(teacher.parameters()).device)

    def _fit(self, steps: int, tell: Tell) -> None:
        generator, device = stream("prompted batches", self.task.name, self.seed), self.model.device
        optimizer = adamw(self.model.named_parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY)
        self.model.train()
        for step in range(steps):
            if step % TELL_EVERY == 0:
                tell(f"{self.task.name}, fine-tuned: training step {step} of {steps}")
            set_rate(optimizer, RATE * (1 - step / steps))
            rows = torch.randint(len(self.pairs), (BATCH,), generator=generator).tolist()
            texts = [[i for i in self.pairs.ids[row].tolist() if i != PAD] for row in rows]
            ids = padded([[*self.pairs.codes[row], *text]
                          for row, text in zip(rows, texts, strict=True)]).to(device)
            labels = ids.clone()
            for place, row, text in zip(labels, rows, texts, strict=True):
                size = len(self.pairs.codes[row])
                place[:size + 1] = IGNORED  # START is given
                place[size + len(text):] = IGNORED
            logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(),
                                   ignore_index=IGNORED)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
        self.model.eval()

    @torch.no_grad()
    def generate(self, targets: Sequence[Target], beams: int = 1) -> list[list[str]]:
        """One text per target: drawn from the model as it is, or with `beams` above 1 the best
        of a beam search."""
        prompts = [[*code, START] for code in coded(self.pairs.book, self.task, targets)]
        ids = padded(prompts, left=True).to(self.model.device)
        mask = (torch.arange(ids.shape[1])[None]
                >= ids.shape[1] - torch.tensor([len(row) for row in prompts])[:, None])
        with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator
            torch.manual_seed(stream_seed("prompted text", self.task.name, self.seed) % 2**31)
            out = self.model.generate(
                ids, attention_mask=mask.long().to(ids.device), max_new_tokens=self.length - 1,
                num_beams=beams, **({"do_sample": True, "top_k": 0} if beams == 1 else {"do_sample": False}),
                eos_token_id=END, pad_token_id=PAD,
                suppress_tokens=[START, PAD, *range(self.pairs.book.words, self.pairs.book.size)])
        texts = out[:, ids.shape[1]:].tolist()
        return [self.corpus.decode(row) for row in texts]
