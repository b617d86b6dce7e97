"""How surprised a model is by what was really said: the negative log-likelihood of the true words.

Words and sentences that a search gets wrong are few, and chance decides over many of them. The likelihood of the true
words is a number for every utterance, under the same gates that the search would have, so it tells systems apart with
far fewer utterances. It is what training minimises (attention alone, no label smoothing).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_gated.data.text_line import TIMESTAMP_TOKEN, without_times
from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text


class TextError(ValueError):
    """A text that is not of the language and task that is asked for; ``number``: of the utterance, from 0."""

    number = 0


def text_ids(model: Speech2Text, primer: Sequence[int], text: str) -> list[int]:
    """Ids of a text's tokens behind the primer.

    Args:
        model: its tokens.
        primer: what the search starts with, up to its last token.
        text: as in ESPnet's ``text``, ``<deu><asr><notimestamps> words``; or the words alone. Times are left out,
            unless they are to be predicted.

    Raises:
        TextError: if the text starts with other symbols than the primer.
    """
    if model.converter.ids2tokens(list(primer)[-1:]) == [TIMESTAMP_TOKEN]:
        text = without_times(text)
    to_ids = lambda words: [int(i) for i in model.converter.tokens2ids(model.tokenizer.text2tokens(words))]  # noqa: E731
    ids = to_ids(text)
    symbols = list(primer)[list(primer).index(model.s2t_model.sos) + 1 :]
    for start in (0, 1):  # sentencepiece puts a space in front
        if ids[start : start + len(symbols)] == symbols:
            return ids[start + len(symbols) :]
    expected = "".join(model.converter.ids2tokens(symbols))
    if text.startswith(expected):  # tokens of characters or words take the symbols apart
        return to_ids(text.removeprefix(expected).lstrip())
    if text.startswith("<"):
        raise TextError(f"the text begins with {text.split()[0]!r}, not with {expected!r}")
    return ids


@torch.no_grad()
def word_nll(model: Speech2Text, requests: Sequence[Request], texts: Sequence[str]) -> list[tuple[float, int]]:
    """Negative log-likelihood of the true words of some utterances.

    Args:
        model: with the sparsity and budget that are set.
        requests: the utterances; they are encoded together.
        texts: what was said, or its translation.

    Returns:
        for each utterance nats, summed over its tokens and the end, and their number.

    Raises:
        TextError: if a text starts with other symbols than its utterance's language and task.
    """
    found: list[tuple[float, int]] = [(0.0, 0)] * len(requests)
    for group, primers, memory in model.begin(requests):
        eos, targets = model.s2t_model.eos, []
        for i, primer in zip(group, primers, strict=True):
            try:
                targets.append([*text_ids(model, primer, texts[i]), eos])
            except TextError as error:
                error.number = i
                raise
        inputs = [torch.tensor([*p, *t[:-1]]) for p, t in zip(primers, targets, strict=True)]
        ys = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True, padding_value=eos)
        lengths = torch.tensor([len(y) for y in inputs])
        frames = torch.full((len(group),), memory.size(1))
        device = memory.device
        scores, _ = model.s2t_model.decoder(memory, frames.to(device), ys.to(device), lengths.to(device))
        logp = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
        for row, (i, primer, target) in enumerate(zip(group, primers, targets, strict=True)):
            steps = logp[row, len(primer) - 1 : len(primer) - 1 + len(target)]
            chosen = steps.gather(1, torch.tensor(target, device=device)[:, None])
            found[i] = -float(chosen.sum()), len(target)
    return found
