"""What comes before a search: primers, waveforms, contexts and encoder outputs of the requests."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor
from torch.nn import functional as F

from espnet_gated.gating.context import GatingContext, context_of_requests, with_tokens
from espnet_gated.gating.predictor import GatePredictor
from espnet_gated.inference.optimize import HALF
from espnet_gated.inference.request import Request, Speech


@dataclass(frozen=True)
class Encoded:
    """An utterance behind the encoder.

    Attributes:
        memory: (T, size).
        intermediate: number of a layer and its CTC's input (1, T, size), where the encoder has such.
        gates: stack → gates of its batch, and the utterance's row.
    """

    memory: Tensor
    intermediate: list[tuple[int, Tensor]] | None
    gates: dict[str, Any]


def groups_of(keys: Sequence[Any]) -> list[list[int]]:
    """Indices grouped by key, highest (longest) first."""
    groups: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return [groups[key] for key in sorted(groups, reverse=True)]


class EncodesRequests:
    """What :class:`espnet_gated.inference.speech2text.Speech2Text` does before its search, with ESPnet's attributes."""

    s2t_model: Any
    converter: Any
    tokenizer: Any
    preprocessor_conf: dict[str, Any]
    lang_sym: str
    task_sym: str
    predict_time: bool
    dtype: str
    device: str
    pad_to_speech_length: bool

    def predictors(self) -> dict[str, GatePredictor]:
        """Gate predictors by stack name."""
        stacks = {"encoder": self.s2t_model.encoder, "decoder": self.s2t_model.decoder}
        found = {name: getattr(stack, "gate_predictor", None) for name, stack in stacks.items()}
        return {name: p for name, p in found.items() if p is not None}

    @property
    def is_gated(self) -> bool:
        """Whether the checkpoint has trained gates (a dense one stays open)."""
        return hasattr(self.s2t_model, "set_sparsity") and bool(self.s2t_model.gate_predictors())

    @torch.no_grad()
    def begin(self, requests: Sequence[Request]) -> Iterator[tuple[list[int], list[list[int]], Tensor]]:
        """Encode utterances and stop where a search would begin.

        Yields:
            groups of utterances with equally long primers and memories, under whose contexts the predictors are while
            the group is looked at: numbers of the utterances, their primers, memory (n, T, size).
        """
        primers = [self._primer(r) for r in requests]
        context = self._context(requests, primers)
        with self._contexts_end():
            encoded = self._encode([self._prepare(r.speech) for r in requests], context)
            for group in groups_of([(len(primers[i]), len(e.memory)) for i, e in enumerate(encoded)]):
                self._see(context, group)
                yield group, [primers[i] for i in group], torch.stack([encoded[i].memory for i in group])

    @torch.no_grad()
    def decide(self, requests: Sequence[Request]) -> None:
        """Let the predictors decide on utterances that nobody decodes: the encoder runs, the decoder only begins."""
        for _, primers, memory in self.begin(requests):
            if "decoder" in self.predictors():
                self.s2t_model.decoder.decide(memory, None, torch.tensor(primers))

    def _primer(self, request: Request) -> list[int]:
        """Tokens the search starts with, as ESPnet builds them."""
        to_id = self.converter.token2id
        lang, task = request.lang_sym or self.lang_sym, request.task_sym or self.task_sym
        for option, symbol in (("lang_sym", lang), ("task_sym", task)):
            if symbol not in to_id:
                raise ValueError(f"{symbol} is not in the token list (--{option})")
        predict_time = self.predict_time if request.predict_time is None else request.predict_time
        primer = [self.s2t_model.sos, to_id[lang], to_id[task]]
        if not predict_time:
            primer.append(to_id[self.preprocessor_conf["notime_symbol"]])
        previous = request.text_prev
        if previous is None:
            return primer
        if isinstance(previous, str):
            previous = self.converter.tokens2ids(self.tokenizer.text2tokens(previous))
        previous = list(map(int, previous))
        return primer if self.s2t_model.na in previous else [self.s2t_model.sop, *previous, *primer]

    @staticmethod
    def _one_channel(speech: Speech) -> Tensor:
        wave = torch.as_tensor(speech)
        if wave.dim() == 2 and wave.size(1) == 1:
            wave = wave.squeeze(1)
        if wave.dim() != 1:
            raise ValueError(f"speech must be (samples,) or (samples, 1), got {tuple(wave.shape)}")
        return wave

    def _prepare(self, speech: Speech) -> Tensor:
        """One channel, trimmed (and padded, unless the model was trained without) to the training length."""
        wave = self._one_channel(speech)
        self._check_length(wave.numel())
        longest = int(self.preprocessor_conf["fs"] * self.preprocessor_conf["speech_length"])
        wave = wave[:longest]
        if self.pad_to_speech_length:
            wave = F.pad(wave, (0, longest - wave.numel()))
        dtype = getattr(torch, self.dtype)
        return wave.to(device=self.device, dtype=torch.float32 if dtype in HALF else dtype)

    @property
    def least_samples(self) -> int:
        """How long audio must be: a window of the spectrogram."""
        stft: Any = getattr(getattr(self.s2t_model, "frontend", None), "stft", None)
        if stft is None:
            return 1
        # The spectrogram mirrors half a window at both ends.
        return max(stft.win_length, stft.n_fft // 2 + 1 if stft.center else 0)

    def _check_length(self, samples: int) -> None:
        """Raise TooShortUttError for audio shorter than a window of the spectrogram."""
        least = self.least_samples
        if samples < least:
            message = f"has {samples} samples and is too short for the spectrogram (it needs at least {least} samples)"
            raise TooShortUttError(message, samples, least)

    def _encode(self, speech: list[Tensor], context: GatingContext | None) -> list[Encoded]:
        """Encode utterances of equal length together: ESPnet's convolutions would see the padding of unequal ones."""
        encoded: list[Encoded | None] = [None] * len(speech)
        # Trimmed by what intermediate CTC hears, utterances of one length become unequal on the way.
        alone = getattr(self.s2t_model.encoder, "ctc_trim", False)
        for group in [[i] for i in range(len(speech))] if alone else groups_of([s.numel() for s in speech]):
            batch = torch.stack([speech[i] for i in group])
            lengths = torch.full((len(group),), batch.size(1), device=batch.device)
            self._see(context, group)
            out, frames = self.s2t_model.encode(batch, lengths)
            out, intermediate = out if isinstance(out, tuple) else (out, None)
            predictor = self.predictors().get("encoder")
            # Once: gates that were decided on the way are put together, and read from the device, at every look.
            decided = None if predictor is None else predictor.last
            ends = frames.tolist()
            for row, i in enumerate(group):
                gates = {} if decided is None else {"encoder": (decided, row)}
                inter = None if intermediate is None else [(n, h[row : row + 1]) for n, h in intermediate]
                encoded[i] = Encoded(out[row, : ends[row]], inter, gates)
        return [e for e in encoded if e is not None]

    def _context(self, requests: Sequence[Request], primers: list[list[int]]) -> GatingContext | None:
        """Contexts of the utterances: the tokens of their primers, and what the requests say."""
        fields = getattr(self.s2t_model, "context_fields", [])
        context = context_of_requests(fields, [r.categories for r in requests], [r.vectors for r in requests])
        if not self.is_gated:
            return None
        longest = max(map(len, primers))
        padded = torch.tensor([p + [-1] * (longest - len(p)) for p in primers])
        if any(p.policy.budget == "random" for p in self.predictors().values()):
            context = replace(context, seeds=torch.tensor([*map(self._seed_of, requests, primers)]))
        return with_tokens(context, self.s2t_model.token_context.from_primer(padded))

    def _seed_of(self, request: Request, primer: list[int]) -> int:
        """The same for an utterance wherever it stands, another for another task of the same audio."""
        wave = self._one_channel(request.speech).cpu().contiguous().numpy().tobytes()
        return zlib.crc32(str(primer).encode(), zlib.crc32(wave))

    @contextlib.contextmanager
    def _contexts_end(self) -> Iterator[None]:
        """Afterwards the predictors know of no context: whoever runs the model next has utterances of their own."""
        try:
            yield
        finally:
            for predictor in self.predictors().values():
                predictor.current = None

    def _see(self, context: GatingContext | None, rows: Sequence[int]) -> None:
        """Let the predictors see the contexts of some utterances."""
        chosen = None if context is None else context.select(torch.tensor(list(rows)))
        for predictor in self.predictors().values():
            predictor.current = chosen
