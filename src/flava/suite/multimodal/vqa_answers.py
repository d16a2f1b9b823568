"""VQA's answers: how they are normalised and scored, and which of them a model can give.

The rules are those of the official evaluation (github.com/GT-Vision-Lab/VQA,
`PythonEvaluationTools/vqaEvaluation/vqaEval.py`, version 2.0), and those of the vocabulary and the
soft targets that VQA models have been trained with since the winner of 2017
(github.com/hengyuan-hu/bottom-up-attention-vqa, `tools/compute_softscore.py`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Signs that are removed; periods have a rule of their own, apostrophes and colons stay."""

DIGIT_COMMA = re.compile(r"\d,\d")
LONE_PERIOD = re.compile(r"\.(?!\d)")
"""A period that no digit follows: "2.5" and ".5" keep theirs, "5." does not."""

NUMBER_WORDS = "zero one two three four five six seven eight nine ten"

NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS.split())} | {"none": "0"}

ARTICLES = {"a", "an", "the"}

CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""
"""Contractions that are corrected where one of their apostrophes is missing."""

CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTED.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}
"""The official evaluation has the last one the wrong way round; so has this."""

MIN_QUESTIONS = 9
"""An answer must be the commonest of so many questions to be in the vocabulary."""


def _normalise_answer(answer: str) -> str:
    """The form of an answer that the official evaluation compares."""
    return _without_articles(_without_punctuation(_plain(answer)))


def _plain(answer: str) -> str:
    """The answer without line breaks, tabs, and blanks around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """Remove the signs beside a blank, and replace any other by a blank; if a comma is between
    digits anywhere in the text, remove all. Then remove the periods that no digit follows."""
    digits = DIGIT_COMMA.search(text) is not None
    result = text
    for sign in PUNCTUATION:
        beside = f"{sign} " in text or f" {sign}" in text
        result = result.replace(sign, "" if beside or digits else " ")
    return LONE_PERIOD.sub("", result)


def _without_articles(text: str) -> str:
    """Lower case, digits for the words from zero to ten, no articles, corrected contractions."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


AnswerScorer = Callable[[str], float]
"""An answer -> its official accuracy for one question."""


def answer_scorer(human_answers: Sequence[str]) -> AnswerScorer:
    """The official accuracy, in [0, 1], of any answer to a question that people answered so.

    It is the mean, over the sets that leave one of the ``human_answers`` out, of min(1, m / 3) with
    m answers of the set that match. As officially, answers are normalised only if people disagree.
    """
    agreed = len({_plain(each) for each in human_answers}) == 1
    compared = _plain if agreed else _normalise_answer
    counts = Counter(compared(each) for each in human_answers)
    return lambda answer: _accuracy_of_matches(counts[compared(answer)], len(human_answers))


def _accuracy_of_matches(matches: int, answers: int) -> float:
    """The accuracy of an answer that equals ``matches`` of the ``answers``.

    Of ten: 0.3, 0.6, 0.9, and 1 from four on.
    """
    without_match = matches * min(1.0, (matches - 1) / 3)
    return (without_match + (answers - matches) * min(1.0, matches / 3)) / answers


def vocabulary(commonest: Iterable[str]) -> tuple[str, ...]:
    """The answers that a model can give: the most frequent first, equals by the alphabet.

    They are the normalised answers that are the ``commonest`` of `MIN_QUESTIONS` questions or more.
    That is the reference's rule, which it applies to VQAv2's training and validation questions
    together; the result has the paper's 3,129 answers. As the rule is a threshold, the number of
    answers depends on the questions.
    """
    counts = Counter(_normalise_answer(answer) for answer in commonest)
    kept = [(answer, count) for answer, count in counts.items() if count >= MIN_QUESTIONS]
    return tuple(answer for answer, _ in sorted(kept, key=lambda each: (-each[1], each[0])))


def soft_targets(human_answers: Sequence[str]) -> dict[str, float]:
    """Normalised answer -> the accuracy that it would get: the targets of training.

    Of ten answers: 0.3, 0.6, 0.9, and 1 from four on, as in the reference; but the reference counts
    answers before they are normalised.
    """
    counts = Counter(_normalise_answer(answer) for answer in human_answers)
    return {
        answer: _accuracy_of_matches(count, len(human_answers)) for answer, count in counts.items()
    }
