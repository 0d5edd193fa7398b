// The code of the web page: detect the objects in the image that the user selects, draw their boxes on the image, and
// show the objects as JSON.

import { detect, load } from "./detect.js";

const file = document.getElementById("file");
const status = document.getElementById("status");
const boxes = document.getElementById("boxes");
const view = document.getElementById("view");
let model;

// Decode an image file, draw it on the page, and return its pixels as an ImageData. The colors are not converted, the
// EXIF orientation is applied, and a transparent image is composited on white.
async function read(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  [view.width, view.height] = [bitmap.width, bitmap.height];
  const context = view.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, view.width, view.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, view.width, view.height);
}

// Return an object as JSON text, with numbers rounded to 4 decimal places.
function toJson(object) {
  return JSON.stringify(object, (_, value) => (typeof value === "number" ? Number(value.toFixed(4)) : value));
}

// Draw the box, class and score of each object on the image.
function draw(objects) {
  const context = view.getContext("2d");
  const unit = Math.max(view.width, view.height) / 400;
  context.lineWidth = unit;
  context.font = `${8 * unit}px system-ui, sans-serif`;
  for (const { class: name, score, box: [x1, y1, x2, y2] } of objects) {
    const text = `${name} ${score.toFixed(2)}`;
    context.strokeStyle = context.fillStyle = "#0057d9";
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const bottom = Math.max(y1, 9 * unit);
    context.fillRect(x1, bottom - 9 * unit, context.measureText(text).width + 2 * unit, 9 * unit);
    context.fillStyle = "white";
    context.fillText(text, x1 + unit, bottom - 2 * unit);
  }
}

file.addEventListener("change", async () => {
  status.textContent = "detecting";
  boxes.textContent = "";
  file.disabled = true; // one image at a time
  try {
    const objects = await detect(model, await read(file.files[0]));
    draw(objects);
    boxes.textContent = `[\n${objects.map(toJson).join(",\n")}\n]`;
    status.textContent = `${objects.length} found`;
  } catch (error) {
    status.textContent = `error: ${error.message}`;
  }
  file.disabled = false;
});

try {
  model = await load("model.onnx");
  status.textContent = "ready";
  file.disabled = false;
} catch (error) {
  status.textContent = `error: ${error.message}`;
}
