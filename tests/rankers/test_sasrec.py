"""SASRec: its network and loss by a slow reading in numpy, what its scores depend on, resuming, and planted taste."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")

from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.core.progress import watched_by  # noqa: E402
from qilin_rag.core.registry import RANKERS  # noqa: E402
from qilin_rag.data.catalogue import Catalogue  # noqa: E402
from qilin_rag.rankers import load_ranker  # noqa: E402
from qilin_rag.rankers.popularity import Popularity  # noqa: E402
from qilin_rag.rankers.sasrec import SASRec  # noqa: E402
from qilin_rag.rankers.sequence_network import SequenceNetwork, SequenceShape  # noqa: E402
from qilin_rag.rankers.simple import Random  # noqa: E402
from qilin_rag.rankers.split_log import SplitLog, click_log  # noqa: E402
from qilin_rag.rankers.training import train_ranker  # noqa: E402
from tests.conftest import Cli  # noqa: E402
from tests.rankers.conftest import Made, MakeWorld, mrr, p_of  # noqa: E402
from tests.rankers.test_popularity import catalogue_with, world_of_taste  # noqa: E402
from tests.rankers.test_training import KillAt, Killed, log_of, model_of  # noqa: E402

COUNTS = {"notes": 400, "searches": 100, "recommendations": 200, "dqa": 10, "users": 20}


def small(**settings: Any) -> SASRec:
    """A network that trains in seconds."""
    given = {"history_length": 10, "width": 16, "batch_size": 64, "device": "cpu", "max_steps": 8, "evaluate_every": 4}
    return SASRec(**given | settings)


def trained(ranker: SASRec, made: Made, out: Path) -> Any:
    log = SplitLog(made.source, 0.1)
    train, validation = (log.split("recommendation", split) for split in ("train", "validation"))
    catalogue = made.catalogue._replace(clicks=log.clicks(["recommendation"], "train"))
    train_ranker(ranker, train, validation, catalogue, out)
    return load_ranker(out, device="cpu")


@pytest.fixture(scope="module")
def made(make_world: MakeWorld) -> Made:
    return make_world(COUNTS)


@pytest.fixture(scope="module")
def model(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was trained a little."""
    out = tmp_path_factory.mktemp("sasrec") / "out"
    trained(small(), made, out)
    return out


def network_of(n_notes: int = 7, **changes: Any) -> SequenceNetwork:
    torch.manual_seed(0)
    shape = SequenceShape(n_notes=n_notes, length=4, width=6, n_blocks=2, n_heads=2, dropout=0.0)._replace(**changes)
    network = SequenceNetwork(shape)
    for parameter in network.parameters():  # so that no weight is 0 or 1
        torch.nn.init.normal_(parameter, std=0.5)
    network.note_idx.copy_(torch.arange(n_notes) * 10)
    network.eval()
    return network


BATCH = {
    "notes": torch.tensor([[3, 1, 7, 0], [5, 0, 0, 0], [0, 0, 0, 0], [2, 2, 4, 6]]),
    "kinds": torch.tensor([[2, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]),
    "is_search": torch.tensor([0, 1, 1, 0]),
}


def by_hand(network: SequenceNetwork, notes: list[int], kinds: list[int], is_search: int) -> Any:
    """The output of each element of one history without padding: loops over elements, heads and numbers."""
    weights = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    width, n_heads = network.shape.width, network.shape.n_heads
    x = [weights["start.weight"][is_search]]
    for i, (note, kind) in enumerate(zip(notes, kinds, strict=True)):
        age = len(notes) - 1 - i
        note_vector = weights["notes.weight"][note] * math.sqrt(width)
        x.append(note_vector + weights["ages.weight"][age] + weights["kinds.weight"][kind])

    def normed(vector: Any, name: str) -> Any:
        variance = ((vector - vector.mean()) ** 2).mean()
        scaled = (vector - vector.mean()) / math.sqrt(variance + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    for block in range(network.shape.n_blocks):
        of = f"blocks.layers.{block}"
        inputs = [normed(vector, f"{of}.norm1") for vector in x]
        projected = [
            weights[f"{of}.self_attn.in_proj_weight"] @ vector + weights[f"{of}.self_attn.in_proj_bias"]
            for vector in inputs
        ]
        attended = []
        for i in range(len(x)):
            heads: list[float] = []
            for head in range(n_heads):
                part = slice(head * width // n_heads, (head + 1) * width // n_heads)
                query = projected[i][:width][part]
                keys = [projected[j][width : 2 * width][part] for j in range(i + 1)]  # itself and older ones
                values = [projected[j][2 * width :][part] for j in range(i + 1)]
                logits = [float(query @ key) / math.sqrt(width // n_heads) for key in keys]
                total = sum(math.exp(logit) for logit in logits)
                heads += list(sum(math.exp(a) / total * v for a, v in zip(logits, values, strict=True)))
            attended.append(
                weights[f"{of}.self_attn.out_proj.weight"] @ np.array(heads) + weights[f"{of}.self_attn.out_proj.bias"]
            )
        x = [a + b for a, b in zip(x, attended, strict=True)]
        for i, vector in enumerate(x):
            hidden = weights[f"{of}.linear1.weight"] @ normed(vector, f"{of}.norm2") + weights[f"{of}.linear1.bias"]
            x[i] = vector + weights[f"{of}.linear2.weight"] @ np.maximum(hidden, 0) + weights[f"{of}.linear2.bias"]
    return np.array([normed(vector, "blocks.norm") for vector in x])


def test_the_network_is_a_slow_reading_of_the_paper() -> None:
    network = network_of()
    state = network.encode(**BATCH)
    for row, notes in enumerate(BATCH["notes"].tolist()):
        known = [note for note in notes if note]
        kinds = BATCH["kinds"][row].tolist()[: len(known)]
        expected = by_hand(network, known, kinds, int(BATCH["is_search"][row]))
        assert state[row].tolist() == pytest.approx(expected[-1].tolist(), abs=1e-5)


def test_the_loss_is_cross_entropy_by_hand() -> None:
    network = network_of()
    positive, negatives = torch.tensor([4, 1, 2, 7]), torch.tensor([[2, 5], [3, 0], [0, 0], [1, 3]])
    table = network.notes.weight.detach().double().numpy()
    state = network.encode(**BATCH).detach().double().numpy()
    total = 0.0
    for row in range(4):
        total -= math.log(1 / (1 + math.exp(-float(state[row] @ table[positive[row]]))))
        for negative in negatives[row].tolist():
            if negative:
                total -= math.log(1 - 1 / (1 + math.exp(-float(state[row] @ table[negative]))))
    loss = network(**BATCH, positive=positive, negatives=negatives)["loss"]
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)


def test_drawn_negatives_are_neither_the_click_nor_in_the_history() -> None:
    """With as many notes as the history and the click there is no negative; with one more it is always that one."""
    batch = {name: values[3:] for name, values in BATCH.items()}  # of the notes 2, 4 and 6
    positive = torch.tensor([1])
    for n_notes, expected in ((6, {0, 3, 5}), (7, {0, 3, 5, 7})):
        network = network_of(n_notes)
        drawn: list[Any] = []
        network.notes.register_forward_hook(lambda _, given, __, drawn=drawn: drawn.append(given[0]))
        network(**batch, positive=positive, n_random=200)
        assert set(drawn[-1].flatten().tolist()) == expected


def test_an_element_reads_only_older_ones() -> None:
    """Causal, whatever comes later, and padding is never read."""
    network = network_of()
    whole = network.outputs(**BATCH)[3]
    for last in range(1, 4):
        changed = {name: values.clone() for name, values in BATCH.items()}
        changed["notes"][3, last:] = 1
        changed["kinds"][3, last:] = 2
        assert torch.allclose(network.outputs(**changed)[3, : last + 1], whole[: last + 1], atol=1e-6)
        assert not torch.allclose(network.outputs(**changed)[3, last + 1], whole[last + 1], atol=1e-3)
    padded = {name: values.clone() for name, values in BATCH.items()}
    padded["kinds"][padded["notes"] == 0] = 2
    assert torch.allclose(network.encode(**padded), network.encode(**BATCH), atol=1e-6)


def test_a_note_that_was_not_in_train_has_the_mean_score_and_is_no_history(made: Made, model: Path) -> None:
    ranker = load_ranker(model, device="cpu")
    known = model_of(model)["note_idx"]
    log = SplitLog(made.source).clicks(["recommendation"], "test")
    asked = made.requests("recommendation", "test")
    n = len(asked)
    notes = np.tile(np.append(known, [999_999, 5_000_000]), n)
    all_known = asked.with_results(np.full(n, len(known) + 2), notes, np.zeros(len(notes), bool), notes * 0)
    scores = ranker.score(all_known, made.catalogue._replace(clicks=log)).reshape(n, -1)
    is_known = np.isin(all_known.note_idx, known).reshape(n, -1)
    for row in range(n):
        mean = scores[row][is_known[row]].mean()
        assert scores[row][~is_known[row]] == pytest.approx([mean, mean], abs=1e-5)
    before = ranker.score(asked, made.catalogue._replace(clicks=log))
    stranger = replace(asked, recent=np.full_like(asked.recent, 777_777))
    nobody = replace(asked, recent=asked.recent[:0], recent_offsets=np.zeros(n + 1, np.int64))
    without = ranker.score(nobody, made.catalogue._replace(clicks=log))
    assert np.array_equal(ranker.score(stranger, made.catalogue._replace(clicks=log)), without)
    assert not np.array_equal(before, without)


def test_no_score_depends_on_the_batch_or_the_future(made: Made, model: Path) -> None:
    asked = made.requests("recommendation", "test")
    table = SplitLog(made.source).table("recommendation_train")
    learn = np.ones(len(table), bool)
    before = load_ranker(model, device="cpu").score(asked, catalogue_with(click_log([table], [learn])))
    alone = load_ranker(model, device="cpu", score_batch_size=3)
    assert alone.score(asked, catalogue_with(click_log([table], [learn]))) == pytest.approx(before, abs=1e-5)
    for row in range(0, len(asked), 5):
        one = asked.take(np.array([row]))
        future = replace(asked, user_idx=one.user_idx.repeat(len(asked)), time_ms=one.time_ms.repeat(len(asked)))
        log = click_log([table, future], [learn, np.ones(len(asked), bool)])
        after = alone.score(one, catalogue_with(log))
        assert after == pytest.approx(before[asked.offsets[row] : asked.offsets[row + 1]], abs=1e-5)


def test_killed_and_resumed_is_as_if_it_had_not_been(made: Made, tmp_path: Path) -> None:
    """With the same random negatives."""
    ranker = small(max_steps=6, log_every=1, evaluate_every=3)
    trained(ranker, made, tmp_path / "whole")
    with watched_by(KillAt(5)), pytest.raises(Killed):
        trained(ranker, made, tmp_path / "killed")
    trained(ranker, made, tmp_path / "killed")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    for name, values in model_of(tmp_path / "whole").items():
        assert np.array_equal(values, model_of(tmp_path / "killed")[name])


def test_other_clicks_are_another_training(made: Made, tmp_path: Path) -> None:
    """Of the other task, too: they are in the histories."""
    log = SplitLog(made.source, 0.1)
    parts = [log.split("recommendation", split) for split in ("train", "validation")]
    clicks = log.clicks(["recommendation"], "train")
    assert clicks.is_search.any()

    def train(catalogue: Catalogue) -> Any:
        return train_ranker(small(max_steps=2), parts[0], parts[1], catalogue, tmp_path / "out")

    done = train(made.catalogue._replace(clicks=clicks))
    assert train(made.catalogue._replace(clicks=clicks)) == done
    with pytest.raises(UsageError, match=r"\(other clicks\)"):
        train(made.catalogue._replace(clicks=clicks.take(~clicks.is_search)))


def test_examples_are_clicks_with_what_came_before(made: Made) -> None:
    log = SplitLog(made.source, 0.1)
    train = log.split("recommendation", "train")
    catalogue = made.catalogue._replace(clicks=log.clicks(["recommendation"], "train"))
    examples = small(negatives="shown", n_negatives=3).recipe(train, catalogue).train_dataset
    assert len(examples) == train.clicked.sum()
    network = small(negatives="shown", n_negatives=3).recipe(train, catalogue).model
    notes = np.append(-1, network.note_idx.numpy())
    batch = examples.__getitems__(list(range(len(examples))))
    for at, request in enumerate(examples.request.tolist()):
        span = slice(train.offsets[request], train.offsets[request + 1])
        shown = dict(zip(train.note_idx[span].tolist(), train.clicked[span].tolist(), strict=True))
        assert shown[int(notes[batch["positive"][at]])]
        assert not any(shown[note] for note in notes[batch["negatives"][at]].tolist() if note >= 0)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="n_heads 3 does not divide width 50"):
        RANKERS.create("sasrec", {"n_heads": 3})


def test_a_folder_of_another_shape_is_refused(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weights = model_of(model)
    for name in ("start.weight", "note_idx"):
        weights.pop(name)
        (tmp_path / "model").mkdir(exist_ok=True)
        save_file(weights, tmp_path / "model" / "model.safetensors")
        with pytest.raises(UsageError, match="another version of sasrec"):
            small().load(tmp_path / "model")


def test_train_and_rank_by_command(made: Made, cli: Cli) -> None:
    settings = [f"--set=ranker.{each}" for each in ("device=cpu", "width=16", "max_steps=4", "batch_size=64")]
    done = cli(
        "train", "sasrec", "--task", "recommendation", "--data", made.folder, "--out", "sas", *settings, "--quiet"
    )
    assert done.code == 0, done.err
    for split in ("test", "last"):
        command = ("rank", "--checkpoint", "sas", "--task", "recommendation", "--data", made.folder, "--split", split)
        done = cli(*command, "--candidates", "sampled:20", "--quiet")
        assert done.code == 0 and "hit@10" in done.out, done.err


@pytest.mark.slow
@pytest.mark.parametrize("is_planted", [True, False])
def test_it_gains_by_taste_and_loses_it_without(make_world: MakeWorld, tmp_path: Path, is_planted: bool) -> None:
    made = world_of_taste(make_world, is_planted)
    settings = {"width": 32, "batch_size": 128, "learning_rate": 3e-3, "max_steps": 150, "evaluate_every": 50}
    sasrec = trained(small(**settings), made, tmp_path / "out")
    log = SplitLog(made.source, 0.1)
    test = log.split("recommendation", "test")
    catalogue = made.catalogue._replace(clicks=log.clicks(["recommendation"], "test"))
    rankers: dict[str, Any] = {"sasrec": sasrec, "popularity": Popularity(), "random": Random()}
    found = {name: mrr(test, ranker.score(test, catalogue)) for name, ranker in rankers.items()}
    gain = found["sasrec"] - found["popularity"]
    half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    if is_planted:
        assert gain.mean() - half > 0
        assert p_of(found["sasrec"], found["random"]) < 0.001
    else:
        assert gain.mean() - half <= 0
        assert p_of(found["sasrec"], found["random"]) >= 0.05
