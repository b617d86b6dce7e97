"""``Speech2Text`` with a sparsity knob, cached decoding and batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet.nets.beam_search import Hypothesis
from espnet2.asr.decoder.s4_decoder import S4Decoder
from espnet2.bin.s2t_inference import Speech2Text as ESPnetSpeech2Text

from espnet_gated.analysis.flops import measure_flops
from espnet_gated.gating.config import parse_sparsity
from espnet_gated.gating.context import GatingContext
from espnet_gated.inference.ctc import PrimedCTCPrefixScorer, rescoring, without_ctc
from espnet_gated.inference.decided import Decided, by_position
from espnet_gated.inference.encoding import Encoded, EncodesRequests, groups_of
from espnet_gated.inference.long_form import LongForm, Segment, decode_long
from espnet_gated.inference.optimize import leave_out_interctc, optimize_for_inference, quantize_for_inference
from espnet_gated.inference.request import DecodeStats, Request, Speech, refuse_partial_ar
from espnet_gated.inference.search import CachedBeamSearch
from espnet_gated.pretrained import model_files, readable_config
from espnet_gated.twin import gate_in_place, load_weights

Result = list[tuple[str | None, list[str], list[int], str | None, Hypothesis]]


class Speech2Text(EncodesRequests, ESPnetSpeech2Text):
    """ESPnet's ``Speech2Text`` for gated models: same arguments and results, plus the knob.

    Dense checkpoints are decoded too (with every gate open and the same fast search).

    Examples:
        >>> speech2text = Speech2Text("exp/s2t_gated/config.yaml", "exp/s2t_gated/valid.acc.best.pth",
        sparsity="0.3,0.5")
        >>> speech2text(audio, lang_sym="<deu>", task_sym="<st_eng>")[0][3]
    """

    beam_search: Any  # ESPnet's, of another class

    def __init__(
        self,
        s2t_train_config: Path | str | None = None,
        s2t_model_file: Path | str | None = None,
        *args: Any,
        sparsity: str | float | tuple[float | None, float | None] | None = None,
        budget: str | None = None,
        pad_to_speech_length: bool = True,
        exact_nbest: bool | None = None,
        ctc_tasks: Sequence[str] | None = None,
        ctc_rescoring: bool = False,
        interctc: bool = True,
        quantize_s2t_model: bool = False,
        quantize_modules: list[str] | None = None,
        quantize_dtype: str = "qint8",
        predict_time: bool = False,
        **kwargs: Any,
    ):
        """Load a model for decoding.

        Args:
            s2t_train_config, s2t_model_file, args, kwargs, quantize_…: as in ESPnet (no ``partial_ar``).
            sparsity: share to skip: a number, ``"ENCODER,DECODER"`` or a pair; ``None``: the model's default.
            budget: ``exact`` or ``learned``; ``None``: the model's default.
            pad_to_speech_length: pad to the training length (``speech_length``) as ESPnet does; ``False`` encodes the
                real length. That is for models that have seen it: ESPnet's S2T preprocessor pads every utterance in
                training too, so OWSM and the models of this project's recipes (the mini recipe's: 2.4 s) want ``True``.
            exact_nbest: search on until ESPnet would stop, so that all of the n-best list is ESPnet's; ``None``: if
                ``nbest`` > 1.
            ctc_tasks: tasks (``asr``) in which CTC has a say when ``ctc_weight`` > 0; ``None``: all, as in ESPnet. A
                model whose CTC learnt the words that were spoken can only mislead a translation.
            ctc_rescoring: CTC scores hypotheses when they end, not token by token: see
                :class:`~espnet_gated.inference.ctc.CTCRescorer`.
            interctc: return what the intermediate CTC of some encoder layers heard beside the results, as ESPnet does
                for a model that was trained with it. ``False``: results alone, and nothing computed for it that later
                layers do not need.
            predict_time: predict timestamps; beside CTC with ``ctc_rescoring`` alone, which leaves them out.

        Raises:
            ValueError: for a checkpoint of another shape, a sparsity outside [0, 1), a task that is not in the token
                list, or options that cannot go together.
        """
        refuse_partial_ar(kwargs)
        if s2t_train_config is None and s2t_model_file is not None:
            s2t_train_config = Path(s2t_model_file).parent / "config.yaml"
        if s2t_train_config is None:
            raise ValueError("a model needs its configuration (--s2t_train_config)")
        for path in (s2t_train_config, s2t_model_file):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{path}: no such file")
        # ESPnet would unpickle the checkpoint and quantise before we can gate: both are done here instead.
        modules = quantize_modules or ["Linear"]
        with readable_config(s2t_train_config) as config:
            super().__init__(config, None, *args, quantize_modules=modules, quantize_dtype=quantize_dtype, **kwargs)
        if -1.0 < self.maxlenratio < 0.0:
            raise ValueError(f"maxlenratio must be 0, above 0 or at most -1, got {self.maxlenratio} (--maxlenratio)")
        self.predict_time = predict_time  # not told above: ESPnet refuses it beside CTC even if that only rescores
        if s2t_model_file is not None:
            load_weights(self.s2t_model, str(s2t_model_file))
        self.pad_to_speech_length = pad_to_speech_length
        self.stats: list[DecodeStats] = []
        self._warned_of_thresholds = False
        self.interctc = interctc
        if not interctc:
            leave_out_interctc(self.s2t_model.encoder)
        self._gate(quantize_s2t_model, modules, quantize_dtype)
        self._decodes_by_states = isinstance(self.s2t_model.decoder, S4Decoder)  # ESPnet prepares it for each search
        self.ctc_tasks = None if ctc_tasks is None else {self._task_token(task) for task in ctc_tasks}
        self._prepare_search(self.nbest > 1 if exact_nbest is None else exact_nbest, ctc_rescoring)
        if predict_time:
            self._check_times(self.beam_search)
        self._budget: str | None = None
        self.set_sparsity(sparsity, budget)

    # -- set-up -----------------------------------------------------------------------------------
    def _gate(self, quantize: bool, modules: list[str], dtype: str) -> None:
        model = self.s2t_model
        gate_in_place(model)
        model.eval()
        if quantize:
            logging.info("Use quantized s2t model for decoding.")
            quantize_for_inference(model, modules, dtype)
        optimize_for_inference(model)

    def _prepare_search(self, exact_nbest: bool, ctc_rescoring: bool) -> None:
        search = self.beam_search
        ctc = search.part_scorers.get("ctc")
        if ctc is not None:
            primed = PrimedCTCPrefixScorer(ctc.ctc, ctc.eos)
            search.scorers["ctc"] = search.part_scorers["ctc"] = primed
        if CachedBeamSearch.suits(search):
            search.__class__ = CachedBeamSearch
            search.exact_nbest = exact_nbest
        if self.ctc_tasks is not None:
            self._search_without_ctc = without_ctc(search)
        if not ctc_rescoring:
            return
        if ctc is None:
            raise ValueError("CTC can rescore only what it has a weight for: --ctc_weight above 0 (--ctc_rescoring)")
        if not isinstance(search, CachedBeamSearch):
            raise ValueError("the search of these options is ESPnet's own, which cannot rescore (--ctc_rescoring)")
        self.beam_search = rescoring(search)

    def _task_token(self, task: str) -> int:
        symbol = f"<{task.strip('<>')}>"
        if symbol not in self.converter.token2id:
            raise ValueError(f"{symbol} is not in the token list (--ctc_tasks)")
        return int(self.converter.token2id[symbol])

    def _search_for(self, primer: Sequence[int]) -> Any:
        """The search for a task: with CTC, or without where the task is none of ``ctc_tasks``.

        Raises:
            ValueError: if timestamps are to be predicted and CTC scores every token.
        """
        search = self.beam_search
        if self.ctc_tasks is not None and not self.ctc_tasks & set(primer[primer.index(self.s2t_model.sos) :]):
            search = self._search_without_ctc
        if primer[-1] != self.converter.token2id[self.preprocessor_conf["notime_symbol"]]:
            self._check_times(search)
        return search

    @staticmethod
    def _check_times(search: Any) -> None:
        """Refuse a search for timestamps in which CTC scores every token: it has never heard time tokens."""
        if "ctc" in search.part_scorers:
            raise ValueError(
                f"CTC with a weight of {search.weights['ctc']} cannot score the timestamps that are to be predicted "
                "(--ctc_weight, --predict_time): let it score whole hypotheses without them (--ctc_rescoring true) or "
                "do without it (--ctc_weight 0)"
            )

    def set_sparsity(
        self,
        sparsity: str | float | tuple[float | None, float | None] | None = None,
        budget: str | None = None,
    ) -> None:
        """Choose what the next utterances skip; see ``__init__``.

        Args:
            sparsity: as in ``__init__``.
            budget: ``None`` keeps the one chosen last (at first the model's default).

        Raises:
            ValueError: if a sparsity is outside [0, 1), or asked of a dense checkpoint.
        """
        encoder, decoder = sparsity if isinstance(sparsity, tuple) else parse_sparsity(sparsity)
        self._budget = budget or self._budget
        if self.is_gated:
            # A fixed mask does not exist yet: it is made by espnet_gated.inference.static_mask.
            self.s2t_model.set_sparsity(encoder, decoder, None if self._budget == "fixed" else self._budget)
            self._warn_of_thresholds()
        elif encoder or decoder:
            raise ValueError(f"sparsity {sparsity} was asked of a dense checkpoint, which has no gates (--sparsity)")

    def _warn_of_thresholds(self) -> None:
        """Once."""
        if self._warned_of_thresholds:
            return
        for stack, predictor in self.s2t_model.gate_predictors().items():
            if predictor.keeps_average and not predictor.is_local and not predictor.thresholds.any():
                self._warned_of_thresholds = True
                logging.warning(
                    "the learned budget of the %s was never calibrated: its share may be far from the asked one "
                    "(python -m espnet_gated.bin.budget --calibrate true)",
                    stack,
                )

    # -- decoding ---------------------------------------------------------------------------------
    @torch.no_grad()
    def __call__(
        self,
        speech: Speech,
        text_prev: Any = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
        predict_time: bool | None = None,
        sparsity: str | float | tuple[float | None, float | None] | None = None,
    ) -> Any:
        """Decode one utterance. Arguments and result as in ESPnet.

        Args:
            sparsity: for this utterance and the next ones, kept by the budget that is set; ``None`` keeps what is set.
        """
        if sparsity is not None:
            self.set_sparsity(sparsity)
        return self.decode_batch([Request(speech, lang_sym, task_sym, text_prev, predict_time)])[0]

    @torch.no_grad()
    def decode_batch(self, requests: Sequence[Request]) -> list[Any]:
        """Decode several utterances together: the same results as one by one, with each utterance's own gates.

        When memory runs out, the batch is halved.

        Returns:
            one result for each request; ``stats`` holds what each took.

        Raises:
            ValueError: for a request that the options cannot serve.
        """
        if not requests:
            self.stats = []
            return []
        try:
            with self._contexts_end():
                return self._decode(requests)
        except (RuntimeError, MemoryError) as error:
            if len(requests) == 1 or not _out_of_memory(error):
                raise
        # Behind the handler: while it runs, the traceback holds the tensors of the batch that did not fit.
        logging.warning("out of memory with %d utterances: halving the batch", len(requests))
        half = len(requests) // 2
        first = self.decode_batch(requests[:half])
        stats = self.stats
        second = self.decode_batch(requests[half:])
        self.stats = stats + self.stats
        return first + second

    def _decode(self, requests: Sequence[Request]) -> list[Any]:
        primers = [self._primer(r) for r in requests]
        kinds = [(len(p), self._search_for(p) is self.beam_search) for p in primers]
        context = self._context(requests, primers)
        speech = [self._prepare(r.speech) for r in requests]
        start = time.perf_counter()
        encoded = self._encode(speech, context)
        middle = time.perf_counter()
        results: list[Any] = [None] * len(requests)
        steps = [0] * len(requests)
        gates = [{stack: Decided(*decided) for stack, decided in e.gates.items()} for e in encoded]
        for group in groups_of(kinds):
            hyps = self._search([encoded[i] for i in group], [primers[i] for i in group], context, gates, group)
            for i, found in zip(group, hyps, strict=True):
                results[i] = self._result(found, encoded[i])
                steps[i] = max((len(h.yseq) for h in found), default=0) - len(primers[i])
        end = time.perf_counter()
        share = 1.0 / len(requests)
        positions = by_position(gates)  # untimed
        self.stats = [
            DecodeStats(
                seconds=r.speech.shape[0] / self.preprocessor_conf["fs"],
                encode_s=(middle - start) * share,
                search_s=(end - middle) * share,
                steps=steps[i],
                gates={stack: d.table for stack, d in gates[i].items()},
                skipped={stack: d.skipped for stack, d in gates[i].items()},
                by_position=positions[i],
            )
            for i, r in enumerate(requests)
        ]
        return results

    @torch.no_grad()
    def decode_long(
        self,
        speech: Speech,
        condition_on_prev_text: bool = False,
        init_text: str | None = None,
        end_time_threshold: str | None = None,
        lang_sym: str | None = None,
        task_sym: str | None = None,
        skip_last_chunk_threshold: float = 0.2,
        segmentation: str = "auto",
        min_silence: float = 0.3,
        batch_size: int = 8,
    ) -> list[Segment]:
        """Decode a recording of any length; every window decides its own gates (``stats`` has a row for each).

        Args:
            speech: (samples,) or (samples, 1).
            init_text, lang_sym, task_sym: as in ESPnet.
            condition_on_prev_text and all others: see :class:`LongForm`.

        Returns:
            start and end in seconds and text of each utterance (with time tokens) or window (without them).

        Raises:
            ValueError: for an unknown ``segmentation``, or timestamps asked of a model without time tokens.
        """
        request = Request(self._one_channel(speech), lang_sym, task_sym, init_text)
        how = LongForm(
            segmentation, condition_on_prev_text, end_time_threshold, skip_last_chunk_threshold, min_silence, batch_size
        )
        return decode_long(self, request, how)

    @torch.no_grad()
    def measure_flops(self, request: Request) -> dict[str, float]:
        """FLOPs of decoding one utterance: ``encoder`` (with frontend) and ``decoder`` (the whole search)."""
        primer, speech = self._primer(request), self._prepare(request.speech)
        context = self._context([request], [primer])
        with self._contexts_end():
            encoded, encoder = measure_flops(lambda: self._encode([speech], context))
            _, decoder = measure_flops(lambda: self._search(encoded, [primer], context, [{}], [0]))
        return {"encoder": encoder, "decoder": decoder}

    def _search(
        self,
        encoded: list[Encoded],
        primers: list[list[int]],
        context: GatingContext | None,
        gates: list[dict[str, Decided]],
        group: list[int],
    ) -> list[list[Hypothesis]]:
        self._see(context, group)
        search = self._search_for(primers[0])
        if isinstance(search, CachedBeamSearch):
            memory = torch.nn.utils.rnn.pad_sequence([e.memory for e in encoded], batch_first=True)
            lengths = [e.memory.size(0) for e in encoded]
            found = search.search_batch(memory, lengths, primers, self.maxlenratio, self.minlenratio)
            decoder = self.predictors()["decoder"]
            decided = decoder.last
            assert decided is not None
            for row, i in enumerate(group):
                gates[i]["decoder"] = Decided(decided, row, decoder.tally)
            return found
        found = []
        for row, (e, primer) in enumerate(zip(encoded, primers, strict=True)):
            search.set_hyp_primer(primer)
            self._see(context, [group[row]])
            for scorer in search.part_scorers.values():
                if isinstance(scorer, PrimedCTCPrefixScorer):
                    scorer.set_primer(primer)
            predictor = self.predictors().get("decoder")
            if predictor is not None:
                predictor.last = None  # of an earlier utterance: with CTC alone the decoder does not run
            for module in self.s2t_model.decoder.modules() if self._decodes_by_states else ():
                if hasattr(module, "setup_step"):
                    module.setup_step()
            found.append(search(x=e.memory, maxlenratio=self.maxlenratio, minlenratio=self.minlenratio))
            decided = None if predictor is None else predictor.last
            if decided is not None:
                gates[group[row]]["decoder"] = Decided(decided, 0)
        return found

    def _result(self, hyps: list[Hypothesis], encoded: Encoded) -> Any:
        results: Result = [self._words(hyp) for hyp in hyps[: self.nbest]]
        if encoded.intermediate is None or not self.interctc:
            return results
        return results, self._decode_interctc(encoded.intermediate)

    def _words(self, hyp: Hypothesis) -> tuple[str | None, list[str], list[int], str | None, Hypothesis]:
        """Text, tokens, ids, text without special tokens, hypothesis: what ESPnet returns for each hypothesis."""
        ids = list(map(int, hyp.yseq))[:-1]
        ids = ids[ids.index(self.s2t_model.sos) + 1 :]
        ids = [i for i in ids if i != self.s2t_model.blank_id]
        tokens = self.converter.ids2tokens(ids)
        plain = [t for t in tokens if not (t[0] == "<" and t[-1] == ">")]
        if self.tokenizer is None:
            return None, tokens, ids, None, hyp
        return self.tokenizer.tokens2text(tokens), tokens, ids, self.tokenizer.tokens2text(plain), hyp

    @staticmethod
    def from_pretrained(model_tag: str | None = None, **kwargs: Any) -> Speech2Text:
        """Load a model from a folder or a hub tag.

        Args:
            model_tag: a folder with ``config.yaml`` and a checkpoint, the unpacked folder of ``espnet2.bin.pack`` (with
                ``meta.yaml``), or a tag for ``espnet_model_zoo``; ``None``: paths are in ``kwargs``.
            kwargs: arguments of :class:`Speech2Text`.
        """
        if model_tag is not None and Path(model_tag).is_dir():
            kwargs.update(model_files(Path(model_tag)))
        elif model_tag is not None:
            try:
                from espnet_model_zoo.downloader import ModelDownloader
            except ImportError:
                raise ValueError(
                    f"{model_tag} is not a folder, and tags need the package espnet_model_zoo (--model_tag)"
                ) from None
            kwargs.update(**ModelDownloader().download_and_unpack(model_tag))
        return Speech2Text(**kwargs)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: torch has no class of its own for those on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
