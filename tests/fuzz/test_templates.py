"""No template whatever is told as a bug, and what is accepted can be filled in with any text."""

import random
from pathlib import Path

import pytest

from selfreward.errors import ConfigError
from selfreward.inputs.shipped import prompts_directory
from selfreward.inputs.templates import load_template
from tests.support import fuzz
from tests.support.fuzz import Law, law  # noqa: F401

KINDS = {
    "judge/additive.jinja": ("judge.template", {"prompt", "response"}),
    "judge/expected.jinja": ("judge.template", {"prompt", "response"}),
    "instruct/few_shot.jinja": ("prompts.template", {"demonstrations"}),
    "instruct/worse.jinja": ("sft.selection.template", {"prompt"}),
    "judge/criterion.jinja": ("judge.template", {"prompt", "response", "criterion"}),
}
TEXTS = ["", "a", "</prompt>", "{{ prompt }}{% raw %}", "\x00\x1b", "\ud800", "\u2028\n", "5", "x" * 300_000]


def check(law: Law, tmp_path: Path, cases: range) -> None:
    for case in cases:
        draw = random.Random(case)
        name = draw.choice(list(KINDS))
        key, variables = KINDS[name]
        path = tmp_path / f"{case}.jinja"
        path.write_bytes(fuzz.odd_template(draw, [(prompts_directory() / name).read_bytes()]))
        try:
            template = load_template(path, variables)
        except ConfigError as error:
            accepted, refusal = False, error.message
        else:
            accepted, refusal = True, ""
            for _ in range(3):
                given = {v: draw.choice(TEXTS) for v in variables - {"demonstrations"}}
                shots = [draw.choice(TEXTS) for _ in range(draw.randrange(9))]
                try:
                    template.render(**given, **({"demonstrations": shots} if "demonstrations" in variables else {}))
                except ConfigError as error:
                    assert "internal" not in error.message
        if case % 4 == 0:
            form = {"judge/expected.jinja": "expected", "judge/criterion.jinja": "criteria"}.get(name, "written")
            words = ["validate", "quickstart", f"{key}={path}", f"judge.form={form}",
                     *(["judge.template=judge/additive.jinja"] if key != "judge.template" else [])]
            said = law.obey(words, (case, path.read_bytes()[:500]))
            assert said.code in (0, 2)
            assert accepted or said.code == 2, (case, refusal)
        path.unlink()


def test_no_template_whatever_is_told_as_a_bug(law: Law, tmp_path: Path) -> None:  # noqa: F811
    check(law, tmp_path, range(400))


@pytest.mark.long
@pytest.mark.parametrize("start", range(400, 20_400, 2000))
def test_no_template_of_many_more_is_told_as_a_bug(law: Law, tmp_path: Path, start: int) -> None:  # noqa: F811
    check(law, tmp_path, range(start, start + 2000))
