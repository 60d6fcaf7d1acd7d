"""Write small files in the formats that dltrain reads."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_masks(root: Path, count: int, size: tuple[int, int], mode: str) -> None:
    """Write noisy images with a bright and a dark rectangle, and indexed masks with the classes 0, 1 and 2."""
    random = np.random.default_rng(2)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros(size[::-1], dtype=np.uint8)
        for value in (1, 2):
            top, left = random.integers(0, size[1] - 8), random.integers(0, size[0] - 8)
            mask[top : top + 8, left : left + 8] = value
        levels = np.array([100, 200, 20])[mask] + random.integers(0, 40, mask.shape)
        image = Image.fromarray(levels.astype(np.uint8)).convert(mode)
        image.save(root / "images" / f"{number:02}.png")
        indexed = Image.fromarray(mask)
        indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
        indexed.save(root / "masks" / f"{number:02}.png")


def write_boxes(root: Path, count: int, size: tuple[int, int]) -> None:
    """Write noisy images with up to two rectangles of two classes, and their boxes in one JSON file in COCO format."""
    random, images, objects = np.random.default_rng(3), list[dict[str, Any]](), list[dict[str, Any]]()
    (root / "images").mkdir(parents=True)
    for number in range(count):
        levels = random.integers(90, 130, size[::-1])
        for kind in range(number % 3):
            left, top = (int(random.integers(0, side - 8)) for side in size)
            levels[top : top + 8, left : left + 8] = (230, 20)[kind]
            box = {"bbox": [left, top, 8, 8], "category_id": 7 + kind, "iscrowd": 0}
            objects.append({"id": len(objects), "image_id": number, **box})
        Image.fromarray(levels.astype(np.uint8)).convert("RGB").save(root / "images" / f"{number:02}.png")
        images.append({"id": number, "file_name": f"{number:02}.png", "width": size[0], "height": size[1]})
    kinds = [{"id": 7, "name": "bright"}, {"id": 8, "name": "dark"}]
    content = {"images": images, "annotations": objects, "categories": kinds}
    (root / "boxes.json").write_text(json.dumps(content))


def write_clips(root: Path, count: int, frames: int, size: tuple[int, int]) -> None:
    """Write clips of two classes as folders of frames: noisy images that get brighter or darker over time."""
    random = np.random.default_rng(3)
    for number in range(count):
        folder = root / ("brighter" if number % 2 else "darker") / f"clip{number}"
        folder.mkdir(parents=True)
        levels = np.linspace(40, 180, frames)[:: 1 if number % 2 else -1]
        for frame, level in enumerate(levels):
            pixels = level + random.integers(0, 40, (*size[::-1], 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{frame}.png")


def write_rolls(path: Path, training: int, held_out: int) -> None:
    """Write pieces of 5 to 12 steps with chords that change every second step, in the format of the JSB chorales."""
    random, parts = np.random.default_rng(5), {}
    for name, count in (("train", training), ("valid", held_out), ("test", held_out)):
        parts[name] = [
            [[int(root) + number // 2 % 3 + third for third in (0, 4, 7)] for number in range(random.integers(5, 13))]
            for root in random.integers(50, 60, count)
        ]
    path.write_text(json.dumps(parts))


def write_songs(folder: Path, count: int) -> None:
    """Write MIDI files of 5 to 12 eighth-note chords; the pitches change after every second chord."""
    import mido

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(6)
    for number in range(count):
        midi, content = mido.MidiFile(type=1, ticks_per_beat=96), io.BytesIO()
        track = midi.add_track()
        root = int(random.integers(50, 60))
        for step in range(random.integers(5, 13)):
            chord = [root + step // 2 % 3 + third for third in (0, 4, 7)]
            for kind, wait in (("note_on", 0), ("note_off", 48)):
                for place, pitch in enumerate(chord):
                    track.append(mido.Message(kind, note=pitch, time=0 if place else wait))
        midi.save(file=content)
        (folder / f"{number:02}.mid").write_bytes(content.getvalue())


def write_recording(path: Path, text: str, rate: int = 8000, seconds: float = 0.08, seed: int = 0) -> None:
    """Write a WAV file with one noisy tone per character; the pitch encodes the character."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times, random = np.arange(round(rate * seconds)) / rate, np.random.default_rng(seed)
    tones = [np.sin(2 * np.pi * (300 + 130 * (ord(letter) % 25)) * times) for letter in text] or [times[:0]]
    samples = 12000 * np.concatenate(tones)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples + random.normal(0, 300, len(samples))).astype("<i2").tobytes())


def write_speech(folder: Path, count: int) -> Path:
    """Write recordings of twelve texts, and a table with their paths and texts; return the path of the table."""
    texts = ["a", "be", "cab", "dad", "a cab", "bad", "add", "fee", "feed me", "me", "a bed", "fade"]
    lines = ["path\ttranscript"]
    for number in range(count):
        text = texts[number % len(texts)]
        write_recording(folder / "wav" / f"{number}.wav", text, seed=number)
        lines.append(f"wav/{number}.wav\t{text.capitalize()}.")
    (folder / "prompts.tsv").write_text("\n".join(lines) + "\n")
    return folder / "prompts.tsv"


def write_pixels(path: Path, size: int, training: int, held_out: int) -> None:
    """Write a table of noisy dark and bright images in the format of FER-2013: class, gray values and split."""
    random, lines = np.random.default_rng(4), ["emotion,pixels,Usage"]
    counts = {"Training": training, "PublicTest": held_out, "PrivateTest": held_out}
    for usage, count in counts.items():
        for number in range(count):
            values = random.integers(0, 60, size * size) + 150 * (number % 2)
            lines.append(f"{number % 2},{' '.join(map(str, values))},{usage}")
    path.write_text("\n".join(lines) + "\n")


def write_questions(path: Path, articles: int) -> None:
    """Write questions and their contexts in the format of SQuAD."""
    data = []
    for number in range(articles):
        context = f"{'Before it, nothing. ' * (number % 3)}The river number {number} rises in Rome and ends at sea."
        answer = {"text": "Rome", "answer_start": context.index("Rome")}
        questions = [{"id": f"{number}", "question": "Where does the river rise?", "answers": [answer]}]
        data.append({"title": str(number), "paragraphs": [{"context": context, "qas": questions}]})
    path.write_text(json.dumps({"data": data}))
