"""What `raid compare` prints."""

from collections.abc import Iterator

from raid.methods import seed_table
from raid.methods.comparison import Comparison, Difference, Pair
from raid.ops.bootstrap import DRAWS

_NUM_FIELDS = 8
_LABELS = {"eval/mAP": "mAP", "eval/rank1": "rank-1"}


def as_text(comparison: Comparison) -> str:
    """Return settings, differences and verdicts, in percent and percentage points."""
    return "\n".join([*_settings(comparison), *_differences(comparison), *_about(comparison)])


def _settings(comparison: Comparison) -> Iterator[str]:
    reference = comparison.settings[0]
    width = _width(comparison)
    yield f"{seed_table.head(width)}  seeds"
    for setting in comparison.settings:
        columns = [100.0 * setting.figures[key] for key in seed_table.SHOWN]
        row = seed_table.line(setting.name, columns, width)
        yield f"{row:<{width + 28}}  {', '.join(map(str, setting.seeds))}"
        differing = setting.differences(reference)
        for key in list(differing)[:_NUM_FIELDS]:
            old, new = differing[key]
            yield f"    {key}: {old} -> {new}"
        if len(differing) > _NUM_FIELDS:
            yield f"    and {len(differing) - _NUM_FIELDS} more fields"


def _differences(comparison: Comparison) -> Iterator[str]:
    if not comparison.pairs:
        yield "one setting: nothing to compare it with"
        return
    width = _width(comparison)
    yield from ("", "differences from the first setting, in percentage points")
    for pair in comparison.pairs:
        columns = [100.0 * pair.figures[key] for key in seed_table.SHOWN]
        yield seed_table.line(_title(pair), columns, width, signed=True)
        if len(pair.seeds) > 1:
            yield seed_table.by_seed(pair.seeds, columns[0])
        if pair.left_out:
            yield f"    left out, for one of both alone has them: seed {', '.join(map(str, pair.left_out))}"
        for key, difference in pair.differences.items():
            yield f"    {_LABELS[key]}: {_intervals(difference)}"
            yield f"    {_LABELS[key]}: {difference.verdict}"
        if "eval/rank1" not in pair.differences:
            yield "    rank-1: no interval: the records do not have it of every query"


def _about(comparison: Comparison) -> Iterator[str]:
    number, run = len(comparison.pairs), comparison.settings[0].runs[0]
    if not number:
        return
    valid = int((run.scores["eval/mAP"] >= 0).sum())
    yield ""
    yield f"intervals of 95 %: {DRAWS:,} draws of the {valid:,} valid queries, as if these were independent"
    if run.evaluated_on["protocol"] == "viper":
        yield "VIPeR: intervals are of the queries' direction alone, the figures of both"
    if number == 1:
        yield "1 pair was compared"
    else:
        yield (
            f"{number} pairs were compared: where no difference is real, up to {min(100, 5 * number)} % of "
            "such comparisons find one"
        )


def _width(comparison: Comparison) -> int:
    names = [setting.name for setting in comparison.settings]
    return 2 + max(map(len, [*names, *map(_title, comparison.pairs)]))


def _title(pair: Pair) -> str:
    return f"{pair.name} - {pair.reference}"


def _intervals(difference: Difference) -> str:
    low, high = (100.0 * end for end in difference.over_queries)
    text = f"{low:+.1f} to {high:+.1f} over queries"
    if difference.over_both is not None:
        low, high = (100.0 * end for end in difference.over_both)
        text += f", {low:+.1f} to {high:+.1f} over queries and seeds"
    return text
