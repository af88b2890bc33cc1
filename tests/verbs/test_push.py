"""What is sent to the hub is the committed model, its card and its pairs, and nothing private."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from huggingface_hub import ModelCard

from selfreward.charts.data import ChartData
from selfreward.charts.files import save_overview
from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, IntegrityError, NotFoundError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.records import PreferencePair
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.verbs import card
from selfreward.verbs.hub import send
from selfreward.verbs.pairs import pairs_of, pairs_text
from selfreward.verbs.push import Item, look_through, parcels_of, parse_model
from selfreward.verbs.tables import table
from tests.stages.test_meta import META, reply
from tests.support.hub import OWNER, TOKEN, Hub, Repository, running_hub
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL

# huggingface_hub uploads in a way that its HTTP library is to lose.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
WEIGHTS = b"\x00" * 30_000 + b"weights"


class Workers(ScriptedWorkers):
    """Its models have the files of real ones, and some that must not be sent."""

    def train(self, iteration: int, stage: str = "train") -> None:
        from tests.support import loop_driver

        real = loop_driver.durable.seal_directory

        def seal(directory: Path, **more: object) -> str:
            if directory.parent.name == "models":
                for name, content in FILES.items():
                    (directory / name).parent.mkdir(exist_ok=True)
                    (directory / name).write_bytes(content)
            return real(directory, **more)  # type: ignore[arg-type]

        loop_driver.durable.seal_directory = seal
        try:
            super().train(iteration, stage)
        finally:
            loop_driver.durable.seal_directory = real


SENT = {"model.safetensors": WEIGHTS, "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}"}  # fmt: skip
KEPT = {"optimizer.pt": b"x", "training_args.bin": b"x", "train.log": b"x",
        "adapter/adapter_config.json": b"{}", "rng_state.pth": b"x"}  # fmt: skip
FILES = {**SENT, **KEPT}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        run = create_run(build_config({}, [*SMALL, "iterations=2"]), "tiny")
        launch(run, lambda: None, Workers(run))
    return root


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SELFREWARD_RUNS", str(root))
    return Run(root / "tiny")


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    shutil.copytree(run.path, tmp_path / "copy")
    return Run(tmp_path / "copy")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as found:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # it wants a server of its own
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def test_what_arrives_is_what_was_listed_and_is_private(
    run: Run, hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert invoke(["push", "tiny:M2", f"{OWNER}/mine", "--pairs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["private"] is True
    assert found["addresses"][0].startswith(f"{hub.url}/{OWNER}/mine/commit/")
    model = hub.repositories["models", f"{OWNER}/mine"]
    data = hub.repositories["datasets", f"{OWNER}/mine-pairs"]
    assert model.private and data.private
    assert model.commits == ["M2 of tiny"]
    for parcel, repository in zip(found["parcels"], (model, data), strict=True):
        sizes = {name: len(content) for name, content in repository.files.items()}
        assert {item["name"]: item["bytes"] for item in parcel["items"]} == sizes
    assert {name: model.files[name] for name in SENT} == SENT
    assert model.files.keys() == SENT.keys() | {"README.md", "scores.png"}
    assert model.files["scores.png"].startswith(b"\x89PNG")
    assert data.files.keys() == {"README.md", "data/iteration-1.parquet"}
    (tmp_path / "a.parquet").write_bytes(data.files["data/iteration-1.parquet"])
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet") == table(run, "pairs", 1)


def test_pairs_of_judgments_go_with_the_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the iterations that trained on them."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    made = create_run(build_config({}, META), "x")
    launch(made, lambda: None, Workers(made, reply=reply))
    _, data = parcels_of(made, 3, "o/m", tmp_path, pairs=True)
    files = {item.name: Path(item.path) for item in data.items}
    assert list(files) == [
        "README.md", *(f"{of}/iteration-{t}.parquet" for of, t in (("data", 1), ("data", 2))),
        "judgments/iteration-1.parquet",
    ]  # fmt: skip
    sent = pyarrow.parquet.read_table(files["judgments/iteration-1.parquet"])
    assert sent.num_rows and sent == table(made, "judge_pairs", 1)
    text = files["README.md"].read_text(encoding="utf-8")
    configs = yaml.safe_load(text.split("---")[1])["configs"]
    assert [c["data_files"][0]["path"] for c in configs] == [
        "data/*.parquet",
        "judgments/*.parquet",
    ]
    assert f"| `judgments/iteration-1.parquet` | M1 | M2 | {sent.num_rows:,} |" in text
    explained = [
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in sent.schema.names
        if f"`{name}`" in line.split("|")[1]
    ]
    assert set(explained) == set(sent.schema.names)


@pytest.mark.slow
def test_a_push_again_goes_into_the_same_repository(run: Run, hub: Hub) -> None:
    for _ in range(2):
        assert invoke(["push", "tiny:M1"]) == 0
    assert len(hub.repositories["models", f"{OWNER}/tiny-M1"].commits) == 2


@pytest.mark.slow
def test_only_public_makes_or_fills_a_public_repository(
    run: Run, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["models", f"{OWNER}/open"] = there = Repository(private=False)
    assert invoke(["push", "tiny:M1", f"{OWNER}/open"]) == ConfigError.exit_code
    assert f"{OWNER}/open exists and is public; nothing was sent" in capsys.readouterr().err
    assert not there.files
    assert invoke(["push", "tiny:M1", f"{OWNER}/open", "--public"]) == 0
    assert there.files
    assert invoke(["push", "tiny:M1", f"{OWNER}/new", "--public"]) == 0
    assert not hub.repositories["models", f"{OWNER}/new"].private


def test_a_dry_run_lists_the_files_and_makes_no_request(
    run: Run, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert invoke(["push", "tiny:M2", "--pairs", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert hub.requests == []
    assert "model tiny-M2 (private, " in text
    assert "model.safetensors" in text and "30 kB" in text
    assert not any(name in text for name in KEPT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ({}, "refuses the token (401)"), ({"/api/repos/create": 403}, "refuses the token (403)"),
        ({"/preupload/": 400}, "answers 400: "), ({"/lfs/": 400}, "answers 400: "),
        ({"/commit/": 500}, "answers 500: "),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_hub_refuses_is_one_line(
    run: Run, hub: Hub, fails: dict[str, int], said: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not fails:
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    hub.fails = fails
    assert invoke(["push", "tiny:M1", f"{OWNER}/mine"]) == PreflightError.exit_code
    first, second, *more = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: push: {hub.url} ")
    assert said in first
    assert second.startswith("hint: ")
    assert not more
    assert "hf_x" not in first + second


def test_a_hub_that_cannot_be_reached_is_one_line(
    run: Run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    parcels = parcels_of(run, 1, None, tmp_path, pairs=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PreflightError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        send(parcels, public=False)


def test_without_a_token_nothing_is_asked(
    run: Run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(PreflightError, match="no token"):
        send((), public=False)
    assert hub.requests == []


# What must not go


def reseal(run: Run, number: int) -> None:
    """Let an altered model be the one that was committed."""
    import sqlite3

    directory = run.model_directory(number)
    (directory / "MANIFEST.json").unlink()
    digest = durable.seal_directory(directory)
    db = sqlite3.connect(run.records)
    db.execute(
        "UPDATE stages SET digest = ? WHERE stage = 'train' AND iteration = ?", (digest, number - 1)
    )
    db.commit()
    db.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", '{"a": "hf_' + "a" * 30 + '"}', "config.json, line 1: holds an access"),
        ("config.json", '{\n"a": "/home/jo/models/x"}', "line 2: holds the path '/home/jo/"),
        ("chat_template.jinja", "see https://jo:pw@host/", "holds an address with a password"),
        ("tokenizer.json", '{"a": "RUN/models"}', "tokenizer.json, line 1: holds the path"),
        ("config.json", '"C:\\\\Users\\\\jo"', "holds the path"),
    ],
)  # fmt: skip
def test_a_file_with_a_secret_or_a_path_is_refused_by_name(
    copy: Run, tmp_path: Path, name: str, text: str, said: str
) -> None:
    if "C:" in text:
        text = text.replace("\\\\", "\\")
    path = copy.model_directory(1) / name
    path.write_text(text.replace("RUN", str(copy.path.resolve())))
    reseal(copy, 1)
    (tmp_path / "work").mkdir()
    with pytest.raises(ConfigError) as error:
        parcels_of(copy, 1, None, tmp_path / "work", pairs=False)
    assert said in error.value.message
    assert "a" * 30 not in error.value.message


def test_a_pair_with_a_secret_is_refused_with_its_row(copy: Run, tmp_path: Path) -> None:
    import sqlite3

    db = sqlite3.connect(copy.records)
    db.execute(
        "UPDATE responses SET text = ? WHERE rowid = (SELECT r.rowid FROM responses AS r JOIN "
        "pairs AS p ON r.iteration = p.iteration AND r.attempt = p.attempt AND r.sample = p.chosen "
        "WHERE p.iteration = 1 ORDER BY p.attempt LIMIT 1)",
        ("my key: sk-" + "a" * 24,),
    )
    db.commit()
    db.close()
    with pytest.raises(ConfigError, match=r"data/iteration-1.parquet, row 1: holds an access"):
        parcels_of(copy, 2, None, tmp_path, pairs=True)


def test_words_about_paths_in_data_and_addresses_are_no_paths_of_ours(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('["/home/user", "/root/.bashrc"]')
    look_through(run, Item("tokenizer.json", str(path), 1))
    card_file = tmp_path / "README.md"
    card_file.write_text("https://example.com/home/jo and a/home/b and ./root/x\n")
    look_through(run, Item("README.md", str(card_file), 1))


def test_a_model_that_is_not_the_committed_one_is_not_sent(copy: Run, tmp_path: Path) -> None:
    path = copy.model_directory(1) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="content differs"):
        parcels_of(copy, 1, None, tmp_path, pairs=False)


@pytest.mark.parametrize("word", ["tiny", "tiny:2", "tiny:M0", ":M1", "tiny:M1x"])
def test_what_names_no_model_is_said_in_a_line(word: str) -> None:
    with pytest.raises(ConfigError, match="expected RUN:M1"):
        parse_model(word)


def test_what_is_not_there_is_said_in_a_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no finished model M7"):
        parcels_of(run, 7, None, tmp_path, pairs=False)
    with pytest.raises(ConfigError, match="not a name of a repository"):
        parcels_of(run, 1, "a/b/c", tmp_path, pairs=False)
    with pytest.raises(NotFoundError, match="M1 of run tiny was trained on no pairs"):
        parcels_of(run, 1, None, tmp_path, pairs=True)


# Cards


def test_the_card_has_the_lineage_with_the_digests_that_verify_has(run: Run) -> None:
    text = card.model_card(run, 2, plot=True, pairs="o/p")
    for number in (1, 2):
        assert durable.verify_directory(run.model_directory(number)) in text
    assert durable.verify_directory(run.model_directory(3)) not in text
    assert str(run.base_model()["digest"]) in text
    assert "longer wins" in text and "![Scores" in text
    assert str(run.path) not in text
    read = ModelCard(text)
    assert read.data.datasets == "o/p"
    assert read.data.tags == ["self-rewarding", "sft", "dpo", "selfreward"]
    of_m1 = ModelCard(card.model_card(run, 1, plot=False, pairs=None))
    assert of_m1.data.tags == ["self-rewarding", "sft", "selfreward"]
    assert "license" not in read.data.to_dict()
    assert "it could not be read" in text


def test_the_base_model_and_its_license_are_named_where_they_are_known(copy: Run) -> None:
    facts = copy.base_model() | {"source": "bundled:smollm2-135m", "revision": None}
    durable.write_file(copy.path / "models" / "M0.json", json.dumps(facts))
    read = ModelCard(card.model_card(copy, 1, plot=False, pairs=None)).data
    assert (read.base_model, read.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    base = copy.path / "models" / "M0"
    (base / "README.md").write_text("---\nlicense: mit\n---\nhello\n")
    facts |= {"source": "org/model", "revision": "abc", "path": str(base)}
    durable.write_file(copy.path / "models" / "M0.json", json.dumps(facts))
    read = ModelCard(card.model_card(copy, 1, plot=False, pairs=None)).data
    assert (read.base_model, read.license) == ("org/model", "mit")


def test_the_config_in_the_card_names_no_local_file(copy: Run) -> None:
    resolved = yaml.safe_load(copy.resolved.read_text())
    resolved["model"], resolved["sft"]["ift"]["path"] = "/home/jo/m", "~/x.jsonl"
    copy.resolved.write_text(yaml.safe_dump(resolved))
    text = card.model_card(copy, 1, plot=False, pairs=None)
    assert "/home/jo" not in text and "~/x" not in text
    assert text.count("(a local file or an endpoint)") == 2


def test_a_template_cannot_end_its_block_in_the_card(copy: Run) -> None:
    path = next(iter(copy.path.glob("templates/judge*.jinja")))
    path.write_text(path.read_text() + "\n````\n# owned\n")
    text = card.model_card(copy, 1, plot=False, pairs=None)
    assert "`````jinja\n" in text


def test_the_card_of_the_pairs_says_that_models_wrote_them(run: Run) -> None:
    text = card.pairs_card(run, 3, "o/m", {1: 4, 2: 5})
    data = yaml.safe_load(text.split("---")[1])
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert "Prompts and answers are written by models" in text and "nobody checked" in text
    assert "| `data/iteration-2.parquet` | M2 | M3 | 5 |" in text


def test_the_card_says_which_texts_of_the_pairs_are_of_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    data = "prompts.dataset={path: seed/ift.jsonl, columns: {demonstration: response}}"
    for number, more in enumerate(([], ["responses.demonstrations=true"])):
        made = create_run(build_config({}, [*SMALL, data, *more]), f"run{number}")
        durable.write_file(
            made.path / "models" / "M0.json", json.dumps({"path": "m", "digest": "0" * 64})
        )
        text = " ".join(card.pairs_card(made, 1, None, {}).split())
        assert "The prompts are those of `seed/ift.jsonl`." in text
        assert "are written by models" not in text and "Prompts of the seed data" not in text
        assert ("is a person's" in text) == bool(more)
        assert "nobody checked them" in text
        theirs = "the prompts and people's answers" if more else "the prompts"
        assert f"What is of `seed/ift.jsonl`, {theirs}, has the license" in text


def test_the_card_names_those_whose_scores_came_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    made = create_run(build_config({}, [*SMALL, "judge.jury=[{imported: people}]"]), "run")
    durable.write_file(
        made.path / "models" / "M0.json", json.dumps({"path": "m", "digest": "0" * 64})
    )
    text = " ".join(card.pairs_card(made, 1, None, {}).split())
    assert "those of `people`, which came from elsewhere" in text and "nobody checked" not in text


def test_a_plot_holds_no_iteration_after_the_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    def save(data: ChartData, path: Path, title: str) -> None:
        drawn.append([each.iteration for each in data.iterations])
        save_overview(data, path, title)

    monkeypatch.setattr("selfreward.charts.files.save_overview", save)
    for number, sent in ((1, ["README.md"]), (2, ["README.md", "scores.png"])):
        (work := tmp_path / str(number)).mkdir()
        [model] = parcels_of(run, number, "o/m", work, pairs=False)
        assert [item.name for item in model.items][: len(sent)] == sent
        assert ("scores.png" in (work / "README.md").read_text()) == (number > 1)
    assert drawn == [[0], [0, 1]]


def test_a_run_whose_base_model_is_not_known_any_more_is_one_line(copy: Run) -> None:
    (copy.path / "models" / "M0.json").unlink()
    with pytest.raises(IntegrityError, match=r"M0\.json: is not there"):
        card.model_card(copy, 1, plot=False, pairs=None)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.preferences=seed/heldout.jsonl", "answers that people preferred to others by DPO"),
        ("train.method=sft", "learns from the best by SFT"),
    ],
)
def test_pairs_that_no_model_learned_from_are_not_sent_as_such(
    word: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    words = ["iterations=1", "evaluation.ranked=null", "dpo.max_length=9999", word]
    made = create_run(build_config({}, [*SMALL, *words, "train.sft.max_length=9999"]), "other")
    launch(made, lambda: None, Workers(made))
    (work := tmp_path / "work").mkdir()
    with made.store() as store:
        assert store.records(PreferencePair, 1)
    with pytest.raises(NotFoundError, match="M2 of run other was trained on no pairs of its own"):
        parcels_of(made, 2, None, work, pairs=True)
    assert said in card.model_card(made, 2, plot=False, pairs=None)
    shown = pairs_of(made, 1)
    assert shown["pairs"] and "pairs not trained on: all" in pairs_text(shown, 1)
