"""No template whatever is told as a bug, and what is accepted can be filled in with any text."""

import random
import re
from pathlib import Path

import pytest

from selfreward.errors import ConfigError
from selfreward.inputs.shipped import prompts_directory
from selfreward.inputs.templates import load_template
from tests.support.fuzz import Draw, Law, damaged_bytes

KINDS = {
    "judge/additive.jinja": ("judge.template", {"prompt", "response"}),
    "judge/expected.jinja": ("judge.template", {"prompt", "response"}),
    "instruct/few_shot.jinja": ("prompts.template", {"demonstrations"}),
    "instruct/worse.jinja": ("sft.selection.template", {"prompt"}),
    "judge/criterion.jinja": ("judge.template", {"prompt", "response", "criterion"}),
}
TEXTS = [
    "",
    "a",
    "</prompt>",
    "{{ prompt }}{% raw %}",
    "\x00\x1b",
    "\ud800",
    "\u2028\n",
    "5",
    "x" * 300_000,
]


TAGS = [
    "{{ prompt }}", "{{ response }}", "{{ demonstrations }}", "{{ x }}", "{{ prompt | length }}",
    "{{ prompt | tojson }}", "{{ prompt[0] }}", "{{ prompt[:9] }}", "{{ prompt['a'] }}",
    "{{ 1 / 0 }}",
    "{{ prompt * 9 }}", "{{ 9 ** 9 ** 9 }}", "{{ prompt.upper() }}", "{{ ''.__class__ }}",
    "{{ 1 + prompt }}",
    "{{ prompt - 1 }}", "{{ demonstrations[0] }}", "{{ demonstrations[99] }}",
    "{{ demonstrations | first }}",
    "{{ loop.index }}", "{{ self }}", "{{ self.user() }}", "{{ super() }}", "{{ caller() }}",
    "{{ range(9) }}",
    "{{ -1 }}", "{{ not prompt }}", "{{ prompt is defined }}", "{{ prompt in prompt }}",
    "{{ 'a' 'b' }}",
    "{{ prompt if response else 3 }}", "{{ prompt if response }}", "{{ none }}", "{{ true }}",
    "{{ () }}",
    "{{ (1, 2) }}", "{{ {} }}", "{{ [] }}", "{{ prompt ~ response }}",
    "{{ '%s' | format(prompt) }}",
    "{{ prompt | first | last }}", "{{ 3 | upper }}", "{{ 3 | length }}", "{{ 3 | first }}",
    "{{ 3[0] }}",
    "{{ prompt < 3 }}", "{{ demonstrations < prompt }}", "{{ prompt == 3 == 3 }}",
    "{{ 1 + 1 - 1 }}", "{{",
    "}}", "{%", "%}", "{#", "#}", "{{ }}", "{% %}", "{% x %}", "{% raw %}", "{% endraw %}",
    "{% if prompt %}",
    "{% endif %}", "{% else %}", "{% elif 1 %}", "{% for d in demonstrations %}",
    "{% for p in prompt %}",
    "{% for d in demonstrations if d %}", "{% for a, b in demonstrations %}", "{% endfor %}",
    "{% break %}",
    "{% for d in demonstrations recursive %}", "{% block user %}", "{% block started %}",
    "{% block x %}",
    "{% block user scoped %}", "{% block user required %}", "{% endblock %}", "{% endblock x %}",
    "{% set x = 1 %}",
    "{% macro f() %}", "{% endmacro %}", "{% call f() %}", "{% include 'x' %}", "{% extends 'x' %}",
    "{% import 'x' as y %}", "{% filter upper %}", "{% endfilter %}", "{% autoescape true %}",
    "{% do x %}",
    "{% with x = 1 %}", "{% endwith %}", "{%- -%}", "{%+ if 1 %}", "{{- prompt -}}", "{{ d }}",
    "{{ prompt | }}",
    "{{ prompt | nope }}", "{{ 1 is nope }}", "{{ '\\ud800' }}", "{{ 1e999 }}", "{{ 0x }}",
    "{{ _ }}", "<prompt>",
    "</prompt>", "Score: ", "\x00", "\x1b[2J", "\u2028", "{{ ((((((((((prompt)))))))))) }}",
    "{# a #}",
]  # fmt: skip


def odd_template(draw: Draw, shipped: list[bytes]) -> bytes:
    """A shipped template with bytes or tags changed, or a heap of tags in its blocks."""
    how = draw.random()
    data = draw.choice(shipped)
    if how < 0.35:
        return damaged_bytes(data, draw)
    if how < 0.75:
        text = data.decode()
        for _ in range(draw.choice([1, 1, 2, 4])):
            at = draw.choice([m.start() for m in re.finditer(r"\n|\{[{%]|[}%]\}|$", text)])
            text = text[:at] + draw.choice(TAGS) + text[at:]
        return text.encode(errors="surrogatepass")
    heap = "".join(draw.choice(TAGS) for _ in range(draw.randrange(1, 8)))
    return f"{{% block user %}}{{{{ prompt }}}}{{{{ response }}}}{heap}{{% endblock %}}".encode(
        errors="surrogatepass"
    )


def check(law: Law, tmp_path: Path, cases: range) -> None:
    for case in cases:
        draw = random.Random(case)
        name = draw.choice(list(KINDS))
        key, variables = KINDS[name]
        path = tmp_path / f"{case}.jinja"
        path.write_bytes(odd_template(draw, [(prompts_directory() / name).read_bytes()]))
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
                    template.render(
                        **given,
                        **({"demonstrations": shots} if "demonstrations" in variables else {}),
                    )
                except ConfigError as error:
                    assert "internal" not in error.message
        if case % 8 == 0:
            form = {"judge/expected.jinja": "expected", "judge/criterion.jinja": "criteria"}.get(
                name, "written"
            )
            words = [
                "validate",
                "quickstart",
                f"{key}={path}",
                f"judge.form={form}",
                *(["judge.template=judge/additive.jinja"] if key != "judge.template" else []),
            ]
            said = law.obey(words, (case, path.read_bytes()[:500]))
            assert said.code in (0, 2)
            assert accepted or said.code == 2, (case, refusal)
        path.unlink()


@pytest.mark.slow
def test_no_template_whatever_is_told_as_a_bug(law: Law, tmp_path: Path) -> None:
    check(law, tmp_path, range(400))


@pytest.mark.long
@pytest.mark.parametrize("start", range(400, 20_400, 2000))
def test_no_template_of_many_more_is_told_as_a_bug(law: Law, tmp_path: Path, start: int) -> None:
    check(law, tmp_path, range(start, start + 2000))
