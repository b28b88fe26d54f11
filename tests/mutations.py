"""Deliberate faults over the whole package, each of which some test must notice.

    python tests/mutations.py [NUMBER …]       make mutations

Each fault is placed alone in a copy of the repository, and the tests that should notice it are run there. A test that
fails then must pass without the fault. The status is 1 where a fault was not noticed. ``test_mutations.py`` checks that
the list still fits the code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
_SECONDS = 900  # a run of tests that takes longer hangs: noticed, too
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/[^\s\[]+)", re.MULTILINE)


class Fault(NamedTuple):
    """A fault to place.

    Attributes:
        file: below ``qin_zoo``.
        old: text that stands there exactly once.
        new: what replaces it.
        tests: what should notice it, below ``tests``, space between.
        why: what would be wrong.
    """

    file: str
    old: str
    new: str
    tests: str
    why: str


FAULTS = [
    # ---- layers and models
    Fault(
        "layers/cross_mix.py",
        "low = torch.tanh(torch.einsum(\"ber,esr->bes\", low, c)) * share.unsqueeze(2)",
        "low = torch.tanh(torch.einsum(\"ber,ers->bes\", low, c)) * share.unsqueeze(2)",
        "layers/test_cross_mix.py",
        "axes: an expert's own map is the transposed one",
    ),
    Fault(
        "layers/target_transformer.py",
        ".masked_fill(seats.empty, -math.inf)",
        "",
        "layers/test_target_transformer.py",
        "mask: the attention sees seats that nobody has",
    ),
    Fault(
        "layers/target_transformer.py",
        "x = x.masked_fill(hidden.flatten()[seats.places].unsqueeze(1), 0.0)",
        "x = x + 0 * hidden.sum()",
        "layers/test_target_transformer.py",
        "mask: a row without items yields what its dummy place does",
    ),
    Fault(
        "models/inputs.py",
        "        counts[:, table.padding_idx] = 0\n",
        "        pass\n",
        "models/test_inputs.py",
        "padding: it counts in the mean of a long list",
    ),
    Fault(
        "models/uncompiled.py",
        "del sys.modules[_COMPILER], torch._dynamo",
        "pass",
        "models/test_uncompiled.py",
        "torch: its compiler stays away for good",
    ),
    Fault(
        "layers/asta.py",
        "self.scale = attention_dim**-0.5",
        "self.scale = -(attention_dim**-0.5)",
        "layers/test_layers.py",
        "sign: ASTA weighs what the target is unlike",
    ),
    Fault(
        "layers/asta.py",
        "score = item_scores(query, history) * self.scale  # (B, L)\n"
        "        return masked_softmax(score, mask) if self.normalize else F.relu(score) * mask",
        "score = item_scores(query, history) * self.scale  # (B, L)\n"
        "        return masked_softmax(score, mask) if self.normalize else F.relu(score)",
        "layers/test_layers.py layers/test_shared_history.py",
        "mask: padding adds to ASTA's interest",
    ),
    Fault(
        "layers/asta.py",
        "(w_q.t() @ w_k * layer.scale)",
        "(w_k.t() @ w_q * layer.scale)",
        "layers/test_shared_history.py",
        "folding: query and key of an exported ASTA swapped",
    ),
    Fault(
        "layers/qnn.py",
        "weight * scale.unsqueeze(1), bias * scale",
        "weight * scale.unsqueeze(1), bias",
        "layers/test_shared_history.py",
        "folding: the bias of an exported QNN layer is not scaled by its batch norm",
    ),
    Fault(
        "layers/folding.py",
        "shift = -norm.running_mean.double() * scale",
        "shift = norm.running_mean.double() * scale",
        "layers/test_shared_history.py",
        "folding: sign of a folded batch norm's mean",
    ),
    Fault(
        "layers/folding.py",
        "(norm.running_var.double() + norm.eps).rsqrt()",
        "norm.running_var.double().rsqrt()",
        "layers/test_shared_history.py",
        "folding: a folded batch norm without its eps, infinite for a constant column",
    ),
    Fault(
        "layers/dice.py",
        "add_(shift).mul_(counts.unsqueeze(1))",
        "add_(shift)",
        "layers/test_dice.py",
        "mean: a padded place passes on the gradient of one, not of all it stands for",
    ),
    Fault(
        "layers/din_attention.py",
        "by_target = F.linear(target, w_t + w_difference, first.bias)",
        "by_target = F.linear(target, w_t - w_difference, first.bias)",
        "layers/test_layers.py",
        "sign: DIN's difference of target and item",
    ),
    Fault(
        "layers/din_attention.py",
        '"by_item": w_h - w_difference',
        '"by_item": w_h + w_difference',
        "layers/test_shared_history.py",
        "folding: sign of the difference in an exported DIN",
    ),
    Fault(
        "layers/pooling.py",
        "return score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(dim=-1) * mask",
        "return score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(dim=-1)",
        "layers/test_empty_history.py",
        "mask: a row without history has the mean of its padding as interest",
    ),
    Fault(
        "layers/target_attention.py",
        "(attention_dim // num_heads) ** -0.5 if",
        "attention_dim ** -0.5 if",
        "layers/test_target_attention.py",
        "scale: heads divide by the root of all heads' size",
    ),
    Fault(
        "layers/history.py",
        "first = int(used.int().argmax()) if used.any() else len(used)",
        "first = int(used.int().argmax()) + 1 if used.any() else len(used)",
        "layers/test_history.py",
        "off by one: the oldest item of the longest history is cut off",
    ),
    Fault(
        "layers/history.py",
        'return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")',
        'return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum", padding_idx=0)',
        "layers/test_history.py layers/test_layers.py",
        "mask: the first row of a table of distinct items taken for padding",
    ),
    Fault(
        "layers/dropout.py",
        "grad = (grad * ctx.scale).to(x.dtype).unsqueeze(1)",
        "grad = grad.to(x.dtype).unsqueeze(1)",
        "layers/test_dropout.py",
        "gradient: dropout's scale is missing on the way back",
    ),
    Fault(
        "layers/quadratic.py",
        "y.clamp_max_(0)",
        "y.clamp_min_(0)",
        "layers/test_quadratic.py",
        "sign: the slope of a PReLU on the wrong side of its gradient",
    ),
    Fault(
        "layers/pairs.py",
        "pairs = zip(self, target.split(self.dims, dim=-1), *others)",
        "pairs = zip(self, target.split(self.dims, dim=-1), *(part[::-1] for part in others))",
        "models/test_pairs.py",
        "pairs: each target meets the other's history",
    ),
    Fault(
        "layers/synced_norm.py",
        "(var * (count / (count - 1)))",
        "var",
        "training/test_distributed.py::test_batch_norm_of_several_processes",
        "several processes: running variance without Bessel's correction",
    ),
    Fault(
        "models/inputs.py",
        "ItemRows(table, index[:, :-1]), mask, contents)",
        "ItemRows(table, index[:, 1:]), mask, contents)",
        "models/test_base.py models/test_golden.py",
        "off by one: the target stands in its own history",
    ),
    Fault(
        "models/inputs.py",
        "return batch[name].to(self.embedder.device).long() != self.padding(name)",
        "return batch[name].to(self.embedder.device).long() != 0",
        "models/test_pairs.py::test_any_id_may_be_the_padding",
        "mask: a padding_idx other than 0 is ignored",
    ),
    Fault(
        "layers/matches.py",
        "(later < self.newest)",
        "(later <= self.newest)",
        "models/test_history_matches.py",
        "history_matches: the newest five are six",
    ),
    Fault(
        "data/importers/build.py",
        "starts = np.maximum(starts, ends - length)",
        "ends = np.minimum(ends, starts + length)",
        "data/test_log_state.py",
        "a user's state: the oldest of the history instead of the newest",
    ),
    Fault(
        "serving/histories.py",
        "if _moment(line) > until",
        "if _moment(line) >= 0",
        "serving/test_history_store.py",
        "histories: an event that a newer file knows is counted again",
    ),
    Fault(
        "models/penalty.py",
        "(strength / norm)",
        "strength",
        "models/test_penalty.py",
        "regularisation: L2 without its half",
    ),
    Fault(
        "models/base.py",
        "loss = loss * share + self._penalty.of_shards()",
        "loss = loss / self.group.size + self._penalty.of_shards()",
        "training/test_distributed.py::test_the_same_losses",
        "several processes: each counts alike, however many rows it has",
    ),
    Fault(
        "models/loss.py",
        'elif self.name != "published":',
        'elif self.name != "":',
        "models/test_loss.py",
        "loss: published is not the published one",
    ),
    Fault(
        "layers/losses.py",
        "wrong = low - high[part].unsqueeze(1)",
        "wrong = high[part].unsqueeze(1) - low",
        "layers/test_losses.py::test_pairs_are_the_double_loop",
        "pairs the wrong way round",
    ),
    Fault(
        "models/loss.py",
        "return grad[ctx.first : ctx.first + ctx.rows] / ctx.share, None, None",
        "return grad[ctx.first : ctx.first + ctx.rows], None, None",
        "models/test_loss_parameters.py::test_several_processes_make_one_batch",
        "several processes: pairs of all rows count as a process's share of them",
    ),
    Fault(
        "models/base.py",
        "if step % self._accumulation_steps == 0 or step == self._steps_per_epoch:",
        "if step % self._accumulation_steps == 0:",
        "models/test_base.py training/test_trainer.py",
        "accumulation: the last batches of an epoch make no update",
    ),
    Fault(
        "models/base.py",
        "self._min_lr if min_lr is None else min_lr",
        "0.0 if min_lr is None else min_lr",
        "models/test_base.py training/test_trainer.py",
        "limits: the learning rate falls below min_lr",
    ),
    # ---- metrics, statistics, calibration
    Fault(
        "metrics.py",
        "(self.start + self.stop + 1) / 2 * self.tie_clicks",
        "self.stop * self.tie_clicks",
        "test_metrics.py",
        "ties: equal scores within a group count as won",
    ),
    Fault("metrics.py", "places < k", "places <= k", "test_metrics.py", "off by one: NDCG(k) looks at k + 1 places"),
    Fault(
        "metrics.py",
        '"logloss": _Metric("min", _cross_entropy),',
        '"logloss": _Metric("max", _cross_entropy),',
        "test_metrics.py experiment/test_predict.py::test_the_monitor_fits_the_metrics",
        "direction: more logloss is better",
    ),
    Fault(
        "metrics.py",
        '(mode_of(metric) == "max") == (weight > 0)',
        'mode_of(metric) == "max"',
        "test_metrics.py experiment/test_predict.py::test_the_monitor_fits_the_metrics",
        "direction: the sign of a monitor's weight is ignored",
    ),
    Fault(
        "results/lines.py",
        'sign = -1 if mode_of(self.monitor) == "max" else 1',
        "sign = -1",
        "results/test_results.py",
        "direction: a leaderboard of losses has the worst first",
    ),
    Fault(
        "results/statistics.py",
        "2 * self._t.sf(abs(self.mean) / self.error)",
        "self._t.sf(abs(self.mean) / self.error)",
        "results/test_results.py",
        "statistics: p-values of one side",
    ),
    Fault(
        "results/lines.py",
        "return [one[seed] - other[seed] for seed",
        "return [other[seed] - one[seed] for seed",
        "results/test_results.py",
        "sign: a variation that is better is shown as worse",
    ),
    Fault(
        "study/slices.py",
        'np.searchsorted(list(_PARTS), clicks, side="right") - 1',
        'np.searchsorted(list(_PARTS), clicks, side="left")',
        "study/test_studies.py::test_slices_count_the_clicks_of_training",
        "off by one: the boundaries of slices",
    ),
    Fault(
        "calibration.py",
        'np.searchsorted(y_pred, edges, side="right")',
        "(np.arange(1, bins) * len(y_pred) / bins).astype(int)",
        "test_calibration.py",
        "ties: rows of one prediction are cut apart, in their order",
    ),
    Fault(
        "calibration.py",
        "self.slope * _logit(p) + self.intercept",
        "self.intercept * _logit(p) + self.slope",
        "test_calibration_step.py",
        "calibration: slope and intercept swapped",
    ),
    Fault(
        "serving/scorer.py",
        "return scores if self._step is None else",
        "return scores if self._step is None or len(scores) == _CHUNK else",
        "experiment/test_calibrate.py::test_predict_and_export_give_calibrated_scores",
        "calibration: skipped in full chunks of candidates",
    ),
    Fault(
        "calibration.py",
        "if weights != file_digest(checkpoint):",
        "if not weights:",
        "experiment/test_calibrate.py::test_a_step_of_other_weights_is_refused",
        "calibration: a step of other weights is used",
    ),
    Fault(
        "experiment/predict.py",
        "        y_pred = calibrator(y_pred)\n",
        "        calibrator(y_pred)\n",
        "experiment/test_calibrate.py::test_predict_and_export_give_calibrated_scores",
        "calibration: predict writes the raw scores",
    ),
    Fault(
        "experiment/run.py",
        "        discard_calibrator(files.checkpoint)\n",
        "",
        "experiment/test_calibrate.py::test_a_new_training_drops_the_old_step",
        "calibration: the step of the last training stays beside the new weights",
    ),
    Fault(
        "experiment/predict.py",
        "y_pred = np.stack([np.asarray(y_pred[label], np.float64) for label in labels], axis=1)",
        "y_pred = np.stack([np.asarray(y_pred[label], np.float64) for label in labels[::-1]], axis=1)",
        "experiment/test_predict.py::test_each_label_has_its_own_column",
        "labels: predictions of several tasks in the other order",
    ),
    # ---- training
    Fault(
        "training/state.py",
        '_FUXICTR = ("_best_metric", "_stopping_steps",',
        '_FUXICTR = ("_best_metric",',
        "experiment/test_resume.py::test_evaluations_without_gain_are_counted_across_a_stop",
        "checkpoint: early stopping begins to count anew",
    ),
    Fault(
        "training/state.py",
        '_FUXICTR = ("_best_metric", "_stopping_steps",',
        '_FUXICTR = ("_stopping_steps",',
        "experiment/test_resume.py::test_killed_while_saving",
        "checkpoint: the best value is forgotten",
    ),
    Fault(
        "training/state.py",
        "parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)",
        "parameter.grad = None",
        "experiment/test_resume.py::test_killed_while_saving",
        "checkpoint: gradients that wait for their update are forgotten",
    ),
    Fault(
        "training/state.py",
        '            model.optimizer.load_state_dict(tensors["optimizer"])\n',
        "            pass\n",
        "experiment/test_resume.py::test_killed_while_saving",
        "checkpoint: Adam's moments are forgotten",
    ),
    Fault(
        "training/state.py",
        '    torch.set_rng_state(states["torch"][group.rank].clone())',
        '    states["torch"][group.rank].clone()',
        "experiment/test_resume.py::test_killed_while_saving",
        "checkpoint: dropout is drawn anew",
    ),
    Fault(
        "training/trainer.py",
        'self._sums = _Sums(**sums, updates=facts["updates"])',
        "self._sums = _Sums.zero(self.model.device)",
        "experiment/test_resume.py::test_killed_while_saving",
        "checkpoint: the sum of losses is forgotten",
    ),
    Fault(
        "training/checkpoint.py",
        'if file_digest(tensors) != record["tensors"]:',
        "if not tensors.exists():",
        "experiment/test_resume.py::test_tensors_of_another_checkpoint_are_not_taken",
        "hash: a damaged checkpoint is used",
    ),
    Fault(
        "training/checkpoint.py",
        "len(kept) < _KEPT and self._is_whole(step)",
        "len(kept) < _KEPT",
        "experiment/test_resume.py::test_a_damaged_checkpoint_does_not_count_among_those_kept",
        "checkpoint: damaged ones count among those kept",
    ),
    Fault(
        "baselines/features.py",
        "            for rows in read:\n                columns",
        "            for rows in read:\n                self._count(rows, label[rows.index])\n                columns",
        "baselines/test_baselines.py::test_no_row_knows_its_own_label_nor_a_later_one",
        "baselines: a row's own label is counted before its columns are made",
    ),
    Fault(
        "experiment/report.py",
        "sign * others[name] >= sign * own",
        "others[name] < own",
        "baselines/test_baselines.py::test_a_report_says_whether_its_run_beats_them",
        "report: says that a run beats the baselines when it does not",
    ),
    Fault(
        "experiment/record.py",
        "return next((e for e in reversed(evaluations) if",
        "return next((e for e in evaluations if",
        "experiment/test_predict.py",
        "report: names the first evaluation that was the best so far, not the last",
    ),
    Fault(
        "experiment/record.py",
        '"on_nan", ',
        '"on_nan", "seed", ',
        "experiment/test_resume.py::test_another_seed_is_another_run",
        "identity: a run of another seed is taken for this one",
    ),
    Fault(
        "training/trainer.py",
        "_RETRY_FACTOR ** (tried + 1)",
        "_RETRY_FACTOR**tried",
        "training/test_stability.py::test_rollback_before_the_first_checkpoint",
        "off by one: after the first NaN the learning rate stays",
    ),
    Fault(
        "training/average.py",
        "1 - min(self._decay,",
        "1 - max(self._decay,",
        "training/test_average.py",
        "averaged weights: over the whole training instead of its last steps",
    ),
    Fault(
        "training/trainer.py",
        "            self._average.load(tensors[\"average\"])",
        "            pass",
        "training/test_average.py::test_resumes_in_the_middle",
        "averaged weights: a resumed training begins its average anew",
    ),
    Fault(
        "experiment/continued.py",
        "rate * _OF_AVERAGE if",
        "rate if",
        "periods/test_update.py::test_a_day_goes_on_with_the_rate_that_the_weights_were_had_with",
        "averaged weights: a day at the rate of the training learns itself by heart",
    ),
    Fault(
        "models/precision.py",
        "(times := bfloat16_time()) > 2",
        "(times := bfloat16_time()) < 2",
        "models/test_precision.py::test_a_processor_without_bfloat16_is_told_of",
        "bfloat16: said where the processor has it, silent where an epoch takes an hour",
    ),
    Fault(
        "bootstrap.py",
        "_hash(group, *(np.asarray(y_true, np.float64) for y_true, *_ in parts))",
        "_hash(group)",
        "test_bootstrap.py",
        "the same rows: whatever their labels",
    ),
    Fault(
        "experiment/ownership.py",
        "if overwrite or same or not _exists(files):",
        "if lock is not None:",
        "experiment/test_ownership.py",
        "numbering: a run replaces another one of its name",
    ),
    Fault(
        "experiment/ownership.py",
        "if expected and checkpoint.is_file() and file_digest(checkpoint) != expected:",
        "if expected and not checkpoint.is_file():",
        "experiment/test_ownership.py::test_weights_that_changed_after_the_run_are_refused",
        "hash: weights that changed after the run are used",
    ),
    Fault(
        "experiment/ownership.py",
        'if k not in ("model_id", "epochs")}',
        'if k not in ("model_id", "epochs", "max_len")}',
        "experiment/test_ownership.py::test_any_parameter_that_counts_makes_another_run",
        "identity: a run of another max_len is taken for this one",
    ),
    Fault(
        "files.py",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "experiment/test_ownership.py",
        "locks: two hold one at once",
    ),
    Fault(
        "experiment/ownership.py",
        "        yield prepared.named(_files(prepared, int(number)).expid)\n    finally:",
        "        lock and lock.release()\n"
        "        yield prepared.named(_files(prepared, int(number)).expid)\n    finally:",
        "experiment/test_ownership.py::test_any_parameter_that_counts_makes_another_run",
        "locks: a run's is let go before it trains",
    ),
    Fault(
        "embed/encode.py",
        'with sole_writer(store.path.with_name(f".{store.path.name}.lock"), "encodes into its store"):',
        "if store is not None:",
        "embed/test_encoders.py::test_two_encodings_in_one_folder",
        "locks: two encodings write one store",
    ),
    Fault(
        "data/importers/write.py",
        '            self._locked.enter_context(sole_writer(lock, f"imports to {self.path.name}"))\n',
        "",
        "data/test_importers.py::test_two_imports_to_one_place",
        "locks: two imports write one folder",
    ),
    Fault(
        "embed/store.py",
        "return checksum == stored.checksum",
        "return True",
        "embed/test_store.py",
        "hash: damaged embeddings are used",
    ),
    # ---- tuning and studies
    Fault(
        "tuning/report.py",
        "value = (min if sign == 1 else max)(reported, default=None)",
        "value = max(reported, default=None)",
        "tuning/test_tune.py::test_a_pruned_trial_is_worth_its_best_evaluation",
        "direction: a pruned trial of a loss is worth its largest evaluation",
    ),
    Fault(
        "tuning/worker.py",
        "    kept = kept_evaluation(evaluations)\n",
        '    kept = max(evaluations, key=lambda e: monitored(params, e["metrics"]))\n',
        "tuning/test_tune.py::TestInThreads::test_a_trial_is_worth_what_its_weights_are",
        "direction: tuning reports the largest evaluation of a loss",
    ),
    Fault(
        "tuning/study.py",
        "if rivals[0]._trial_id == trial_id:",
        "if rivals[-1]._trial_id == trial_id:",
        "tuning/test_study.py::TestSlots",
        "locks: two tuners have one slot",
    ),
    Fault(
        "tuning/study.py",
        "repr((self._seed, slot, failures))",
        "repr((slot, failures))",
        "tuning/test_study.py::TestRanges",
        "seed: --seed of a search draws nothing",
    ),
    Fault(
        "study/plan.py",
        'return f"{self.experiment}.{self.variation}.s{self.seed}"',
        'return f"{self.experiment}.{self.variation}"',
        "study/test_studies.py::test_a_study_runs_and_goes_on",
        "names: runs of two seeds are one",
    ),
    # ---- data
    Fault(
        "data/vocabulary.py",
        "return len(self.words) + 1 if self.remap",
        "return len(self.words) if self.remap",
        "data/test_encode.py",
        "vocabulary: unknown values are taken for the rarest known one",
    ),
    Fault(
        "data/vocabulary.py",
        "own = pl.when(place < len(self.words))",
        "own = pl.when(place <= len(self.words))",
        "data/test_preprocess.py",
        "off by one: the first value that only a file of vectors knows is unknown",
    ),
    Fault(
        "data/raw_fields.py",
        "np.digitize(x.to_numpy(), boundaries)",
        "np.digitize(x.to_numpy(), boundaries, right=True)",
        "data/test_preprocess.py",
        "boundary: a number on a quantile is in the bucket below",
    ),
    Fault(
        "data/raw_fields.py",
        '"padding", "post") == "pre"',
        '"padding", "post") == "front"',
        "data/test_encode.py",
        "history: padding: pre is not heeded",
    ),
    Fault(
        "data/encode.py",
        'shift, scale = (mean, std) if normalizer == "StandardScaler" else (low, high - low)',
        'shift, scale = (mean, std) if normalizer == "StandardScaler" else (low, high)',
        "data/test_encode.py",
        "scale: MinMaxScaler divides by the maximum",
    ),
    Fault(
        "data/preprocess.py",
        "return column.is_not_null() & column.is_not_nan() if stored.is_float() else column.is_not_null()",
        "return column.is_not_null()",
        "data/test_group_ids.py",
        "groups: rows whose group is NaN are one group",
    ),
    Fault(
        "data/encode.py",
        'return FittedEncoder.read(Path(params["encoder_file"])) if params.get("encoder_file") else None',
        "return None",
        "experiment/test_as_trained.py",
        "encoder_file is ignored: today's vocabulary for yesterday's weights",
    ),
    Fault(
        "data/encode.py",
        "before or _NOTHING",
        "_NOTHING",
        "experiment/test_as_trained.py",
        "encoder_file: numbers are scaled by today's rows",
    ),
    Fault(
        "data/histories.py",
        "matrix[starts // width, width - self.max_len :]",
        "matrix[starts // width, : self.max_len]",
        "data/test_histories.py",
        "history: of lists of one length the oldest items",
    ),
    Fault(
        "data/histories.py",
        "return starts, starts + self._seen.values[rows]",
        "return self.column.bounds(self._user.values[rows].astype(np.int64))",
        "data/test_histories.py",
        "history: rows of the per-user layout see the user's future",
    ),
    Fault(
        "data/item_table.py",
        "wrong = np.flatnonzero(index.values != expected)",
        "wrong = np.flatnonzero(index.values[:1] != expected[:1])",
        "data/test_item_table.py",
        "ids: an item table out of its order is read as it is",
    ),
    Fault(
        "data/loader.py",
        "batches[rank * len(batches) // size : (rank + 1) * len(batches) // size]",
        "batches[rank * (len(batches) // size) : (rank + 1) * (len(batches) // size)]",
        "training/test_distributed.py::test_every_row_once",
        "several processes: batches behind the last whole share are scored by nobody",
    ),
    Fault(
        "data/loader.py",
        "np.random.PCG64([self._seed, epoch])",
        "np.random.PCG64([self._seed])",
        "data/test_loader.py",
        "order: every epoch visits the rows alike",
    ),
    Fault(
        "data/variations.py",
        "table[1:] += self.embedding_noise * table[1:].std(axis=0) * noise[1:]",
        "table += self.embedding_noise * table[1:].std(axis=0) * noise",
        "data/test_variations.py",
        "mask: the embedding of padding is made noisy",
    ),
    Fault(
        "data/importers/build.py",
        "np.searchsorted(keys, start + now)",
        'np.searchsorted(keys, start + now, side="right")',
        "data/test_import_no_future.py",
        "future: a row stands in its own history",
    ),
    Fault(
        "data/importers/negatives.py",
        "return (self._pairs[place] == key) & (self._first[place] <= self._when[rows])",
        "return (self._pairs[place] == key) & (self._first[place] < self._when[rows])",
        "data/test_import_no_future.py",
        "negatives: a click is drawn as its own negative",
    ),
    Fault(
        "data/download.py",
        "base64.b64decode(sha256[1]).hex() if sha256 else None",
        "None",
        "data/test_download.py",
        "hash: the server's digest of a download is not checked",
    ),
    Fault(
        "data/specs.py",
        "    if name not in _ENCODERS:\n",
        "    if not name:\n",
        "data/test_feature_encoders.py",
        "border: any constructor of a feature map would be evaluated",
    ),
    # ---- export and serving
    Fault(
        "export/compare.py",
        "slope * (_OF_SPREAD * logits.std() + _OF_SIZE * size) + rounding",
        "(_OF_SPREAD * logits.std() + _OF_SIZE * size) + rounding",
        "export/test_compare.py",
        "check: at low click rates any model passes for the exported one",
    ),
    Fault(
        "serving/items.py",
        "kept = kept[max(len(kept) - self._max_len, 0) :]",
        "kept = kept[: self._max_len]",
        "serving/test_scorer.py",
        "history: the oldest items of a request are used",
    ),
    Fault(
        "serving/values.py",
        "if found > most:",
        "if found > 2 * most:",
        "serving/test_scorer.py",
        "limits: twice as many items as allowed",
    ),
    Fault(
        "serving/items.py",
        'return {"history": array[max(length - self._max_len, 0) : length], **self._no_new}, columns, rows, 0',
        'return {"history": array[: min(length, self._max_len)], **self._no_new}, columns, rows, 0',
        "serving/test_scorer.py",
        "history: the oldest items of a plain request are used",
    ),
    Fault(
        "serving/catalogue.py",
        "kept = -scores <= np.partition(-scores, k - 1)[k - 1]",
        "kept = -scores < np.partition(-scores, k - 1)[k - 1]",
        "serving/test_catalogue.py",
        "top: of equal scores at the end none is kept",
    ),
    Fault(
        "serving/histories.py",
        "found and found != head",
        "False and found != head",
        "serving/test_history_store.py",
        "events: those that a new file of histories knows count twice",
    ),
    Fault(
        "serving/items.py",
        "return *(np.where(ids < self.count, ids, 0) for ids in (history, candidates)), self._no_new, unknown",
        "return *(np.where(ids < self.count, ids, 1) for ids in (history, candidates)), self._no_new, unknown",
        "serving/test_scorer.py",
        "ids: an unknown item is scored as the first one",
    ),
    Fault(
        "serving/http/app.py",
        'return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._expected)',
        'return self._expected.startswith(scheme.lower() + b" " + token.strip())',
        "serving/test_http_app.py",
        "auth: an empty token opens the service",
    ),
    Fault(
        "serving/http/app.py",
        "if request.path != OPEN:",
        'if request.path == "/score":',
        "serving/test_http_app.py",
        "auth: metrics and description are open to everyone",
    ),
    Fault(
        "serving/http/connection.py",
        "request.refusal, request.body = self._service.too_large(), b\"\"",
        "pass",
        "serving/test_http_app.py serving/test_http_server.py",
        "limits: a body that is cut off is parsed",
    ),
    Fault(
        "serving/http/app.py",
        "if len(self._queue) + self._long >= self.settings.max_waiting:",
        "if len(self._queue) + self._long > self.settings.max_waiting:",
        "serving/test_http_app.py",
        "off by one: one more request waits than may",
    ),
    Fault(
        "serving/scorer.py",
        'self._chunk: int = self.manifest.get("chunk", _CHUNK)',
        "self._chunk: int = _CHUNK",
        "bench/test_service.py",
        "chunks: the file's number of candidates at a time counts for nothing",
    ),
    Fault(
        "serving/http/body.py",
        "if quotes == 2 * _keys(value) or quotes == 2 * _texts(value):",
        "if True:",
        "serving/test_http_body.py",
        "parsing: of a key that comes twice the last value counts",
    ),
    Fault(
        "serving/http/connection.py",
        "if known is not None and known[-1] == len(data) - end:",
        "if known is not None:",
        "serving/test_http_server.py",
        "heads: what comes behind a request whose head is known is taken for its body",
    ),
    Fault(
        "serving/http/connection.py",
        'or b"content-length" in headers',
        "",
        "serving/test_http_server.py",
        "smuggling: two ends of one request",
    ),
    Fault(
        "serving/bundle.py",
        "    if found != expected:\n",
        "    if expected is None:\n",
        "serving/test_bundle.py serving/test_scorer.py",
        "hash: an export that was changed is served",
    ),
    Fault(
        "serving/raw_values.py",
        ' - self._raw.get("shift", 0.0)) / self._raw.get("scale", 1.0)',
        ' - self._raw.get("shift", 0.0))',
        "export/test_export_fields.py",
        "scale: a request's numbers are not scaled as those of the training rows",
    ),
]


def place(fault: Fault, package: Path) -> None:
    """Changes the package's file."""
    file = package / fault.file
    text = file.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise SystemExit(f"{fault.file}: expected this text once, found it {text.count(fault.old)} times:\n{fault.old}")
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


def run_tests(copy: Path, tests: list[str]) -> tuple[int | None, str]:
    """pytest's status, None where it did not end, and its output."""
    data = os.environ.get("QIN_ZOO_DATA", str(REPOSITORY.parent / "shared" / "data"))
    environment = {
        **os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        "QIN_ZOO_DATA": data,
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", f"--rootdir={copy}", *tests]
    try:
        found = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return found.returncode, found.stdout + found.stderr


def look(number: int, fault: Fault, copy: Path) -> tuple[str, str]:
    """Places a fault; whether it was noticed, and by which test."""
    file, begun = copy / "qin_zoo" / fault.file, time.perf_counter()
    whole = file.read_text(encoding="utf-8")
    place(fault, copy / "qin_zoo")
    try:
        status, output = run_tests(copy, ["-x", *(f"tests/{test}" for test in fault.tests.split())])
    finally:
        file.write_text(whole, encoding="utf-8")
    failed = _FAILED.search(output)
    # other statuses than 1, as of files that cannot be imported, say nothing of the tests
    outcome = {0: "SURVIVED", 1: "killed", None: "killed"}.get(status, "BROKEN")
    by = failed[1] if failed and status == 1 else "" if status == 0 else output[-400:]
    print(f"{number:>3} {outcome:<8} {time.perf_counter() - begun:4.0f} s  {fault.file}: {fault.why}  {by}", flush=True)
    return outcome, by


def main(chosen: list[int]) -> int:
    faults = {n: fault for n, fault in enumerate(FAULTS, 1) if not chosen or n in chosen}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns("__pycache__", ".*", "checkpoints"))
        found = {number: look(number, fault, copy) for number, fault in faults.items()}
        noticed = {number: by for number, (outcome, by) in found.items() if outcome == "killed"}
        _, output = run_tests(copy, sorted({by for by in noticed.values() if by}))
        unsound = set(_FAILED.findall(output))
    left = [number for number in faults if number not in noticed or noticed[number] in unsound]
    for test in sorted(unsound):
        print(f"{test} fails without a fault, too")
    print(f"{len(faults) - len(left)} of {len(faults)} faults were noticed" + (f"; not: {left}" if left else ""))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
