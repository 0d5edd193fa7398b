// Find the objects of a picture with an exported ONNX file: onnxruntime-web, nothing else.
//
// The file takes `image` [1, H, W, 3] uint8 RGB, the picture on a canvas of H x W pixels; it gives, for each of P
// points, `boxes` [1, P, 4] (x1, y1, x2, y2 in pixels of the canvas) and `scores` [1, P, C], 0..1. H, W and the names
// of the C classes stand in its metadata.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";

const SCORE_THRESHOLD = 0.25; // lowest score worth showing
const IOU_THRESHOLD = 0.6; // two boxes of a class that overlap by more are one object
const MAX_DETECTIONS = 300;

ort.env.wasm.numThreads = 1; // more need a server that sends COOP and COEP headers

export async function load(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  const file = new Uint8Array(await answer.arrayBuffer());
  const [canvasH, canvasW] = metadata(file, "canvas_hw");
  return { session: await ort.InferenceSession.create(file), canvasH, canvasW, names: metadata(file, "class_names") };
}

// What the file keeps under a key of its metadata. onnxruntime-web has no function for it, but the texts (JSON) stand
// in it as they are: newline, length of the key, key, 0x12, length of the text (7 bits a byte, lowest first), text.
function metadata(file, key) {
  const head = `\n${String.fromCharCode(key.length)}${key}\x12`;
  let at = new TextDecoder("latin1").decode(file).indexOf(head) + head.length;
  if (at < head.length) throw new Error(`no ${key} in the metadata of the ONNX file`);
  let length = 0;
  for (let shift = 0, more = true; more; shift += 7, at++) {
    length |= (file[at] & 127) << shift;
    more = file[at] > 127;
  }
  return JSON.parse(new TextDecoder().decode(file.subarray(at, at + length)));
}

// Objects { class, score, box: [x1, y1, x2, y2] in pixels of the picture }, best first; `picture` is an ImageData.
export async function detect({ session, canvasH, canvasW, names }, picture) {
  // Letterbox: scaled to fit, whole pixels, in the middle of a canvas of grey 114.
  const { width: w, height: h } = picture;
  const scale = Math.min(canvasH / h, canvasW / w);
  const innerH = Math.min(canvasH, Math.max(1, roundToEven(h * scale)));
  const innerW = Math.min(canvasW, Math.max(1, roundToEven(w * scale)));
  const [top, left] = [Math.floor((canvasH - innerH) / 2), Math.floor((canvasW - innerW) / 2)];
  const inner = resize(picture, innerW, innerH);
  const canvas = new Uint8Array(canvasH * canvasW * 3).fill(114);
  for (let y = 0; y < innerH; y++) {
    canvas.set(inner.subarray(y * innerW * 3, (y + 1) * innerW * 3), ((top + y) * canvasW + left) * 3);
  }

  const image = new ort.Tensor("uint8", canvas, [1, canvasH, canvasW, 3]);
  const { boxes, scores } = await session.run({ image });

  // Each point answers with its best class; its box goes back to the picture, and is cut at the picture's edge.
  const clip = (value, most) => Math.min(Math.max(value, 0), most);
  const candidates = [];
  for (let i = 0; i < boxes.dims[1]; i++) {
    const own = scores.data.subarray(i * names.length, (i + 1) * names.length);
    const score = Math.max(...own);
    if (score <= SCORE_THRESHOLD) continue;
    const [x1, y1, x2, y2] = boxes.data.subarray(i * 4, i * 4 + 4);
    const box = [
      clip((x1 - left) * (w / innerW), w), clip((y1 - top) * (h / innerH), h),
      clip((x2 - left) * (w / innerW), w), clip((y2 - top) * (h / innerH), h),
    ];
    if (area(box) > 0) candidates.push({ class: names[own.indexOf(score)], score, box });
  }

  // Non-maximum suppression: best first, a box stays unless one of its class that stays overlaps it too much.
  const kept = [];
  for (const one of candidates.sort((a, b) => b.score - a.score)) {
    if (!kept.some((other) => other.class === one.class && overlaps(other.box, one.box))) kept.push(one);
  }
  return kept.slice(0, MAX_DETECTIONS);
}

function area([x1, y1, x2, y2]) {
  return Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0);
}

function overlaps(a, b) {
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return both > IOU_THRESHOLD * (area(a) + area(b) - both);
}

// RGB [height * width * 3] of an ImageData; as OpenCV does it, since a browser's own scaling gives other levels and so
// other boxes: shrinking averages what a pixel covers, enlarging mixes the two nearest, per axis.
function resize(picture, width, height) {
  const shrinks = height < picture.height;
  const [columns, rows] = [weights(picture.width, width, shrinks), weights(picture.height, height, shrinks)];
  const narrow = new Float32Array(picture.height * width * 3);
  for (let y = 0, to = 0; y < picture.height; y++) {
    for (const column of columns) {
      for (let channel = 0; channel < 3; channel++, to++) {
        for (const [x, weight] of column) narrow[to] += weight * picture.data[(y * picture.width + x) * 4 + channel];
      }
    }
  }
  // The array rounds what is put into it, halves to even. Only where it halves both sides OpenCV rounds halves up.
  const nudge = picture.width === 2 * width && picture.height === 2 * height ? 0.001 : 0;
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

// For each pixel of the new side, the old pixels it is made of and their shares: [[index, share], ...].
function weights(oldSide, newSide, shrinks) {
  const step = oldSide / newSide;
  return Array.from({ length: newSide }, (_, i) => {
    if (!shrinks) {
      const centre = Math.min(Math.max((i + 0.5) * step - 0.5, 0), oldSide - 1);
      const [before, part] = [Math.floor(centre), centre % 1];
      return [[before, 1 - part], [Math.min(before + 1, oldSide - 1), part]];
    }
    const [from, to] = [i * step, (i + 1) * step];
    const shares = [];
    for (let k = Math.floor(from); k < Math.min(Math.ceil(to), oldSide); k++) {
      shares.push([k, (Math.min(to, k + 1) - Math.max(from, k)) / step]);
    }
    return shares;
  });
}

function roundToEven(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}
