import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_run import make_recipe, over_seeds

from gpt_core.artifact import Artifact
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from gpt_core.report.page import render_report

HEADLINE = [
    *("8,580", "of 26,801 (32.0%)", "3,546,869", "1,366,784", "4.305", "1.702"),
    *(
        "83.9%",
        "from scratch 73.6%, bag of words 77.5%, majority 31.3%",
        "+10.3",
        "points of accuracy; 95%: 6.4 to 14.2",
    ),
]
LIKELIHOOD = {"loss": 4.3, "bits_per_byte": 1.7, "perplexity": 73.7, "tokens": 69_888}
FETCHING = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background"}
# what a browser loads, runs or follows by itself
ACTIVE = {"script", "iframe", "object", "embed", "img", "video", "audio", "base", "form"}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def titles(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


def test_every_figure_of_the_headline_stands_on_the_page(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    html = render_report(recipe, artifacts)
    tiles = html[html.index('<dl class="tiles">') : html.index("</dl>")]
    assert [figure for figure in HEADLINE if figure not in tiles] == []


def test_every_count_of_the_manifests_is_told_with_its_balance(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    text = Page(render_report(recipe, artifacts)).text
    for told in ("\u221216,197 \u00b7 60.4%", "\u22121,734", "\u2212173", "\u221243", "\u22125 ", "\u221267"):
        assert told in text
    assert 26_801 - 16_197 - 1_734 - 173 - 43 - 2 - 5 - 67 == 8_580 == 8_410 + 170


def test_what_the_rules_measured_and_the_duplicates_stand_on_the_page(
    recipe: Recipe, artifacts: dict[str, Artifact]
) -> None:
    text = Page(render_report(recipe, artifacts)).text
    for told in (
        "Wanted: at least 2. Rejected: 40 by gopher_quality.min_stop_words.",
        "Wanted: at least 50 and at most 100,000. Rejected: none.",
        "e-mail addresses",
        "topics.test.jsonl web-9",
        "1.23 kB",
        "3 different lines stood in too many documents: dropped 40 times from 38 documents",
        "web, for web-7, web-8, web-9, web-10, web-11 and 1 more",
        "0.5 to 0.55 similarity; 0 duplicates; 30 not alike enough",
    ):
        assert told in text, told


def test_what_the_tokenizer_measured_stands_on_the_page(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    text = Page(render_report(recipe, artifacts)).text
    for told in (
        "4,096 tokens, 2 of them special, learned from 13.2 MB of 8,580 documents; the model's",
        "embedding has 4,224 rows.",
        "In 5,201 documents (8 MB) a token stands for 3.71 bytes.",
        "3.60 \u00b7 3.17 MB measured",
        "not stated",
        "those that do not occur in the measured documents (3, and 101 single bytes)",
        "\u2423representatives",
        "\\n\\n\\t\\u2028",
        "\\xe2\\x80",
    ):
        assert told in text, told


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({}, "64 tokens, temperature 0.8, top-k 50, seed 0."),
        ({"top_k": 0, "top_p": 0.9, "seed": 3}, "64 tokens, temperature 0.8, top-k off, top-p 0.9, seed 3."),
        ({"temperature": 0, "stop": ("\n", "##")}, "64 tokens, the likeliest token each time, up to '\\n' or '##'."),
    ],
)
def test_the_samples_say_how_they_were_drawn(
    recipe: Recipe, artifacts: dict[str, Artifact], settings: dict[str, object], how: str
) -> None:
    drawn = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=settings)})
    assert how in Page(render_report(drawn, artifacts)).text


def test_an_existing_tokenizer_is_told_by_its_path(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    for name in ("sample_documents", "sample_bytes"):
        artifacts["tokenizer"].manifest.counts.pop(name)
    given = {**recipe.model_dump(mode="json"), "tokenizer": {"path": "/models/gpt2"}}
    text = Page(render_report(parse_recipe(given, origin="a test"), artifacts)).text
    assert "4,096 tokens, 2 of them special, taken from /models/gpt2; the model's embedding" in text


def test_a_document_cannot_put_markup_on_the_page(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    html = render_report(recipe, artifacts)
    assert "&lt;script&gt;alert" in html
    assert "set of all &lt;b&gt;numbers&lt;/b&gt;" in html
    assert {tag for tag, _ in Page(html).tags} & ACTIVE == set()


def test_a_source_cannot_put_markup_into_a_chart(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    stats = artifacts["shards"].root / "stats.json"
    stats.write_text(json.dumps({"sources": {"</svg><script>x</script>\x00": {"train_tokens": 5}}}))
    html = render_report(recipe, artifacts)
    assert "<script" not in html
    assert "&lt;/svg&gt;&lt;script&gt;x&lt;/script&gt;\ufffd" in html


def test_a_browser_fetches_nothing(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    html = render_report(recipe, artifacts)
    links = [value for _, attributes in Page(html).tags for name, value in attributes.items() if name in FETCHING]
    assert [link for link in links if link != "data:," and not (link or "").startswith("#")] == []
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html


def test_every_chart_is_well_formed_and_has_a_title(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    html = render_report(recipe, artifacts)
    charts = [ElementTree.fromstring(chart) for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]  # noqa: S314
    assert len(charts) == 27
    names = [chart[0].text for chart in charts]
    assert all(chart[0].tag == "{http://www.w3.org/2000/svg}title" for chart in charts)
    assert "Confusion matrix of the fine-tuned model" in names
    assert "nan" not in " ".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))


def test_every_link_of_the_page_has_its_target(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    tags = Page(render_report(recipe, artifacts)).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"] for tag, attributes in tags if tag == "a"} == {f"#{name}" for name in ids}


def test_the_same_inputs_give_the_same_bytes(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    assert render_report(recipe, artifacts) == render_report(recipe, artifacts)


def test_a_run_without_finetune_shows_no_classifier(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    evaluation = artifacts["evaluate"].root / "evaluation.json"
    evaluation.write_text(json.dumps({"language_model": {"total": LIKELIHOOD, "sources": {"web": LIKELIHOOD}}}))
    stopped = parse_recipe({**recipe.model_dump(mode="json"), "finetune": None}, origin="a test")
    del artifacts["finetune"]
    artifacts["evaluate"].manifest.figures.pop("test_accuracy")
    html = render_report(stopped, artifacts)
    assert "Fine-tuning" not in titles(html)
    assert "Evaluation" in titles(html)
    for absent in ("from scratch", "accuracy", "Confusion", "fine-tuned", "worth of pre-training"):
        assert absent not in Page(html).text
    assert "Bits per byte by source" not in html


def test_every_contestant_stands_on_the_page_with_its_interval(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    page = Page(render_report(recipe, artifacts)).text
    for told in (
        "83.9%80.9% to 86.9%0.8230.7593.1%",
        "bag of words: naive Bayes over counts of words77.5%",
        "majority: the most frequent label31.3%",
        "+10.3 points of accuracy, 95% interval 6.4 to 14.2 (1,000 resamples of the test set, paired).",
        "1.860 \u00b7 23,416 tokens",
    ):
        assert told in page.replace("\n", ""), told
    assert "may be chance" not in page


def test_a_lift_whose_interval_holds_zero_may_be_chance(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    change_evaluation(artifacts, lambda task: task["lift"].update(low=-0.01))
    assert "The interval holds 0: the difference may be chance." in Page(render_report(recipe, artifacts)).text


def test_several_seeds_are_told_with_their_spread(artifacts: dict[str, Artifact]) -> None:
    def change(task: dict[str, Any]) -> None:
        task.update(seeds=[4, 5], kept_seed=5)
        task["models"] = {name: over_seeds(it, [0.01, -0.01]) for name, it in task["models"].items()}

    change_evaluation(artifacts, change)
    curves = artifacts["finetune"].root / "curves.json"
    runs = json.loads(curves.read_text())
    curves.write_text(json.dumps({f"seed{seed}.{start}": runs[start] for seed in (4, 5) for start in runs}))
    html = render_report(make_recipe(finetune={"train": "a", "test": "b", "seeds": 2, "seed": 4}), artifacts)
    page = Page(html).text
    for told in ("over 2 seeds", "\u00b1 1.2%", "of the model of seed 5", "Both 2 times, with other seeds."):
        assert told in page, told
    accuracy = re.search(r"<svg[^>]*><title>Validation accuracy</title>.*?</svg>", html, re.DOTALL)
    assert accuracy is not None
    assert accuracy.group().count("<path") == 4


@pytest.mark.parametrize(
    ("task", "target", "figures", "told"),
    [
        (
            {"task": "similarity", "labels": "number"},
            "number",
            {"pearson": 0.5, "spearman": 0.25},
            "of Pearson; 95%: 0.1",
        ),
        ({"task": "completion"}, "text", {"loss": 2.0, "perplexity": 7.389}, "nats per token less; 95%: 0.1"),
        ({"task": "multiple_choice"}, "choice", {"accuracy": 0.5}, "points of accuracy; 95%: 10.0 to"),
        ({"labels": "classes"}, "classes", {"macro_f1": 0.5, "exact_match": 0.25}, "of macro F1; 95%: 0.1"),
    ],
)
def test_every_target_has_its_table_and_its_lift(
    artifacts: dict[str, Artifact], task: dict[str, str], target: str, figures: dict[str, float], told: str
) -> None:
    name = next(iter(figures))
    standing = {"figures": figures, "low": 0.1, "high": 0.9, "seeds": [figures]}

    def change(tree: dict[str, Any]) -> None:
        tree.update(task=task.get("task", "classification"), target=target, headline=name, labels=[])
        tree.update(confusion=[], per_label={}, calibration=[], models={"pretrained": standing, "scratch": standing})

    change_evaluation(artifacts, change)
    artifacts["evaluate"].manifest.figures.update({f"test_{name}": figures[name], "lift": 0.2, "lift_low": 0.1})
    text = Page(render_report(make_recipe(finetune={"train": "a", "test": "b", **task}), artifacts)).text
    assert told in text
    assert "What pre-training is worth" in text
    assert "Confusion matrix" not in text


def test_without_a_corpus_the_page_tells_of_the_task_alone(artifacts: dict[str, Artifact]) -> None:
    tuned = {name: artifacts[name] for name in ("finetune", "evaluate")}
    change_evaluation(tuned, lambda _: None, keep_language=False)
    recipe = make_recipe(corpus=None, finetune={"model": "models/gpt2", "train": "a", "test": "b"})
    html = render_report(recipe, tuned)
    assert "The language model models/gpt2, tuned for classification." in Page(html).text
    assert titles(html)[:2] == ["Fine-tuning", "Evaluation"]
    assert "held-out" not in Page(html).text


def change_evaluation(
    artifacts: dict[str, Artifact], change: Callable[[dict[str, Any]], None], *, keep_language: bool = True
) -> None:
    """evaluation.json says of the task what `change` makes of it."""
    path = artifacts["evaluate"].root / "evaluation.json"
    tree = json.loads(path.read_text())
    change(tree["task"])
    if not keep_language:
        del tree["language_model"]
        figures = artifacts["evaluate"].manifest.figures
        for name in [name for name in figures if name.startswith("validation_")]:
            del figures[name]
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("stages", "shown"),
    [
        ((), ["Recipe"]),
        (("clean",), ["Documents", "Text rules", "Sources and tokens", "Recipe", "Where each number came from"]),
        (("tokenizer", "pretrain"), ["Tokenizer", "Pre-training", "Recipe", "Where each number came from"]),
    ],
)
def test_what_is_not_made_is_left_out(
    recipe: Recipe, artifacts: dict[str, Artifact], stages: tuple[str, ...], shown: list[str]
) -> None:
    html = render_report(recipe, {name: artifacts[name] for name in stages})
    assert titles(html) == shown
    assert "None" not in Page(html).text


def test_provenance_names_stage_fingerprint_folder_commit_versions_and_digests(
    recipe: Recipe, artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    text = Page(render_report(recipe, artifacts)).text
    for artifact in artifacts.values():
        assert artifact.manifest.fingerprint in text
        assert str(artifact.root) in text
    for told in ("2026-03-01 10:06:30", "12.5 s", "20.2", "700 MB", "0123456789abcdef", "pyarrow 21.0.0", "00" * 32):
        assert told in text


def test_the_page_tells_who_encoded_and_where_they_differed(recipe: Recipe, artifacts: dict[str, Artifact]) -> None:
    page = render_report(recipe, artifacts)
    assert "compared with the reference on a sample (41 documents, 32.4 kB)" in page
    assert "The two differed in 1 of 4 blocks, which the reference made: the encoders differ on text 7" in page
