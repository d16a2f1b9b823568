"""The choice of a tokeniser."""

from enum import Enum

from flava.data.clip_tokenizer import ClipTokenizer
from flava.data.tokenizer import Tokenizer


class Vocabulary(Enum):
    """Whose tokens texts are cut into."""

    BERT = "bert"
    """BERT's uncased WordPiece: FLAVA's."""
    CLIP = "clip"
    """CLIP's lower-cased byte pairs. There is no [MASK] among them."""

    def tokenizer(self) -> Tokenizer | ClipTokenizer:
        return Tokenizer() if self is Vocabulary.BERT else ClipTokenizer()
