"""The benchmarks against checkouts of published programs; here, of stand-ins with the same signatures."""

import sys
import textwrap
from functools import partial

import pytest
import torch
from benchmarks import measure, paths_checkouts, peers, run

ROWS = 300
HEAVY = "raise ImportError('the benchmark needs one file, not the package')\n"
FILES = {
    "torchreid/__init__.py": HEAVY,
    "torchreid/metrics/__init__.py": HEAVY,
    "torchreid/utils/__init__.py": HEAVY,
    "torchreid/metrics/rank.py": """
        from benchmarks.dense_reference import cmc_ranking
        try:
            from torchreid.metrics.rank_cylib.rank_cy import evaluate_cy
            IS_CYTHON_AVAI = True
        except ImportError:
            IS_CYTHON_AVAI = False

        def evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank=50,
                          use_metric_cuhk03=False, use_cython=True):
            return cmc_ranking(distmat, q_pids, q_camids, g_pids, g_camids)[:2]
    """,
    "torchreid/utils/rerank.py": """
        import numpy as np
        from benchmarks.dense_reference import rerank_dense

        def re_ranking(q_g_dist, q_q_dist, g_g_dist, k1=20, k2=6, lambda_value=0.3):
            distances = np.block([[q_q_dist, q_g_dist], [q_g_dist.T, g_g_dist]]).astype(np.float64)
            values, vectors = np.linalg.eigh(1 - distances**2 / 2)
            rows = vectors * np.sqrt(values.clip(0))
            query, gallery = rows[: len(q_q_dist)], rows[len(q_q_dist) :]
            return rerank_dense(query, gallery, k1=k1, k2=k2, weight=lambda_value)
    """,
    "fastreid/__init__.py": HEAVY,
    "fastreid/evaluation/__init__.py": HEAVY,
    "fastreid/evaluation/rank_cylib/__init__.py": "",
    "fastreid/evaluation/rank_cylib/rank_cy.py": "from benchmarks.dense_reference import cmc_ranking",
    "fastreid/evaluation/rank.py": """
        import numpy as np
        from .rank_cylib.rank_cy import cmc_ranking
        IS_CYTHON_AVAI = True

        def evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank=50,
                          use_metric_cuhk03=False, use_cython=True):
            cmc, _, precisions = cmc_ranking(distmat, q_pids, q_camids, g_pids, g_camids)
            return cmc, list(precisions[~np.isnan(precisions)]), []
    """,
    "clustercontrast/__init__.py": HEAVY,
    "clustercontrast/utils/__init__.py": HEAVY,
    "clustercontrast/utils/faiss_utils.py": "from benchmarks.dense_reference import jaccard_distance",
    "clustercontrast/utils/faiss_rerank.py": """
        from .faiss_utils import jaccard_distance

        def compute_jaccard_distance(target_features, k1=20, k2=6, print_flag=True, search_option=3,
                                     use_float16=False):
            assert search_option == 3
            return jaccard_distance(target_features.numpy(), k1, k2)
    """,
}
VARIABLES = (peers.TORCHREID, peers.FAST_REID, peers.CLUSTER_CONTRAST)


@pytest.fixture
def checkouts(tmp_path, monkeypatch):
    """A folder that is a checkout of all three, and no variable that names it."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    before, threads = set(sys.modules), torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"torchreid", "fastreid", "clustercontrast"}:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "variable", "reference"),
    [
        ("jaccard_cluster_contrast", peers.CLUSTER_CONTRAST, "Cluster-Contrast"),
        ("rerank_torchreid", peers.TORCHREID, "torchreid, distances by numpy"),
        ("ranking_torchreid", peers.TORCHREID, "torchreid, Python"),
        ("ranking_fast_reid", peers.FAST_REID, "fast-reid, Cython"),
    ],
)
def test_a_line_with_a_ratio_where_the_variable_is_set(name, variable, reference, checkouts, monkeypatch):
    assert name not in run.paths()
    monkeypatch.setenv(variable, str(checkouts))
    line = run.paths()[name](ROWS, 1)
    assert line["ratio"] > 0
    assert line.keys() >= {
        *("path", "n", "d", "seconds", "cpu_seconds", "peak_rss_gib"),
        *("reference_cpu_seconds", "reference_peak_rss_gib"),
    }
    assert (line["reference"], line["extrapolated"]) == (reference, False)
    assert line["largest_difference"] < (1e-6 if "ranking_" in name else 1e-5)


@pytest.mark.parametrize("name", ["jaccard_cluster_contrast", "rerank_torchreid"])
def test_scaled_from_fewer_rows(name, checkouts, monkeypatch):
    monkeypatch.setenv(paths_checkouts.NEEDS[name], str(checkouts))
    monkeypatch.setattr(paths_checkouts, "LARGEST_IN_FULL", 100)
    for module in (measure, paths_checkouts):
        monkeypatch.setattr(module, "PIECE", 200)
    line = run.paths()[name](ROWS, 1)
    assert line["extrapolated"]
    assert line["largest_difference"] < 1e-5


@pytest.mark.parametrize(("kind", "expected"), [("linear", 10), ("square", 100)])
def test_loops_grow_with_the_rows_and_tables_with_their_square(kind, expected, monkeypatch):
    taken = {"linear": lambda count: count, "square": lambda count: count**2 / 2_000}[kind]
    monkeypatch.setattr(
        measure,
        "measured",
        lambda work: (work(), {"seconds": work(), "cpu_seconds": work(), "peak_rss_gib": 1.0}),
    )
    _, cost, extrapolated = measure.in_full_or_scaled(
        lambda count: partial(taken, count), 20_000, in_full=False
    )
    assert extrapolated
    assert cost["cpu_seconds"] == pytest.approx(2_000 * expected)


def test_what_is_not_a_checkout_is_an_error_of_one_line(checkouts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "nothing"])
    monkeypatch.setenv(peers.FAST_REID, str(checkouts))
    assert run.main() == 0
    said = capsys.readouterr().err
    assert peers.TORCHREID in said
    assert peers.CLUSTER_CONTRAST in said
    assert peers.FAST_REID not in said

    wrong = checkouts / "elsewhere"
    monkeypatch.setenv(peers.TORCHREID, str(wrong))
    with pytest.raises(SystemExit) as stopped:
        run.main()
    file = wrong / "torchreid" / "utils" / "rerank.py"
    assert stopped.value.code == f"{peers.TORCHREID}={wrong} is not such a checkout: no file {file}"
