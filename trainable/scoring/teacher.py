"""The autoregressive model behind lm-score: a small GPT-2 over the corpus's own words, or any
Hugging Face model.

lm-score is the perplexity of generated text under a fixed teacher (Diffusion-LM, arXiv 2205.14217,
section 6.2). Values made by different teachers are never comparable, so a teacher knows its name and what
it gives to real text.

UNK stands for every word outside the vocabulary, so the probability of UNK is not that of a word: each is
charged log V nats more, V the size of the vocabulary, as if it were one of V words drawn evenly (adjusted
perplexity, Ueberla 1994, with V for the number of unknown words, which is rarely smaller). So a text of UNK
alone is never likelier than words drawn evenly.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaces.config import OptimConfig, TeacherConfig
from spaces.errors import UserError
from trainable.corpora.base import UNKNOWN
from trainable.corpora.tokenized import END, PAD, START, UNK, TokenizedCorpus
from trainable.training.optimizer import configured, learning_rate, set_rate

if TYPE_CHECKING:  # seconds to import, which a run with a counted teacher need not wait
    from transformers import GPT2LMHeadModel

FACTS, SHAPE, WEIGHTS = "teacher.json", "config.json", "model.safetensors"
TIED = "lm_head.weight"  # the same tensor as the embedding table: not stored twice
MEND = "delete its folder to train the teacher anew"
IGNORED = -100  # target of a padded position: not scored
POOL = 32  # batches that are sorted by length together
CHECKS = 6  # held-out checks during training; the best weights are kept
# held-out sentences: for choosing the weights; disjoint, for the reported perplexity
CHOOSING, REPORTING = 256, 1000


def length_batches(lengths: np.ndarray, size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Row numbers in batches of `size`, without end. Batches hold sentences of like length;
    order is random."""
    size = min(size, len(lengths))
    while True:
        order = torch.randperm(len(lengths), generator=generator).numpy()
        for start in range(0, len(order), size * POOL):
            pool = order[start:start + size * POOL]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches = [pool[i:i + size] for i in range(0, len(pool), size)]
            for i in torch.randperm(len(batches), generator=generator).tolist():
                if len(batches[i]) == size:  # the odd remainder of an epoch is left for another epoch
                    yield batches[i]


def _trimmed(ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray, device: torch.device | str) -> Tensor:
    """[B, longest + 2] word ids of `rows`, START and END included, without the common padding."""
    width = int(lengths[rows].max()) + 2
    return torch.from_numpy(np.ascontiguousarray(ids[rows, :width])).long().to(device)


def _token_nll(model: torch.nn.Module, ids: Tensor, scored: Tensor) -> Tensor:
    """[B, L - 1] negative log-likelihood (nats) of ids[:, 1:], zero where `scored` [B, L - 1] is False.

    Padding stands at the end, so the causal mask alone keeps it out of every scored position.
    """
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    targets = ids[:, 1:].masked_fill(~scored, IGNORED)
    flat = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(),
                                             ignore_index=IGNORED, reduction="none")
    return flat.view_as(targets)


@torch.no_grad()
def _corpus_nll(model: torch.nn.Module, ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray,
                device: torch.device | str) -> float:
    """Mean nats per token (END included) over `rows`."""
    model.eval()
    total, tokens = 0.0, 0
    for batch in np.array_split(rows[np.argsort(lengths[rows], kind="stable")], math.ceil(len(rows) / 64)):
        sentences = _trimmed(ids, lengths, batch, device)
        scored = sentences[:, 1:] != PAD
        total += _token_nll(model, sentences, scored).double().sum().item()
        tokens += int(scored.sum())
    return total / tokens


def unknown_nats(vocab: Sequence[str]) -> float:
    """Nats that a UNK is charged beside its own: log of the vocabulary's size."""
    return math.log(len(vocab))


def fingerprint(vocab: Sequence[str]) -> str:
    """Of a word list."""
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()[:16]


def _gpt2(config: TeacherConfig, words: int, positions: int, seed: int) -> GPT2LMHeadModel:
    if config.hidden % config.heads:
        raise UserError(f"teacher.hidden={config.hidden} is not a multiple of teacher.heads={config.heads}")
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(vocab_size=words, n_positions=positions, n_embd=config.hidden, n_layer=config.layers,
                       n_head=config.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                       bos_token_id=START, eos_token_id=END, attn_implementation="sdpa")
    # transformers initializes from the global generator: leave no trace in it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(shape)


def _copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class _Keeper:
    """The weights to keep: the best on held-out sentences among a few checks, averaged over steps
    where asked for."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.average = _copy(model) if decay else None
        self.best, self.best_nll = _copy(model), math.inf

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Follow the weights; the decay warms up so that the random start is soon forgotten."""
        if self.average is not None:
            decay = min(self.decay, (step + 1) / (step + 10))
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def check(self, heldout_nll: Callable[[], float]) -> None:
        """Measure the averaged (or live) weights and keep a copy when they are the best so far."""
        live = _copy(self.model) if self.average is not None else None
        if self.average is not None:
            self.model.load_state_dict(self.average)
        nll = heldout_nll()
        if nll < self.best_nll:
            self.best, self.best_nll = _copy(self.model), nll
        if live is not None:
            self.model.load_state_dict(live)


def heldout_rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint held-out rows: for choosing the weights, and for the perplexity that is reported."""
    order = np.random.default_rng(seed).permutation(count)
    choosing = min(CHOOSING, count // 2)
    return order[:choosing], order[choosing:choosing + REPORTING]


def _fit(model: torch.nn.Module, keeper: _Keeper, corpus: TokenizedCorpus, optim: OptimConfig, seed: int,
         choosing: np.ndarray, device: torch.device | str) -> Iterator[dict]:
    """The training loop. Yields progress events that also hold `tokens`, the number of tokens
    scored so far."""
    ids, lengths = corpus.ids("train"), np.asarray(corpus.lengths("train"))
    held_ids, held_lengths = corpus.ids("valid"), np.asarray(corpus.lengths("valid"))
    optimizer = configured(model.named_parameters(), optim)
    batches = length_batches(lengths, optim.batch_size, torch.Generator().manual_seed(seed))
    tell_every, check_every, tokens = max(1, optim.steps // 50), max(1, math.ceil(optim.steps / CHECKS)), 0
    for step in range(optim.steps):
        model.train()
        sentences = _trimmed(ids, lengths, next(batches), device)
        scored = sentences[:, 1:] != PAD
        count = int(scored.sum())
        tokens += count
        loss = _token_nll(model, sentences, scored).sum() / count
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if optim.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        set_rate(optimizer, learning_rate(step, optim))
        optimizer.step()
        keeper.after_step(step)
        last = step + 1 == optim.steps
        if last or (step + 1) % tell_every == 0:
            value = loss.item()
            if not math.isfinite(value):
                raise UserError(f"teacher: training diverged at step {step + 1} (loss {value}); lower "
                                f"teacher.optim.lr={optim.lr} or set teacher.optim.clip above 0")
            yield {"progress": 0.98 * (step + 1) / optim.steps,
                   "detail": f"step {step + 1:,}, loss {value:.3f}", "loss": value, "tokens": tokens}
        if last or (step + 1) % check_every == 0:
            keeper.check(lambda: _corpus_nll(model, held_ids, held_lengths, choosing, device))


def train_teacher(config: TeacherConfig, corpus: TokenizedCorpus, out: Path, *,
                  device: torch.device | str = "cpu", seed: int = 0) -> Iterator[dict]:
    """Train a teacher on the training split of `corpus`, in words whatever its ids are, and write it
    into the folder `out`.

    Yields `{"progress": 0..1, "detail", "loss": nats per token, "tokens"}` now and then, and last the facts
    of teacher.json with `"progress": 1.0`. The weights kept are the best of a few held-out checks;
    the perplexity reported is that of other held-out sentences. Raises `UserError` when training diverges,
    or when a split of the corpus is empty.
    """
    corpus = corpus.words
    begun, sizes = time.perf_counter(), (len(corpus.lengths("train")), len(corpus.lengths("valid")))
    if sizes[0] < 1 or sizes[1] < 2:
        raise UserError(f"teacher: the corpus has {sizes[0]} training and {sizes[1]} held-out sentences; "
                        "at least 1 and 2 are needed")
    choosing, reporting = heldout_rows(sizes[1], seed)
    # Two more than the corpus has: a generated text may fill every position with a word, START and
    # END are added to it.
    model = _gpt2(config, len(corpus.vocab), corpus.ids("train").shape[1] + 2, seed).to(device)
    keeper, tokens = _Keeper(model, config.optim.ema), 0
    for event in _fit(model, keeper, corpus, config.optim, seed, choosing, device):
        tokens = event["tokens"]
        yield event
    model.load_state_dict(keeper.best)
    held_ids, held_lengths = corpus.ids("valid"), np.asarray(corpus.lengths("valid"))
    nll = _corpus_nll(model, held_ids, held_lengths, reporting, device)
    charged = unknown_nats(corpus.vocab)
    nll += charged * float((held_ids[reporting] == UNK).sum() / (held_lengths[reporting] + 1).sum())
    facts = {"name": f"gpt2-{config.layers}x{config.hidden}-words", "vocabulary": fingerprint(corpus.vocab),
             "heldout_nll": nll, "heldout_perplexity": math.exp(nll), "heldout_sentences": len(reporting),
             "unknown_nats": charged,
             "parameters": sum(p.numel() for p in model.parameters()), "steps": config.optim.steps,
             "tokens": tokens, "seed": seed, "seconds": time.perf_counter() - begun}
    _write(model, facts, Path(out))
    yield {"progress": 1.0, **facts}


def _write(model: GPT2LMHeadModel, facts: dict, out: Path) -> None:
    """A folder that transformers can read as well; teacher.json comes last and so marks a whole teacher."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items() if name != TIED}
    save_file(state, out / WEIGHTS, metadata={"format": "pt"})
    model.config.save_pretrained(out)
    (out / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


class Teacher:
    """A causal language model that scores sentences given as lists of words. `facts` holds what
    is known of it."""

    def __init__(self, model: torch.nn.Module, encode: Callable[[list[str]], list[int]], facts: dict,
                 limit: int | None, device: torch.device | str = "cpu", batch: int = 64,
                 unknown: Callable[[list[str]], int] | None = None, charged: float = 0.0):
        """`encode` turns words into token ids with the start and the end token; `limit` is the
        most ids it may give.

        `unknown`: how many of the words are UNK to the teacher, by default those that are written so; each is
        `charged` so many nats beside its own.
        """
        self.model, self.encode, self.facts = model.to(device).eval(), encode, facts
        self.limit, self.device, self.batch = limit, device, batch
        self.unknown, self.charged = unknown or (lambda words: words.count(UNKNOWN)), charged

    @property
    def name(self) -> str:
        """What the perplexities of this teacher are to be labeled with."""
        return self.facts["name"]

    @classmethod
    def load(cls, path: Path | str, corpus: TokenizedCorpus | None,
             device: torch.device | str = "cpu") -> Teacher:
        """A teacher written by `train_teacher`, or any causal LM that transformers can load
        (scores plain text).

        Raises `UserError` naming the file that is missing or damaged, and when the vocabulary
        is not the corpus's.
        """
        folder = Path(path).expanduser()
        if ((folder / FACTS).is_file()
                or (folder.is_dir() and not (folder / "tokenizer_config.json").is_file())):
            assert corpus is not None, "a teacher of our own reads the corpus's words"
            return cls._load_own(folder, corpus, device)
        return cls._load_pretrained(str(path), corpus, device)

    @classmethod
    def _load_own(cls, folder: Path, corpus: TokenizedCorpus, device: torch.device | str) -> Teacher:
        facts, shape = read_json(folder / FACTS), read_json(folder / SHAPE)
        corpus = corpus.words  # whatever the ids of a model are
        if facts.get("vocabulary") != fingerprint(corpus.vocab):
            raise UserError(
                f"{folder / FACTS}: this teacher was trained on another vocabulary than the corpus has "
                f"({len(corpus.vocab)} words); train it anew or set teacher.path to a Hugging Face model")
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(GPT2Config(**{**shape, "attn_implementation": "sdpa"}))
        try:
            missing, unexpected = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder / WEIGHTS}: cannot be read as the teacher's weights "
                            f"({str(error).splitlines()[0]}); {MEND}") from error
        if set(missing) - {TIED} or unexpected:
            raise UserError(f"{folder / WEIGHTS}: not the weights that {SHAPE} describes; {MEND}")
        return cls(model, lambda words: [START, *corpus.encode(words), END], facts, model.config.n_positions,
                   device,
                   unknown=lambda words: corpus.encode(words).count(UNK), charged=unknown_nats(corpus.vocab))

    @classmethod
    def _load_pretrained(cls, path: str, corpus: TokenizedCorpus | None,
                         device: torch.device | str) -> Teacher:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        local = Path(path).expanduser().is_dir()
        place = str(Path(path).expanduser()) if local else path
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(place, local_files_only=local,
                                                         trust_remote_code=False, use_safetensors=True)
        except (OSError, ValueError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or ["?"])[0]
            raise UserError(f"teacher.path={path}: not a folder or hub id of a causal "
                            f"LM ({reason})") from error
        end = tokenizer.eos_token_id
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
        if end is None:
            raise UserError(f"teacher.path={path}: its tokenizer has no end-of-text token, "
                            "which lm-score counts")

        def encode(words: list[str]) -> list[int]:
            return [start, *tokenizer(" ".join(words), add_special_tokens=False)["input_ids"], end]

        limit = getattr(model.config, "max_position_embeddings", None)
        charged = 0.0 if corpus is None else unknown_nats(corpus.words.vocab)
        return cls(model, encode, {"name": Path(place).resolve().name if local else path}, limit, device,
                   charged=charged)

    @torch.no_grad()
    def nll(self, sentences: list[list[str]]) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each sentence, and how many tokens it is summed over.

        Returns `sums` [N] float64 nats and `counts` [N] int64, on the CPU. The end token is scored and
        counted, the start token is neither, so an empty sentence counts one token. A word outside the
        vocabulary is scored as UNK and charged `charged` nats more.
        Raises `ValueError` for a sentence longer than the teacher can read.
        """
        coded = [self.encode(list(words)) for words in sentences]
        longest = max(map(len, coded), default=0)
        if self.limit is not None and longest - 1 > self.limit:
            raise ValueError(f"a sentence of {longest} tokens is longer than teacher {self.name} reads "
                             f"({self.limit})")
        extra = torch.tensor([self.charged * self.unknown(list(words)) for words in sentences],
                             dtype=torch.float64)
        sums = torch.zeros(len(coded), dtype=torch.float64)
        counts = torch.tensor([len(ids) - 1 for ids in coded], dtype=torch.int64)
        order = sorted(range(len(coded)), key=lambda row: len(coded[row]))
        for first in range(0, len(order), self.batch):
            rows = order[first:first + self.batch]
            width = len(coded[rows[-1]])
            ids = torch.tensor([coded[row] + [END] * (width - len(coded[row])) for row in rows])
            scored = torch.arange(width - 1) < counts[rows][:, None]
            nll = _token_nll(self.model, ids.to(self.device), scored.to(self.device))
            sums[rows] = nll.double().sum(1).cpu()
        return sums + extra, counts


def read_json(path: Path) -> dict:
    """A JSON object. Raises `UserError` naming the file."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {MEND}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; {MEND}")
    return value
