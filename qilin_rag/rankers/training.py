"""Train rankers by transformers' Trainer, with our schedule, optimizers by name, and validation by MRR@10.

accelerate and torchrun provide several GPUs and machines: run the same command under `accelerate launch` or `torchrun`.
A checkpoint holds model, optimizer, schedule and random states, so that a killed training resumes as if it had not been
stopped.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import torch
from accelerate.utils import gather_object
from torch import distributed
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainerState, set_seed
from transformers.integrations import TensorBoardCallback

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import missing_modules
from qilin_rag.core.files import write_text
from qilin_rag.core.former import renewed_name
from qilin_rag.core.progress import Advance, stage
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import ByAnswer, Requests, content_sha256, fields_read
from qilin_rag.models.hf_compat import load_best_model, use_one_gpu, without_autocast
from qilin_rag.models.pretrained import fetch_model, model_sha256, quiet_loading, within_gpu_memory
from qilin_rag.models.sentence_encoder import has_native_bf16
from qilin_rag.rankers.checkpoints import TRAINER_STATE, damage_of, saving_to
from qilin_rag.rankers.metrics import figures_of
from qilin_rag.rankers.trained import (
    LESS_TO_SCORE,
    MANIFEST,
    MODEL,
    Recipe,
    Trained,
    TrainedRanker,
    read_ranker,
    save_ranker,
)

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainingArguments

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
BEGUN = "training.json"
_HALF_BEGUN = f".{BEGUN}.*.tmp"  # left by a process that was killed while it wrote this
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
_LESS_TO_TRAIN = "in a new folder, lower ranker.batch_size, or set ranker.gradient_checkpointing=true"
_PROCESSES = "n_processes"  # each takes its own batch in a step
METRIC = "mrr@10"


def train_ranker(
    ranker: TrainedRanker,
    train: Requests,
    validation: Requests,
    catalogue: Catalogue,
    out: Path,
    by_answer: ByAnswer | None = None,
) -> Trained:
    """Train on `train`, and write the best model by MRR@10 on `validation` to the folder `out`.

    `by_answer` says which searches of the table dqa these are, if they are of it; the folder records it.

    If `out` holds checkpoints of the same training, it resumes from the last one; if that training is complete, nothing
    is done.

    Raises:
        UsageError: The folder holds another training, or the requests have nothing to learn from.
    """
    for name, requests in (("train", train), ("validation", validation)):
        if not requests.clicked.any() or requests.clicked.all():
            raise UsageError(f"the {name} requests have no candidate that is clicked beside one that is not")
    device = ranker.torch_device()
    if device.type != "cpu" and device != torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))):
        raise UsageError(f"device {ranker.device}: training is on cpu or cuda; CUDA_VISIBLE_DEVICES chooses the GPU")
    if ranker.log == "tensorboard" and missing_modules("tensorboard"):
        raise UsageError("log tensorboard needs tensorboard, not installed here: pip install tensorboard")
    begun = {
        "ranker": ranker.known_as(),
        "version": ranker.version,
        _PROCESSES: int(os.environ.get("WORLD_SIZE", "1")),
        "settings": ranker.training_settings(),
        "train": content_sha256(train, catalogue),
        "validation": content_sha256(validation, catalogue),
        **fields_read(catalogue),
        **({"by_answer": by_answer} if by_answer else {}),
        **({} if catalogue.clicks is None else {"clicks": catalogue.clicks.sha256}),
        "pretrained": {name: _model_sha256(getattr(ranker, name)) for name in sorted(ranker.pretrained)},
    }
    is_first = os.environ.get("RANK", "0") == "0"
    if (out / MANIFEST).is_file():
        trained = _trained_before(out, begun, ranker.pretrained)
        if is_first and (out / BEGUN).is_file():  # its process was killed before it had cleaned up
            _clear_up(out)
        return trained
    if not is_first:  # it would find the folder half made
        return _train(ranker, train, validation, catalogue, out, begun)
    with saving_to(out):
        _begin(out, begun, ranker.pretrained)
        with _alone(out):
            return _train(ranker, train, validation, catalogue, out, begun)


def _train(
    ranker: TrainedRanker,
    train: Requests,
    validation: Requests,
    catalogue: Catalogue,
    out: Path,
    begun: dict[str, Any],
) -> Trained:
    """Train from the beginning or the last checkpoint, and write the folder of the trained ranker."""
    set_seed(ranker.seed)
    recipe = ranker.recipe(train, catalogue)
    with quiet_loading():
        trainer = _trainer(ranker, recipe, validation, catalogue, out)
        last = _last_checkpoint(out / CHECKPOINTS)
        if trainer.is_world_process_zero():
            _forget_after(out / LOG, last)
        done = 0 if last is None else _step(last)
        with stage("training", trainer.args.max_steps, done) as advance, within_gpu_memory(_LESS_TO_TRAIN):
            trainer.add_callback(_Steps(advance))
            if last and _is_over(last):
                _take_best(trainer, last)
            else:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.accelerator.wait_for_everyone()  # each loads the best checkpoint, and the first process removes it below
    state = trainer.state  # validated at least once: the first evaluation is no later than the last step
    trained = Trained(out, _step(Path(state.best_model_checkpoint)), state.global_step, float(state.best_metric))
    if trainer.is_world_process_zero():
        shutil.rmtree(out / MODEL, ignore_errors=True)
        (out / MODEL).mkdir()
        recipe.model.eval()
        ranker.save(recipe.fitted, out / MODEL)
        of_what = {name: begun[name] for name in begun if name not in ("ranker", "version", "settings")}
        how = {"step": trained.step, "n_steps": trained.n_steps, METRIC: trained.mrr_at_10}
        save_ranker(ranker, out, of_what | how)
        _clear_up(out)
    trainer.accelerator.wait_for_everyone()
    return trained


def _trainer(ranker: TrainedRanker, recipe: Recipe, validation: Requests, catalogue: Catalogue, out: Path) -> Trainer:
    judged = validation.take(validation.n_clicked > 0)  # once: what rankers keep of them is found by their hash

    class Validated(recipe.trainer):  # type: ignore[name-defined, misc]
        """The ranker's trainer, validated by MRR@10."""

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            was_training = recipe.model.training
            recipe.model.eval()
            with (
                torch.no_grad(),
                without_autocast(recipe.model),
                within_gpu_memory(f"{LESS_TO_SCORE}; the same command resumes"),
            ):
                found = mean_reciprocal_rank(ranker, recipe.fitted, judged, catalogue)
            recipe.model.train(was_training)
            metrics = {f"eval_{METRIC}": found}
            self.log(metrics)
            self.control: TrainerControl = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    optimizer = make_optimizer(ranker, recipe.parameters)
    arguments = training_arguments(ranker, recipe, out)
    n_steps = arguments.max_steps if ranker.schedule == "linear" else None
    trainer: Trainer = Validated(
        model=recipe.model,
        args=arguments,
        train_dataset=recipe.train_dataset,
        eval_dataset=recipe.train_dataset,  # requested, but never read
        optimizers=(optimizer, warm_up(optimizer, ranker.warmup_steps, n_steps)),
        callbacks=[EarlyStoppingCallback(ranker.patience), _TrainingLog(out / LOG)],
        **recipe.given,
    )
    trainer.model_accepts_loss_kwargs = False  # else losses count as divided by accumulated batches already
    trainer.remove_callback(PrinterCallback)
    if ranker.log == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"))))
    return trainer


def training_arguments(ranker: TrainedRanker, recipe: Recipe, out: Path) -> TrainingArguments:
    """Return the arguments of transformers' Trainer: steps, batches, precision, device; checkpoints go below `out`."""
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = ranker.batch_size * ranker.gradient_accumulation * n_processes
    n_examples = len(recipe.train_dataset)
    is_whole = n_examples >= per_step  # then the rest of an epoch is dropped; else there would be no step at all
    an_epoch = n_examples // per_step if is_whole else 1
    n_steps = ranker.max_steps or math.ceil(ranker.epochs * an_epoch)
    every = min(ranker.evaluate_every or max(1, an_epoch // 10), n_steps)
    is_cpu = ranker.device == "cpu" or not torch.cuda.is_available()
    if ranker.precision == "auto":
        is_bf16 = not is_cpu and has_native_bf16(torch.device("cuda"))
    else:
        is_bf16 = ranker.precision == "bf16"
    read_ahead = {
        "dataloader_num_workers": ranker.workers,
        "dataloader_multiprocessing_context": "fork" if ranker.workers else None,
    }
    arguments = recipe.arguments(
        output_dir=str(out / CHECKPOINTS),
        max_steps=n_steps,
        per_device_train_batch_size=ranker.batch_size,
        gradient_accumulation_steps=ranker.gradient_accumulation,
        gradient_checkpointing=ranker.gradient_checkpointing,
        dataloader_drop_last=is_whole,
        max_grad_norm=ranker.max_grad_norm,
        bf16=is_bf16,
        use_cpu=is_cpu,
        ddp_backend="gloo" if is_cpu and n_processes > 1 else None,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=METRIC,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        average_tokens_across_devices=False,
        logging_steps=ranker.log_every,
        report_to="none",
        disable_tqdm=True,
        seed=ranker.seed,
        **read_ahead | recipe.more_arguments,
    )
    use_one_gpu(arguments)
    return arguments


def make_optimizer(ranker: TrainedRanker, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Make Lamb (You et al. 2020) by pytorch_optimizer, or AdamW by torch, with betas .9 and .999 and eps 1e-8."""
    settings: dict[str, Any] = {
        "lr": ranker.learning_rate,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": ranker.weight_decay,
    }
    if ranker.optimizer == "lamb":
        from pytorch_optimizer import Lamb

        # Else its step is divided by 1 - beta1^t after the trust ratio is taken: ten times too long at first.
        return Lamb(parameters, adam_debias=True, **settings)
    return torch.optim.AdamW(parameters, **settings)


def warm_up(
    optimizer: torch.optim.Optimizer, n_warm_up: int, n_steps: int | None = None
) -> torch.optim.lr_scheduler.LRScheduler:
    """Schedule each learning rate: linear from a third to all of it; then constant, or linear to 0 at `n_steps`."""

    def share(step: int) -> float:
        if step < n_warm_up:
            return (1 + 2 * step / n_warm_up) / 3
        return 1.0 if n_steps is None else max(0.0, (n_steps - step) / max(1, n_steps - n_warm_up))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def mean_reciprocal_rank(ranker: TrainedRanker, fitted: Any, requests: Requests, catalogue: Catalogue) -> float:
    """Return MRR@10 of requests that all have a click; each process scores its share, and all get the mean."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return float(np.mean(_reciprocal_ranks(requests, ranker, fitted, catalogue)))
    rows = np.arange(distributed.get_rank(), len(requests), distributed.get_world_size())
    own = _reciprocal_ranks(requests.take(rows), ranker, fitted, catalogue) if len(rows) else []
    return float(np.mean(gather_object(own)))


def _reciprocal_ranks(requests: Requests, ranker: TrainedRanker, fitted: Any, catalogue: Catalogue) -> list[float]:
    scores = ranker.score_with(fitted, requests, catalogue)
    if not np.isfinite(scores).all():  # sorted, they would have an MRR as well, and a high one by chance
        raise UsageError("training failed: the model's scores are not numbers; a lower learning_rate may help")
    return [figures[METRIC] for figures in figures_of(requests, scores) if figures]


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Reports the progress of training."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._advance()


class _TrainingLog(TrainerCallback):  # type: ignore[misc]
    """Writes a JSON object a line: step, loss, learning rate; step and MRR@10."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            line = {"step": state.global_step, **{name.removeprefix("eval_"): value for name, value in logs.items()}}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _model_sha256(name: str | None) -> str | None:
    return None if name is None else model_sha256(fetch_model(name))


def _trained_before(out: Path, begun: dict[str, Any], pretrained: Set[str]) -> Trained:
    how = read_ranker(out)
    there = {"ranker": how["ranker"], "version": how.get("version"), "settings": how["settings"], **how["trained"]}
    _refuse_other(out, there, begun, pretrained)
    logger.info("%s is trained already", out)
    return Trained(out, there["step"], there["n_steps"], there[METRIC])


def _begin(out: Path, begun: dict[str, Any], pretrained: Set[str]) -> None:
    """Make the folder, or check that it is of this training."""
    path = out / BEGUN
    if out.is_dir() and (link := next((each for each in out.rglob("*") if each.is_symlink()), None)):
        raise UsageError(f"{link} is a link, which could lead anywhere; remove it, or name a new folder")
    if path.is_file():
        _refuse_other(out, _read_begun(path), begun, pretrained)
        return
    if out.exists() and not (out.is_dir() and all(each.match(_HALF_BEGUN) for each in out.iterdir())):
        raise UsageError(f"{out} exists and is not a training; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(begun, ensure_ascii=False, indent=2) + "\n")


def _clear_up(out: Path) -> None:
    """Remove what only an incomplete training needs."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    (out / BEGUN).unlink(missing_ok=True)


def _read_begun(path: Path) -> dict[str, Any]:
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} can't be read: {error}; name a new folder") from error
    if not isinstance(begun, dict) or not isinstance(begun.get("settings"), dict):
        raise UsageError(f"{path} does not say which training was begun; name a new folder")
    return begun | {"ranker": renewed_name(str(begun.get("ranker")))}


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock the folder, in which two trainings would remove each other's checkpoints, until the process ends."""
    lock = filelock.FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UsageError(f"{out} is in use by another training; wait for it, or name a new folder") from None
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        lock.release()


def _refuse_other(out: Path, there: dict[str, Any], begun: dict[str, Any], pretrained: Set[str]) -> None:
    """Raise a UsageError that names what differs; pretrained models are compared by content, not by name.

    A step takes a batch of each process: another number of processes would change the remaining steps.
    """
    begun_by, now_by = there.get(_PROCESSES, begun[_PROCESSES]), begun[_PROCESSES]
    if begun_by != now_by:
        raise UsageError(
            f"{out} is trained by {begun_by} process{'es' * (begun_by > 1)}, here are {now_by}: a step would take "
            f"{now_by} batches of {begun['settings']['batch_size']} examples instead of {begun_by}; start as many "
            f"(torchrun --nproc_per_node {begun_by}), or name a new folder"
        )
    version = there.get("version") or begun["version"]  # which was not recorded before 0.2
    there = {**there, _PROCESSES: now_by, "version": version}
    settings, given = ({**of["settings"], **dict.fromkeys(pretrained)} for of in (there, begun))
    different = [name for name in given if settings.get(name) != given[name]]
    of_both = {**begun, **dict.fromkeys(("note_fields", "note_texts"))}
    different += [name for name in of_both if name != "settings" and there.get(name) != begun.get(name)]
    if different:
        raise UsageError(f"{out} holds another training (other {', '.join(different)}); name a new folder")


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that is whole, with its best model; remove others, and name damaged ones."""
    whole = []
    for path in sorted(folder.glob("checkpoint-*"), key=_step):
        if why := damage_of(path):
            logger.warning("%s; the checkpoint is removed, and training resumes from an older one or starts again", why)
            shutil.rmtree(path, ignore_errors=True)  # another process may do the same
        else:
            whole.append(path)
    return next((path for path in reversed(whole) if _best_beside(path) in whole), None)


def _best_beside(checkpoint: Path) -> Path:
    best = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE)).best_global_step
    return checkpoint if not best else checkpoint.with_name(f"checkpoint-{best}")


def _is_over(checkpoint: Path) -> bool:
    """Return whether training ended there, by its last step or early; the trainer would take at least one more step."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
    is_over: bool = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    return is_over


def _take_best(trainer: Trainer, last: Path) -> None:
    """Load the best model, as the trainer does at the end of training."""
    trainer.state = TrainerState.load_from_json(str(last / TRAINER_STATE))
    trainer.state.best_model_checkpoint = str(last.with_name(f"checkpoint-{trainer.state.best_global_step}"))
    load_best_model(trainer)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _forget_after(log: Path, last: Path | None) -> None:
    """Drop the lines of steps that are taken again."""
    if log.is_file():
        upto = 0 if last is None else _step(last)
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= upto]
        write_text(log, "".join(f"{line}\n" for line in kept))
