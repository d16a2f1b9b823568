"""The losses of fine-tuning: of classes, of answers with a share each, or of scores."""

from flava.core.batch import AnsweredBatch, Batch, LabelledBatch, ScoredBatch
from flava.models import Classifier
from flava.objectives.losses import LossOutput, answering, classification, regression


class FinetuneObjective:
    """A batch with targets -> its loss, which trains head and encoders alike.

    The type of the batch selects it: cross-entropy of classes, soft-target binary cross-entropy of
    answers, or mean squared error of scores.
    """

    def __init__(self, model: Classifier) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        match batch:
            case LabelledBatch():
                return {"classification": classification(self.model(batch.inputs), batch.labels)}
            case AnsweredBatch():
                return {"answering": answering(self.model(batch.inputs), batch.answers)}
            case ScoredBatch():
                return {"regression": regression(self.model(batch.inputs), batch.scores)}
        raise ValueError(f"fine-tuning needs labels, and a {type(batch).__name__} has none")

    def after_step(self, step: int) -> None:
        """There is nothing to update between steps."""
