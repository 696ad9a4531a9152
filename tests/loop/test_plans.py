"""Plans: YAML there and back, overrides, components by name, and every mistake at once."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from robal import acquisition, attacks, engines, networks, objectives, oracles, presets, threats, training
from robal.acquisition import DRE, MCP, Margin, MaxEntropy, Random
from robal.attacks import FGSM, PGD, AutoAttack
from robal.engines import OnRay
from robal.errors import InputError, PlanError
from robal.networks import Custom
from robal.objectives import Adversarial, Natural, Trades
from robal.oracles import CSVFile, Hidden
from robal.plan import Evaluation, Meta, Plan, Relabel, Start, Stop, Validation
from robal.plan_checks import check
from robal.plans import COMPONENTS, decode, default_folder, encode, known, read_plan, read_yaml, to_yaml
from robal.source import Source
from robal.threats import L2, Linf
from robal.training import SGD, Adam, Cosine, CropFlip, PoolTraining, Recipe, Triangular

PLACES = {
    acquisition.Acquisition: ("acquisition",),
    acquisition.Score: ("acquisition", "acquisition.score"),
    engines.Engine: ("engine",),
    attacks.Attack: ("validation.attack", "recipe.objective.attack", "evaluation.each_round", "evaluation.at_end"),
    networks.Architecture: ("network",),
    objectives.Objective: ("recipe.objective", "start.recipe.objective"),
    oracles.Oracle: ("oracle",),
    objectives.Weighing: ("recipe.objective.weighing",),
    threats.Threat: ("threat", "validation.attack.threat"),
    training.Augmentation: ("recipe.augmentation",),
    training.Optimiser: ("recipe.optimiser",),
    training.Schedule: ("recipe.schedule",),
}
EVERYWHERE = [
    pytest.param(place, name, component, id=f"{place}={name}")
    for kind, places in PLACES.items()
    for place in places
    for name, component in known(kind).items()
]
ALL_DIFFERENT = Plan(
    data=Source("quickdraw:cat,eye", "/data", 32, "test", 7, 100, 50, ("no", "1", "ja: nein"), 3),
    network=Custom("nets:build", "w.safetensors", (0.1,), (0.2,), "fc"),
    threat=L2(1 / 3),
    start=Start(9, Recipe(Natural(0.1), 3, 4, SGD(0.2, 0.5, 1e-5, True), Cosine(), CropFlip(2, False), keep="best")),
    acquisition=DRE(7, "random_trim", Margin(), True),
    oracle=Hidden(0.25),
    recipe=Recipe(Trades(3.0, 5, 0.01, Linf(8 / 255)), 2, 8, Adam(1e-4, 1e-6), Triangular(0.9), keep_optimiser=True),
    validation=Validation(11, 0.125, PGD(3, 0.02, False, 1, Linf(0.1))),
    meta=Meta(0.3, 4),
    audit="±3%",
    stop=Stop(1.5, 0.8, 5),
    relabel=Relabel(3, 4),
    evaluation=Evaluation(13, (FGSM(1.25, True), PGD(4, restarts=2)), (AutoAttack("reduced", 17, L2(0.3)),)),
    per_round=5,
    rounds=2,
    seed=-4,
    device="cpu",
    engine=OnRay("auto", 3, "shards", 512, 64),
)


def value_at(plan: Any, place: str) -> Any:
    """What stands at `recipe.optimiser`; of a tuple its first part."""
    for part in place.split("."):
        plan = getattr(plan, part)
    return plan[0] if isinstance(plan, tuple) else plan


def open_threats(value: Any) -> list[Any]:
    """The value of every field called `threat`, however deep."""
    if isinstance(value, tuple):
        return [found for part in value for found in open_threats(part)]
    if not is_dataclass(value):
        return []
    found = [] if isinstance(value, Plan) or not hasattr(value, "threat") else [value.threat]
    return found + [threat for field in fields(value) for threat in open_threats(getattr(value, field.name))]


# There and back


@pytest.mark.parametrize("plan", [Plan(), ALL_DIFFERENT], ids=["default", "all different"])
def test_a_plan_written_as_yaml_and_read_again_is_the_same(plan: Plan) -> None:
    assert decode(encode(plan)) == plan
    assert decode(read_yaml(to_yaml(plan), "plan")) == plan


def test_the_plan_that_tests_writing_differs_from_the_default_in_every_field() -> None:
    default = Plan()
    assert all(getattr(ALL_DIFFERENT, field.name) != getattr(default, field.name) for field in fields(Plan))


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_written_as_yaml_and_read_again_is_the_same(name: str) -> None:
    plan = read_plan(None, base=read_yaml(presets.text(name), name))
    assert decode(read_yaml(to_yaml(plan), "plan")) == plan


@pytest.mark.parametrize(("place", "name", "component"), EVERYWHERE)
def test_every_exported_component_goes_into_its_field_and_through_yaml(place: str, name: str, component: type) -> None:
    alone = ["evaluation.each_round=[]", "evaluation.at_end=[]"] if place.startswith("evaluation") else []
    alone += ["recipe.objective=CAAT"] if place.endswith("weighing") else []
    plan = read_plan(None, [*alone, f"{place}={name}"])
    assert type(value_at(plan, place)) is component
    assert decode(read_yaml(to_yaml(plan), "plan")) == plan


def test_every_kind_of_component_has_its_field_under_test() -> None:
    assert PLACES.keys() == COMPONENTS.keys()


def test_components_are_told_apart_by_what_they_do() -> None:
    scores, choices = known(acquisition.Score), known(acquisition.Acquisition)
    assert {"MaxEntropy", "DeepGini", "LeastConfidence", "Margin"} <= scores.keys()
    assert {"Random", "MCP", "DRE"} <= choices.keys() - scores.keys()
    assert "Recipe" not in known(training.Optimiser)
    assert "Batch" not in known(objectives.Objective)


def test_encoding_leaves_out_what_a_run_fills_in_itself() -> None:
    assert encode(Hidden(0.5)) == {"name": "Hidden", "noise": 0.5, "kind": "symmetric", "unforeseen": "new"}


# Overrides


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("recipe.epochs=5", "recipe.epochs", 5),
        ("recipe.epochs='5'", "recipe.epochs", 5),
        ("recipe.optimiser.lr=1e-3", "recipe.optimiser.lr", 0.001),
        ("recipe.optimiser.lr=3", "recipe.optimiser.lr", 3.0),
        ("threat.eps=8/255", "threat.eps", 8 / 255),
        ("threat=l2:0.5", "threat", L2(0.5)),
        ("threat=linf:8/255", "threat", Linf(8 / 255)),
        ("recipe.warm_start=no", "recipe.warm_start", False),
        ("recipe.keep=best", "recipe.keep", "best"),
        ("recipe.objective.attack.step_size=null", "recipe.objective.attack.step_size", None),
        ("data.resize=32", "data.resize", 32),
        ("data.name=my photos/2024", "data.name", "my photos/2024"),
        ("network.mean=[0.1]", "network.mean", 0.1),
        ("seed=-1", "seed", -1),
    ],
)
def test_a_setting_replaces_one_value_and_has_the_type_of_its_field(setting: str, place: str, value: Any) -> None:
    settings = [setting, "network.std=[0.5]"] if "mean" in setting else [setting]
    found = value_at(read_plan(None, settings), place)
    assert found == value
    assert type(found) is type(value)


def test_a_list_of_classes_becomes_a_tuple_of_names() -> None:
    assert read_plan(None, ["data.classes=[cat, dog]"]).data.classes == ("cat", "dog")


def test_a_later_setting_wins() -> None:
    assert read_plan(None, ["seed=1", "seed=2"]).seed == 2


def test_another_component_comes_with_its_own_defaults() -> None:
    plan = read_plan(None, ["acquisition=MCP", "recipe.objective=Natural", "recipe.optimiser=SGD"])
    assert plan.acquisition == MCP()
    assert plan.recipe.objective == Natural()
    assert plan.recipe.optimiser == SGD()


def test_the_same_component_named_again_keeps_its_settings() -> None:
    plan = read_plan(None, ["acquisition.bins=7", "acquisition=DRE", "recipe.objective=Adversarial"])
    assert plan.acquisition == DRE(bins=7)
    assert plan.recipe.objective == Plan().recipe.objective


def test_an_alias_of_the_same_component_keeps_its_settings_too() -> None:
    plan = read_plan(None, ["threat.eps=0.3", "threat=linf", "acquisition.bins=7", "acquisition=dre"])
    assert plan.threat == Linf(0.3)
    assert plan.acquisition == DRE(bins=7)


def test_a_name_alone_keeps_its_place_when_its_settings_follow(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("acquisition: DRE\nacquisition.bins: 5\n")
    assert read_plan(tmp_path / "plan.yaml").acquisition == DRE(bins=5)


@pytest.mark.parametrize("pool", ["recipe.pool=PoolTraining", "recipe.pool={}", "recipe.pool.confidence=0.9"])
def test_the_pool_can_be_trained_on_by_one_setting_for_any_data(pool: str) -> None:
    recipe = read_plan(None, ["data.name=photos/", pool]).recipe
    assert recipe.budget == 150_000
    assert recipe.pool is not None
    assert recipe.pool.teacher == replace(PoolTraining().teacher, budget=37_500)
    assert read_plan(None, ["data.name=photos/", pool, "recipe.budget=8_000_000"]).recipe.pool == replace(
        recipe.pool, teacher=PoolTraining().teacher
    )
    said = read_plan(None, ["data.name=photos/", pool, "recipe.pool.teacher.budget=9"]).recipe.pool
    assert said is not None
    assert said.teacher.budget == 9


def test_a_component_with_settings_replaces_another_whole() -> None:
    plan = read_plan(None, ["acquisition.bins=7", "acquisition={name: DRE, stratify: true}"])
    assert plan.acquisition == DRE(bins=7, stratify=True)
    plan = read_plan(None, ["recipe.objective={name: Trades, beta: 2}"])
    assert plan.recipe.objective == Trades(beta=2.0)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("acquisition=entropy", MaxEntropy()),
        ("acquisition=random", Random()),
        ("recipe.objective=pgd-at", Adversarial()),
        ("start.recipe.objective=standard", Natural()),
        ("oracle=csv", CSVFile()),
        ("threat=l2", L2()),
        ("recipe.optimiser=sgd", SGD()),
    ],
)
def test_aliases_stand_for_exported_names(setting: str, expected: Any) -> None:
    plan = read_plan(None, ["recipe.objective=Trades", setting])
    assert value_at(plan, setting.partition("=")[0]) == expected


@pytest.mark.parametrize("package", sorted({package.__name__ for package in COMPONENTS.values()}))
def test_every_alias_leads_to_a_component(package: str) -> None:
    kinds = [kind for kind, where in COMPONENTS.items() if where.__name__ == package]
    aliases = getattr(COMPONENTS[kinds[0]], "ALIASES", {})
    names = {name for kind in kinds for name in known(kind)}
    assert set(aliases.values()) <= names
    assert not aliases.keys() & names


def test_attacks_come_as_a_list_or_alone() -> None:
    plan = read_plan(None, ["evaluation.each_round=[FGSM, {name: PGD, steps: 7}]", "evaluation.at_end=AutoAttack"])
    assert plan.evaluation.each_round == (FGSM(), PGD(7))
    assert plan.evaluation.at_end == (AutoAttack(),)
    assert read_plan(None, ["evaluation.at_end=[]"]).evaluation.at_end == ()


def test_a_plan_file_lies_over_a_preset_and_settings_over_both(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("# mine\nrounds: 3\nacquisition: Margin\nseed: 5\n", encoding="utf-8")
    plan = read_plan(path, ["seed=6"], read_yaml(presets.text("dre-mnist"), "dre-mnist"))
    assert (plan.rounds, plan.acquisition, plan.seed, plan.data.name) == (3, Margin(), 6, "mnist")


def test_an_empty_plan_file_is_the_default_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("# nothing yet\n", encoding="utf-8")
    assert read_plan(tmp_path / "plan.yaml") == Plan()


# A component of the user's own

OWN = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class First:
    step: int = 1
    def __post_init__(self):
        if self.step < 1:
            raise ValueError(f"step must be positive; {self.step} came")
    def __call__(self, candidates, n, generator):
        return candidates.indices[:: self.step][:n]

@dataclass(frozen=True)
class Needs:
    step: int
    def __call__(self, candidates, n, generator): ...

class Plain: ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that holds components of a user's own."""
    (tmp_path / "own_acquisitions.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_acquisitions"


def test_a_component_of_ones_own_is_named_by_module_and_class(own: str) -> None:
    plan = read_plan(None, [f"acquisition={{name: '{own}:First', step: 3}}"])
    assert type(plan.acquisition).__name__ == "First"
    assert plan.acquisition.step == 3  # type: ignore[union-attr]
    assert encode(plan.acquisition) == {"name": f"{own}:First", "step": 3}
    assert decode(read_yaml(to_yaml(plan), "plan")) == plan


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("acquisition={name: 'own_acquisitions:First', stepp: 3}", "acquisition.stepp: unknown; did you mean 'step'?"),
        ("acquisition={name: 'own_acquisitions:First', step: 0}", "acquisition: step must be positive; 0 came"),
        ("acquisition=own_acquisitions:Needs", "'own_acquisitions:Needs' must be .*buildable without arguments"),
        ("acquisition=own_acquisitions:Plain", "'own_acquisitions:Plain' must be a frozen dataclass"),
        ("acquisition=own_acquisitions:Frist", "'own_acquisitions:Frist' cannot be imported"),
        ("acquisition=not_there:First", "'not_there:First' cannot be imported: .*No module named 'not_there'"),
        ("acquisition=:First", "':First' cannot be imported"),
        ("acquisition=.own:First", "'.own:First' cannot be imported"),
    ],
)
def test_what_is_wrong_with_a_component_of_ones_own_is_a_mistake(own: str, setting: str, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        read_plan(None, [setting])
    assert len(caught.value.mistakes) == 1


# Mistakes


def test_all_mistakes_come_at_once_with_their_paths_and_hints() -> None:
    settings = [
        "recipie.epochs=3",
        "acquisition=Margn",
        "recipe.epochs=many",
        "recipe.optimiser.lrr=1",
        "threat.eps=8",
        "evaluation.each_round=[FGSM, PDG]",
        "start.recipe.keep=worst",
        "validation=12",
    ]
    with pytest.raises(PlanError) as caught:
        read_plan(None, settings)
    expected = (
        r"recipie: unknown; did you mean 'recipe'\?",
        r"acquisition: 'Margn' is unknown; did you mean 'Margin'\?",
        r"recipe\.epochs: .*integer.*, not 'many'",
        r"recipe\.optimiser\.lrr: unknown; did you mean 'lr'\?",
        r"threat: eps is a radius in \[0, 1\].* 8\.0 came",
        r"evaluation\.each_round\[1\]: 'PDG' is unknown; did you mean 'PGD'\?",
        r"start\.recipe\.keep: .*'last' or 'best'.*, not 'worst'",
        r"validation: must be a mapping \(key: value\), not 12",
    )
    mistakes = caught.value.mistakes
    assert len(mistakes) == len(expected)
    for pattern in expected:
        assert [re.match(pattern, mistake) for mistake in mistakes].count(None) == len(mistakes) - 1, pattern
    assert f"the plan has {len(expected)} mistakes" in str(caught.value)
    assert all(mistake in str(caught.value) for mistake in mistakes)


def test_without_a_near_name_all_known_ones_are_listed() -> None:
    with pytest.raises(PlanError, match=r"known: .*DRE.*Margin"):
        read_plan(None, ["acquisition=xyzzy"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("recipe.epochs=yes", "recipe.epochs: should be a number, not True"),
        ("seed=no", "seed: should be a number, not False"),
        ("recipe.optimiser.lr=on", "recipe.optimiser.lr: should be a number, not True"),
        ("data.resize=off", "data.resize: should be a number, not False"),
        ("recipe.objective.attack.step_size=yes", "step_size: should be a number, not True"),
        ("acquisition=no", "acquisition: needs a name"),
        ("threat=linf:often", "threat: 'often' is not a radius"),
        ("threat.eps=8/0", "threat.eps: .*'8/0'"),
        ("data.classes=[no, yes]", "data.classes.*not \\[False, True\\]"),
        ("data.name=no", "data.name: .*string, not False"),
        ("recipe.epochs=2.5", "recipe.epochs: .*integer.*2.5"),
        ("recipe.epochs=null", "recipe.epochs: .*None"),
        ("data.name=2024-01-01", "data.name: .*string"),
        ("data.classes=[cat, 1]", "data.classes: .*string, not \\['cat', 1\\]"),
        ("recipe=Natural", "recipe: must be a mapping"),
        ("network={factory: 'a:b'}", "network.factory: unknown; known: dropout"),
    ],
)
def test_what_yaml_makes_of_a_word_is_not_taken_for_a_value(setting: str, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        read_plan(None, [setting])
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize("text", ["recipe.epochs", "=5", "a..b=5", ".a=5", "seed=[1"])
def test_what_is_no_setting_is_said_so(text: str) -> None:
    with pytest.raises(PlanError, match=re.escape(repr(text))):
        read_plan(None, [text])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "must hold a mapping .key: value.; it holds a list"),
        (b"just words", "it holds a str"),
        (b"seed: 1\n\tround: 2", "is not YAML: .*line 2"),
        (b"seed: [1", "is not YAML"),
        (b"seed: !!python/object/apply:os.getpid []", "is not YAML"),
        (b"seed: 1 # \xe9\xff", "should be UTF-8 text"),
        (b"1: 2", "1: unknown"),
    ],
)
def test_a_file_that_is_no_plan_is_said_so(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "plan.yaml").write_bytes(content)
    with pytest.raises(PlanError, match=message):
        read_plan(tmp_path / "plan.yaml")


def test_a_plan_file_that_is_not_there_and_a_folder_in_its_place_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"there is no plan file .*nowhere\.yaml"):
        read_plan(tmp_path / "nowhere.yaml")
    with pytest.raises(PlanError, match=r"is a folder, not a plan file; for images, `robal run data.name="):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Plan(per_round=0),
        lambda: Plan(rounds=-1),
        lambda: Start(1),
        lambda: Validation(bought_share=0.21),
        lambda: Validation(images=-1),
        lambda: Evaluation(images=0),
    ],
)
def test_numbers_that_cannot_be_are_refused_when_the_plan_is_built(build: Any) -> None:
    with pytest.raises(InputError, match="came"):
        build()


def test_two_attacks_whose_results_would_have_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="PGD-50 is there twice"):
        Evaluation(each_round=(PGD(50),), at_end=(PGD(50, step_size=0.1),))
    Evaluation(each_round=(PGD(50),), at_end=(PGD(50, threat=L2(0.5)),))


# What a plan knows of itself


@pytest.mark.parametrize("plan", [Plan(), ALL_DIFFERENT], ids=["default", "all different"])
def test_the_threat_of_the_plan_goes_wherever_none_is_named(plan: Plan) -> None:
    before = open_threats(plan)
    after = open_threats(plan.with_threats())
    assert None in before
    assert after == [plan.threat if threat is None else threat for threat in before]
    assert plan.with_threats().with_threats() == plan.with_threats()


def test_the_threat_reaches_the_training_of_round_0_and_attacks_inside_scores() -> None:
    start = Start(recipe=Recipe(Adversarial(PGD(3))))
    effective = Plan(start=start, threat=Linf(0.25)).with_threats()
    assert effective.start.recipe.objective == Adversarial(PGD(3, threat=Linf(0.25)))


def test_the_default_folder_is_a_function_of_the_plan() -> None:
    folders = [
        default_folder(read_plan(None, settings))
        for settings in (
            [],
            ["seed=1"],
            ["acquisition.bins=49"],
            ["recipe.optimiser.lr=0.0041"],
            ["acquisition=Margin"],
        )
    ]
    assert len(set(folders)) == len(folders)
    assert default_folder(Plan()) == folders[0]
    assert re.fullmatch(r"runs/digits-DRE-[0-9a-f]{6}", str(folders[0]))
    assert str(folders[-1]).startswith("runs/digits-Margin-")
    assert default_folder(read_plan(None, ["data.name=/some/where/photos.npz"])).name.startswith("photos-DRE-")


def test_the_budget_counts_the_start_and_every_round() -> None:
    assert Plan(start=Start(20), per_round=10, rounds=3).budget == 50


def test_paths_become_absolute_and_names_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "mnist").mkdir()
    assert Source("photos", "sets").located() == Source(str(tmp_path / "photos"), str(tmp_path / "sets"))
    # A folder that is called like a data set is where that data set lies, not a folder of images.
    assert Source("mnist").located() == Source("mnist")
    assert Source("elsewhere.npz").located() == Source("elsewhere.npz")


def test_every_part_of_a_plan_that_names_a_file_names_it_absolutely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = read_plan(
        None,
        [
            "network={name: Custom, factory: 'robal.networks:LeNet5', weights: a.safetensors}",
            "start.weights=b.safetensors",
            "acquisition={name: Subsample, inner: {name: ByProxy, network: {name: Custom, weights: c.safetensors}}}",
            "engine={name: Sharded, folder: seen}",
        ],
    ).located()
    assert plan.network.weights == str(tmp_path / "a.safetensors")  # type: ignore[attr-defined]
    assert plan.start.weights == str(tmp_path / "b.safetensors")
    assert plan.acquisition.inner.network.weights == str(tmp_path / "c.safetensors")  # type: ignore[union-attr]
    assert plan.engine.folder == str(tmp_path / "seen")  # type: ignore[attr-defined]
    assert plan.located() == plan


def test_epochs_that_are_said_take_the_place_of_a_budget() -> None:
    assert Plan().recipe.budget is not None
    assert read_plan(None, ["recipe.epochs=3"]).recipe.budget is None
    with pytest.raises(PlanError, match=r"recipe\.epochs and recipe\.budget: say one of them"):
        read_plan(None, ["recipe.budget=600000", "recipe.epochs=3"])
    assert read_plan(None, ["recipe.batch_size=30"]).recipe.budget == Plan().recipe.budget


def test_the_data_set_has_a_short_name() -> None:
    assert read_plan(None, ["dataset=mnist", "data.train_images=7"]).data == Source("mnist", train_images=7)


def test_other_data_than_the_digits_do_not_get_the_teacher_that_was_chosen_for_the_digits(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("data: mnist\n", encoding="utf-8")
    plan = read_plan(tmp_path / "plan.yaml")
    assert plan == replace(Plan(), data=Source("mnist"), recipe=replace(Plan().recipe, pool=None))
    assert read_plan(None, ["dataset=mnist"]) == plan
    for same in ("dataset=digits", "data.name=Digits", "data.train_images=100"):
        assert read_plan(None, [same]).recipe == Plan().recipe
    asked = read_plan(tmp_path / "plan.yaml", ["recipe.budget=4000000", "recipe.pool.share=0.5"]).recipe
    assert asked.pool == PoolTraining(share=0.5)
    taught = read_plan(None, ["dataset=mnist", "recipe.pool.teacher.budget=50000"]).recipe.pool
    assert taught is not None
    assert taught.teacher == replace(PoolTraining().teacher, budget=50_000)  # FixMatch, not a recipe's own default


def test_a_threat_that_a_part_does_not_bear_is_refused_before_anything_is_bought() -> None:
    plan = read_plan(None, ["threat={name: L2, eps: 0.5}", "recipe.objective=NFGSM"])
    with pytest.raises(InputError, match="recipe does not go with the plan's threat, L2"):
        check(plan, plan.data.load())
