from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import PositiveInt

from raid.config import Schema, config_hash, describe, describe_sections, flatten, load, read_flat, to_yaml
from raid.errors import InputError
from raid.methods.icsr.config import IcsrConfig

DATA = {"data.root": "images"}  # all that a run needs to be told


@dataclass(frozen=True, kw_only=True)
class Engine(Schema):
    """A section."""

    power: Annotated[PositiveInt, "in kilowatts"] = 50
    fuel: Annotated[Literal["petrol", "diesel", "none"], "what it burns"] = "petrol"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.fuel == "none" and self.power > 100:
            yield "power", f"is {self.power}: too much without fuel"


@dataclass(frozen=True, kw_only=True)
class Car(Schema):
    """A whole configuration."""

    preset: Annotated[Literal["default", "lorry"], "kind"] = "default"
    name: Annotated[str, "on the plate"]
    seats: Annotated[PositiveInt | None, "null: it is driven from outside"] = 4
    front: Engine = Engine()
    rear: Engine = Engine()

    PRESETS = {"lorry": {"seats": 2, "front": {"power": 300, "fuel": "diesel"}}}  # noqa: RUF012
    NOT_IN_HASH = ("name", "rear")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.seats is not None and self.front.power < 10 * self.seats:
            yield "seats", f"{self.seats} people are too heavy"


def written(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text)
    return file


def complaints(schema: type[Schema], *arguments: Any) -> dict[str, str]:
    """What is wrong, by path; every line of the message must name one."""
    with pytest.raises(InputError) as raised:
        load(schema, *arguments)
    pairs = [line.split(": ", 1) for line in str(raised.value).splitlines()]
    assert all(len(pair) == 2 for pair in pairs), str(raised.value)
    found = dict(pairs)
    assert len(found) == len(pairs), "a path is named twice"
    return found


def test_without_a_file_all_is_default():
    assert load(Car, None, ["name=x"]) == Car(name="x", seats=4, front=Engine(power=50, fuel="petrol"))
    config = load(IcsrConfig, overrides=DATA)
    assert config == replace(IcsrConfig(), data=replace(IcsrConfig().data, root=Path("images")))


def test_an_empty_file_is_a_file_without_differences(tmp_path):
    assert load(Car, written(tmp_path, "# nothing\n"), ["name=x"]) == load(Car, None, ["name=x"])


def test_overrides_go_before_the_file_and_the_last_before_the_first(tmp_path):
    file = written(tmp_path, "name: x\nseats: 3\nfront: {power: 70, fuel: diesel}\n")
    config = load(Car, file, ["front.power=80", "seats=5", "front.power=90"])
    assert config == Car(name="x", seats=5, front=Engine(power=90, fuel="diesel"))


def test_values_of_overrides_are_yaml():
    config = load(Car, None, ["name=a=b", "seats=null", "rear={power: 7, fuel: diesel}"])
    assert config == Car(name="a=b", seats=None, rear=Engine(power=7, fuel="diesel"))


@pytest.mark.parametrize("given", ["file", "override"])
def test_a_preset_stands_between_the_defaults_and_the_file(tmp_path, given):
    file = written(
        tmp_path, f"name: x\nfront: {{fuel: none, power: 90}}\n{'preset: lorry' * (given == 'file')}"
    )
    config = load(Car, file, ["preset=lorry"] if given == "override" else [])
    assert config == Car(preset="lorry", name="x", seats=2, front=Engine(power=90, fuel="none"))
    assert load(Car, None, {"preset": "lorry", "name": "x"}).front == Engine(power=300, fuel="diesel")


def test_a_mapping_of_overrides_equals_texts():
    texts = ["data.root=images", "refine.horizon=1", "augment.erase_area=[0.1, 0.2]", "refine.enabled=false"]
    mapping = {"refine.horizon": 1, "augment.erase_area": (0.1, 0.2), "refine.enabled": False, **DATA}
    assert load(IcsrConfig, None, texts) == load(IcsrConfig, None, mapping)


def test_the_mapping_that_was_given_is_left_alone():
    mapping: Mapping[str, Any] = {"name": "x", "front": {"power": 70}, "front.fuel": "diesel"}
    assert load(Car, None, mapping).front == Engine(power=70, fuel="diesel")
    assert mapping == {"name": "x", "front": {"power": 70}, "front.fuel": "diesel"}


def test_sections_that_share_an_anchor_are_overridden_apart(tmp_path):
    file = written(tmp_path, "name: x\nfront: &engine {power: 70}\nrear: *engine\n")
    config = load(Car, file, ["rear.power=80"])
    assert (config.front.power, config.rear.power) == (70, 80)


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    file = written(
        tmp_path,
        "refine: {horizn: 3, start: 1.5, enabled: perhaps}\nfoo: 1\nneighbors: {k1: 5, k2: 9}\n"
        "model: {batch_norm: sync}\nnumerics: {reproducible: exact}\ninter: 3\n",
    )
    found = complaints(IcsrConfig, file, ["data.hight=3", "data.splits={a: b}", "intra.num_clusters=0"])
    assert set(found) == {
        *("refine.horizn", "refine.start", "refine.enabled", "foo", "neighbors.k2", "numerics.reproducible"),
        *("inter", "data.hight", "data.splits", "data.root", "intra.num_clusters"),
    }
    assert found["refine.horizn"] == "unknown key; did you mean horizon?"
    assert found["data.hight"] == "unknown key; did you mean height?"
    assert found["foo"].startswith("unknown key; known: augment, data, ")
    assert found["refine.start"].endswith("got 1.5")
    assert "'perhaps'" in found["refine.enabled"]
    assert found["neighbors.k2"] == "is 9, more than k1=5"
    assert found["data.root"].startswith("is required")
    assert "is a section" in found["inter"]


def test_a_field_without_a_default_must_be_given():
    assert complaints(Car, None, ["seats=3"]) == {"name": "is required"}
    (described,) = [field for field in describe(Car) if field.path == "name"]
    assert (described.default, described.meaning, described.type) == ("(required)", "on the plate", "text")


def test_wrong_values_and_combinations_elsewhere_are_said_together():
    found = complaints(Car, None, ["name=x", "seats=6", "rear.fuel=none", "rear.power=101", "front.fuel=oil"])
    assert set(found) == {"seats", "rear.power", "front.fuel"}


def test_what_is_wrong_by_itself_is_not_wrong_in_combination_as_well():
    # Left out, data.root would be missing; one line must do.
    assert list(complaints(IcsrConfig, None, ["data.root=[a]"])) == ["data.root"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not YAML"),
        ("data: {root: 2024-13-01}", "not YAML"),
        ("- a\n- b\n", "holds a list; wanted"),
        ("just words", "holds a str; wanted"),
        ("!!python/object/apply:os.system ['touch executed']", "not YAML: could not determine a constructor"),
        ("seed: !!python/object/apply:os.system ['touch executed']", "not YAML"),
        ("seed: !!python/name:os.system", "not YAML"),
    ],
)
def test_files_that_hold_no_configuration_are_refused_on_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, text)
    with pytest.raises(InputError, match=f"run.yaml: {message}") as raised:
        load(IcsrConfig, file)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "executed").exists()


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot read.*No such file"):
        load(IcsrConfig, tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"cannot read.*Is a directory"):
        load(IcsrConfig, tmp_path)
    with pytest.raises(InputError, match=r"seed=1: cannot read.*a run file comes before the overrides"):
        load(IcsrConfig, "seed=1")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: not YAML"):
        load(IcsrConfig, tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "seed: an override is written path=value"),
        ("=1", "an override is written path=value"),
        ("seed=[1", "seed: .* is not a YAML value"),
        ("data.root=2024-13-01", "data.root: .* is not a YAML value"),
        ("seed=!!python/object/apply:os.system ['touch executed']", "seed: .* is not a YAML value"),
        ("seed.low=1", "seed.low: seed is a value in the file, not a section"),
    ],
)
def test_overrides_that_cannot_be_read_are_named(tmp_path, monkeypatch, override, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        load(IcsrConfig, written(tmp_path, "seed: 3"), [override])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "executed").exists()


def elaborate() -> IcsrConfig:
    """A configuration of awkward values: texts that look like other types, dots in keys, a null."""
    return load(
        IcsrConfig,
        overrides={
            **{"data.layout": "folder", "data.root": "1e3", "data.pattern": r"(?P<camera>\d): #'\"{x}"},
            **{"data.splits": {"v1.train": "train", "no": "query", "1": "gallery"}, "model.weights": "null"},
            **{"refine.score_cutoff": None, "intra.num_clusters": 7, "optimizer.weight_decay": 1e-20},
            **{"augment.erase_area": [0.25, 0.5], "run.folder": "true", "preset": "paper"},
        },
    )


def test_yaml_text_is_read_back_as_the_same_configuration(tmp_path):
    config = elaborate()
    again = load(IcsrConfig, written(tmp_path, to_yaml(config)))
    assert again == config
    assert config_hash(again) == config_hash(config)
    assert yaml.safe_load(to_yaml(config))["data"]["root"] == "1e3"


def test_the_flat_form_is_read_back_as_the_same_configuration():
    config = elaborate()
    assert load(IcsrConfig, overrides=flatten(config)) == config
    assert flatten(config)["data.root"] == "1e3"


def test_a_path_that_begins_like_an_ignored_one_is_in_the_hash():
    @dataclass(frozen=True, kw_only=True)
    class Runs(Schema):
        run: str = "a"
        runner: str = "a"

        NOT_IN_HASH = ("run",)

    assert config_hash(Runs(run="b")) == config_hash(Runs())
    assert config_hash(Runs(runner="b")) != config_hash(Runs())


def test_sections_cannot_be_changed():
    config = load(IcsrConfig, overrides=DATA)
    with pytest.raises(FrozenInstanceError):
        config.seed = 2  # type: ignore[misc]
    for field in fields(config):
        section = getattr(config, field.name)
        if isinstance(section, Schema):
            with pytest.raises(FrozenInstanceError):
                setattr(section, fields(section)[0].name, None)


def test_key_given_twice_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("engine: {}\nname: x\nengine: {}\n")
    with pytest.raises(InputError, match=r"run\.yaml: not YAML: the key engine stands twice.*line 3"):
        load(Car, file)


def test_a_file_is_read_flat_whatever_it_is_of(tmp_path):
    config = load(IcsrConfig, overrides={**DATA, "data.layout": "folder", "data.pattern": "x"})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    flat = flatten(config)
    flat["augment.erase_area"] = list(flat["augment.erase_area"])
    assert read_flat(tmp_path / "config.yaml") == flat
    (tmp_path / "other.yaml").write_text("a: {b: {c: 1}, d: [2]}\ne:\n")
    assert read_flat(tmp_path / "other.yaml") == {"a.b.c": 1, "a.d": [2], "e": None}
    with pytest.raises(InputError, match="cannot read"):
        read_flat(tmp_path / "none.yaml")


def test_sections_are_described_in_their_order():
    assert list(describe_sections(Car)) == [("front", "A section."), ("rear", "A section.")]

    @dataclass(frozen=True, kw_only=True)
    class Train(Schema):
        """Cars in a row.

        More of it.
        """

        first: Car = Car(name="x")

    paths = [path for path, _ in describe_sections(Train)]
    assert paths == ["first", "first.front", "first.rear"]
    assert dict(describe_sections(Train))["first"] == "A whole configuration."
