"""Images with boxes in the formats of COCO and Pascal VOC, whole and in tiles."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.boxed_images import tile_windows
from dltrain.datasets.detection_folder import DetectionFolder
from dltrain.datasets.shapes import draw_shapes
from dltrain.errors import ConfigError

BOX = (2.0, 1.0, 8.0, 5.0)  # box of the cat in each image that `coco` writes, except the first
Edit = dict[str, Any]


def coco(root: Path, count: int = 20, file: str = "boxes.json", size: tuple[int, int] = (12, 8), **edit: Any) -> Path:
    """Write images and COCO annotations: a dog in the lower right corner of each image, a cat in all but the first.

    Args:
        edit: Keys and values that are replaced in the first annotation.
    """
    root.mkdir(parents=True, exist_ok=True)
    images, objects = [], []
    for number in range(count):
        Image.new("RGB", size, (number, 0, 0)).save(root / f"{number:02}.png")
        images.append({"id": 100 + number, "file_name": f"{number:02}.png", "width": size[0], "height": size[1]})
        objects.append(
            {"image_id": 100 + number, "category_id": 5, "bbox": [9, 5, 3, 3], "iscrowd": int(number % 7 == 3)}
        )
        if number:
            objects.append({"image_id": 100 + number, "category_id": 3, "bbox": [2, 1, 6, 4]})
    for number, entry in enumerate(objects):
        entry["id"] = number
    objects[0] |= edit
    kinds = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps({"images": images, "annotations": objects, "categories": kinds}))
    return root


def voc(root: Path, count: int = 20, first: int = 3) -> Path:
    """Write images and their XML files, each with one cat whose left edge is pixel `first`."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (12, 8), (number, 0, 0)).save(root / f"{number:02}.jpg")
        box = f"<xmin>{first}</xmin><ymin>2</ymin><xmax>8</xmax><ymax>5</ymax>"
        kind = f"<name>cat</name><difficult>{int(number % 7 == 3)}</difficult><bndbox>{box}</bndbox>"
        size = "<size><width>12</width><height>8</height><depth>3</depth></size>"
        text = f"<annotation><filename>{number:02}.jpg</filename>{size}<object>{kind}</object></annotation>"
        (root / f"{number:02}.xml").write_text(text)
    return root


def first_example(root: Path, **more: Any) -> Any:
    """Return the training example of image 02."""
    data = DetectionFolder(str(root), **{"image_size": 24, **more})
    rows: Any = data.load().train.rows
    return next(rows.example(n, None) for n in range(len(rows)) if rows.images[rows.parts[n].image].image.stem == "02")


def error(root: Path, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        DetectionFolder(str(root), **more).load()
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    return str(caught.value)


def test_coco_boxes_become_corner_coordinates_scaled_to_the_size_of_the_example(tmp_path: Path) -> None:
    found = first_example(coco(tmp_path))
    assert found.pixels.shape == (24, 24, 3) and found.kinds.tolist() == [2, 1]
    assert found.boxes[1].tolist() == [4.0, 3.0, 16.0, 15.0], "12 x 8 pixels become 24 x 24"
    assert (found.boxes * found.frame[[2, 3, 2, 3]] + found.frame[[0, 1, 0, 1]])[1].tolist() == list(BOX)


def test_voc_boxes_count_pixels_from_1_and_include_the_last_pixel(tmp_path: Path) -> None:
    found = first_example(voc(tmp_path))
    assert (found.boxes * found.frame[[2, 3, 2, 3]])[0].tolist() == [2.0, 1.0, 8.0, 5.0]


def test_voc_coordinates_are_used_unchanged_if_any_box_starts_at_0(tmp_path: Path) -> None:
    voc(tmp_path / "train", 9, first=0)
    voc(tmp_path / "test", 3, first=0)
    found = first_example(tmp_path, validation=0.2)
    assert (found.boxes * found.frame[[2, 3, 2, 3]])[0].tolist() == [0.0, 2.0, 8.0, 5.0]


@pytest.mark.parametrize("write", [coco, voc])
def test_crowds_and_difficult_objects_have_negative_kinds(write: Any, tmp_path: Path) -> None:
    rows: Any = DetectionFolder(str(write(tmp_path))).load().train.rows
    signs = {
        rows.images[part.image].image.stem: rows.example(n, None).kinds[0] < 0 for n, part in enumerate(rows.parts)
    }
    assert signs == {name: int(name) % 7 == 3 for name in signs}


def test_images_without_boxes_are_kept(tmp_path: Path) -> None:
    root = coco(tmp_path)
    content = json.loads((root / "boxes.json").read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] % 3]
    (root / "boxes.json").write_text(json.dumps(content))
    splits = DetectionFolder(str(root)).load()
    rows: Any = splits.train.rows
    counts = [len(rows.example(number, None).kinds) for number in range(len(rows))]
    assert len(splits.train) + len(splits.val or []) + len(splits.test) == 20 and 0 in counts
    batch = next(iter(Batches(splits.train, len(rows))))
    assert [int(n) for n in (batch["kinds"] != 0).sum(1)] == counts and not batch["boxes"][batch["kinds"] == 0].any()


@pytest.mark.parametrize(
    "files",
    [
        {"train": "train/a.json", "val": "valid/a.json", "test": "test/a.json"},
        {"train": "annotations/instances_train2017.json", "val": "annotations/instances_val2017.json"},
    ],
)
def test_names_of_json_files_or_of_their_folders_determine_the_splits(files: dict[str, str], tmp_path: Path) -> None:
    counts = {"train": 10, "val": 3, "test": 4}
    for split, file in files.items():
        folder = file.split("/", maxsplit=1)[0] if "instances" not in file else f"{split}2017"
        coco(tmp_path / folder, counts[split], file=str(tmp_path / file))
    splits = DetectionFolder(str(tmp_path), test=0.2).load()
    assert len(splits.val or []) == 3
    assert (len(splits.train), len(splits.test)) == ((10, 4) if "test" in files else (8, 2))
    rows: Any = splits.train.rows
    assert {rows.images[part.image].image.parent.name[:5] for part in rows.parts} == {"train"}


def test_voc_files_are_split_by_lists_of_names(tmp_path: Path) -> None:
    voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{number:02}\n" for number in range(12)))
    (lists / "val.txt").write_text("".join(f"{number:02}  1\n" for number in range(12, 15)))
    (lists / "test.txt").write_text("17\n18\n")
    splits = DetectionFolder(str(tmp_path)).load()
    assert (len(splits.train), len(splits.val or []), len(splits.test)) == (12, 3, 2)


def test_a_voc_list_file_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(b"00\n\xff\n")
    assert error(tmp_path).startswith(f"data.path: expected UTF-8 text at {lists / 'train.txt'}, got")


def test_two_folders_of_voc_files_for_one_split_are_rejected(tmp_path: Path) -> None:
    for folder in ("train", "val", "valid"):
        voc(tmp_path / folder, 4)
    expected = f"at most one folder of annotations for each of train, val and test in {tmp_path}"
    assert error(tmp_path) == f"data.path: expected {expected}, got a second folder for val: valid"


def test_all_images_of_a_block_are_in_one_split(tmp_path: Path) -> None:
    splits = DetectionFolder(str(coco(tmp_path, 40)), block=5, validation=0.25, test=0.25).load()
    found = [{rows.images[part.image].image.stem for part in rows.parts} for rows in _rows(splits)]
    assert [len(names) for names in found] == [20, 10, 10] and len(set.union(*found)) == 40
    assert sum(len({int(name) // 5 for name in names}) for names in found) == 8


def _rows(splits: Any) -> list[Any]:
    return [splits.train.rows, splits.val.rows, splits.test.rows]


def test_tiles_cover_each_pixel_exactly_once() -> None:
    covered = np.zeros((70, 110), dtype=int)
    for left, top, right, bottom in tile_windows(110, 70, 32):
        covered[top:bottom, left:right] += 1
        assert (right - left, bottom - top) == (32, 32)
    assert (covered == 1).all()


def drawn(root: Path, size: int = 96) -> Path:
    """Write images of shapes, and their boxes as COCO annotations."""
    shapes = draw_shapes(torch.arange(6), size)
    images, objects = [], []
    for number, (pixels, boxes, kinds) in enumerate(
        zip(shapes["pixels"], shapes["boxes"], shapes["kinds"], strict=True)
    ):
        Image.fromarray(pixels[0].numpy()).save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for (left, top, right, bottom), kind in zip(boxes.tolist(), kinds.tolist(), strict=True):
            box = {"bbox": [left, top, right - left, bottom - top], "category_id": kind}
            objects += [{"id": len(objects) + 1, "image_id": number, **box}] if kind else []
    kinds_of = [{"id": number, "name": name} for number, name in ((1, "disc"), (2, "square"), (3, "triangle"))]
    content = {"images": images, "annotations": objects, "categories": kinds_of}
    (root / "shapes.json").write_text(json.dumps(content))
    return root


def test_boxes_of_a_tile_are_the_parts_of_the_image_boxes_inside_the_tile(tmp_path: Path) -> None:
    data = DetectionFolder(str(drawn(tmp_path)), image_size=32, channels=1, tile=32, min_visible=0.0)
    rows: Any = data.load().train.rows
    for number, (picture, window) in enumerate(rows.parts):
        found = rows.example(number, None)
        pixels = np.array(Image.open(rows.images[picture].image))
        left, top, right, bottom = window
        assert np.array_equal(found.pixels[..., 0], pixels[top:bottom, left:right])
        inside = rows.images[picture].boxes.clip([left, top] * 2, [right, bottom] * 2) - np.array([left, top] * 2)
        kept = inside[((inside[:, 2:] - inside[:, :2]) > 0).all(1)]
        assert np.array_equal(found.boxes, kept) and found.frame.tolist() == [left, top, 1, 1]


def test_boxes_with_a_visible_fraction_below_min_visible_are_dropped(tmp_path: Path) -> None:
    root, counts = str(drawn(tmp_path)), list[int]()
    for share in (0.0, 0.25, 0.6):
        rows: Any = DetectionFolder(root, tile=32, min_visible=share, image_size=32, validation=0).load().train.rows
        counts.append(sum(len(rows.example(number, None).kinds) for number in range(len(rows))))
        assert rows.count_boxes().total() == counts[-1]
    assert counts[0] > counts[1] > counts[2]


def test_split_by_area_divides_each_image_among_the_splits(tmp_path: Path) -> None:
    data = DetectionFolder(str(drawn(tmp_path, 120)), tile=20, split_by="area", image_size=20, validation=0.2, test=0.3)
    parts = [rows.parts for rows in _rows(data.load())]
    assert sum(map(len, parts)) == 6 * 36 == len({part for each in parts for part in each})
    rows = [{part.window[1] for part in each} for each in parts]
    assert rows == [{0, 20, 40}, {60}, {80, 100}], "training tiles are at the top, test tiles at the bottom"
    assert [sorted({part.image for part in each}) for each in parts] == [list(range(6))] * 3


def test_boxes_in_training_crops_map_back_to_boxes_of_the_image_unless_the_crop_cuts_them(tmp_path: Path) -> None:
    crop = {"min_area": 0.3}
    rows: Any = DetectionFolder(str(drawn(tmp_path)), image_size=96, channels=1, augment=crop).load().train.rows
    for key in range(20):
        found, again, plain = rows.example(0, key), rows.example(0, key), rows.example(0, None)
        assert np.array_equal(found.pixels, again.pixels) and np.array_equal(found.boxes, again.boxes)
        back = found.boxes * found.frame[[2, 3, 2, 3]] + found.frame[[0, 1, 0, 1]]
        whole = [min(np.abs(plain.boxes - box).max(1)) < 0.01 for box in back]
        cut = ((found.boxes < 0.01) | (found.boxes > 95.99)).any(1)
        assert all(same or edge for same, edge in zip(whole, cut, strict=True))


@pytest.mark.parametrize(
    ("mode", "channels"),
    [*((mode, 3) for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16")), ("RGBA", 1), ("I;16", 1)],
)
def test_images_that_are_not_rgb_are_converted(mode: str, channels: int, tmp_path: Path) -> None:
    root = coco(tmp_path)
    suffix = "jpg" if mode == "CMYK" else "png"
    levels = np.full((8, 12), 200 * 257, np.uint16)
    image = Image.fromarray(levels) if mode == "I;16" else Image.new("L", (12, 8), 200).convert(mode)
    image.save(root / f"other.{suffix}")
    text = (root / "boxes.json").read_text().replace("02.png", f"other.{suffix}")
    (root / "boxes.json").write_text(text)
    data = DetectionFolder(str(root), channels=channels, image_size=8)
    rows: Any = data.load().train.rows
    number = next(n for n, part in enumerate(rows.parts) if rows.images[part.image].image.stem == "other")
    assert rows.example(number, None).pixels.shape == (8, 8, channels)
    assert abs(int(rows.example(number, None).pixels.mean()) - 200) <= 3


def test_boxes_of_an_image_rotated_by_exif_refer_to_the_upright_image(tmp_path: Path) -> None:
    root = coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.zeros((8, 12, 3), np.uint8)
    upright[1:5, 2:8] = 255
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(root / "turned.jpg", exif=exif, quality=100)
    (root / "boxes.json").write_text((root / "boxes.json").read_text().replace("02.png", "turned.jpg"))
    rows: Any = DetectionFolder(str(root), image_size=24).load().train.rows
    number = next(n for n, part in enumerate(rows.parts) if rows.images[part.image].image.stem == "turned")
    found = rows.example(number, None)
    left, top, right, bottom = found.boxes[found.kinds == 1][0].astype(int)
    assert found.pixels[top + 2 : bottom - 2, left + 2 : right - 2].mean() > 230


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"category_id": 9}, "one of the categories 3 5 as category_id in annotation 0 of"),
        ({"image_id": 9}, "the id of one of the images as image_id in annotation 0 of"),
        ({"bbox": [1, 2, 3]}, "four finite numbers (left, top, width and height) as bbox in annotation 0 of"),
        ({"bbox": [1, 2, 3, None]}, "four finite numbers (left, top, width and height) as bbox"),
        ({"bbox": [10**400, 2, 3, 3]}, "boxes.json, got int too large to convert to float"),
        ({"bbox": [20, 2, 3, 3]}, "boxes with an area inside the 12 x 8 pixels of 00.png, got 20 2 23 5 in"),
        ({"bbox": [2, 2, 0, 3]}, "boxes with an area inside the 12 x 8 pixels of 00.png, got 2 2 2 5 in"),
        ({"bbox": [2, 2, -1, 3]}, "boxes with an area inside"),
    ],
)
def test_invalid_annotations_are_rejected_with_a_one_line_error(edit: Edit, message: str, tmp_path: Path) -> None:
    assert message in error(coco(tmp_path, **edit))


@pytest.mark.parametrize("key", ["images", "categories"])
def test_two_coco_entries_with_the_same_id_are_rejected(key: str, tmp_path: Path) -> None:
    file = coco(tmp_path) / "boxes.json"
    content = json.loads(file.read_text())
    content[key][1]["id"] = content[key][0]["id"]
    file.write_text(json.dumps(content))
    assert f"boxes.json, got 2 {key} with id {content[key][0]['id']}" in error(tmp_path)


def test_an_infinite_image_size_in_a_coco_file_is_rejected(tmp_path: Path) -> None:
    file = coco(tmp_path) / "boxes.json"
    file.write_text(file.read_text().replace('"width": 12', '"width": Infinity', 1))
    assert "boxes.json, got cannot convert float infinity to integer" in error(tmp_path)


def test_a_test_split_without_a_readable_image_is_rejected(tmp_path: Path) -> None:
    coco(tmp_path / "train", 8)
    for image in coco(tmp_path / "test", 4, file="b.json").glob("*.png"):
        image.write_text("not an image")
    expected = "data.path: expected readable images for the test split, got none"
    assert error(tmp_path, validation=0.2, on_bad_sample="skip") == expected


def test_boxes_are_clipped_to_their_image(tmp_path: Path) -> None:
    root = coco(tmp_path, bbox=[-5, 6, 30, 30])
    pictures: Any = DetectionFolder(str(root)).load().train.rows.images  # type: ignore[union-attr]
    (picture,) = (each for each in pictures if each.image.stem == "00")
    assert picture.boxes.tolist() == [[0, 6, 12, 8]]


def truncate(path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(random).save(content, "JPEG" if path.suffix == ".jpg" else "PNG")
    path.write_bytes(content.getvalue()[:-25])


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "size"])
@pytest.mark.parametrize("write", [coco, voc])
def test_an_image_that_cannot_be_used_is_rejected_with_a_one_line_error_or_left_out(
    damage: str, write: Any, tmp_path: Path
) -> None:
    root = write(tmp_path)
    file = next(path for path in root.iterdir() if path.stem == "07" and path.suffix != ".xml")
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        truncate(file)
    elif damage == "text":
        file.write_text("not an image")
    else:
        Image.new("RGB", (13, 8)).save(file)
    expected = f"12 x 8 pixels in {file}" if damage == "size" else f"a readable image at {file}"
    assert error(root).startswith(f"data.path: expected {expected}")
    data = DetectionFolder(str(root), on_bad_sample="skip")
    assert sum(len(rows) for rows in _rows(data.load())) == 19
    assert any(line.startswith("left out: 1; the first: data.path: expected") for line in data.describe())


def test_a_truncated_cmyk_jpeg_is_found_before_training(tmp_path: Path) -> None:
    root = voc(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).convert("CMYK")
    picture.save(root / "03.jpg")
    (root / "03.jpg").write_bytes((root / "03.jpg").read_bytes()[:-40])
    assert "a readable image at" in error(root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("boxes.json", '{"images": [', "COCO annotations (an object with images, annotations and categories) in"),
        ("boxes.json", '{"images": [], "annotations": []}', "an entry without 'categories'"),
        ("boxes.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}', "an entry without 'file_name'"),
    ],
)
def test_broken_json_is_rejected_with_a_one_line_error(name: str, text: str, message: str, tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / name).write_text(text)
    assert message in error(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "Pascal VOC annotations in"),
        ("<html></html>", "<html> instead of <annotation>"),
        ("<annotation><object><name>cat</name></object></annotation>", "got no <bndbox/xmin>"),
        ("<annotation><size><width>x</width></size></annotation>", "<size/width> with 'x' instead of a number"),
    ],
)
def test_broken_xml_is_rejected_with_a_one_line_error(text: str, message: str, tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "04.xml").write_text(text)
    assert message in error(root)


def test_missing_or_ambiguous_annotations_and_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "annotations in" in error(tmp_path / "empty")
    root = coco(tmp_path / "own")
    assert "one of the classes (dog) in" in error(root, class_names=["dog"])
    assert "data.class_names: expected different names" in error(root, class_names=["cat", "dog", "dog"])
    assert "data.class_names: expected null with" in error(root, class_names=["animal"], single_class=True)
    assert "data.tile: expected a side in pixels" in error(root, split_by="area")
    assert "data.path: expected an existing folder" in error(tmp_path / "nowhere")
    coco(tmp_path / "splits" / "train", 8)
    coco(tmp_path / "splits" / "test", 4, file="b.json")
    assert "data.validation: expected a fraction of at least 0 and below 1" in error(tmp_path / "splits", validation=1)
    assert "data.block: expected a size that leaves images for the training split, got 20" in error(root, block=20)
    two = coco(tmp_path / "two", 2)
    assert error(two) == "data.path: expected at least one image for each split, got none for the training split"
    (root / "more.json").write_text((root / "boxes.json").read_text())
    assert "at most one annotation file for each of train, val and test" in error(root)


def test_a_class_that_is_not_in_the_training_split_is_rejected(tmp_path: Path) -> None:
    coco(tmp_path / "train", 8)
    root = coco(tmp_path / "test", 4, file="b.json")
    (root / "b.json").write_text((root / "b.json").read_text().replace("dog", "cow"))
    assert "one of the classes (cat, dog) in" in error(tmp_path, validation=0.2)


def test_single_class_gives_all_objects_the_same_class(tmp_path: Path) -> None:
    data = DetectionFolder(str(coco(tmp_path)), single_class=True)
    rows: Any = data.load().train.rows
    assert data.spec.object_class_names == ("object",)
    assert {abs(int(kind)) for n in range(len(rows)) for kind in rows.example(n, None).kinds} == {1}


def test_changed_boxes_change_the_fingerprint_of_the_data(tmp_path: Path) -> None:
    def names(root: Path) -> list[tuple[str, int]]:
        return list(DetectionFolder(str(root)).load().train.rows.files())  # type: ignore[union-attr]

    before = names(coco(tmp_path))
    assert names(coco(tmp_path)) == before != names(coco(tmp_path, bbox=[8, 5, 3, 3]))


def test_input_images_are_cut_into_tiles_with_known_position_and_scale(tmp_path: Path) -> None:
    root = drawn(tmp_path)
    data = DetectionFolder(str(root), image_size=24, channels=1, tile=48)
    Image.new("L", (100, 50)).save(tmp_path / "new.png")
    (piece,) = data.inputs(InputFiles((str(tmp_path / "new.png"),)))
    assert piece.names == [{"input": str(tmp_path / "new.png"), "width": 100, "height": 50}]
    assert piece.rows["pixels"].shape == (6, 1, 24, 24) and piece.rows["parts"].tolist() == [6] * 6  # type: ignore[union-attr]
    assert piece.rows["frame"].tolist()[4] == [48, 48, 2, 2]  # type: ignore[union-attr]
