import numpy as np
import sklearn.metrics
import torch
from torch import Tensor

from flava.data.samples import read_samples
from flava.evaluation.embedded_data import CLASS_OF, CLASSES, TEMPLATES
from flava.evaluation.embedded_tasks import SPLITS
from flava.evaluation.record import accuracy, confusion, majority
from flava.inference.zero_shot import class_embeddings, classify

ANIMALS = (("cat", "kitten"), ("dog",))


def oracle(texts: list[str]) -> Tensor:
    """The first axis for cats, the second for dogs, with noise of the template in the third."""
    rows = []
    for text in texts:
        cat = "cat" in text or "kitten" in text
        rows.append([float(cat), float(not cat), len(text) / 10])
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def test_the_embedding_of_a_class_is_the_mean_over_names_and_templates() -> None:
    templates = ("{}", "a picture of {}")
    found = class_embeddings(oracle, ANIMALS, templates)
    prompts = ["cat", "a picture of cat", "kitten", "a picture of kitten"]
    mean = np.mean([oracle([prompt])[0].numpy() for prompt in prompts], axis=0)
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), rtol=1e-6)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_images_on_the_axis_of_their_class_are_all_classified_rightly() -> None:
    truth = torch.tensor([0, 1, 1, 0, 1])
    images = torch.eye(3)[truth]
    predicted = classify(images, class_embeddings(oracle, ANIMALS, TEMPLATES))
    assert accuracy(predicted, truth) == 1
    assert confusion(truth, predicted, 2).tolist() == [[2, 0], [0, 3]]
    assert accuracy(1 - predicted, truth) == 0


def test_confusion_and_majority_are_those_of_scikit_learn() -> None:
    truth, predicted = torch.randint(7, (2, 300))
    expected = sklearn.metrics.confusion_matrix(truth, predicted, labels=range(9))
    assert (confusion(truth, predicted, 9).numpy() == expected).all()
    best = max(sklearn.metrics.accuracy_score(truth, [c] * 300) for c in range(7))
    assert majority(truth) == best


def test_classes_are_twelve_to_twenty_disjoint_subgroups_that_the_corpus_has() -> None:
    assert 12 <= len(CLASSES) <= 20
    assert sum(len(each.subgroups) for each in CLASSES) == len(CLASS_OF)
    for split in ("unseen_style", "unseen_concepts_all"):
        present = {sample.meta["subgroup"] for sample in read_samples(SPLITS[split].shards)}
        missing = {each.names for each in CLASSES if not present & set(each.subgroups)}
        assert not missing


def test_every_template_names_the_class() -> None:
    assert len(set(TEMPLATES)) == len(TEMPLATES)
    assert all(template.format("cat") != template for template in TEMPLATES)
