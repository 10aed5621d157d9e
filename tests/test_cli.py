import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from raid import __version__
from raid.cli import main
from raid.commands.data import SYNTH_OPTIONS
from raid.config import describe, load
from raid.data.render import Settings
from raid.data.samples import Samples
from raid.errors import InputError
from raid.methods.icsr import demo as icsr_demo
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.methods.mar.config import MarConfig
from raid.run_folder import RunFolder

COMMANDS = [
    *(
        [],
        ["icsr"],
        ["mar"],
        ["plan"],
        ["config"],
        ["demo"],
        ["evaluate"],
        ["rank"],
        ["compare"],
        ["report"],
        ["scaling"],
        ["tables"],
        ["extract"],
        ["export"],
        ["threshold"],
    ),
    *(
        ["data"],
        ["data", "synth"],
        ["data", "synth-check"],
        ["data", "prepare"],
        ["data", "check"],
        ["data", "pack"],
        ["data", "import-mot"],
    ),
]
LIBRARIES = {"torch", "torchvision", "numpy", "scipy", "pydantic", "yaml", "PIL", "pyarrow", "ray", "mlflow"}
SMALL = ["--num-identities=8", "--num-cameras=2", "--height=32", "--width=16"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("data: {root: images}\nseed: 3\ninter: {epochs: 7}\n")
    return path


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[IcsrConfig, dict[str, bool]]]:
    """What the training is called with, instead of training."""
    calls = []

    def run(config, backend, **how):
        calls.append((config, how))
        return RunFolder(config.run.folder)

    monkeypatch.setattr(icsr, "run", run)
    return calls


def test_help_is_answered_without_the_libraries():
    program = f"""
import sys
from raid.cli import main
for command in {COMMANDS}:
    try:
        main([*command, "--help"])
    except SystemExit as exit:
        assert exit.code == 0
print("imported:", *sorted({LIBRARIES} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "imported:"
    assert done.stdout.count("usage: raid") == len(COMMANDS)


@pytest.mark.parametrize("method", ["icsr", "mar"])
def test_fields_are_printed_without_what_builds_networks(method):
    program = f"""
import sys
from raid.cli import main
main(["config", "{method}"])
print("imported:", *sorted({{"torchvision", "ray", "mlflow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"


def test_the_command_runs_as_a_module_and_by_its_name():
    for command in ([sys.executable, "-m", "raid"], [Path(sys.executable).parent / "raid"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"raid {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as raised:
        main([*command, "--help"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: raid", *command]))


def test_help_of_synth_tells_the_defaults_that_the_settings_have():
    assert set(SYNTH_OPTIONS) <= {field.name for field in fields(Settings)}
    for name, meaning in SYNTH_OPTIONS.items():
        assert meaning.endswith(f"({getattr(Settings(), name)})"), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["slrs"], "invalid choice: 'slrs'"),
        (["icsr"], r"required: FILE\n"),
        (["icsr", "f.yaml", "--resume", "--fresh"], "not allowed with"),
        (["icsr", "f.yaml", "--resum=1"], "unrecognized|ignored explicit argument"),
        (["icsr", "f.yaml", "--fresh", "seed=1", "--sed=2"], "unrecognized arguments: seed=1 --sed=2"),
        (["icsr", "f.yaml", "--fresh", "seed=1", "-x=2"], "unrecognized arguments: seed=1 -x=2"),
        (["icsr", "f.yaml", "--fresh", "seed"], "unrecognized arguments: seed"),
        (["data", "synth", "a", "--fresh", "seed=1"], "unrecognized arguments"),
        (["data", "synth", "a", "--seed=x"], "argument --seed: invalid int value"),
        (["evaluate"], r"required: CHECKPOINT\n"),
        (["export", "model.pt"], r"required: --onnx\n"),
        (["export", "model.pt", "--onnx=a.onnx", "--threshold=x"], "argument --threshold: invalid float"),
        (["demo", "icsr", "f.yaml", "--seeds=0"], "argument --seeds: '0' is not a whole number from 1"),
        (["demo", "icsr", "f.yaml", "--seeds=two"], "argument --seeds: 'two' is not a whole number from 1"),
    ],
)
def test_what_cannot_be_parsed_ends_with_usage_and_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: raid")
    assert re.search(message, err), err


@pytest.mark.parametrize(("method", "schema"), [("icsr", IcsrConfig), ("mar", MarConfig)])
def test_config_prints_every_field_with_type_default_and_meaning(capsys, method, schema):
    assert main(["config", method]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line and not line.startswith("# ")]
    expected = []
    for field in describe(schema):
        expected += [f"{field.path}: {field.type} = {field.default}", f"    {field.meaning}"]
    assert lines == expected
    assert "run.folder: path = runs/run" in lines
    known = {"icsr": "refine.score_cutoff: float|none = 0.5", "mar": "multilabel.scale: float|auto = 30.0"}
    assert known[method] in lines
    sections = {field.path.partition(".")[0] for field in describe(schema) if "." in field.path}
    for section in sections:
        (place,) = re.finditer(rf"^\n# {section}: \S.*\.\n(?={section}\.)", printed, re.MULTILINE)
        assert f"\n{section}." not in printed[: place.start()]
    if method == "mar":
        assert "\n# data: The unlabelled set: trained on without its identities, and evaluated.\n" in printed


def test_config_of_a_file_prints_what_it_resolves_to(capsys, file, tmp_path):
    assert main(["config", "icsr", str(file), "inter.epochs=9", "refine.enabled=false"]) == 0
    out = capsys.readouterr().out
    resolved = yaml.safe_load(out)
    assert (resolved["seed"], resolved["inter"]["epochs"], resolved["refine"]["enabled"]) == (3, 9, False)
    again = tmp_path / "again.yaml"
    again.write_text(out)
    assert load(IcsrConfig, again) == load(IcsrConfig, file, ["inter.epochs=9", "refine.enabled=false"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["FILE", "--fresh", "seed=5", "inter.epochs=9"],
        ["FILE", "seed=5", "--fresh", "inter.epochs=9"],
        ["FILE", "seed=5", "inter.epochs=9", "--fresh"],
        ["--fresh", "FILE", "seed=5", "inter.epochs=9"],
    ],
    ids=" ".join,
)
def test_overrides_come_before_and_after_options(called, file, arguments):
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    assert main(["icsr", "--backend", "local", *given]) == 0
    ((config, how),) = called
    assert (config.seed, config.inter.epochs) == (5, 9)
    assert how == {"resume": False, "fresh": True}


@pytest.mark.parametrize(("options", "resume", "fresh"), [([], False, False), (["--resume"], True, False)])
def test_resume_and_fresh_are_said_or_not(called, file, options, resume, fresh):
    assert main(["icsr", str(file), "--backend", "local", *options]) == 0
    assert called == [(load(IcsrConfig, file), {"resume": resume, "fresh": fresh})]


def test_demo_gets_its_seeds(monkeypatch, capsys, file):
    calls = []
    monkeypatch.setattr(
        icsr_demo,
        "compare",
        lambda config, backend, num_seeds: calls.append((config.seed, num_seeds)) or "the table",
    )
    assert main(["demo", "icsr", str(file), "--backend", "local"]) == 0
    assert main(["demo", "icsr", str(file), "--backend", "local", "--seeds", "3", "seed=5"]) == 0
    assert calls == [(3, 1), (5, 3)]
    assert capsys.readouterr().out == "the table\nthe table\n"


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (InputError("seed: wrong"), 2, ["raid: seed: wrong"]),
        (InputError("seed: wrong\nfoo: unknown"), 2, ["raid: seed: wrong", "raid: foo: unknown"]),
        (KeyboardInterrupt(), 130, ["raid: interrupted"]),
    ],
)
def test_what_the_user_can_mend_has_a_status_and_no_traceback(
    monkeypatch, capsys, file, error, status, lines
):
    def run(config, backend, **how):
        raise error

    monkeypatch.setattr(icsr, "run", run)
    assert main(["icsr", str(file), "--backend", "local"]) == status
    captured = capsys.readouterr()
    assert captured.err.splitlines() == lines
    assert captured.out == ""


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, file):
    def run(config, backend, **how):
        raise ValueError("a fault")

    monkeypatch.setattr(icsr, "run", run)
    with pytest.raises(ValueError, match="a fault"):
        main(["icsr", str(file), "--backend", "local"])


def test_synth_writes_the_same_bytes_for_the_same_seed(tmp_path, capsys):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert main(["data", "synth", str(tmp_path / name), f"--seed={seed}", *SMALL]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() != c.keys()
    assert {Path(name).parts[0] for name in a} == {
        *("bounding_box_train", "bounding_box_test", "query", "synthetic.json"),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_prepare_writes_a_manifest_that_a_run_can_start_from(tmp_path, capsys):
    root, manifest = tmp_path / "people", tmp_path / "out" / "people.parquet"
    main(["data", "synth", str(root), *SMALL])
    assert main(["data", "prepare", str(manifest), f"root={root}"]) == 0
    samples = Samples.read(manifest)
    expected = f"{manifest}: {len(samples)} images, splits train, query, gallery\n"
    assert capsys.readouterr().out.endswith(expected)
    assert len(samples) == len(list(root.glob("*/*.jpg"))) - len(list(root.glob("bounding_box_train/-1_*")))
    assert list(manifest.parent.iterdir()) == [manifest]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "synth", "there"], "there: exists and is no rendered data set; remove it or choose"),
        (["data", "synth", "there/below"], "there/below: cannot be written: .*; choose another"),
        (["data", "synth", "new", "--num-identities=3"], "num_identities: 3 is too small; give at least 4"),
        (["data", "synth", "new", "--max-frames=1"], "max_frames: 1 is less than min_frames, 2"),
        (["data", "synth-check", "nowhere"], "nowhere: no folder bounding_box_train"),
        (["data", "prepare", "new"], "root: is required"),
        (["data", "prepare", "new", "rot=x", "root=x"], r"rot: unknown key; did you mean root\?"),
        (["data", "prepare", "new", "root=nowhere"], "nowhere: no folder bounding_box_train"),
        (["data", "prepare", "there/below", "root=people"], "there/below: cannot be written: .*; choose"),
        (["data", "prepare", "people", "root=people"], "people: cannot be written: Is a directory; choose"),
        (["config", "icsr", "seed=3"], "seed=3: cannot read .*; a run file comes before the overrides"),
    ],
)
def test_bad_input_of_the_small_commands_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    main(["data", "synth", "people", *SMALL])
    Path("there").write_text("mine")
    before = contents(tmp_path)
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"raid: {message}.*\n", captured.err), captured.err
    assert contents(tmp_path) == before


def test_whoever_reads_may_stop_reading():
    command = [sys.executable, "-m", "raid", "config", "icsr"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
