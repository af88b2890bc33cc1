"""Configs: every recipe loads, every mistake is one line with file, line and what was meant."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward.config import yamlfile
from selfreward.config.load import build_config, changes, dump_config, load_config, load_copy
from selfreward.config.run import Config
from selfreward.config.yamlfile import parse_overrides
from selfreward.errors import ConfigError
from selfreward.inputs import shipped
from selfreward.inputs.shipped import config_file
from tests.support import ROOT

RECIPES = sorted((ROOT / "runs").glob("*.yaml"))


def read(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_a_date_is_text_and_so_is_what_looks_like_one(tmp_path: Path) -> None:
    config = read(tmp_path, "chat_template_kwargs: {date: 2024-01-31, odd: 2026-13-01}")
    assert config.chat_template_kwargs == {"date": "2024-01-31", "odd": "2026-13-01"}
    assert read(tmp_path, dump_config(config)) == config


def test_the_hint_of_a_key_that_stands_twice_is_given(tmp_path: Path) -> None:
    error = refusal(tmp_path, "seed: 1\nseed: 2")
    assert error.hint == "Keep one of the two."
    assert "not valid YAML" not in error.message


@pytest.mark.parametrize("word", ["\udcff=1", "model=\udcff", "dpo.\ud800=1"])
def test_a_word_that_is_no_text_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        build_config({}, [word])


def refusal(tmp_path: Path, text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text, *overrides)
    assert "\n" not in error.value.message
    return error.value


def test_there_are_the_two_recipes() -> None:
    assert {"quickstart", "self-rewarding"} <= set(shipped.recipes())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_by_path_and_by_name(path: Path) -> None:
    assert load_config(path) == load_config(config_file(path.stem))


def test_the_papers_figures_are_those_of_the_recipe() -> None:
    config = load_config(config_file("self-rewarding"))
    assert (config.prompts.human_shots, config.prompts.generated_shots) == (6, 2)
    assert (config.prompts.temperature, config.prompts.top_p) == (0.6, 0.9)
    assert (config.responses.n, config.responses.temperature, config.responses.top_p) == (
        4, 0.7, 0.9,
    )  # fmt: skip
    assert (config.judge.form, config.judge.votes) == ("written", 3)
    assert (config.dpo.beta, config.dpo.learning_rate) == (0.1, 1e-6)
    assert config.iterations == 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_dump_and_load_is_identity_for_recipes(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert read(tmp_path, dump_config(config)) == config


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029", "a\nb", "1e5", " a ", "#"])
def test_dump_and_load_keeps_any_text(tmp_path: Path, text: str) -> None:
    config = build_config({"system_prompt": text})
    (tmp_path / "a.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "a.yaml") == config


def test_dump_and_load_keeps_none(tmp_path: Path) -> None:
    config = read(tmp_path, "sft: null\nlora: null\nsystem_prompt: null\nprompts: {dataset: null}")
    again = read(tmp_path, dump_config(config))
    assert again == config
    assert again.sft is None and again.lora is None
    assert "sft: null" in dump_config(config)


TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["1e-6", "1e6", ".5e3", "1.e2", "1_0", "0x1f", "0o7", "012", "1:30", "yes",
                     "no", "on", "null", "~", "", " ", ".nan", ".inf", "2026-01-31", "2026-13-01",
                     "<<", "=", "- a",
                     "a: b", "#x", "&a", "*a", "!t", "{a: b}", "[a]", "'", '"', "|", ">"]),
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)


@settings(max_examples=40)
@given(
    system_prompt=st.one_of(st.none(), TEXTS),
    kwargs=st.dictionaries(TEXTS, VALUES, max_size=3),
    options=st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), VALUES, max_size=3),
    lora=st.one_of(st.none(), st.dictionaries(TEXTS, st.lists(VALUES, max_size=2), max_size=2)),
    learning_rate=st.floats(1e-12, 1, exclude_min=True),
)
def test_dump_and_load_is_identity(
    tmp_path_factory: pytest.TempPathFactory,
    system_prompt: str | None,
    kwargs: dict,
    options: dict,
    lora: dict | None,
    learning_rate: float,
) -> None:
    config = build_config(
        {
            "system_prompt": system_prompt,
            "chat_template_kwargs": kwargs,
            "engine": options,
            "lora": lora,
            "dpo": {"learning_rate": learning_rate},
        }
    )
    path = tmp_path_factory.getbasetemp() / "identity.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    again = load_config(path)
    assert again == config
    assert changes(again, config) == {}


MISTAKES = [
    # text, where, what the message names, what the hint or message says
    ("iteration: 3", ":1", "iteration", "Did you mean iterations?"),
    ("modle: x", ":1", "modle", "Did you mean model?"),
    ("\n\nseeds: 1", ":3", "seeds", "Did you mean seed?"),
    ("prompts:\n  cuont: 3", ":2", "prompts.cuont", "Did you mean count?"),
    ("prompts:\n  count: 3\n  temprature: 1.0", ":3", "prompts.temprature", "temperature?"),
    ("prompts:\n  rouge_max: 0.7", ":2", "prompts.rouge_max", "Did you mean rouge_l_max?"),
    ("responses: {N: 4, num: 2}", ":1", "responses.", "Known keys: n,"),
    ("judge:\n  template: x\n  vote: 3", ":3", "judge.vote", "Did you mean votes?"),
    ("judge:\n  forms: written", ":2", "judge.forms", "Did you mean form?"),
    ("pairs:\n\n  margin: 1.0", ":3", "pairs.margin", "Did you mean min_margin?"),
    ("sft:\n  ift:\n    pth: a.jsonl", ":3", "sft.ift.pth", "Did you mean path?"),
    ("sft:\n  eft: {path: a, limits: 3}", ":2", "sft.eft.limits", "Did you mean limit?"),
    ("prompts:\n  seeds: {path: a, colums: {}}", ":2", "prompts.seeds.colums", "columns?"),
    ("xyzzy: 1", ":1", "xyzzy", "Known keys: model,"),
    ("iterations: two", ":1", "iterations", "found 'two'"),
    ("iterations: '2'", ":1", "iterations", "found '2'"),
    ("iterations: true", ":1", "iterations", "found True"),
    ("iterations: -1", ":1", "iterations", "greater than or equal to 0"),
    ("seed: 1.5", ":1", "seed", "found 1.5"),
    ("model: 7", ":1", "model", "found 7"),
    ("trust_remote_code: 1", ":1", "trust_remote_code", "found 1"),
    ("judge:\n  form: spoken", ":2", "judge.form", "'function' or 'imported'"),
    ("judge:\n  jury:\n    - {modle: x}", ":3", "judge.jury.0.modle", "Did you mean model?"),
    (
        "judge:\n  jury:\n    - {weight: -1}",
        ":3",
        "judge.jury.0.weight",
        "greater than or equal to 0",
    ),
    ("pairs:\n  rule: anchored", "", "pairs.rule=anchored", "responses.anchors=0"),
    ("judge:\n  temperature: warm", ":2", "judge.temperature", "found 'warm'"),
    ("judge:\n  min_parse_rate: 95", ":2", "judge.min_parse_rate", "less than or equal to 1"),
    ("responses:\n  n: 0", ":2", "responses.n", "greater than or equal to 1"),
    ("responses:\n  n: 1", ":1", "responses", "n=1 makes no pair"),
    ("responses:\n  top_p: 0", ":2", "responses.top_p", "greater than 0"),
    ("dpo:\n  beta: .inf", ":2", "dpo.beta", "finite"),
    ("dpo:\n  beta: .nan", ":2", "dpo.beta", "found nan"),
    ("dpo:\n  learning_rate: 1e400", ":2", "dpo.learning_rate", "finite"),
    ("prompts:\n  keywords:\n    - image\n    - 3", ":4", "prompts.keywords.1", "found 3"),
    ("prompts: [1, 2]", ":1", "prompts", "found [1, 2]"),
    ("lora: all", ":1", "lora", "found 'all'"),
    ("dpo: null", ":1", "dpo", "found None"),
    ("sft:\n  ift: {limit: 3}", ":2", "sft.ift.path", "required"),
    ("3: 4", ":1", "'3' of type int", "a key must be a word"),
    ("seed: 1\nseed: 2", ":2", "seed", "already on line 1"),
    ("dpo:\n  beta: 0.1\n  x: 1\n  beta: 0.2", ":4", "beta", "already on line 2"),
    ("dpo:\n  a: {b: 1, b: 1}", ":2", "b", "already on line 2"),
    ("seed: 1\n  x: 2", ":2", "", "not valid YAML"),
    ("seed: [1, 2", ":1", "", "not valid YAML"),
    ("seed: 'a", ":1", "", "not valid YAML"),
    ("\tseed: 1", ":1", "", "not valid YAML"),
    ("seed: *x", ":1", "", "not valid YAML"),
    ("seed: 1\n---\nseed: 2", ":2", "", "not valid YAML"),
    ("seed: !!python/object/apply:os.system ['true']", ":1", "", "a value of type python"),
    ("dpo: {start: !!binary YQ==}", ":1", "", "a value of type binary"),
    ("model: !!set {a}", ":1", "", "a value of type set"),
    ('seed: 1\nsystem_prompt: "\\ud83d"', ":2", "", "half of a surrogate pair"),
    ('"\\ud83d": 1', ":1", "", "is no text"),
    ("dpo: {start: !!int ''}", "", "", "not valid YAML"),
    ("seed: \x00", "", "", "not valid YAML"),
    ("? [a, b]\n: 1", ":1", "", "key must be a word"),
    ("- model", "", "", "mapping of keys, found list"),
    ("just words", "", "", "mapping of keys, found str"),
    ("", "", "", "mapping of keys, found NoneType"),
]


@pytest.mark.parametrize(("text", "where", "key", "says"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line_with_file_line_key_and_what_was_meant(
    tmp_path: Path, text: str, where: str, key: str, says: str
) -> None:
    error = refusal(tmp_path, text)
    assert f"run.yaml{where}" in error.message
    assert key in error.message
    assert says in f"{error.message} {error.hint}"


def test_a_config_is_read_alike_with_and_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*(ROOT / "runs").glob("*.yaml"), *(ROOT / "runs" / "experiments").glob("*.yaml")]
    fast = {path: yamlfile.read_yaml(path) for path in files}
    assert len(fast) > 15
    monkeypatch.setattr(yamlfile, "_FastLoader", yamlfile._Loader)
    assert {path: yamlfile.read_yaml(path) for path in files} == fast


def test_a_file_that_is_no_utf8_or_is_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(path)
    path.write_bytes(b"model: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)
    with pytest.raises(ConfigError) as error:
        config_file("quickstat")
    assert "quickstart" in error.value.hint


@pytest.mark.parametrize(
    "number", ["1e-6", "1E-6", "1.0e-6", "1.e-6", "0.000001", "+1e-6", ".1e-5"]
)
def test_a_number_in_any_spelling_is_a_number(tmp_path: Path, number: str) -> None:
    assert read(tmp_path, f"dpo: {{learning_rate: {number}}}").dpo.learning_rate == 1e-6
    assert build_config({}, [f"dpo.learning_rate={number}"]).dpo.learning_rate == 1e-6


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {
    "billion laughs": LAUGHS,
    "a mapping that holds itself": "a: &a {x: *a}",
    "a list that holds itself": "a: &a [*a]",
    "deep lists": "a: " + "[" * 20_000 + "]" * 20_000,
    "deep mappings": "a: " + "{b: " * 20_000 + "1" + "}" * 20_000,
    "a file of megabytes": "a: [" + "1, " * 2_000_000 + "1]",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once(tmp_path: Path, bomb: str) -> None:
    begin = time.perf_counter()
    refusal(tmp_path, bomb)
    assert time.perf_counter() - begin < 1


def test_overrides_win_over_the_file_and_reach_every_depth(tmp_path: Path) -> None:
    config = read(
        tmp_path, "iterations: 5\nsft: {ift: {path: a, limit: 3}}",
        "iterations=1", "engine.kind=transformers", "dpo.learning_rate=5e-7", "sft.ift.limit=9",
        "engine.inter_threads=2", "judge={form: expected}", "lora.r=8", "system_prompt=a=b",
    )  # fmt: skip
    assert (config.iterations, config.engine.kind, config.dpo.learning_rate) == (
        1, "transformers", 5e-7,
    )  # fmt: skip
    assert config.sft is not None and config.sft.ift is not None
    assert (config.sft.ift.path, config.sft.ift.limit) == ("a", 9)
    assert config.engine.options == {"inter_threads": 2}
    assert config.judge.form == "expected"
    assert config.lora == {"r": 8}
    assert config.system_prompt == "a=b"


def test_an_override_can_take_a_group_away() -> None:
    assert build_config({}, ["sft=null"]).sft is None


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("iterations", "dpo.learning_rate=5e-7"),
        ("=3", "dpo.learning_rate=5e-7"),
        ("iterations=many", "override iterations=many"),
        ("iteration=3", "Did you mean iterations?"),
        ("dpo.beta=", "override dpo.beta="),
        ("judge.form=]", "override judge.form=]:1: not valid YAML"),
        ("sft.ift={path:", "quote the whole, 'sft.ift={...}'"),
        ("dpo.beta", "No space around the ="),
        ("learning_rate=1", "mean dpo.learning_rate or rloo.learning_rate or grpo.learning_rate?"),
        ("engine=vllm", "such as engine.kind; it has kind, concurrency"),
        ("sft.ift=3", "such as sft.ift.path; it has path, split"),
        ("dpo=3", "dpo: is a group of keys, found 3"),
        ("model.x=3", "'model' is a value"),
    ],
)
def test_a_wrong_override_is_named(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({"model": "m"}, [word])
    assert says in f"{error.value.message} {error.value.hint}"


def test_an_override_changes_no_other_key_that_shares_an_alias(tmp_path: Path) -> None:
    config = read(
        tmp_path, "sft:\n  ift: &s {path: a}\n  eft: *s\n", "sft.ift.limit=3"
    )  # fmt: skip
    assert config.sft is not None and config.sft.eft is not None
    assert config.sft.eft.limit is None


def test_building_a_config_leaves_its_data_alone() -> None:
    data: dict[str, object] = {"dpo": {"beta": 0.2}}
    build_config(data, ["dpo.beta=0.3", "seed=2"])
    assert data == {"dpo": {"beta": 0.2}}


def test_options_of_libraries_pass_by_their_own_names(tmp_path: Path) -> None:
    config = read(tmp_path, "sft: {learning_rate: 3e-5}\ndpo: {loss_type: sigmoid, beta: 0.2}")
    assert config.sft is not None
    assert config.sft.options == {"learning_rate": 3e-5}
    assert config.dpo.options == {"beta": 0.2, "learning_rate": 1e-6, "loss_type": "sigmoid"}


def test_changed_keys_are_named_with_dots() -> None:
    old = build_config({})
    assert changes(old, old) == {}
    new = build_config({}, ["dpo.beta=0.2", "engine.device=cpu", "lora={}", "prompts.count=3"])
    assert set(changes(old, new)) == {
        "dpo.beta", "engine.device", "lora", "prompts.count",
    }  # fmt: skip


def test_a_short_source_is_a_path(tmp_path: Path) -> None:
    config = read(tmp_path, "sft: {ift: rows.jsonl}")
    assert config.sft is not None and config.sft.ift is not None
    assert config.sft.ift.path == "rows.jsonl"


def test_a_run_from_before_votes_came_in_sets_goes_on_to_combine_them(tmp_path: Path) -> None:
    path = tmp_path / "config.resolved.yaml"
    config = build_config({}, ["sft.selection={votes: 3}"])
    path.write_text(dump_config(config))
    assert load_copy(path) == config and config.selection is not None
    assert not config.selection.combine
    path.write_text(dump_config(config).replace("    combine: false\n", ""))
    old = load_copy(path).selection
    assert old == config.selection.model_copy(update={"combine": True})
    path.write_text(dump_config(build_config({})))
    assert load_copy(path) == build_config({})


def test_a_source_in_its_short_form_takes_the_keys_of_the_long_one() -> None:
    for data in ({"sft": {"ift": "mine.json"}}, {}):
        words = ["sft.ift=mine.json"] if not data else []
        short = build_config(dict(data), [*words, "sft.ift.limit=24"])
        assert short == build_config({"sft": {"ift": {"path": "mine.json", "limit": 24}}})
    with pytest.raises(ConfigError, match="'template' is a value"):
        build_config({}, ["judge.template=x", "judge.template.limit=3"])


def test_a_config_that_is_not_there_is_told_by_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "first.yaml").write_text("{}")
    for name, says in (
        ("mine", "Configs in it: mine/first.yaml"),
        ("mine/frist.yaml", "Did you mean mine/first.yaml"),
        ("quikstart", "Did you mean quickstart"),
        ("nothing/alike", "Recipes: constraints, cream"),
    ):
        with pytest.raises(ConfigError) as error:
            config_file(name)
        assert says in error.value.hint, name


def test_what_is_wrong_with_a_group_is_said_without_pydantics_words_or_the_whole_group() -> None:
    with pytest.raises(ConfigError) as error:
        build_config({}, ["judge.jury=[{imported: x, model: y}]"])
    assert error.value.message == (
        "override judge.jury=[{imported: x, model: y}]: judge.jury.0: model=y goes without "
        "imported: no model is asked"
    )


@pytest.mark.parametrize(
    ("words", "is_kept", "sleeps"),
    [
        ([], False, False),
        (["launch.keep_engine=true"], True, False),
        (["launch={engine_devices: '0', train_devices: '1'}"], True, False),
        (["launch={engine_devices: '0,1', train_devices: '1'}"], False, False),
        (["engine={kind: vllm, enable_sleep_mode: true}"], True, True),
        (["engine={kind: vllm, enable_sleep_mode: false}"], False, False),
        (
            ["engine={kind: vllm, enable_sleep_mode: true}", "launch.keep_engine=false"],
            False,
            False,
        ),
        (
            ["engine={kind: vllm, enable_sleep_mode: true}",
             "launch={engine_devices: '0', train_devices: '1'}"], True, False,
        ),
    ],
)  # fmt: skip
def test_an_engine_is_kept_where_it_is_in_nobodys_way(
    words: list[str], is_kept: bool, sleeps: bool
) -> None:
    config = build_config({}, words)
    assert (config.engine_is_kept, config.engine_sleeps) == (is_kept, sleeps)


@pytest.mark.parametrize("value", ["016", "1:30", "00", "1:30.5"])
def test_what_is_a_number_in_yaml_1_1_alone_is_none(value: str) -> None:
    assert parse_overrides([f"a={value}"]) == [(("a",), value)]
    with pytest.raises(ConfigError, match="valid integer"):
        build_config({}, [f"prompts.count={value}"])


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("train.method=sfd", "Did you mean sft?"),
        ("health.stop_on=[ceilin]", "Did you mean ceiling?"),
        ("quantization={bnb_4bit_quant_type: nf5}", "Did you mean nf4?"),
        ("pairs.rule=nearest", 'Its default is "best_worst".'),
        ("best.by=null", 'Its default is "win_rate".'),
        ("dpo.learning_rate=-1", "Its default is 1e-06."),
        ("judge.jury=[{model: x, votes: 0}]", "Its default is 3."),
        ("health.stop_on=3", "Its default is []."),
        ("health.stop_on=canaries", "As a list: [canaries]."),
        ("judge.scale=[1]", ""),  # a part of a value, which has none
    ],
)
def test_a_value_that_is_refused_is_told_with_what_may_have_been_meant_or_the_default(
    word: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({}, [word])
    assert error.value.hint == hint


@pytest.mark.parametrize("place", ["1", "9" * 5000, "-1", "x", "\u0660"])
def test_a_place_that_a_list_does_not_have_is_told(place: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({}, ["judge.jury=[{model: M1}]", f"judge.jury.{place}.model=x"])
    assert "judge.jury" in error.value.message
