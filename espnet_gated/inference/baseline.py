"""ESPnet's own ``Speech2Text``, timed and counted like ours: the first row of every table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.bin.s2t_inference import Speech2Text as ESPnetSpeech2Text

from espnet_gated.analysis.flops import measure_flops
from espnet_gated.inference.optimize import leave_out_interctc
from espnet_gated.inference.request import DecodeStats, Request, refuse_partial_ar
from espnet_gated.twin import load_weights


class ESPnetBaseline(ESPnetSpeech2Text):
    """Decodes with ESPnet's code, unchanged; only the clock and the loading of the checkpoint are ours."""

    def __init__(
        self,
        s2t_train_config: Path | str | None = None,
        s2t_model_file: Path | str | None = None,
        quantize_s2t_model: bool = False,
        interctc: bool = True,
        **kwargs: Any,
    ):
        """Load a dense model; arguments as in ESPnet.

        ``interctc=False`` leaves out what :class:`~espnet_gated.inference.speech2text.Speech2Text` does.

        Raises:
            ValueError: for a checkpoint of another shape, or an option that ESPnet or this engine cannot serve.
        """
        refuse_partial_ar(kwargs)
        if quantize_s2t_model:
            raise ValueError("--quantize_s2t_model is not supported by --engine espnet")
        if s2t_train_config is None and s2t_model_file is not None:
            s2t_train_config = Path(s2t_model_file).parent / "config.yaml"
        super().__init__(s2t_train_config, None, **kwargs)
        if s2t_model_file is not None:
            load_weights(self.s2t_model, str(s2t_model_file))
        if not interctc:
            leave_out_interctc(self.s2t_model.encoder)
        self.s2t_model.eval()
        self.stats: list[DecodeStats] = []
        self._search_s = 0.0
        self._steps = 0
        self._count_steps()

    def _count_steps(self) -> None:
        """Its searches go on until their ends are detected, longer than the hypotheses that come of it."""
        search = self.beam_search.search

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._steps += 1
            return search(*args, **kwargs)

        self.beam_search.search = counted

    def _decode_single_sample(self, enc: torch.Tensor) -> Any:
        self._steps, start = 0, time.perf_counter()
        results = super()._decode_single_sample(enc)
        self._search_s = time.perf_counter() - start
        return results

    def decode_batch(self, requests: Sequence[Request]) -> list[Any]:
        """Decode one by one, as ESPnet does."""
        results, stats = [], []
        for r in requests:
            start = time.perf_counter()
            results.append(self._call(r))
            total = time.perf_counter() - start
            seconds = r.speech.shape[0] / self.preprocessor_conf["fs"]
            stats.append(DecodeStats(seconds, total - self._search_s, self._search_s, self._steps, {}, {}))
        self.stats = stats
        return results

    def _call(self, r: Request) -> Any:
        return self(r.speech, r.text_prev, r.lang_sym, r.task_sym, r.predict_time)

    def measure_flops(self, request: Request) -> dict[str, float]:
        """FLOPs of decoding one utterance: ``encoder`` (with frontend) and ``decoder`` (the whole search)."""
        counts: dict[str, float] = {}
        model, original = self.s2t_model, self.s2t_model.encode

        def encode(*args: Any, **kwargs: Any) -> Any:
            result, counts["encoder"] = measure_flops(lambda: original(*args, **kwargs))
            return result

        model.encode = encode
        try:
            # The inner counter sees the encoder; the outer one sees both.
            _, total = measure_flops(lambda: self._call(request))
        finally:
            del model.encode
        return {"encoder": counts["encoder"], "decoder": total - counts["encoder"]}
