"""Plain titles and explanations of tasks, metrics and baselines, for reports and the terminal."""

from dataclasses import dataclass

from flava.evaluation.record import Evaluation, Figure


@dataclass(frozen=True)
class Description:
    """What a reader sees beside a number or a chart."""

    title: str
    meaning: str


TRAINING_METRICS = {
    "loss/gc": Description(
        "contrastive (GC)", "Which text belongs to which image, within the batch."
    ),
    "loss/mmm_image": Description(
        "masked patches, with text (MMM)", "The code of each hidden patch."
    ),
    "loss/mmm_text": Description(
        "masked tokens, with image (MMM)", "The hidden tokens of captions."
    ),
    "loss/itm": Description("matching (ITM)", "Do this image and this text belong together?"),
    "loss/mim": Description("masked patches, image alone (MIM)", "The code of each hidden patch."),
    "loss/mlm": Description(
        "masked tokens, text alone (MLM)", "The hidden tokens of texts without images."
    ),
    "loss/reconstruction": Description("reconstruction", "Nats per pixel channel."),
    "loss/classification": Description(
        "loss", "Cross-entropy of the labels on the training samples."
    ),
    "loss/divergence": Description(
        "divergence", "The weighted KL divergence from codes that are used equally often."
    ),
    "validation/zero_shot_accuracy": Description(
        "zero-shot accuracy", "On validation concepts. It chooses the best checkpoint."
    ),
    "validation/imagenet_zero_shot_accuracy": Description(
        "zero-shot accuracy on ImageNet-1k",
        "With CLIP's class names and templates. It chooses the best checkpoint.",
    ),
    "validation/held_out_r@5": Description(
        "R@5 on held-out pairs",
        "Mean of both directions, among the held-out pairs. It chooses the best checkpoint.",
    ),
    "validation/held_out_image_to_text_r@5": Description("held-out R@5, image to text", ""),
    "validation/held_out_text_to_image_r@5": Description("held-out R@5, text to image", ""),
    "validation/validation_accuracy": Description(
        "validation accuracy", "It chooses the checkpoint that is kept."
    ),
    "validation/validation_loss": Description(
        "validation loss", "Cross-entropy of the labels, in nats."
    ),
    "validation/retrieval_r@5": Description(
        "retrieval R@5", "Mean of both directions, on validation concepts."
    ),
    "accuracy/classification": Description(
        "training accuracy", "The accuracy on each batch while it is trained on."
    ),
    "lr": Description("learning rate", "Linear warm-up, then a cosine or linear decay."),
    "grad_norm": Description("gradient norm", "Before clipping."),
    "samples_per_second": Description("samples per second", "The speed of each step."),
}
"""Name in metrics.jsonl -> its description, in the order of the report's charts."""

TASKS = {
    "zero_shot": Description(
        "Zero-shot classification",
        "Which of 20 classes does the image show? The answer is the class whose prompts are most "
        "similar to the image. No classifier was trained, but the names of some classes occur in "
        "training captions. Majority: always answering the commonest class of the split.",
    ),
    "linear_probe": Description(
        "Linear probe",
        "A logistic regression on the frozen image features predicts the group of an unseen "
        "concept. PCA: the same regression on the raw pixels, reduced to as many principal "
        "components.",
    ),
    "digits": Description(
        "Linear probe of digits",
        "A logistic regression on the frozen image features predicts MNIST's digits. PCA: the same "
        "regression on the raw pixels, reduced to as many principal components.",
    ),
    "caption_groups": Description(
        "Linear probe of captions",
        "A logistic regression on the frozen text features of captions predicts the group of an "
        "unseen concept.",
    ),
    "parts_of_speech": Description(
        "Linear probe of dictionary texts",
        "A logistic regression on the frozen text features of unseen WordNet glosses and examples "
        "predicts whether they explain a noun, verb, adjective or adverb.",
    ),
    "itm": Description(
        "Image-text matching",
        "Each image is judged once with its own caption and once with that of another concept. "
        "Accuracy: how often the matching head decides rightly; chance is one half. The area under "
        "the ROC curve does not depend on the head's threshold.",
    ),
    "mmm_text": Description(
        "Masked words of captions, with the image",
        "15 % of the words are hidden. Mismatched: the same model with the image of another "
        "concept; the difference is what the model learns from the image. Majority: always "
        "answering the commonest hidden token.",
    ),
    "mlm_captions": Description(
        "Masked words of captions, text alone",
        "The same hidden words, predicted by the text encoder without any image.",
    ),
    "mlm": Description(
        "Masked words of dictionary texts",
        "15 % of the words of unseen WordNet glosses and examples, predicted from the rest.",
    ),
    "mmm_image": Description(
        "Masked patches, with the caption",
        "The codes of hidden patches. Without background: only the patches whose code is not the "
        "commonest one. Mismatched: the same model with the caption of another concept. Majority: "
        "always answering the commonest code.",
    ),
    "mim": Description(
        "Masked patches, image alone",
        "The same hidden patches, predicted by the image encoder from the rest of the image.",
    ),
}
"""Task of the evaluation -> its description."""

METRIC_NAMES = {
    "accuracy": "accuracy",
    "roc_auc": "area under ROC",
    "mean_recall": "mean recall of the classes",
    "foreground_accuracy": "without background",
}

HEADLINES = (
    ("Text-to-image retrieval, R@5", "retrieval", "unseen_style", "text_to_image_r@5"),
    ("Image-to-text retrieval, R@5", "retrieval", "unseen_style", "image_to_text_r@5"),
    ("Text-to-image retrieval, R@5", "retrieval", "unseen_concepts", "text_to_image_r@5"),
    ("Image-to-text retrieval, R@5", "retrieval", "unseen_concepts", "image_to_text_r@5"),
    ("Zero-shot, 20 classes", "zero_shot", "unseen_style", "accuracy"),
    ("Linear probe, groups", "linear_probe", "unseen_concepts_all", "accuracy"),
)
"""(title, task, split, metric) of the most telling figures, which are shown first."""

BASELINE_NAMES = {
    "chance": "chance",
    "majority": "majority",
    "untrained": "untrained",
    "pca": "PCA of pixels",
    "mismatched": "mismatched",
}


def headlines(evaluation: Evaluation) -> tuple[tuple[str, Figure], ...]:
    """The figures of `HEADLINES` that the evaluation has, with their titles."""
    found = ((title, evaluation.figure(*name)) for title, *name in HEADLINES)
    return tuple((title, figure) for title, figure in found if figure is not None)


def strongest_baseline(figure: Figure) -> tuple[str, float] | None:
    """The name and value of the figure's best baseline; None if it has none."""
    if not figure.baselines:
        return None
    return max(figure.baselines.items(), key=lambda item: item[1])
