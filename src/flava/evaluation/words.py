"""Plain words for the report and the command line: what each number is, beside which baselines."""

from dataclasses import dataclass

from flava.evaluation.record import Evaluation, Figure

LOSSES = {
    "total": ("total", "The sum of the losses of whichever batch was drawn."),
    "gc": ("contrastive (GC)", "Which text belongs to which image, within the batch."),
    "mmm_image": ("masked patches, with text (MMM)", "The code of each hidden patch."),
    "mmm_text": ("masked tokens, with image (MMM)", "The hidden tokens of captions."),
    "itm": ("matching (ITM)", "Do this image and this text belong together?"),
    "mim": ("masked patches, image alone (MIM)", "The code of each hidden patch."),
    "mlm": ("masked tokens, text alone (MLM)", "The hidden tokens of dictionary texts."),
    "reconstruction": ("reconstruction", "Nats a pixel channel: lower is closer."),
    "classification": ("loss", "Cross-entropy of the labels, in training."),
    "divergence": ("divergence", "The weighted KL divergence from evenly used codes."),
}
"""Loss -> (title, what it is)."""

COURSES = {
    "accuracy/classification": ("training accuracy", "Of each batch, as it was trained on."),
    "lr": ("learning rate", "Warm-up, then a cosine."),
    "grad_norm": ("gradient norm", "Before clipping."),
    "samples_per_second": ("samples per second", "Each update for itself."),
}
"""Other columns of metrics.jsonl that are drawn."""

PROBES = {
    "validation/zero_shot_accuracy": (
        "zero-shot accuracy",
        "On validation concepts; chooses the best checkpoint.",
    ),
    "validation/imagenet_zero_shot_accuracy": (
        "zero-shot accuracy on ImageNet-1k",
        "With CLIP's class names and templates; chooses the best checkpoint.",
    ),
    "validation/held_out_r@5": (
        "R@5 on held-out pairs",
        "Mean of both ways, among the pairs of held_out; chooses the best checkpoint.",
    ),
    "validation/held_out_image_to_text_r@5": ("held-out R@5, image to text", ""),
    "validation/held_out_text_to_image_r@5": ("held-out R@5, text to image", ""),
    "validation/validation_accuracy": (
        "validation accuracy",
        "Chooses the checkpoint that is kept.",
    ),
    "validation/validation_loss": ("validation loss", "Cross-entropy of the labels, in nats."),
    "validation/retrieval_r@5": ("retrieval R@5", "Mean of both ways, on validation concepts."),
}


@dataclass(frozen=True)
class TaskWords:
    """The heading of a task, and what one sees below it."""

    title: str
    meaning: str


TASKS = {
    "zero_shot": TaskWords(
        "Zero-shot classification",
        "Which of 20 classes is shown? The class is the one whose prompts are most similar to the "
        "image. No classifier was trained; but words of some classes occur in training captions. "
        "Majority: always naming the commonest class of the split.",
    ),
    "linear_probe": TaskWords(
        "Linear probe",
        "A logistic regression on the frozen image features names the group of an unseen concept. "
        "PCA: the same on as many principal components of the raw pixels.",
    ),
    "digits": TaskWords(
        "Linear probe of digits",
        "A logistic regression on the frozen image features names MNIST's digits. PCA: the same on "
        "as many principal components of the raw pixels.",
    ),
    "caption_groups": TaskWords(
        "Linear probe of captions",
        "A logistic regression on the frozen text features of captions names the group of an "
        "unseen concept.",
    ),
    "parts_of_speech": TaskWords(
        "Linear probe of dictionary texts",
        "A logistic regression on the frozen text features of unseen WordNet glosses and examples "
        "tells whether they explain a noun, verb, adjective or adverb.",
    ),
    "itm": TaskWords(
        "Image-text matching",
        "Each image once with its own caption, once with another concept's. Accuracy is of the "
        "head's own decision, chance is one half; the ROC area does not depend on its threshold.",
    ),
    "mmm_text": TaskWords(
        "Masked words of captions, with the image",
        "15 % of the words are hidden. Mismatched: the same model given another concept's image; "
        "the difference is what the image tells. Majority: always the commonest hidden token.",
    ),
    "mlm_captions": TaskWords(
        "Masked words of captions, text alone",
        "The same hidden words, predicted by the text encoder without any image.",
    ),
    "mlm": TaskWords(
        "Masked words of dictionary texts",
        "15 % of the words of unseen WordNet glosses and examples, predicted from the rest.",
    ),
    "mmm_image": TaskWords(
        "Masked patches, with the caption",
        "The codes of hidden patches. Without background: only those whose code is not the "
        "commonest one. Mismatched: the same model given another concept's caption. Majority: "
        "always the commonest code.",
    ),
    "mim": TaskWords(
        "Masked patches, image alone",
        "The same hidden patches, predicted by the image encoder from the rest of the image.",
    ),
}

METRICS = {
    "accuracy": "accuracy",
    "roc_auc": "area under ROC",
    "mean_recall": "mean recall of the classes",
    "foreground_accuracy": "without background",
}

HEADLINES = (
    ("Caption finds its image: R@5", "retrieval", "unseen_style", "text_to_image_r@5"),
    ("Image finds its caption: R@5", "retrieval", "unseen_style", "image_to_text_r@5"),
    ("Caption finds its image: R@5", "retrieval", "unseen_concepts", "text_to_image_r@5"),
    ("Image finds its caption: R@5", "retrieval", "unseen_concepts", "image_to_text_r@5"),
    ("Zero-shot, 20 classes", "zero_shot", "unseen_style", "accuracy"),
    ("Linear probe, groups", "linear_probe", "unseen_concepts_all", "accuracy"),
)
"""(title, task, split, metric) of the figures that are shown first."""

BASELINES = {
    "chance": "chance",
    "majority": "majority",
    "untrained": "untrained",
    "pca": "PCA of pixels",
    "mismatched": "mismatched",
}


def headlines(evaluation: Evaluation) -> tuple[tuple[str, Figure], ...]:
    """The figures that are shown first, with their titles."""
    found = ((title, evaluation.figure(*name)) for title, *name in HEADLINES)
    return tuple((title, figure) for title, figure in found if figure is not None)


def strongest_baseline(figure: Figure) -> tuple[str, float] | None:
    """The name and value of the best baseline."""
    if not figure.baselines:
        return None
    return max(figure.baselines.items(), key=lambda item: item[1])
