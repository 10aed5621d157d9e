import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from table_runs import CELLS, JOBS, config, run_of

from raid.cli import main
from raid.methods.papers.filling import TABLES, Filled
from raid.methods.papers.matching import fill
from raid.methods.papers.text import WIDTH, as_markdown, as_text

README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- run by tests/methods/test_paper_tables.py -->\n"
MARKET = CELLS["ICSR table 2, Market-1501, Ours, cosine"]
MSMT17 = CELLS["ICSR table 2, MSMT17, Ours, linear"]
SLS = CELLS["SLSR table 4, Market-1501, SLS+ResNet"]
VIPER = CELLS["SLSR table 7, VIPeR, SLS+ResNet"]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("ICSR table 1, MSMT17, Ours", {"mAP": 43.3, "rank-1": 71.5}),
        ("ICSR table 2, Market-1501, Ours, linear", {"mAP": 81.3, "rank-1": 91.9}),
        ("ICSR table 2, MSMT17, Baseline", {"mAP": 33.0, "rank-1": 61.4}),
        ("MAR table 1, Market-1501, MAR", {"rank-1": 67.7, "rank-5": 81.9, "mAP": 40.0}),
        ("MAR table 2, DukeMTMC-reID, MAR", {"rank-1": 67.1, "rank-5": 79.8, "mAP": 48.0}),
        (
            "MAR table 3, DukeMTMC-reID, MAR w/o L_RAL",
            {"rank-1": 57.9, "rank-5": 72.6, "rank-10": 77.8, "mAP": 37.1},
        ),
        (
            "SLSR table 1, Market-1501, average silhouette",
            {"k = 2": 51.75, "k = 3": 70.03, "k = 4": 68.49, "k = 5": 61.76},
        ),
        (
            "SLSR table 2, 4 clusters, 36,000 images",
            {"rank-1": 92.27, "rank-5": 95.81, "rank-10": 96.97, "mAP": 88.55},
        ),
        (
            "SLSR table 4, Market-1501, multi-query, SLS+DenseNet",
            {"rank-1": 94.06, "rank-5": 98.16, "rank-10": 98.84, "mAP": 85.20},
        ),
        (
            "SLSR table 5, CUHK03, SLS+Re-rank",
            {"rank-1": 92.95, "rank-5": 97.79, "rank-10": 99.27, "mAP": 95.10},
        ),
        (
            "SLSR table 6, DukeMTMC-reID, DenseNet Basel.",
            {"rank-1": 79.67, "rank-5": 89.85, "rank-10": 92.86, "mAP": 63.19},
        ),
        (
            "SLSR table 7, VIPeR, ResNet Basel.",
            {"rank-1": 62.03, "rank-5": 75.00, "rank-10": 80.22, "rank-20": 86.71},
        ),
    ],
)
def test_cells_have_the_papers_figures_in_their_order(name, figures):
    assert list(CELLS[name].figures.items()) == list(figures.items())


def test_all_tables_are_there_and_no_two_cells_have_one_name():
    assert [table.name for table in TABLES] == [
        *("ICSR table 1", "ICSR table 2", "MAR table 1", "MAR table 2", "MAR table 3"),
        *(f"SLSR table {number}" for number in (1, 2, 4, 5, 6, 7)),
    ]
    assert [len(table.cells) for table in TABLES] == [2, 10, 1, 1, 12, 1, 15, 9, 5, 5, 4]
    assert len(CELLS) == 65


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_s_command_stands_in_a_header_with_its_figures_and_loads(name):
    cell = CELLS[name]
    headers = [file.read_text() for file in JOBS.glob(f"{cell.job.method}_*.yaml")]
    lines = [[line.lstrip("# ").rstrip() for line in text.splitlines()] for text in headers]
    own = [" ".join(each) for each in lines if cell.job.command in each]
    assert own, cell.job.command
    config(cell)  # loads
    if cell.kind == "silhouette":
        return
    digits = 1 if cell.job.method != "slsr" else 2
    words = {label: f"{label} {figure:.{digits}f}" for label, figure in cell.figures.items()}
    some = [words[label] for label in words if label in ("rank-1", "mAP")]
    assert any(", ".join(shown) in text for text in own for shown in (words.values(), some)), own


def test_seeds_are_averaged_in_text_markdown_and_json(tmp_path, capsys):
    means = {3: 0.84, 1: 0.80, 2: 0.82}
    runs = [run_of(tmp_path / f"x{seed}", MARKET, seed=seed, mean=mean) for seed, mean in means.items()]
    filled = fill(runs)
    lines = as_text(filled).splitlines()
    assert lines[3:7] == [
        "    Ours                       mAP         83.2      82.0 +- 2.0 (3 seeds)         -1.2",
        "                               rank-1      93.1      83.0 +- 2.0 (3 seeds)        -10.1",
        "  MSMT17",
        "    Ours                       mAP         43.3                          -",
    ]
    assert "| Market-1501 | Ours, cosine | mAP | 83.2 | 82.0 +- 2.0 (3 seeds) | -1.2 |" in as_markdown(filled)
    out = tmp_path / "tables.json"
    assert main(["tables", *map(str, runs), "--json", str(out)]) == 0
    assert capsys.readouterr().out == as_text(filled) + "\n"
    record = json.loads(out.read_text())
    assert (record["format"], record["unit"], record["left_out"]) == (1, "percent", [])
    first, second = record["tables"][0]["cells"]
    assert [run["seed"] for run in first["runs"]] == [1, 2, 3]
    assert first["runs"][0]["run"] == str(tmp_path / "x1")
    figures = first["figures"]["mAP"]
    assert figures.pop("by_run") == pytest.approx([80.0, 82.0, 84.0])
    assert figures == pytest.approx({"paper": 83.2, "mean": 82.0, "deviation": 2.0, "difference": -1.2})
    assert second["figures"]["mAP"] == {
        **{"paper": 43.3, "mean": None, "deviation": None, "difference": None},
        "by_run": [],
    }
    assert second["command"] == "raid icsr jobs/icsr_msmt17.yaml data.root=PATH/MSMT17_V1"
    assert second["run_file"] == "jobs/icsr_msmt17.yaml"


def test_one_seed_has_no_deviation(tmp_path):
    filled = fill([run_of(tmp_path / "run", SLS, mean=0.7515)])
    assert re.search(r"^ +mAP +75\.15 +75\.15 \(1 seed\) +\+0\.00$", as_text(filled), re.MULTILINE)
    (cell,) = [
        cell
        for cell in filled.as_record()["tables"][7]["cells"]
        if (cell["block"], cell["row"]) == (SLS.block, SLS.row)
    ]
    assert cell["figures"]["mAP"]["deviation"] is None


def test_without_runs_every_cell_has_its_command_and_a_line_is_not_too_long():
    text, markdown = as_text(Filled()), as_markdown(Filled())
    joined = re.sub(r" \\\n +", " ", text)
    for cell in CELLS.values():
        assert f"      {cell.job.command}\n" in joined
        assert f"- {cell.block}, {cell.row}: `{cell.job.command}`\n" in markdown
    assert max(map(len, text.splitlines())) <= WIDTH == 120
    assert "withdrawn by its makers" in text
    assert "left out\n" not in text


def test_a_filled_cell_has_no_command(tmp_path):
    filled = fill([run_of(tmp_path / "run", VIPER)])
    own = "raid slsr jobs/slsr_viper.yaml data.root=PATH/VIPeR"
    assert own in as_text(Filled())
    assert own not in as_text(filled)
    assert own not in as_markdown(filled)


def test_the_readme_s_commands(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(re.escape(MARK) + r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    run_of(tmp_path / "runs" / "icsr_msmt17_seed1", MSMT17)
    run_of(tmp_path / "runs" / "market_none", CELLS["ICSR table 2, Market-1501, Ours, no decay"])
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        words = line.split("  #")[0].split()[1:]
        arguments = [
            found
            for word in words
            for found in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("ICSR table 1: ") == 2
    assert "left out\n" not in out
    record = json.loads((tmp_path / "runs" / "tables.json").read_text())
    cells = record["tables"][1]["cells"]
    assert [cell["row"] for cell in cells if cell["runs"]] == ["Ours, no decay", "Ours, linear"]


def test_without_runs_no_network_library_is_loaded():
    program = """
import sys
from raid.cli import main
main(["tables"])
print("imported:", *sorted({"torch", "ray", "mlflow", "pydantic"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"
