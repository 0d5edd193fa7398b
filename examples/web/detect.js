// Detect the objects in an image with an exported ONNX file. Requires only onnxruntime-web.
//
// The input of the file is `image` [1, H, W, 3] uint8 RGB, the letterboxed image. The outputs are, for P grid points,
// `boxes` [1, P, 4] (x1, y1, x2, y2 in input pixels) and `scores` [1, P, C], 0..1. The metadata contains H, W and the
// names of the C classes.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";

const SCORE_THRESHOLD = 0.25; // lowest confidence score
const IOU_THRESHOLD = 0.6; // NMS: two boxes of a class that overlap by more are the same object
const MAX_DETECTIONS = 300;

ort.env.wasm.numThreads = 1; // more threads require a server that sends COOP and COEP headers

export async function load(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  const file = new Uint8Array(await response.arrayBuffer());
  const [inputH, inputW] = metadata(file, "input_hw");
  return { session: await ort.InferenceSession.create(file), inputH, inputW, names: metadata(file, "class_names") };
}

// Return the value of a key in the metadata of the file. onnxruntime-web has no function for it, but the file contains
// the JSON text unencoded: newline, length of the key, key, 0x12, length of the text (7 bits per byte, lowest first),
// text.
function metadata(file, key) {
  const prefix = `\n${String.fromCharCode(key.length)}${key}\x12`;
  let at = new TextDecoder("latin1").decode(file).indexOf(prefix) + prefix.length;
  if (at < prefix.length) throw new Error(`no ${key} in the metadata of the ONNX file`);
  let length = 0;
  for (let shift = 0, more = true; more; shift += 7, at++) {
    length |= (file[at] & 127) << shift;
    more = file[at] > 127;
  }
  return JSON.parse(new TextDecoder().decode(file.subarray(at, at + length)));
}

// Return objects { class, score, box: [x1, y1, x2, y2] in image pixels }, best first; `image` is an ImageData.
export async function detect({ session, inputH, inputW, names }, image) {
  // Letterbox: scale to fit, in whole pixels, and center on an input filled with gray 114.
  const { width: w, height: h } = image;
  const scale = Math.min(inputH / h, inputW / w);
  const innerH = Math.min(inputH, Math.max(1, roundToEven(h * scale)));
  const innerW = Math.min(inputW, Math.max(1, roundToEven(w * scale)));
  const [top, left] = [Math.floor((inputH - innerH) / 2), Math.floor((inputW - innerW) / 2)];
  const inner = resize(image, innerW, innerH);
  const letterboxed = new Uint8Array(inputH * inputW * 3).fill(114);
  for (let y = 0; y < innerH; y++) {
    letterboxed.set(inner.subarray(y * innerW * 3, (y + 1) * innerW * 3), ((top + y) * inputW + left) * 3);
  }

  const tensor = new ort.Tensor("uint8", letterboxed, [1, inputH, inputW, 3]);
  const { boxes, scores } = await session.run({ image: tensor });

  // Each grid point predicts its best class. Map its box back to the image and clip it.
  const clip = (value, max) => Math.min(Math.max(value, 0), max);
  const candidates = [];
  for (let i = 0; i < boxes.dims[1]; i++) {
    const pointScores = scores.data.subarray(i * names.length, (i + 1) * names.length);
    const score = Math.max(...pointScores);
    if (score <= SCORE_THRESHOLD) continue;
    const [x1, y1, x2, y2] = boxes.data.subarray(i * 4, i * 4 + 4);
    const box = [
      clip((x1 - left) * (w / innerW), w), clip((y1 - top) * (h / innerH), h),
      clip((x2 - left) * (w / innerW), w), clip((y2 - top) * (h / innerH), h),
    ];
    if (area(box) > 0) candidates.push({ class: names[pointScores.indexOf(score)], score, box });
  }

  // NMS: best first, keep a box unless it overlaps a kept box of the same class too much.
  const kept = [];
  for (const candidate of candidates.sort((a, b) => b.score - a.score)) {
    const isDuplicate = (other) => other.class === candidate.class && overlaps(other.box, candidate.box);
    if (!kept.some(isDuplicate)) kept.push(candidate);
  }
  return kept.slice(0, MAX_DETECTIONS);
}

function area([x1, y1, x2, y2]) {
  return Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0);
}

function overlaps(a, b) {
  const intersection = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return intersection > IOU_THRESHOLD * (area(a) + area(b) - intersection);
}

// Resize an ImageData to RGB levels [height * width * 3] as OpenCV does, because the scaling of browsers gives other
// levels and so other boxes: shrinking averages the area of a pixel, enlarging is bilinear, one axis after the other.
function resize(image, width, height) {
  const shrinks = height < image.height;
  const [columns, rows] = [weights(image.width, width, shrinks), weights(image.height, height, shrinks)];
  const narrow = new Float32Array(image.height * width * 3);
  for (let y = 0, to = 0; y < image.height; y++) {
    for (const column of columns) {
      for (let channel = 0; channel < 3; channel++, to++) {
        for (const [x, weight] of column) narrow[to] += weight * image.data[(y * image.width + x) * 4 + channel];
      }
    }
  }
  // Uint8ClampedArray rounds halves to even. OpenCV rounds halves up, but only if it halves both sides.
  const nudge = image.width === 2 * width && image.height === 2 * height ? 0.001 : 0;
  const levels = new Uint8ClampedArray(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width * 3; x++, to++) {
      let level = nudge;
      for (const [row, weight] of rows[y]) level += weight * narrow[row * width * 3 + x];
      levels[to] = level;
    }
  }
  return levels;
}

// Return, for each pixel of the new side, the old pixels it is computed from and their weights: [[index, weight], ...].
function weights(oldSide, newSide, shrinks) {
  const step = oldSide / newSide;
  return Array.from({ length: newSide }, (_, i) => {
    if (!shrinks) {
      const center = Math.min(Math.max((i + 0.5) * step - 0.5, 0), oldSide - 1);
      const [before, fraction] = [Math.floor(center), center % 1];
      return [[before, 1 - fraction], [Math.min(before + 1, oldSide - 1), fraction]];
    }
    const [from, to] = [i * step, (i + 1) * step];
    const covered = [];
    for (let k = Math.floor(from); k < Math.min(Math.ceil(to), oldSide); k++) {
      covered.push([k, (Math.min(to, k + 1) - Math.max(from, k)) / step]);
    }
    return covered;
  });
}

function roundToEven(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}
