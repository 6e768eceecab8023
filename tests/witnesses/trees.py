"""Data sets of a few images in exactly the official layout, and files that claim what they are not."""

import json
import struct
import zlib

from PIL import Image


def annotation(objects, size=(10, 8), filename="0.jpg"):
    """A VOC annotation of objects (name, (xmin, ymin, xmax, ymax), difficult); size (width, height)."""
    parts = [f"<filename>{filename}</filename>"]
    parts += [f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"]
    for name, (x0, y0, x1, y1), difficult in objects:
        parts.append(
            f"<object><name>{name}</name><difficult>{difficult:d}</difficult>"
            f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
            # VOC 2012 has parts with boxes of their own inside of an object
            "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
            "</object>"
        )
    return f"<annotation>{''.join(parts)}</annotation>"


def write_voc(root, annotations, size=(10, 8)):
    """The official tree of annotations {id: XML or objects} with grey images."""
    folder = root / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for image_id, content in annotations.items():
        text = content if isinstance(content, str) else annotation(content, size, f"{image_id}.jpg")
        (folder / "Annotations" / f"{image_id}.xml").write_text(text)
        Image.new("RGB", size, (90, 90, 90)).save(folder / "JPEGImages" / f"{image_id}.jpg")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{image_id}\n" for image_id in annotations))
    return folder


def write_coco(root, annotations, images=((42, 6, 5), (7, 6, 5), (139, 6, 5))):
    """The official tree; images (id, width, height), annotations (image, category, bbox, segmentation, iscrowd)."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "val2014").mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 18, "name": "dog"}]}
    for number, width, height in images:
        name = f"COCO_val2014_{number:012d}.jpg"
        Image.new("RGB", (width, height)).save(root / "val2014" / name)
        content["images"].append({"id": number, "width": width, "height": height, "file_name": name})
    for number, (image, category, box, segmentation, crowd) in enumerate(annotations, 1):
        content["annotations"].append(
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "segmentation": segmentation}
            | {"iscrowd": crowd, "area": 1}
        )
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))


def rectangle(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def png_that_claims(width, height):
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
