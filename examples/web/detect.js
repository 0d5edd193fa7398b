// Detect the objects in an image with an exported ONNX file. Requires only onnxruntime-web.
//
// The graph in the file has one input: `image` [1, H, W, 3] uint8 RGB, the letterboxed image. The graph has two
// outputs: `boxes` [1, P, 4] (x1, y1, x2, y2 in input pixels) and `scores` [1, P, C] from 0 to 1, for P grid points and
// C classes. The metadata of the file contains the input size (H, W) and the C class names.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";

const SCORE_THRESHOLD = 0.25; // detections have a higher score than this
const IOU_THRESHOLD = 0.6; // NMS: two boxes of the same class with a higher IoU than this belong to the same object
const MAX_DETECTIONS = 300; // largest number of detections per image

ort.env.wasm.numThreads = 1; // browsers allow more threads only if the server sends COOP and COEP headers

// Download an ONNX file and return the model: { session, inputH, inputW, names of the classes }.
export async function load(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  const file = new Uint8Array(await response.arrayBuffer());
  const [inputH, inputW] = metadata(file, "input_hw");
  return { session: await ort.InferenceSession.create(file), inputH, inputW, names: metadata(file, "class_names") };
}

// Return the value that the metadata of the ONNX file contains for a key. onnxruntime-web cannot read metadata, but the
// value is unencoded JSON text in the file: newline, length of the key, key, 0x12, length of the text (7 bits per byte,
// lowest bits first), text.
function metadata(file, key) {
  const prefix = `\n${String.fromCharCode(key.length)}${key}\x12`;
  let at = new TextDecoder("latin1").decode(file).indexOf(prefix) + prefix.length;
  if (at < prefix.length) throw new Error(`the metadata of the ONNX file does not contain ${key}`);
  let length = 0;
  for (let shift = 0, more = true; more; shift += 7, at++) {
    length |= (file[at] & 127) << shift;
    more = file[at] > 127;
  }
  return JSON.parse(new TextDecoder().decode(file.subarray(at, at + length)));
}

// Return the objects in an ImageData, sorted by descending score. An object is { class, score, box: [x1, y1, x2, y2] },
// with the box in image pixels.
export async function detect({ session, inputH, inputW, names }, image) {
  // Letterbox: scale the image to fit into the input, round its size to whole pixels, and center it on gray 114.
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

  // Each grid point predicts its best class. Map each box from the input to the image and clip it to the image.
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

  // NMS: process the boxes by descending score. Keep a box unless it overlaps a kept box of its class too much.
  const kept = [];
  for (const candidate of candidates.sort((a, b) => b.score - a.score)) {
    const isDuplicate = (other) => other.class === candidate.class && overlaps(other.box, candidate.box);
    if (!kept.some(isDuplicate)) kept.push(candidate);
  }
  return kept.slice(0, MAX_DETECTIONS);
}

// Return the area of a box; 0 if x2 < x1 or y2 < y1.
function area([x1, y1, x2, y2]) {
  return Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0);
}

// Return true if the IoU of two boxes is above the threshold.
function overlaps(a, b) {
  const intersection = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return intersection > IOU_THRESHOLD * (area(a) + area(b) - intersection);
}

// Resize an ImageData and return its RGB levels, a Uint8ClampedArray of height * width * 3 values.
//
// This resizes as OpenCV does: shrinking averages the area that each new pixel covers, and enlarging is bilinear; first
// along x, then along y. Browsers resize in other ways, which would give other levels and other boxes.
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

// Return a list for each new pixel along one axis: [[index of an old pixel, its weight], ...]. The level of the new
// pixel is the weighted sum of the levels of these old pixels.
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

// Return the nearest whole number; halves are rounded to the even number.
function roundToEven(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}
