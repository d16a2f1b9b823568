"""The data sets that can be built, by name, and the commands that build them."""

from dataclasses import dataclass
from pathlib import PurePath

from flava.data.tables import IMAGE_COLUMNS, TEXT_COLUMNS, URL_COLUMNS
from flava.prepare import published, texts, user_data
from flava.prepare.rows import AnnotationReader


@dataclass(frozen=True, kw_only=True)
class PublishedSource:
    """A data set that can be built, and the defaults of its settings."""

    title: str
    read: AnnotationReader
    licence: str
    """The licence of the whole data set, or of its annotations."""
    publisher: str
    """The web page of the publisher."""
    files: str
    """What --annotations takes."""
    images: str
    """What --images takes if the images were not fetched by img2dataset."""
    pairs: float | None = None
    """Millions of pairs, as the paper counts them (its table 2)."""
    gigabytes: int | None = None
    """The approximate size of the shards: 25 kB a pair, for a JPEG of 256 pixels and quality 90;
    less for regions of images and for texts, more for original images."""
    rows_per_shard: int = 10_000
    min_words: int = 1
    english: bool = False
    short_side: int | None = 256
    """Pixels of the shorter side of larger images; None leaves them as they are."""
    min_side: int = 16
    drop_duplicates: bool = True
    fetched: bool = False
    """Whether its images are at URLs, from which img2dataset fetches them."""
    suffix: str = ".tar"
    """The ending of its shards' names: .tar, or .jsonl."""
    wants_image: bool = True
    wants_caption: bool = True
    beside: bool = False
    """Whether images are where the annotations are unless --images says otherwise."""
    one_text: bool = False
    """Whether the rows are consecutive sentences of one text, and not documents."""


IMAGES = ", ".join(IMAGE_COLUMNS + URL_COLUMNS)
TEXTS = ", ".join(TEXT_COLUMNS)
OWN_LICENCES = "images: their owners'"
NO_IMAGES = "nothing: there are none"

SOURCES: dict[str, PublishedSource] = {
    "coco": PublishedSource(
        title="COCO captions",
        read=published.coco,
        licence=f"captions CC BY 4.0; {OWN_LICENCES} (Flickr; in each sample)",
        publisher="cocodataset.org",
        files="captions_train2014.json and captions_val2014.json, or those of 2017",
        images="folder of train2014/ and val2014/, or of the files themselves",
        pairs=0.9,
        gigabytes=15,
    ),
    "sbu": PublishedSource(
        title="SBU Captions",
        read=published.sbu,
        licence=f"none stated; {OWN_LICENCES} (Flickr)",
        publisher="www.cs.rice.edu/~vo9/sbucaptions",
        files="sbu-captions-all.json, or SBU_captioned_photo_dataset_urls.txt and _captions.txt",
        images="folder of files by the last part of the URL",
        pairs=1.0,
        gigabytes=25,
        fetched=True,
    ),
    "localized-narratives": PublishedSource(
        title="Localized Narratives",
        read=published.localized_narratives,
        licence=f"narratives CC BY 4.0; {OWN_LICENCES}",
        publisher="google.github.io/localized-narratives",
        files="the JSON lines of Open Images, Flickr30K, COCO and ADE20K",
        images="folder of the images' own archives: train/ID.jpg of Open Images, "
        "flickr30k-images/, train2017/, images/training/; or of the files themselves",
        pairs=1.9,
        gigabytes=48,
    ),
    "cc3m": PublishedSource(
        title="Conceptual Captions",
        read=published.cc3m,
        licence=f"free for any purpose (Google's own text); {OWN_LICENCES}",
        publisher="ai.google.com/research/ConceptualCaptions",
        files="Train_GCC-training.tsv",
        images="folder of files named MD5 of the URL, .jpg",
        pairs=3.1,
        gigabytes=78,
        fetched=True,
    ),
    "visual-genome": PublishedSource(
        title="Visual Genome",
        read=published.visual_genome,
        licence="CC BY 4.0",
        publisher="homes.cs.washington.edu/~ranjay/visualgenome",
        files="region_descriptions.json",
        images="folder of VG_100K/ and VG_100K_2/, or of the files themselves",
        pairs=5.4,
        gigabytes=50,
    ),
    "wit": PublishedSource(
        title="Wikipedia Image Text",
        read=published.wit,
        licence="texts CC BY-SA 3.0; images: by file, on Wikimedia Commons",
        publisher="github.com/google-research-datasets/wit",
        files="wit_v1.train.all-0000N-of-00010.tsv.gz",
        images="folder of files by the last part of the URL",
        pairs=4.8,
        gigabytes=120,
        fetched=True,
    ),
    "cc12m": PublishedSource(
        title="Conceptual Captions 12M",
        read=published.cc12m,
        licence=f"free for any purpose (Google's own text); {OWN_LICENCES}",
        publisher="github.com/google-research-datasets/conceptual-12m",
        files="cc12m.tsv",
        images="folder of files named MD5 of the URL, .jpg",
        pairs=11.0,
        gigabytes=275,
        fetched=True,
    ),
    "redcaps": PublishedSource(
        title="RedCaps",
        read=published.redcaps,
        licence=f"annotations CC BY 4.0, under Reddit's terms; {OWN_LICENCES}",
        publisher="redcaps.xyz",
        files="SUBREDDIT_YEAR.json, any number of them",
        images="folder of SUBREDDIT/IMAGE_ID.jpg",
        pairs=11.6,
        gigabytes=290,
        fetched=True,
    ),
    "yfcc100m": PublishedSource(
        title="YFCC100M, filtered",
        read=published.yfcc100m,
        licence="metadata: Yahoo's terms; images: Creative Commons, in each sample",
        publisher="multimediacommons.org",
        files="yfcc100m_dataset (25 columns), or yfcc100m_dataset-0 to -9 (23), unpacked or .gz",
        images="folder of PHOTO_ID.jpg, or of the Multimedia Commons' abc/def/HASH.jpg",
        pairs=30.3,
        gigabytes=760,
        min_words=3,  # "more than two words", section 4 of the paper
        english=True,
        fetched=True,
    ),
    "imagenet-1k": PublishedSource(
        title="ImageNet-1k",
        read=user_data.split_rows,
        licence="ImageNet's terms: research that is not commercial",
        publisher="image-net.org",
        files="torchvision's folder train/ or val/, or datasets' Parquet of one split "
        "(train-*.parquet). All images, in their own files and sizes",
        images="nothing: they are there",
        gigabytes=140,  # 1.28 million files of 110 kB
        rows_per_shard=1000,
        # DINO's and BEiT's protocols crop the originals of all 1,281,167.
        short_side=None,
        min_side=1,
        drop_duplicates=False,
        wants_caption=False,
        beside=True,
    ),
    "ccnews": PublishedSource(
        title="CCNews",
        read=texts.text_rows,
        licence="texts: their publishers'; Common Crawl's terms",
        publisher="commoncrawl.org/blog/news-dataset-available",
        files='JSON lines or Parquet with a column "text", a document each',
        images=NO_IMAGES,
        gigabytes=76,
        suffix=".jsonl",
        wants_image=False,
    ),
    "bookcorpus": PublishedSource(
        title="BookCorpus",
        read=texts.text_rows,
        licence="none stated; texts: their authors'",
        publisher="yknzhu.wixsite.com/mbweb",
        files="plain text or Parquet, a sentence each (books_large_p1.txt and _p2.txt)",
        images=NO_IMAGES,
        gigabytes=5,
        suffix=".jsonl",
        wants_image=False,
        one_text=True,
    ),
    "pairs": PublishedSource(
        title="pairs of your own",
        read=user_data.pair_rows,
        licence="yours",
        publisher="you",
        files="tars (WebDataset's layout), or CSV, TSV, JSON lines or Parquet with a column named "
        f"{IMAGES} and one named {TEXTS}",
        images="folder that the table's paths start from; by default the table's own",
        beside=True,
    ),
    "images": PublishedSource(
        title="images of your own",
        read=user_data.image_rows,
        licence="yours",
        publisher="you",
        files=f"a folder of images, tars, or tables with a column named {IMAGES}",
        images="as for pairs",
        wants_caption=False,
        beside=True,
    ),
    "texts": PublishedSource(
        title="texts of your own",
        read=texts.text_rows,
        licence="yours",
        publisher="you",
        files=f"plain text with a text a line, or tables with a column named {TEXTS}",
        images=NO_IMAGES,
        suffix=".jsonl",
        wants_image=False,
    ),
}


PMD = "pmd"
"""The folder of the nine sources of pairs, below the root of the data."""
HELD_OUT = "-val"
IMAGENET = "imagenet-1k"
"""The source whose validation images are published as a split."""


def commands(shards: str, root: str) -> list[str]:
    """The commands that build some shards below the root, with sizes and licences.

    Args:
        shards: A path from the root on, as "pmd/*/*.tar" or "ccnews-val/*.jsonl".
        root: The folder of the paper's data.
    """
    folder = PurePath(shards).parts[0]
    if folder == PMD:
        named = {f"{PMD}/{name}": name for name, each in SOURCES.items() if each.pairs is not None}
    else:
        named = {folder: folder.removesuffix(HELD_OUT)}
    return [
        _command(SOURCES[name], name, f"{root}/{output}")
        for output, name in named.items()
        if name in SOURCES
    ]


def _command(source: PublishedSource, name: str, output: str) -> str:
    """The command that builds a source in the folder ``output``."""
    facts = [] if source.pairs is None else [f"{source.pairs:.1f} M pairs"]
    if not output.endswith(HELD_OUT):
        facts.append(f"about {source.gigabytes} GB")
    elif name == IMAGENET:
        facts.append("of its validation images: torchvision's val/, or validation-*.parquet")
    else:
        facts.append("of files that are in no other shards")
    images = " --images FOLDER" if source.wants_image and not source.beside else ""
    return (
        f"flava data build {name} --annotations FILES{images} --output {output}  "
        f"({', '.join(facts)}; licence: {source.licence})"
    )
