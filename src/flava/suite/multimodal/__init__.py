"""The tasks on pairs of images and texts: VQAv2, SNLI-VE, Hateful Memes, retrieval."""

from flava.suite.multimodal.caption_retrieval import RERANKED, RETRIEVAL
from flava.suite.multimodal.hateful_memes import HATEFUL_MEMES, HATEFUL_MEMES_OWN_TEXT
from flava.suite.multimodal.snli_ve import SNLI_VE
from flava.suite.multimodal.vqa import VQAV2
from flava.suite.task import SuiteTask

MULTIMODAL: tuple[SuiteTask, ...] = (VQAV2, SNLI_VE, HATEFUL_MEMES, *RETRIEVAL)
"""The tasks that fill rows of Table C.1."""

VARIANTS: tuple[SuiteTask, ...] = (HATEFUL_MEMES_OWN_TEXT, *RERANKED)
"""Tasks that fill no row, and are measured if they are asked for by name."""
