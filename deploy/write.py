"""Write the files of deploy/ from its values and templates: `python deploy/write.py`.

A template is written to its own path below deploy/; `POOL` in its name stands for every pool of the values,
and a name that begins with `_` is a part of others. With `--check` nothing is written: the files that are not
current are named, and the exit status is 1. `--values` and `--out` are for values that are kept elsewhere.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from grafana import dashboard
from jinja2 import Environment, FileSystemLoader, StrictUndefined

DEPLOY = Path(__file__).parent
TEMPLATES = DEPLOY / "templates"
NOTE = "Written by deploy/write.py from deploy/values.yaml and deploy/templates/{name}: edit those."


def texts(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield path, below deploy/, and text of every file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for path in sorted(path for path in TEMPLATES.rglob("*") if path.is_file() and path.name[0] != "_"):
        name = path.relative_to(TEMPLATES).as_posix()
        template = environment.get_template(name)
        for pool, chosen in values["pools"].items() if "POOL" in name else [("", {})]:
            note = NOTE.format(name=name)
            text = template.render(**values, pool={"name": pool, **chosen}, note=note)
            yield name.replace("POOL", pool), text
    yield "monitoring/grafana.json", json.dumps(dashboard(), indent=1) + "\n"


def stale(values: Path, out: Path) -> dict[Path, str]:
    """Return the files that are missing or not as the values have them, with the text they should have."""
    wanted = {out / name: text for name, text in texts(yaml.safe_load(values.read_text(encoding="utf-8")))}
    return {
        file: text
        for file, text in wanted.items()
        if not file.exists() or file.read_text(encoding="utf-8") != text
    }


def main() -> int:
    """Write the files, or say which are not current."""
    parser = argparse.ArgumentParser(description="write the files of deploy/")
    parser.add_argument("--check", action="store_true", help="write nothing; say which are not current")
    parser.add_argument("--values", type=Path, default=DEPLOY / "values.yaml", metavar="FILE")
    parser.add_argument("--out", type=Path, default=DEPLOY, metavar="FOLDER")
    options = parser.parse_args()
    found = stale(options.values, options.out)
    for file, text in found.items():
        if options.check:
            print(f"{file} is not what deploy/write.py writes")
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return int(options.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
