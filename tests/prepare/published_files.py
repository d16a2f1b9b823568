"""Small files of the nine sources, in the forms that their publishers chose, with their oddities.

Each function writes files and returns them with the pairs that they hold: (identity of the image,
caption), in order, as a reader of the publisher's description would take them out by hand.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

Pairs = list[tuple[str, str]]
Written = tuple[list[Path], Pairs]


def coco(folder: Path) -> Written:
    path = folder / "captions_val2014.json"
    content = {
        "info": {"year": 2014},
        "images": [
            {
                "license": 3,
                "file_name": "COCO_val2014_000000000042.jpg",
                "coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000000042.jpg",
                "height": 478,
                "width": 640,
                "date_captured": "2013-11-18 09:53:08",
                "flickr_url": "http://farm1.staticflickr.com/2/42.jpg",
                "id": 42,
            },
            {
                "license": 1,
                "file_name": "COCO_val2014_000000000073.jpg",
                "coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000000073.jpg",
                "height": 565,
                "width": 640,
                "id": 73,
            },
        ],
        "licenses": [
            {"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "A"},
            {"url": "http://creativecommons.org/licenses/by-nc-nd/2.0/", "id": 3, "name": "B"},
        ],
        "annotations": [
            {"image_id": 42, "id": 1, "caption": 'A dog in a "box".\n'},
            {"image_id": 73, "id": 2, "caption": "Two motorcycles,\tparked."},
            {"image_id": 42, "id": 3, "caption": "The same dog 🐕"},
            {"image_id": 999, "id": 4, "caption": "its image is not listed"},
        ],
    }
    path.write_text(json.dumps(content))
    root = "http://images.cocodataset.org/val2014/COCO_val2014_000000000"
    return [path], [
        (f"{root}042.jpg", 'A dog in a "box".'),
        (f"{root}073.jpg", "Two motorcycles, parked."),
        (f"{root}042.jpg", "The same dog 🐕"),
    ]


SBU = [
    (
        "http://static.flickr.com/2723/4385058960_b0f291553e.jpg",
        "A wooden chair in the living room",
    ),
    (
        "http://static.flickr.com/3348/3183472382_156bcbc461.jpg",
        'the "best" <i>view</i> &amp; more',
    ),
    ("http://static.flickr.com/3131/2782211818_21ef2b7e4e.jpg", "شجرة في الحديقة"),
]
SBU_CLEAN = ["A wooden chair in the living room", 'the "best" view & more', "شجرة في الحديقة"]


def sbu(folder: Path) -> Written:
    path = folder / "sbu-captions-all.json"
    urls, captions = zip(*SBU, strict=True)
    content = {"image_urls": urls, "user_ids": ["a@N00"] * 3, "captions": captions}
    path.write_text(json.dumps(content))
    return [path], list(zip(urls, SBU_CLEAN, strict=True))


def sbu_text(folder: Path) -> Written:
    urls, captions = zip(*SBU, strict=True)
    paths = []
    for name, lines in (("captions", captions), ("urls", urls)):
        paths.append(folder / f"SBU_captioned_photo_dataset_{name}.txt")
        paths[-1].write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return paths, list(zip(urls, SBU_CLEAN, strict=True))


def localized_narratives(folder: Path) -> Written:
    path = folder / "mixed_localized_narratives.jsonl"
    traces: Any = [[{"x": 0.5, "y": 0.5, "t": 0.0}]]
    narratives = [
        (
            "mscoco_val2017",
            "137576",
            "In this image there is a dog. In the background I see trees.",
        ),
        ("Flickr30k_train", "1000092795", " A man!  Is he\nyoung? "),
        ("ADE20k_validation", "ADE_val_00000001", "A castle."),
        ("open_images_train_v6", "00068e2d8c0a2b3c", "One sentence without its end"),
    ]
    lines = [
        {
            "dataset_id": dataset,
            "image_id": image,
            "annotator_id": 93,
            "caption": caption,
            "timed_caption": [{"utterance": "In", "start_time": 0.0, "end_time": 0.4}],
            "traces": traces,
            "voice_recording": "a/b.ogg",
        }
        for dataset, image, caption in narratives
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    path.write_text(f'{text}\n\n{{"dataset_id": "mscoco_val2017", "image_\n')
    return [path], [
        ("val2017/000000137576.jpg", "In this image there is a dog."),
        ("val2017/000000137576.jpg", "In the background I see trees."),
        ("flickr30k-images/1000092795.jpg", "A man!"),
        ("flickr30k-images/1000092795.jpg", "Is he young?"),
        ("images/validation/ADE_val_00000001.jpg", "A castle."),
        ("v6/00068e2d8c0a2b3c.jpg", "One sentence without its end"),
    ]


WEB = [
    ("http://a.example/1.jpg", 'a "quoted, <PERSON> stands'),
    ("https://b.example/2.png?size=b&x=1", "crème brûlée &lt;3 <b>bold</b>"),
    ("http://c.example/שלום.jpg", "כלב רץ על החוף"),
    ("ftp://d.example/4.jpg", "another scheme"),
    ("http://10.0.0.7/5.jpg", "a private address"),
    ("http://e.example/6.jpg", "<br/> &nbsp; <!-- nothing -->"),
    ("http://f.example/7.jpg", "a carriage\rreturn and \u2028 a separator"),
]
WEB_PAIRS = [
    ("http://a.example/1.jpg", 'a "quoted, <PERSON> stands'),
    ("https://b.example/2.png?size=b&x=1", "crème brûlée <3 bold"),
    ("http://c.example/שלום.jpg", "כלב רץ על החוף"),
    ("http://f.example/7.jpg", "a carriage return and a separator"),
]


def cc3m(folder: Path) -> Written:
    path = folder / "Train_GCC-training.tsv"
    rows = [f"{caption}\t{url}" for url, caption in WEB]
    rows.insert(1, "one\ttoo many\thttp://a.example/cells.jpg")
    path.write_bytes("".join(f"{row}\n" for row in rows).encode())
    return [path], WEB_PAIRS


def cc12m(folder: Path) -> Written:
    path = folder / "cc12m.tsv"
    rows = [f"{url}\t{caption}" for url, caption in WEB]
    rows.insert(2, "http://a.example/no-tab.jpg")
    path.write_bytes("".join(f"{row}\n" for row in rows).encode())
    return [path], WEB_PAIRS


def visual_genome(folder: Path) -> Written:
    path = folder / "region_descriptions.json"

    def region(number: int, phrase: str, x: int) -> dict[str, Any]:
        place = {"x": x, "y": 4, "width": 30, "height": 20}
        return {"region_id": number, "image_id": 1, "phrase": phrase, **place}

    content = [
        {"id": 1, "regions": [region(1382, "the clock is green", 2), region(1383, "shade  ", 9)]},
        {"id": 2, "regions": []},
        {"id": 3, "regions": [region(7, 'a man\'s "hat"', 0)]},
    ]
    path.write_text(json.dumps(content))
    return [path], [
        ("VG_100K/1.jpg", "the clock is green"),
        ("VG_100K/1.jpg", "shade"),
        ("VG_100K/3.jpg", 'a man\'s "hat"'),
    ]


WIT_HEADER = [
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
]


def wit(folder: Path) -> Written:
    path = folder / "wit_v1.train.all-00000-of-00010.tsv.gz"

    def row(language: str, image: str, texts: Sequence[str], passes: str = "true") -> list[str]:
        cells = dict.fromkeys(WIT_HEADER, "") | {
            "language": language,
            "page_url": f"https://{language}.wikipedia.org/wiki/Page",
            "image_url": f"https://upload.wikimedia.org/wikipedia/commons/a/ab/{image}",
            "mime_type": "image/jpeg",
            "attribution_passes_lang_id": passes,
            "context_page_description": "A page\nof several lines",
        }
        names = ("reference", "attribution", "alt_text")
        cells |= {f"caption_{n}_description": t for n, t in zip(names, texts, strict=True)}
        return [cells[name] for name in WIT_HEADER]

    rows = [
        row("en", "A%2C_b.jpg", ['The "first" tower', "English: tower", "alt"]),
        row("de", "B.jpg", ["Der Turm", "", ""]),
        row("en", "C.jpg", ["", "English: from its own page", ""]),
        row("en", "D.jpg", ["", "Français : une tour", ""], "false"),
        row("en", "E.jpg", ["", "English: ignored", "the alternative\ttext"]),
    ]

    def quoted(cell: str) -> str:
        inner = cell.replace('"', '""')
        return f'"{inner}"' if set(cell) & set('"\n\t') else cell

    lines = ["\t".join(WIT_HEADER), *("\t".join(map(quoted, each)) for each in rows)]
    lines.append("en\ttoo few")
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    root = "https://upload.wikimedia.org/wikipedia/commons/a/ab"
    return [path], [
        (f"{root}/A%2C_b.jpg", 'The "first" tower'),
        (f"{root}/C.jpg", "English: from its own page"),
        (f"{root}/E.jpg", "the alternative text"),
    ]


def redcaps(folder: Path) -> Written:
    path = folder / "birdpics_2020.json"

    def entry(image: str, raw: str, caption: str | None) -> dict[str, Any]:
        return {
            "image_id": image,
            "author": "someone",
            "url": f"https://i.redd.it/{image}.jpg",
            "raw_caption": raw,
            "caption": caption,
            "subreddit": "birdpics",
            "score": 12,
            "created_utc": 1577836800,
            "permalink": "/r/birdpics/comments/x",
            "crosspost_parents": None,
        }

    annotations = [
        entry("e1x2y3", "My [OC] Robin 🐦 by @user", "my robin by <usr>"),
        entry("e2", "Nothing", None),
        entry("e3", "Owl &amp; owlet", "owl &amp; owlet"),
    ]
    del annotations[1]["score"]
    content = {"info": {"url": "https://redcaps.xyz"}, "annotations": annotations}
    path.write_text(json.dumps(content))
    return [path], [
        ("https://i.redd.it/e1x2y3.jpg", "my robin by <usr>"),
        ("https://i.redd.it/e3.jpg", "owl & owlet"),
    ]


YFCC = [
    ("Sunset", 'A long walk on the beach with <a href="http://x">friends</a>', "0"),
    ("the old church in the village", "", "0"),
    ("Un coucher de soleil sur la mer", "Nous avons marché longtemps sur la plage", "0"),
    ("the ducks are swimming + diving", "short one", "0"),
    ("the title of a moving picture", "the description of a moving picture", "1"),
    ("IMG_1", "DSC", "0"),
]
YFCC_CAPTIONS = [
    (1, "A long walk on the beach with friends"),
    (2, "the old church in the village"),
    (4, "the ducks are swimming + diving"),
]


def yfcc_cells(number: int, title: str, description: str, marker: str) -> list[str]:
    """The 23 columns, by the READ_ME of the data set."""
    return [
        str(number),
        "12345678@N00",
        quote_plus("Jo é"),
        "2008-07-04 12:00:00.0",
        "1215165600",
        "Canon+EOS",
        quote_plus(title),
        quote_plus(description),
        "beach,sunset",
        "",
        "2.35",
        "48.85",
        "16",
        f"http://www.flickr.com/photos/x/{number}/",
        f"http://farm3.staticflickr.com/2/{number}_abc.jpg",
        "Attribution License",
        "http://creativecommons.org/licenses/by/2.0/",
        "2",
        "3",
        "abc",
        "def",
        "jpg",
        marker,
    ]


def yfcc100m(folder: Path) -> Written:
    path = folder / "yfcc100m_dataset-0"
    rows = [yfcc_cells(number, *row) for number, row in enumerate(YFCC, 1)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return [path], yfcc_pairs()


def yfcc100m_hashed(folder: Path) -> Written:
    path = folder / "yfcc100m_dataset"
    rows = []
    for number, row in enumerate(YFCC, 1):
        cells = yfcc_cells(number, *row)
        rows.append([str(number - 1), cells[0], f"{number:032x}", *cells[1:]])
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return [path], yfcc_pairs()


def yfcc_pairs() -> Pairs:
    return [
        (f"http://farm3.staticflickr.com/2/{number}_abc.jpg", caption)
        for number, caption in YFCC_CAPTIONS
    ]
