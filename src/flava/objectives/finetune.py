"""Fine-tuning: the cross-entropy of the labels, through head and encoders alike."""

from flava.batch import Batch, LabelledBatch
from flava.model import Classifier
from flava.objectives.losses import Term, classification


class FinetuneObjective:
    """A labelled batch -> the cross-entropy of its classes, in nats."""

    def __init__(self, model: Classifier) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, Term]:
        if not isinstance(batch, LabelledBatch):
            raise ValueError(f"fine-tuning needs labels, and a {type(batch).__name__} has none")
        return {"classification": classification(self.model(batch.inputs), batch.labels)}

    def after_step(self, step: int) -> None:
        """Nothing is annealed."""
