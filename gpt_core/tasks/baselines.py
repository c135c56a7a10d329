"""What a task is worth without a language model: the majority, and a bag of words.

Both give outputs in the form of a model's, from the same training rows, for `scores.score`. Neither has a setting, so
that they hold for any recipe. A completion has no such baseline. No torch here; scikit-learn is imported where used.

A word is a run of letters and digits, or another sign by itself, in lower case. The words of a pair are marked apart,
and those that both texts have are counted once more as such.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from gpt_core.tasks.scores import Floats, Values
from gpt_core.tasks.spec import Target

MAJORITY: Mapping[Target, str] = {
    "class": "the most frequent label",
    "classes": "the most frequent set of labels",
    "number": "the mean",
    "choice": "the longest choice",
}
BAG_OF_WORDS: Mapping[Target, str] = {
    "class": "naive Bayes over counts of words",
    "classes": "logistic regression for each label over TF-IDF of words",
    "number": "ridge regression over TF-IDF of words",
    "choice": "the choice nearest to the context by TF-IDF of words",
}
NEVER = -1e4  # logit of a label that no training row has

Texts = Sequence[tuple[str, ...]]  # of each row, as in `Row`

_WORD = re.compile(r"\w+|[^\w\s]")


def say_majority(target: Target, labels: Values, texts: Texts, *, n_labels: int) -> Floats | None:
    """The outputs for the rows `texts` of MAJORITY in the training `labels`; None for text.

    The probabilities of a class are its shares of the training rows; of equals the first is the majority.
    """
    if target == "class":
        counts = np.bincount(labels, minlength=n_labels)
        logits = np.log(np.maximum(counts, 1) / counts.sum()) + NEVER * (counts == 0)
        return np.tile(logits, (len(texts), 1))
    if target == "classes":
        ((names, _),) = Counter(map(tuple, labels.tolist())).most_common(1)
        return np.tile(2.0 * np.array(names) - 1.0, (len(texts), 1))
    if target == "number":
        return np.full(len(texts), labels.mean(dtype=np.float64))
    if target == "choice":
        return _pad([[float(len(choice)) for choice in row[1:]] for row in texts])
    return None


def say_bag_of_words(
    target: Target, train_texts: Texts, labels: Values, texts: Texts, *, n_labels: int
) -> Floats | None:
    """The outputs for the rows `texts` of BAG_OF_WORDS, fitted on the training rows; None for text."""
    if target == "class":
        return _naive_bayes(train_texts, labels, texts, n_labels=n_labels)
    if target == "classes":
        return _regress_each(train_texts, labels, texts)
    if target == "number":
        return _regress(train_texts, labels, texts)
    if target == "choice":
        return _nearest(train_texts, texts)
    return None


def words_of(texts: tuple[str, ...]) -> list[str]:
    """The words of one row: of a pair `0 word`, `1 word` and, of each word that both have, `both word`."""
    found = [_WORD.findall(text.lower()) for text in texts]
    if len(found) == 1:
        return found[0]
    marked = [f"{index} {word}" for index, words in enumerate(found) for word in words]
    return marked + [f"both {word}" for word in sorted(set.intersection(*map(set, found)))]


def _naive_bayes(train_texts: Texts, labels: Values, texts: Texts, *, n_labels: int) -> Floats:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    counter = CountVectorizer(analyzer=words_of)
    model = MultinomialNB().fit(counter.fit_transform(train_texts), labels)
    logits = np.full((len(texts), n_labels), NEVER)
    logits[:, model.classes_] = model.predict_log_proba(counter.transform(texts))
    return logits


def _regress_each(train_texts: Texts, labels: Values, texts: Texts) -> Floats:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = TfidfVectorizer(analyzer=words_of)
    train, rows = counter.fit_transform(train_texts), counter.transform(texts)
    logits = np.full((len(texts), labels.shape[1]), NEVER)
    for number, column in enumerate(labels.T > 0):
        if column.all():
            logits[:, number] = -NEVER
        elif column.any():
            logits[:, number] = LogisticRegression(max_iter=1000).fit(train, column).decision_function(rows)
    return logits


def _regress(train_texts: Texts, labels: Values, texts: Texts) -> Floats:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    counter = TfidfVectorizer(analyzer=words_of)
    model = Ridge().fit(counter.fit_transform(train_texts), labels.astype(np.float64))
    return np.asarray(model.predict(counter.transform(texts)), dtype=np.float64)


def _nearest(train_texts: Texts, texts: Texts) -> Floats:
    """The cosine of each choice with the context; the words' weights are those of all training texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(analyzer=lambda text: words_of((text,)))
    counter.fit([text for row in train_texts for text in row])
    vectors = counter.transform([text for row in texts for text in row])  # rows of length 1, or 0
    cosines, first = [], 0
    for row in texts:
        context, choices = vectors[first], vectors[first + 1 : first + len(row)]
        cosines.append((choices @ context.T).toarray().ravel().tolist())
        first += len(row)
    return _pad(cosines)


def _pad(rows: Sequence[Sequence[float]]) -> Floats:
    """(n, S), with -inf behind the end of a row."""
    padded = np.full((len(rows), max(map(len, rows))), -np.inf)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
