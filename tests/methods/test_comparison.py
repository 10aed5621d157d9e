import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from raid.cli import main
from raid.errors import InputError
from raid.evaluate import save_record
from raid.methods.comparison import compare
from raid.methods.comparison_text import as_text
from raid.methods.seed_table import SHOWN
from raid.ops.bootstrap import interval, resampled_means
from raid.run_folder import RunFolder

README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- run by tests/methods/test_comparison.py -->\n"
QUERIES = 300


def run_of(
    path: Path,
    *,
    seed: int = 1,
    gain: float = 0.0,
    noise: int = 0,
    data: Any = "images",
    first: bool = True,
    facts: dict[str, str] | None = None,
    last: dict[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """A finished run whose average precisions are those of the queries, plus a gain and noise of its own."""
    config = tiny.config(path.parent / "images", path, seed=seed, **overrides)
    folder = RunFolder.open(path, config, data, method="icsr", facts=facts, resume=False, fresh=False)
    hard = np.random.default_rng(0).uniform(0.3, 0.7, QUERIES)
    own = np.random.default_rng([1, seed, noise])
    precisions = (hard + gain + own.normal(0, 0.05, QUERIES)).clip(0, 1)
    firsts = np.where(own.random(QUERIES) < 0.6 + gain, 1, 4)
    precisions[::50], firsts[::50] = np.nan, 0
    right = float((firsts == 1).sum() / (firsts > 0).sum())
    figures = {"eval/mAP": float(np.nanmean(precisions)), "eval/rank1": right}
    folder.record_epoch({"epoch": 0, "eval/mAP": 0.1, "eval/rank1": 0.1}, [])
    folder.record_epoch({"epoch": 1, **figures, **(last or {})}, [])
    record = {"average_precision": precisions, "num_gallery": np.array(900)}
    save_record(folder.evaluation, record | ({"first_match": firsts} if first else {}))
    folder.model.write_text("a model")
    return path


def runs(folder: Path, name: str, seeds: range | list[int], **how: Any) -> list[Path]:
    return [run_of(folder / f"{name}_seed{seed}", seed=seed, **how) for seed in seeds]


def better(folder: Path, seeds: range | list[int], **how: Any) -> list[Path]:
    return runs(folder, "better", seeds, gain=0.05, noise=1, inter__epochs=9, **how)


def test_a_planted_gain_over_three_seeds_is_real(tmp_path):
    paths = runs(tmp_path, "base", [1, 2, 3]) + better(tmp_path, [1, 2, 3])
    found = compare(paths[::-1][3:] + paths[::-1][:3])
    assert [setting.name for setting in found.settings] == ["base", "better"]
    assert [setting.seeds for setting in found.settings] == [[1, 2, 3], [1, 2, 3]]
    assert found.settings[1].differences(found.settings[0]) == {"inter.epochs": (2, 9)}
    (pair,) = found.pairs
    assert (pair.seeds, pair.left_out, list(pair.differences)) == ([1, 2, 3], [], list(SHOWN))
    difference = pair.differences["eval/mAP"]
    expected = [
        float(np.nanmean(precisions(new)) - np.nanmean(precisions(old)))
        for old, new in zip(paths[:3], paths[3:], strict=True)
    ]
    np.testing.assert_allclose(difference.of_seeds, expected, atol=1e-12)
    np.testing.assert_allclose(pair.figures["eval/mAP"], expected, atol=1e-12)
    assert difference.mean == pytest.approx(np.mean(expected))
    of_all = np.mean([precisions(path) for path in paths[3:]], 0) - np.mean(
        [precisions(path) for path in paths[:3]], 0
    )
    (means,) = resampled_means(of_all[~np.isnan(of_all)][None])
    assert difference.over_queries == pytest.approx(interval(means), abs=1e-12)
    assert 0 < difference.over_both[0] < difference.over_queries[0]
    assert difference.over_queries[1] < difference.over_both[1]
    assert difference.over_both[0] < 0.05 < difference.over_both[1]
    assert (
        difference.verdict == "real at 95 % over queries and seeds, and in the same direction for all 3 seeds"
    )
    text = as_text(found)
    assert "    inter.epochs: 2 -> 9\n" in text
    assert "1 pair was compared" in text
    assert re.search(r"^better - base +\+\d\.\d \+- 0\.\d +\+\d\.\d \+- \d\.\d$", text, re.MULTILINE)
    assert re.search(r"^base +52\.2 \+- 0\.\d +\d+\.\d \+- \d\.\d +1, 2, 3$", text, re.MULTILINE)
    assert "the 294 valid queries" in text


def precisions(path: Path) -> np.ndarray:
    with np.load(path / "evaluation.npz") as record:
        return record["average_precision"]


def test_noise_is_not_told_apart(tmp_path):
    paths = runs(tmp_path, "base", [1, 2, 3]) + runs(tmp_path, "other", [1, 2, 3], noise=5, inter__epochs=9)
    (pair,) = compare(paths).pairs
    verdict = pair.differences["eval/mAP"].verdict
    assert verdict.startswith("not told apart")
    assert verdict.endswith("; 3 seeds tell only large differences apart: run more")


def test_a_gain_that_seeds_do_not_agree_on_is_not_real(tmp_path):
    paths = runs(tmp_path, "base", [1, 2])
    paths += [
        run_of(tmp_path / f"x{seed}", seed=seed, gain=gain, noise=1, inter__epochs=9)
        for seed, gain in ((1, 0.1), (2, 0.02))
    ]
    difference = compare(paths).pairs[0].differences["eval/mAP"]
    assert difference.over_queries[0] > 0
    assert difference.over_both[0] < 0
    assert difference.verdict.startswith(
        "not told apart: real at 95 % over queries, for these models, but within"
    )


def test_one_seed_says_so(tmp_path):
    paths = [run_of(tmp_path / "a"), run_of(tmp_path / "b", gain=0.05, noise=1, inter__epochs=9)]
    difference = compare(paths).pairs[0].differences["eval/mAP"]
    assert difference.over_both is None
    assert difference.verdict == (
        "real at 95 % over queries, for these two models; one seed: the spread of seeds is unknown; run more"
    )


def test_seeds_that_one_setting_lacks_are_left_out(tmp_path):
    paths = runs(tmp_path, "base", [1, 2, 3]) + better(tmp_path, [2, 3, 4])
    (pair,) = compare(paths).pairs
    assert (pair.seeds, pair.left_out) == ([2, 3], [1, 4])
    expected = [np.nanmean(precisions(paths[i + 2])) - np.nanmean(precisions(paths[i])) for i in (1, 2)]
    np.testing.assert_allclose(pair.differences["eval/mAP"].of_seeds, expected, atol=1e-12)
    np.testing.assert_allclose(pair.figures["eval/mAP"], expected, atol=1e-12)
    assert "left out, for one of both alone has them: seed 1, 4" in as_text(compare(paths))


@pytest.mark.parametrize("others", [[3, 4], [2, 3, 4]])
def test_without_shared_seeds_nothing_is_paired(tmp_path, others):
    paths = runs(tmp_path, "base", [1, 2]) + better(tmp_path, others)
    (pair,) = compare(paths).pairs
    assert (pair.seeds, pair.left_out) == ([], [])
    difference = pair.differences["eval/mAP"]
    assert difference.of_seeds is None
    assert difference.verdict == "real at 95 % over queries and seeds, of which none is paired"
    assert len(pair.figures["eval/mAP"]) == 1
    means = [np.mean([np.nanmean(precisions(path)) for path in some]) for some in (paths[:2], paths[2:])]
    assert difference.mean == pytest.approx(means[1] - means[0])


def test_where_a_run_lies_and_what_it_starts_from_make_no_setting(tmp_path):
    paths = [
        run_of(
            tmp_path / f"x_{seed}",
            seed=seed,
            data={"data.root": "images", "pretraining.checkpoint": f"{seed}"},
            run__device="cpu" if seed == 1 else "auto",
        )
        for seed in (1, 2)
    ]
    found = compare(paths)
    assert [(setting.name, setting.seeds) for setting in found.settings] == [("x", [1, 2])]
    assert as_text(found).endswith("one setting: nothing to compare it with")


def test_other_source_images_and_mirrored_evaluation_make_a_setting(tmp_path):
    sides = {"data.root": "images", "source.root": "0123456789"}
    paths = [
        run_of(tmp_path / "a", data=sides),
        run_of(tmp_path / "b", data=sides | {"source.root": "abcdefghij"}),
        run_of(tmp_path / "c", data=sides, evaluate__flip=True),
    ]
    reference, other, flipped = compare(paths).settings
    assert other.differences(reference) == {"source.root": ("images 01234567", "images abcdefgh")}
    assert flipped.differences(reference) == {"evaluate.flip": (False, True)}
    assert "2 pairs were compared: where no difference is real, up to 10 %" in as_text(compare(paths))


@pytest.mark.parametrize(
    ("name", "seed", "setting"),
    [
        ("icsr_seed3", 3, "icsr"),
        ("LSRO_1", 1, "LSRO"),
        ("seed2_mar", 2, "mar"),
        ("k1", 1, "k1"),
        ("x_seed12", 1, "x_seed12"),
        ("seed1", 1, "seed1"),
    ],
)
def test_settings_are_named_without_the_seed(tmp_path, name, seed, setting):
    paths = [run_of(tmp_path / name, seed=seed), run_of(tmp_path / "other", seed=seed, inter__epochs=9)]
    assert compare(paths).settings[0].name == setting


def test_equal_names_are_told_apart_by_the_folder_above(tmp_path):
    paths = [run_of(tmp_path / "one" / "x_1"), run_of(tmp_path / "two" / "x_1", inter__epochs=9)]
    assert [setting.name for setting in compare(paths).settings] == ["one/x", "two/x"]


def test_a_record_of_an_older_raid_has_no_interval_of_rank_1(tmp_path):
    paths = [run_of(tmp_path / "a"), run_of(tmp_path / "b", first=False, inter__epochs=9)]
    (pair,) = compare(paths).pairs
    assert list(pair.differences) == ["eval/mAP"]
    assert "rank-1: no interval" in as_text(compare(paths))


def test_rank_1_of_the_intervals_is_that_of_the_figures(tmp_path):
    (pair,) = compare(runs(tmp_path, "base", [1, 2]) + better(tmp_path, [1, 2])).pairs
    np.testing.assert_allclose(pair.differences["eval/rank1"].of_seeds, pair.figures["eval/rank1"])


def test_the_command_and_its_json(tmp_path, monkeypatch, capsys):
    """The README's command, on runs as the demonstration calls them."""
    (block,) = re.findall(re.escape(MARK) + r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    folder = tmp_path / "runs" / "demo"
    runs(folder, "baseline", [1, 2, 3])
    runs(folder, "icsr", [1, 2, 3], gain=0.05, noise=1, inter__epochs=9)
    monkeypatch.chdir(tmp_path)
    arguments = []
    for word in block.split()[1:]:
        arguments += (
            sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob(word)) if "*" in word else [word]
        )
    assert main(arguments) == 0
    assert "icsr - baseline" in capsys.readouterr().out
    record = json.loads((tmp_path / arguments[-1]).read_text())
    assert [setting["name"] for setting in record["settings"]] == ["baseline", "icsr"]
    assert record["settings"][1]["differs"] == {"inter.epochs": [2, 9]}
    assert record["settings"][0]["runs"]["2"] == "runs/demo/baseline_seed2"
    (pair,) = record["pairs"]
    assert pair["paired_seeds"] == [1, 2, 3]
    difference = pair["differences"]["eval/mAP"]
    assert (
        difference["interval_over_queries"][0] < difference["mean"] < difference["interval_over_queries"][1]
    )
    assert difference["verdict"].startswith("real at 95 %")
    assert len(pair["figures"]["eval/rank1"]["by_seed"]) == 3


def test_the_json_must_be_writable(tmp_path, capsys):
    paths = [str(run_of(tmp_path / "a")), str(run_of(tmp_path / "b", inter__epochs=9))]
    assert main(["compare", *paths, "--json", str(tmp_path / "a" / "run.json" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused(tmp_path):
    run = run_of(tmp_path / "a")
    with pytest.raises(InputError, match="two runs at least"):
        compare([run])
    with pytest.raises(InputError, match="the same setting and the same seed, 1"):
        compare([run, run])
    with pytest.raises(InputError, match="no such folder"):
        compare([run, tmp_path / "nothing"])
    for how, message in (
        ({"data": "others"}, "the images of data.root .* was images, is others"),
        ({"facts": {"protocol": "viper"}}, "protocol was standard, is viper"),
        ({"evaluate__ap": "mar_official"}, "evaluate.ap was noninterp, is mar_official"),
        ({"last": {"eval/mAP": 0.9}}, "not of one evaluation"),
        ({"last": {"eval/mAP": None}}, "its last epoch has no eval/mAP"),
    ):
        with pytest.raises(InputError, match=message):
            compare([run, run_of(tmp_path / message[-9:].replace("/", "_"), seed=2, **how)])


def test_runs_that_did_not_end_or_lack_queries_are_refused(tmp_path):
    run, other = run_of(tmp_path / "a"), run_of(tmp_path / "b", seed=2)
    with np.load(other / "evaluation.npz") as arrays:
        record = dict(arrays)
    record["average_precision"][1], record["first_match"][1] = np.nan, 0
    mean = float(np.nanmean(record["average_precision"]))
    save_record(other / "evaluation.npz", record)
    RunFolder(other).record_epoch({"epoch": 2, "eval/mAP": mean, "eval/rank1": 0.5}, [])
    with pytest.raises(InputError, match=r"other queries than .* have a match \(293 of 300, 294 of 300\)"):
        compare([run, other])
    (other / "evaluation.npz").unlink()
    with pytest.raises(InputError, match="no evaluation"):
        compare([run, other])
    (other / "model.pt").unlink()
    with pytest.raises(InputError, match="has not ended"):
        compare([run, other])


def test_vipers_record_is_of_one_direction(tmp_path):
    how = {"facts": {"protocol": "viper"}, "last": {"eval/mAP": 0.4}}
    paths = [run_of(tmp_path / "a", **how), run_of(tmp_path / "b", inter__epochs=9, **how)]
    assert "VIPeR: intervals are of the queries' direction alone" in as_text(compare(paths))
