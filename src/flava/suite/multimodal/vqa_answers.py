"""VQA's answers: how they are normalised and scored, and which of them can be given.

The rules are those of the official evaluation (github.com/GT-Vision-Lab/VQA,
`PythonEvaluationTools/vqaEvaluation/vqaEval.py`, version 2.0), and those of the vocabulary and the
soft targets that VQA models have been trained with since the winner of 2017
(github.com/hengyuan-hu/bottom-up-attention-vqa, `tools/compute_softscore.py`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""What is taken out; periods have a rule of their own, apostrophes and colons stay."""

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
"""Contractions that are put right where one of their apostrophes is missing."""

CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTED.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}
"""The last is as the official evaluation has it, the wrong way round."""

LEAST = 9
"""How often an answer must be the commonest of a question to be in the vocabulary."""


def normalised(answer: str) -> str:
    """An answer as the official evaluation compares it."""
    return without_articles(without_punctuation(plain(answer)))


def plain(answer: str) -> str:
    """Without line breaks, tabs, and blanks around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str) -> str:
    """A sign beside a blank is taken out, and any other leaves a blank; but all are taken out where
    a comma stands between digits. Then the periods that no digit follows are taken out."""
    digits = DIGIT_COMMA.search(text) is not None
    found = text
    for sign in PUNCTUATION:
        beside = f"{sign} " in text or f" {sign}" in text
        found = found.replace(sign, "" if beside or digits else " ")
    return LONE_PERIOD.sub("", found)


def without_articles(text: str) -> str:
    """Small letters, digits for the words from zero to ten, no articles, whole contractions."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """The official accuracy of an answer, in [0, 1], by what people answered.

    The mean, over the sets that leave one of the ``given`` answers out, of min(1, m / 3) with m
    answers of the set that match. As officially, answers are normalised only if people disagree.
    """
    return judge(given)(answer)


def judge(given: Sequence[str]) -> Callable[[str], float]:
    """`vqa_accuracy` of any answer to one question, for which ``given`` is normalised once."""
    agreed = len({plain(each) for each in given}) == 1
    compared = plain if agreed else normalised
    counts = Counter(compared(each) for each in given)
    return lambda answer: share(counts[compared(answer)], len(given))


def share(matches: int, answers: int) -> float:
    """The accuracy of an answer that ``matches`` of the ``answers`` match.

    Of ten: 0.3, 0.6, 0.9, and 1 from four on.
    """
    without_match = matches * min(1.0, (matches - 1) / 3)
    return (without_match + (answers - matches) * min(1.0, matches / 3)) / answers


def vocabulary(commonest: Iterable[str]) -> tuple[str, ...]:
    """The answers that can be given, the most frequent first, equals by the alphabet.

    Those that are the ``commonest`` answer of `LEAST` questions or more, normalised. That is the
    reference's rule, which it applies to VQAv2's training and validation questions together; models
    made so have the paper's 3,129 answers. It is a threshold and no number of answers: equally
    frequent ones are all in it or none is, and other questions give as many as there are.
    """
    counts = Counter(normalised(answer) for answer in commonest)
    kept = [(answer, count) for answer, count in counts.items() if count >= LEAST]
    return tuple(answer for answer, _ in sorted(kept, key=lambda each: (-each[1], each[0])))


def soft_targets(given: Sequence[str]) -> dict[str, float]:
    """Normalised answers with the accuracy that each would earn: what a model is trained to give.

    Of ten: 0.3, 0.6, 0.9, and 1 from four on, as in the reference, which though counts answers
    before they are normalised.
    """
    counts = Counter(normalised(answer) for answer in given)
    return {answer: share(count, len(given)) for answer, count in counts.items()}
