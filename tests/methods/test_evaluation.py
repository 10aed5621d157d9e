"""`raid evaluate` as users call it, on encoders with random weights: what is tested is not the training."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import brute_force
import layouts
import numpy as np
import pyarrow as pa
import pytest
import thin_resnet
import tiny
import torch

from raid import __version__
from raid.cli import main
from raid.config import config_hash, flatten, load, to_yaml
from raid.data.images import open_images
from raid.data.samples import Record, Samples, content_hash
from raid.distributed.checkpoint import write_tensors
from raid.distributed.group import Group
from raid.extract import extract
from raid.methods.encoder import build_model
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig

NAMES = ("mAP", "rank1", "rank5", "rank10", "rank20", "mINP", "num_valid")


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("evaluation") / "images", num_identities=12)


@pytest.fixture(scope="module")
def config(root: Path) -> IcsrConfig:
    return tiny.config(root, root.parent / "run", numerics__threads=1)


@pytest.fixture
def model(config: IcsrConfig, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.pt"
    weights = build_model(config.training.encoder, Group.solo()).state_dict()
    write_tensors(path, {"model": weights, "config": to_yaml(config)})
    return path


@pytest.fixture(scope="module")
def samples(root: Path) -> Samples:
    """Who is seen is drawn, so that random weights find them by chance; some have no further images."""
    rng = np.random.default_rng(0)
    records = []
    for path in sorted(root.glob("*/*.png")):
        split = path.parent.name.replace("train", "multi_query")
        identity = int(rng.integers(3 if split == "multi_query" else -1, 9))
        records.append(Record(str(path.relative_to(root)), identity, int(path.name[6]) - 1, split))
    return Samples.scan(root, records, name="made up/1", facts={"version": "2"})


def written(samples: Samples, path: Path, facts: dict[str, str] | None = None, **columns: Any) -> Path:
    """A manifest of the samples, with other facts or other columns."""
    table = samples.table
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    if facts is not None:
        table = table.replace_schema_metadata({**table.schema.metadata, b"raid.facts": json.dumps(facts)})
    replace(samples, table=table).write(path)
    return path


def features_of(config: IcsrConfig, samples: Samples, *, flip: bool = False) -> np.ndarray:
    _, images = open_images(
        samples, height=tiny.HEIGHT, width=tiny.WIDTH, cache_folder=config.data.cache_folder
    )
    model = build_model(config.training.encoder, Group.solo()).to(torch.float64)
    if flip:
        return features_with_mirror_images(model, images.gather(np.arange(len(images))))
    found = extract(
        model, images, group=Group.solo(), batch_size=128, augmentation=config.training.encoder.augmentation,
        device=torch.device("cpu"), dtype=torch.float64,
    )  # fmt: skip
    return found.numpy().astype(np.float32)


def features_with_mirror_images(model: torch.nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Without the project's own extraction: pooled features, added, then of unit length."""
    mean, std = (
        torch.tensor(v).double()[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    rows = []
    with torch.no_grad():
        for image in pixels:
            both = torch.stack([image, image.flip(-1)]).double().div(255).sub(mean).div(std)
            summed = model.eval().neck(model.pool(model.body(both))).sum(dim=0)
            rows.append(summed / summed.norm())
    return torch.stack(rows).float().numpy()


def people(of: Samples) -> list[tuple[int, int]]:
    return list(zip(of.identities.tolist(), of.cameras.tolist(), strict=True))


def expected(result: tuple[Any, ...], prefix: str = "eval/") -> dict[str, Any]:
    cmc = result[1]
    ranks = [cmc[min(k, len(cmc)) - 1] for k in (1, 5, 10, 20)]
    values = (result[0], *ranks, result[2], result[3])
    return {f"{prefix}{name}": pytest.approx(value) for name, value in zip(NAMES, values, strict=True)}


def test_a_manifest_is_evaluated_by_every_protocol_that_applies(config, model, samples, tmp_path, capsys):
    manifest = written(samples, tmp_path / "set.parquet")
    before = model.read_bytes()
    assert main(["evaluate", str(model), str(manifest), "evaluate.rerank=true", "evaluate.rerank_k1=12"]) == 0
    out = capsys.readouterr().out
    stored = model.parent / "evaluation_made_up_1.json"
    assert out.endswith(f"stored in {stored}\n")
    record = json.loads(stored.read_text())

    query, gallery, more = (samples.split(name) for name in ("query", "gallery", "multi_query"))
    q, g, m = (features_of(config, of) for of in (query, gallery, more))
    mean = brute_force.averaged(q, people(query), m, people(more))
    assert (mean != q).any()
    assert (mean == q).all(axis=1).any()
    figures = record["sets"][0]["figures"]
    for prefix, features in (("eval/", q), ("eval/multi_query/", mean)):
        result = brute_force.standard(-(features @ g.T), people(query), people(gallery), "noninterp")
        of_protocol = expected(result, prefix)
        assert {key: figures[key] for key in of_protocol} == of_protocol
        row = [f"{100 * result[0]:.1f}", f"{100 * result[1][0]:.1f}"]
        name = "single query" if prefix == "eval/" else "multi-query"
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        assert line.removeprefix(name).split()[:2] == row
        assert line.split()[-1] == str(result[3])
    assert set(figures) == {
        f"eval/{protocol}{name}"
        for protocol in ("", "rerank/", "multi_query/", "multi_query/rerank/")
        for name in NAMES
    }
    assert figures["eval/rerank/mAP"] != figures["eval/mAP"]

    assert record["checkpoint"] == {
        "path": str(model), "method": "icsr", "content": content_hash(before),
        "config_hash": config_hash(config), "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        "raid": __version__,
    }  # fmt: skip
    assert record["options"] == {
        "ap": "noninterp", "multi_query": True, "rerank": True, "rerank_k1": 12, "rerank_k2": 6,
        "rerank_weight": 0.3, "cuhk03": "sls", "seed": 0, "flip": False,
    }  # fmt: skip
    facts = {key: value for key, value in record["sets"][0].items() if key != "figures"}
    assert facts == {
        "name": "made up/1", "root": str(manifest), "fingerprint": samples.fingerprint(),
        "facts": {"version": "2"}, "protocol": "standard", "cameras": True, "num_query": len(query),
        "num_gallery": len(gallery), "num_multi_query": len(more), "image_size": [tiny.HEIGHT, tiny.WIDTH],
    }  # fmt: skip
    assert {"mean", "deviation"}.isdisjoint(record)
    assert "version 2" in out
    assert "images normalised" not in out
    assert "mirror" not in out


def test_mirror_images_are_added_where_asked_for(config, model, samples, tmp_path, capsys):
    """As an override, to a model of a training that has not heard of it."""
    manifest = written(samples, tmp_path / "set.parquet")
    assert main(["evaluate", str(model), str(manifest), "evaluate.flip=true"]) == 0
    assert "features of an image and of its mirror image added" in capsys.readouterr().out
    record = json.loads((model.parent / "evaluation_made_up_1.json").read_text())
    assert record["options"]["flip"] is True
    query, gallery = samples.split("query"), samples.split("gallery")
    results = []
    for flip in (True, False):
        q, g = features_of(config, query, flip=flip), features_of(config, gallery, flip=flip)
        results.append(brute_force.standard(-(q @ g.T), people(query), people(gallery), "noninterp"))
    assert record["sets"][0]["figures"]["eval/mAP"] == pytest.approx(results[0][0])
    assert results[0][0] != pytest.approx(results[1][0])


def test_without_samples_a_run_is_evaluated_on_its_own_set(config, model, root, tmp_path, capsys):
    out = tmp_path / "own.json"
    assert main(["evaluate", str(model.parent), "--out", str(out), "evaluate.ap=market_trapezoid"]) == 0
    text = capsys.readouterr().out
    assert "average precision market_trapezoid" in text
    assert "multi-query" not in text  # the set has no such images
    (found,) = json.loads(out.read_text())["sets"]
    assert found["root"] == str(root)
    assert (found["num_query"], found["num_gallery"]) == (18, 36)
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.pt"]


def test_a_run_s_last_figures_are_found_again(samples, root, tmp_path):
    """Training and the command share one code; the set has pictures for multi-query."""
    train = Record("train/0000_c1_0.png", 0, 0, "train")
    own = Samples.scan(root, [train, *_records(samples)], name="own")
    own.write(tmp_path / "own.parquet")
    config = tiny.config(
        root, tmp_path / "run", data__layout="manifest", data__root=str(tmp_path / "own.parquet"),
        data__pattern=None, refine__enabled=False, inter__epochs=1, inter__steps=1, inter__num_clusters=1,
        evaluate__rerank=True, evaluate__rerank_k1=12, evaluate__multi_query=True, sampler__identities=4,
        sampler__singletons="repeat",
    )  # fmt: skip
    losses, figures = [], []
    for given in ({}, {"evaluate.flip": True}, {"evaluate.flip": True, "extract.on": "pool"}):
        folder = tmp_path / f"run{len(losses)}"
        chosen = load(IcsrConfig, overrides={**flatten(config), **given, "run.folder": str(folder)})
        run = icsr.run(chosen)
        losses.append([step["loss"] for step in run.steps()])
        figures.append({key: value for key, value in run.metrics()[0].items() if key.startswith("eval/")})
        assert main(["evaluate", str(folder)]) == 0
        (found,) = json.loads((folder / "evaluation_own.json").read_text())["sets"]
        assert figures[-1] == {
            key: value for key, value in found["figures"].items() if not key.endswith(("rank20", "num_valid"))
        }
        assert len(figures[-1]) == 4 * 5
    assert losses[0] == losses[1] == losses[2]  # mirror images are for retrieval alone
    assert figures[0] != figures[1] == figures[2]


def _records(samples: Samples) -> list[Record]:
    """The samples but the one image that is trained on."""
    rows = samples.table.to_pylist()
    return [
        Record(row["path"], row["identity"], row["camera"], row["split"])
        for row in rows
        if row["path"] != "train/0000_c1_0.png"
    ]


def test_another_layout_keeps_the_size_and_forgets_the_pattern(model, root, tmp_path):
    lines = [
        f"{path.relative_to(root)},{path.name[:4]},1,{path.parent.name}" for path in root.glob("*/*.png")
    ]
    table = root / "table.csv"
    table.write_text("\n".join(["path,identity,camera,split", *lines]) + "\n")
    given = ["data.layout=table", f"data.root={table}", "--out", str(tmp_path / "o.json")]
    assert main(["evaluate", str(model), *given]) == 2  # one camera: no query has a match
    table.write_text("\n".join(["path,identity,split", *(line.replace(",1,", ",") for line in lines)]) + "\n")
    assert main(["evaluate", str(model), *given]) == 0
    (found,) = json.loads((tmp_path / "o.json").read_text())["sets"]
    assert (found["image_size"], found["cameras"]) == ([tiny.HEIGHT, tiny.WIDTH], False)


@pytest.mark.parametrize("protocol", ["viper", "cuhk03_classic"])
def test_sets_of_several_splits_are_averaged(config, model, samples, tmp_path, capsys, protocol):
    """Two halves of the people, as VIPeR and CUHK03 classic have several splits."""
    of_test = samples.take(np.flatnonzero(np.array(samples.table["split"].to_pylist()) != "multi_query"))
    manifests, results = [], []
    for number in (0, 1):
        half = of_test.take(np.flatnonzero(of_test.identities % 2 == number))
        if protocol == "viper":
            half = half.take(np.flatnonzero(half.cameras < 2))
            splits = np.where(half.cameras == 0, "query", "gallery").tolist()
        else:
            splits = ["gallery"] * len(half)
        path = tmp_path / f"half_{number}.parquet"
        manifests.append(str(written(half, path, {"protocol": protocol}, split=splits)))
        half = Samples.read(path)
        features, who = features_of(config, half), people(half)
        if protocol == "viper":
            a, b = np.flatnonzero(half.cameras == 0), np.flatnonzero(half.cameras == 1)
            both = [
                brute_force.standard(
                    -(features[one] @ features[other].T), [who[i] for i in one], [who[i] for i in other],
                    "noninterp",
                )
                for one, other in ((a, b), (b, a))
            ]  # fmt: skip
            results.append(brute_force.mean_of(*both))
        else:
            results.append(brute_force.classic(-(features @ features.T), who, who, "noninterp", "torchreid"))
    assert main(["evaluate", str(model), *manifests, "evaluate.cuhk03=torchreid"]) == 0
    out = capsys.readouterr().out
    record = json.loads((model.parent / "evaluation_made_up_1.json").read_text())
    assert [of_set["figures"] for of_set in record["sets"]] == [expected(result) for result in results]
    for key, read in (("mean", np.mean), ("deviation", lambda values: np.std(values, ddof=1))):
        assert record[key]["eval/mAP"] == pytest.approx(read([result[0] for result in results]))
        assert record[key]["eval/rank5"] == pytest.approx(
            read([result[1][min(5, len(result[1])) - 1] for result in results])
        )
    assert "mean +- deviation of 2 sets" in out
    assert {"viper": "VIPeR: both directions", "cuhk03_classic": "as torchreid: 10 drawn"}[protocol] in out


def test_all_splits_of_a_layout_are_evaluated(model, tmp_path, capsys):
    root = layouts.draw(
        tmp_path / "viper", [f"cam_{side}/{who:03d}_0.bmp" for side in "ab" for who in range(8)]
    )
    given = ["data.layout=viper", f"data.root={root}", f"data.cache_folder={tmp_path / 'cache'}"]
    assert main(["evaluate", str(model), *given, "data.split_number=all"]) == 0
    assert "mean +- deviation of 10 sets" in capsys.readouterr().out
    record = json.loads((model.parent / "evaluation_viper.json").read_text())
    assert [of_set["facts"]["split_number"] for of_set in record["sets"]] == [str(n) for n in range(10)]
    assert (
        main(["evaluate", str(model), *given, "data.split_number=7", "--out", str(tmp_path / "7.json")]) == 0
    )
    assert json.loads((tmp_path / "7.json").read_text())["sets"] == [record["sets"][7]]
    shares = [of_set["figures"]["eval/rank1"] for of_set in record["sets"]]
    assert record["mean"]["eval/rank1"] == pytest.approx(np.mean(shares))
    assert len(set(shares)) > 1


def test_other_splits_than_that_of_the_training_are_warned_of(config, tmp_path, capsys):
    people = [f"cam_{side}/{who:03d}_0.bmp" for side in "ab" for who in range(8)]
    data = {"data.layout": "viper", "data.root": str(layouts.draw(tmp_path / "viper", people))}
    data |= {"data.pattern": None, "data.split_number": 3}
    config = load(IcsrConfig, overrides={**flatten(config), **data})
    path = tmp_path / "run" / "model.pt"
    weights = build_model(config.training.encoder, Group.solo()).state_dict()
    write_tensors(path, {"model": weights, "config": to_yaml(config)})
    assert main(["evaluate", str(path)]) == 0
    assert "trained on split" not in capsys.readouterr().err
    assert main(["evaluate", str(path), "data.split_number=all"]) == 0
    assert "trained on split 3, and people of other splits' tests (0, 1, 2, 4" in capsys.readouterr().err


def test_market_1501_s_further_pictures_are_taken_when_they_are_read(model, tmp_path, capsys):
    names = ["bounding_box_train/0002_c1_1.jpg", "query/0007_c1_1.jpg", "gt_bbox/0007_c1_3.jpg"]
    root = layouts.draw(tmp_path / "market", [*names, "bounding_box_test/0007_c2_1.jpg"])
    given = ["data.layout=market1501", f"data.root={root}", f"data.cache_folder={tmp_path / 'cache'}"]
    assert main(["evaluate", str(model), *given]) == 0
    assert "multi-query" not in capsys.readouterr().out
    assert main(["evaluate", str(model), *given, "data.multi_query=true"]) == 0
    assert "1 for multi-query" in capsys.readouterr().out


def error(capsys, arguments: list[str]) -> str:
    assert main(["evaluate", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("raid: ")]
    assert len(lines) == 1
    assert captured.out == ""
    return lines[0]


def test_what_is_no_checkpoint_is_one_line(model, tmp_path, capsys):
    text = tmp_path / "model.txt"
    text.write_text("no tensors")
    assert "not a file of tensors" in error(capsys, [text])
    assert "there is no such file" in error(capsys, [tmp_path / "none.pt"])
    (tmp_path / "run2").mkdir()
    assert "not a run folder, or its run has not ended" in error(capsys, [tmp_path / "run2"])
    write_tensors(text, {"state_dict": {}})
    assert "it has no configuration" in error(capsys, [text])
    write_tensors(text, {"model": {}, "config": "data: {root: x}\nnew: 3\n"})
    assert "new: unknown key" in error(capsys, [text])


class Executed:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_a_pickled_object_is_refused_and_not_executed(model, config, capsys):
    torch.save({"model": Executed(), "config": to_yaml(config)}, model)
    assert "not executed" in error(capsys, [model])


@pytest.mark.parametrize("change", ["shape", "missing", "none"])
def test_weights_of_another_network_are_one_line(model, config, capsys, change):
    content = torch.load(model, weights_only=True)
    weights = content["model"]
    name = next(name for name, value in weights.items() if value.ndim == 4)
    if change == "shape":
        weights[name] = weights[name][:-1]
    elif change == "missing":
        del weights[name]
    else:
        content["model"] = 7
    write_tensors(model, content)
    message = error(capsys, [model])
    assert f"its weights do not fit {config.model.backbone}" in message
    assert len(message) < 500


def test_a_model_that_has_diverged_has_no_figures(model, capsys):
    content = torch.load(model, weights_only=True)
    name = next(name for name, value in content["model"].items() if value.ndim == 4)
    content["model"][name][0] = torch.nan
    write_tensors(model, content)
    assert "features are not finite" in error(capsys, [model])
    assert [path.name for path in model.parent.iterdir()] == ["model.pt"]


def test_a_set_that_cannot_be_evaluated_is_one_line(model, samples, tmp_path, capsys):
    gallery = written(samples.split("gallery"), tmp_path / "gallery.parquet")
    assert f"{gallery} has no query or no gallery images (splits: gallery)" in error(capsys, [model, gallery])
    strange = written(samples, tmp_path / "strange.parquet", {"protocol": "other"})
    assert "unknown protocol 'other'" in error(capsys, [model, strange])
    blind = written(
        samples, tmp_path / "blind.parquet", {"protocol": "cuhk03_classic"}, camera=[None] * len(samples)
    )
    assert "needs the camera of every image" in error(capsys, [model, blind])
    good = written(samples, tmp_path / "good.parquet")
    viper = written(samples, tmp_path / "viper.parquet", {"protocol": "viper"})
    assert "standard, viper" in error(capsys, [model, good, viper])
    assert "give manifests or the root" in error(capsys, [model, good, f"data.root={good}"])
    assert "there is no such file" in error(capsys, [model, good, tmp_path / "none.parquet"])
    assert "layout folder has one split" in error(capsys, [model, "data.split_number=all"])
    assert "did you mean rerank?" in error(capsys, [model, good, "evaluate.rerankk=true"])
    there = tmp_path / "there"
    there.write_text("mine")
    assert "cannot be written" in error(capsys, [model, good, "--out", there / "below.json"])


def test_the_device_is_chosen_anew_and_multi_query_can_be_left_out(model, samples, tmp_path, capsys):
    manifest = written(samples, tmp_path / "set.parquet")
    assert main(["evaluate", str(model), str(manifest), "run.device=cpu", "evaluate.multi_query=false"]) == 0
    assert "multi-query" not in capsys.readouterr().out
    if not torch.cuda.is_available():
        assert "run.device: cuda, and torch finds no GPU" in error(
            capsys, [model, manifest, "run.device=cuda"]
        )
