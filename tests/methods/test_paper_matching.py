"""Which cells a run belongs into: by what it recorded of its configuration, its set and its evaluation."""

import json
from collections import defaultdict

import numpy as np
import pytest
from table_runs import CELLS, JOBS, SILHOUETTES, config, run_of, write_clusters

from raid.cli import main
from raid.config import config_hash
from raid.errors import InputError
from raid.methods.papers import matching
from raid.methods.papers.filling import Filled
from raid.methods.papers.matching import fill
from raid.methods.papers.text import as_markdown, as_text
from raid.run_folder import RunFolder

MARKET = CELLS["ICSR table 2, Market-1501, Ours, cosine"]
MSMT17 = CELLS["ICSR table 2, MSMT17, Ours, linear"]
MAR = CELLS["MAR table 3, Market-1501, MAR w/o L_CML"]
SLS = CELLS["SLSR table 4, Market-1501, SLS+ResNet"]
DENSE = CELLS["SLSR table 4, Market-1501, SLS+DenseNet"]
CUHK03 = CELLS["SLSR table 5, CUHK03, ResNet Basel."]
VIPER = CELLS["SLSR table 7, VIPeR, SLS+ResNet"]
NAMES = {cell: name for name, cell in CELLS.items()}


def filled_names(filled: Filled) -> set[str]:
    return {NAMES[cell] for cell in filled.measured}


def reasons(filled: Filled) -> list[str]:
    return [each.reason for each in filled.left_out]


def seeds(filled: Filled, name: str) -> list[int]:
    return [varying["seed"] for _, varying in filled.measured[CELLS[name]].runs]


def test_a_run_of_a_cell_s_configuration_lands_in_the_cells_that_have_it_and_in_no_other(tmp_path):
    """One run a cell, each with a seed of its own; equal are the cells of one set and configuration hash."""
    runs = [run_of(tmp_path / str(seed), cell, seed=seed) for seed, cell in enumerate(CELLS.values(), 1)]
    filled = fill(runs)
    assert filled.left_out == []
    same = defaultdict(list)
    for seed, cell in enumerate(CELLS.values(), 1):
        same[cell.of.title, config_hash(config(cell, seed=0))].append(seed)
    for cell in CELLS.values():
        expected = same[cell.of.title, config_hash(config(cell, seed=0))]
        assert seeds(filled, NAMES[cell]) == expected, NAMES[cell]
        assert list(filled.measured[cell].figures) == list(cell.figures)
    # Which share their runs: a row that stands twice in a paper, and rows of one run by other protocols.
    number = {name: seed for seed, name in enumerate(CELLS, 1)}
    shared = [
        ("ICSR table 1, Market-1501, Ours", "ICSR table 2, Market-1501, Ours, cosine"),
        ("ICSR table 1, MSMT17, Ours", "ICSR table 2, MSMT17, Ours, cosine"),
        ("MAR table 1, Market-1501, MAR", "MAR table 3, Market-1501, MAR"),
        ("MAR table 2, DukeMTMC-reID, MAR", "MAR table 3, DukeMTMC-reID, MAR"),
        *(
            tuple(f"SLSR table 4, Market-1501, {part}{row}" for part in ("", "multi-query, "))
            for row in ("ResNet Basel.", "DenseNet Basel.")
        ),
        (
            "SLSR table 1, Market-1501, average silhouette",
            "SLSR table 4, Market-1501, SLS+ResNet",
            "SLSR table 4, Market-1501, multi-query, SLS+ResNet",
        ),
        (
            "SLSR table 4, Market-1501, SLS+DenseNet",
            "SLSR table 4, Market-1501, SLS+Re-rank",
            "SLSR table 4, Market-1501, multi-query, SLS+DenseNet",
        ),
        *(
            tuple(f"SLSR table {number}, {of}, {row}" for row in ("SLS+DenseNet", "SLS+Re-rank"))
            for number, of in ((5, "CUHK03"), (6, "DukeMTMC-reID"))
        ),
    ]
    of_several = {tuple(found) for found in same.values() if len(found) > 1}
    assert of_several == {tuple(sorted(number[name] for name in names)) for names in shared}


@pytest.mark.parametrize(
    ("cell", "filled", "figures"),
    [
        (MSMT17, "ICSR table 2, MSMT17, Ours, linear", {"mAP": 50, "rank-1": 51}),
        (MAR, None, {"rank-1": 51, "rank-5": 52, "rank-10": 53, "mAP": 50}),
        (SLS, None, {"rank-1": 51, "rank-5": 52, "rank-10": 53, "mAP": 50}),
        (
            SLS,
            "SLSR table 4, Market-1501, multi-query, SLS+ResNet",
            {"rank-1": 61, "rank-5": 62, "rank-10": 63, "mAP": 60},
        ),
        (
            DENSE,
            "SLSR table 4, Market-1501, SLS+Re-rank",
            {"rank-1": 71, "rank-5": 72, "rank-10": 73, "mAP": 70},
        ),
        (
            SLS,
            "SLSR table 1, Market-1501, average silhouette",
            dict(zip(("k = 2", "k = 3", "k = 4", "k = 5"), 100 * np.array(SILHOUETTES), strict=True)),
        ),
        (VIPER, None, {"rank-1": 51, "rank-5": 52, "rank-10": 53, "rank-20": 70}),
    ],
)
def test_figures_are_of_the_last_epoch_and_of_the_cell_s_protocol(tmp_path, cell, filled, figures):
    found = fill([run_of(tmp_path / "run", cell)]).measured[CELLS[filled] if filled else cell].figures
    assert {label: value.tolist() for label, value in found.items()} == {
        label: pytest.approx([value]) for label, value in figures.items()
    }


@pytest.mark.parametrize(
    ("cell", "override", "message"),
    [
        (
            MARKET,
            "refine.horizon=1",
            "Market-1501, Ours (jobs/icsr_market1501.yaml): refine.horizon is 1.0, ",
        ),
        (MARKET, "inter.num_clusters=801", "inter.num_clusters is 801, there 800"),
        (MARKET, "data.multi_query=true", "data.multi_query is True, there False"),
        (MARKET, "evaluate.ap=mar_official", "evaluate.ap is mar_official, there noninterp"),
        (MARKET, "evaluate.flip=true", "evaluate.flip is True, there False"),
        (MSMT17, "data.with_validation=false", "data.with_validation is False, there True"),
        (MAR, "auxiliary=all", "auxiliary is all, there msmt17_all"),
        (MAR, "losses.lambda1=1e-3", "L_CML (jobs/mar_table3_without_cml.yaml): losses.lambda1 is 0.001, "),
        (SLS, "generated.label=uniform", "generated.label is uniform, there sparse"),
        (CUHK03, "evaluate.cuhk03=torchreid", "evaluate.cuhk03 is torchreid, there sls"),
        (CUHK03, "evaluate.seed=1", "evaluate.seed is 1, there 0"),
        (CUHK03, "data.split_number=1", "data.split_number is 1, there 0"),
    ],
)
def test_a_run_that_differs_in_one_key_is_left_out_and_the_key_is_named(tmp_path, cell, override, message):
    filled = fill([run_of(tmp_path / "run", cell, override)])
    assert filled.measured == {}
    (reason,) = reasons(filled)
    assert reason.startswith("nearest is ")
    assert message in reason
    assert ";" not in reason
    text = as_text(filled)
    assert " ".join(f"{tmp_path / 'run'}: {reason}".split()) in " ".join(text.split())
    assert f"- `{tmp_path / 'run'}`: {reason}" in as_markdown(filled)


@pytest.mark.parametrize(
    "override", ["evaluate.every=7", "run.workers=2", "track.enabled=false", "data.cache_folder=elsewhere"]
)
def test_what_is_not_in_the_hash_makes_no_difference(tmp_path, override):
    assert fill([run_of(tmp_path / "run", MARKET, override)]).left_out == []


@pytest.mark.parametrize(
    ("cell", "how", "message"),
    [
        (MARKET, {"set": "rendered"}, "is of the set rendered, which no table of ICSR has"),
        (MAR, {"set": "MSMT17"}, "is of the set MSMT17, which no table of MAR has"),
        (MARKET, {"set": None}, "is of a set that its run.json does not name, which no table of ICSR has"),
        (MSMT17, {"version": "V2"}, "set's version is V2, there V1 or V1 repacked"),
        (MAR, {"source_set": "Market-1501"}, "source set is Market-1501, there MSMT17"),
        (MAR, {"source_people": "1041"}, "source people is 1041, there 4101"),
        (MARKET, {"numbers": (300, 900)}, "the number of queries is 300, there 3368; the number of gallery"),
        (CUHK03, {"protocol": "standard"}, "set's protocol is standard, there cuhk03_classic"),
    ],
)
def test_other_images_than_the_table_s_are_left_out(tmp_path, cell, how, message):
    filled = fill([run_of(tmp_path / "run", cell, **how)])
    assert filled.measured == {}
    (reason,) = reasons(filled)
    assert message in reason


def test_the_repacked_first_version_of_msmt17_counts(tmp_path):
    assert MSMT17 in fill([run_of(tmp_path / "run", MSMT17, version="V1 repacked")]).measured


def test_many_differences_are_counted(tmp_path):
    many = ("inter.epochs=9", "inter.steps=9", "intra.epochs=9", "intra.steps=9", "temperature=0.1")
    run = run_of(tmp_path / "run", MARKET, *many, "neighbors.k1=9", "refine.start=0.5", "refine.horizon=9")
    (reason,) = reasons(fill([run]))
    assert reason.count(" is ") == 1 + 6
    assert reason.endswith("; and 2 more")


def test_a_field_that_the_run_file_does_not_know_is_a_difference(tmp_path):
    run = run_of(tmp_path / "run", MARKET)
    recorded = json.loads((run / "run.json").read_text())
    recorded["config"]["refine.new"] = 3
    del recorded["config"]["refine.coin"]
    (run / "run.json").write_text(json.dumps(recorded))
    (reason,) = reasons(fill([run]))
    assert reason.endswith(
        "refine.coin is (not recorded), there sample; refine.new is 3, there (not recorded)"
    )


def test_a_run_without_a_protocol_s_figures_fills_the_others(tmp_path):
    single = {"": 0.0, "multi_query/": 0.1}
    filled = fill([run_of(tmp_path / "run", DENSE, kinds=single)])
    assert filled_names(filled) == {
        f"SLSR table 4, Market-1501, {part}SLS+DenseNet" for part in ("", "multi-query, ")
    }
    assert reasons(filled) == [
        "its last epoch has no eval/rerank/rank1 (evaluate.rerank=true adds it) "
        "(SLSR table 4, Market-1501, SLS+Re-rank)"
    ]
    other = fill([run_of(tmp_path / "other", DENSE, "evaluate.rerank_k1=10")])
    assert filled_names(other) == filled_names(filled)
    assert reasons(other) == ["evaluate.rerank_k1 is 10, there 20 (SLSR table 4, Market-1501, SLS+Re-rank)"]


def test_silhouettes_are_of_no_protocol_but_must_be_there(tmp_path):
    run = run_of(tmp_path / "run", SLS, "evaluate.ap=market_trapezoid")
    silhouettes = "SLSR table 1, Market-1501, average silhouette"
    filled = fill([run])
    assert filled_names(filled) == {silhouettes}
    assert len(reasons(filled)) == 1
    write_clusters(RunFolder(run), (2, 3, 4))
    assert f"its clusters.npz has no silhouette of 5 clusters ({silhouettes})" in reasons(fill([run]))
    RunFolder(run).clusters.write_text("damaged")
    assert any("is not a clusters.npz" in reason for reason in reasons(fill([run])))


def test_halves_of_viper_are_runs_of_one_cell(tmp_path):
    runs = [
        run_of(
            tmp_path / f"{half}_{seed}",
            VIPER,
            f"data.split_number={half}",
            seed=seed,
            mean=0.5 + half / 100,
            images=f"half {half}",
            split_number=str(half),
        )
        for half, seed in ((3, 1), (0, 1), (0, 2))
    ]
    filled = fill(runs)
    assert filled.left_out == []
    measured = filled.measured[VIPER]
    assert [varying for _, varying in measured.runs] == [
        {"seed": 1, "data.split_number": 0},
        {"seed": 1, "data.split_number": 3},
        {"seed": 2, "data.split_number": 0},
    ]
    np.testing.assert_allclose(measured.figures["rank-20"], [70, 73, 70])
    assert "71.00 +- 1.73 (3 runs)" in as_text(filled)


def test_rank_20_is_of_the_last_epoch_s_curve(tmp_path):
    run = run_of(tmp_path / "run", VIPER, last={"eval/rank1": 0.3})
    assert fill([run]).measured == {}
    assert reasons(fill([run])) == [
        f"its evaluation.npz has no curve of the last epoch, and so no rank-20 ({NAMES[VIPER]})"
    ]


def test_a_second_run_of_a_seed_and_one_of_other_images_are_left_out(tmp_path):
    first = run_of(tmp_path / "a", MSMT17, mean=0.4)
    runs = [
        first,
        run_of(tmp_path / "b", MSMT17, mean=0.9),
        run_of(tmp_path / "c", MSMT17, seed=2, images="x"),
    ]
    filled = fill([*runs, first])
    name = NAMES[MSMT17]
    assert seeds(filled, name) == [1]
    assert filled.measured[MSMT17].figures["mAP"].tolist() == [40.0]
    assert [(each.path, each.reason) for each in filled.left_out] == [
        (runs[1], f"has configuration and seed of {first}, which is counted ({name})"),
        (runs[2], f"is of other images than {first}, which is counted: their fingerprints differ ({name})"),
        (first, f"has configuration and seed of {first}, which is counted ({name})"),
    ]


def test_what_is_no_run_or_has_not_ended_is_left_out_with_the_reason(tmp_path):
    unfinished = run_of(tmp_path / "unfinished", MARKET)
    (unfinished / "model.pt").unlink()
    unseen = run_of(tmp_path / "unseen", MARKET)
    (unseen / "evaluation.npz").unlink()
    last = run_of(tmp_path / "last", MARKET, last={"eval/mAP": None})
    folder, file = tmp_path / "cache", tmp_path / "mlflow.db"
    folder.mkdir()
    file.write_text("a database")
    filled = fill([unfinished, unseen, last, folder, file, run_of(tmp_path / "run", MARKET)])
    assert MARKET in filled.measured
    assert [each.path for each in filled.left_out] == [file, unfinished, unseen, last, folder]
    for reason, expected in zip(
        reasons(filled),
        ("is no folder", "its run has not ended", "no evaluation (", "has no eval/mAP", "it has no run.json"),
        strict=True,
    ):
        assert expected in reason
        assert not reason.startswith(str(tmp_path / "u"))


def test_a_path_that_is_not_there_is_a_mistake(tmp_path, capsys):
    assert main(["tables", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"raid: {tmp_path / 'nothing'}: there is no such folder\n"


def test_run_files_are_those_of_the_sources_or_as_said(tmp_path, monkeypatch):
    run = run_of(tmp_path / "run", MSMT17)
    with pytest.raises(InputError, match=r"holds no run files of the tables .*--jobs"):
        fill([run], tmp_path)
    other = tmp_path / "jobs"
    other.mkdir()
    for file in JOBS.glob("icsr_*.yaml"):
        (other / file.name).write_text(file.read_text().replace("decay: linear", "decay: none"))
    assert MSMT17 not in fill([run], other).measured
    assert MSMT17 in fill([run]).measured
    # Installed without the sources: those of the working directory.
    monkeypatch.setattr(matching.raid, "__file__", str(tmp_path / "installed" / "raid" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert MSMT17 not in fill([run]).measured
