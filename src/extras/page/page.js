// Send images to the server and show its responses. Responses are inserted as text, never as HTML,
// because class names and file names are untrusted.
"use strict";

const MAX_UPLOAD = 20 * 2 ** 20; // bytes, as on the server
const UPLOAD_TYPE = "application/octet-stream";
const PEN = 20; // line width in canvas pixels
const STEP = 8; // distance per arrow key press, in canvas pixels

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas");
const paper = canvas.getContext("2d");
const video = byId("video");
const preview = byId("preview");
const answer = byId("answer");

let network = null; // contents of /page.json
let waiting = null; // the newest image, while an earlier one is being sent
let isSending = false;
let clears = 0; // responses to images sent before the last clear are dropped
let last = null; // last position of the pen
let timer = null;

// Answers ----------------------------------------------------------------------------------------

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function say(message) {
  answer.replaceChildren(element("p", "message", message));
}

function invite() {
  say(network.draws ? "Draw something, or choose a photo." : "Choose an image.");
}

function bar({ class: name, probability }) {
  const percent = `${(100 * probability).toFixed(1)}%`;
  const row = document.createElement("li");
  const label = element("span", "name", name);
  label.title = name;
  const rail = element("span", "rail");
  rail.append(document.createElement("i"));
  rail.firstChild.style.width = percent;
  row.append(label, rail, element("span", "value", percent));
  return row;
}

function figure({ caption, source }) {
  const made = document.createElement("figure");
  const image = document.createElement("img");
  image.src = source;
  image.alt = caption;
  made.append(image, element("figcaption", "", caption));
  return made;
}

function show({ best, notes, pictures }, label) {
  const guess = best[0].probability < network.unsure ? "a guess: the network is not sure" : "";
  const top = element("div", "top");
  top.append(element("b", "", best[0].class), element("span", "", label || notes.join("; ") || guess));
  const rows = [...best];
  if (network.classes <= rows.length) rows.sort((a, b) => a.index - b.index); // keep the bars in place
  const isShort = rows.every((row) => row.class.length <= 2);
  const bars = element("ol", isShort ? "bars short" : "bars");
  bars.append(...rows.map(bar));
  const images = element("div", "pictures");
  images.append(...pictures.map(figure));
  answer.replaceChildren(top, bars, images);
}

// Requests ---------------------------------------------------------------------------------------

async function classify({ image, name, label }) {
  if (image.size > MAX_UPLOAD) throw new Error(`larger than ${MAX_UPLOAD >> 20} MiB`);
  const headers = { "Content-Type": UPLOAD_TYPE };
  const response = await fetch("/classify", { method: "POST", headers, body: image }).catch(() => {
    throw new Error("no answer; is classify.py still running?");
  });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

// Send one request at a time. Of the images that arrive meanwhile, only the newest is sent.
async function ask(image, name, label = "") {
  waiting = { image, name, label };
  if (isSending) return;
  isSending = true;
  while (waiting) {
    const sent = waiting;
    const before = clears;
    waiting = null;
    let update;
    try {
      const result = await classify(sent);
      update = () => show(result, sent.label);
    } catch (error) {
      update = () => say(`${sent.name}: ${error.message}`);
    }
    if (clears === before) update();
  }
  isSending = false;
}

function clear() {
  clears += 1;
  waiting = null;
  clearTimeout(timer);
  timer = null;
  paper.fillRect(0, 0, canvas.width, canvas.height);
  stopCamera();
  hidePhoto();
  invite();
}

// Drawing ----------------------------------------------------------------------------------------

function moveTo(place) {
  last = place;
  byId("pen").style.left = `${(100 * place[0]) / canvas.width}%`;
  byId("pen").style.top = `${(100 * place[1]) / canvas.height}%`;
}

function lineTo(place) {
  paper.beginPath();
  paper.moveTo(...last);
  paper.lineTo(...place);
  paper.stroke();
  moveTo(place);
  timer ??= setTimeout(sendDrawing, 80); // roughly the time of one prediction
}

function sendDrawing() {
  timer = null;
  hidePhoto();
  canvas.toBlob((png) => ask(png, "The drawing"));
}

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) * canvas.width) / box.width;
  return [x, ((event.clientY - box.top) * canvas.height) / box.height];
}

function press(event) {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  moveTo(placeOf(event));
  lineTo(last); // draw a dot
}

function drag(event) {
  if (!canvas.hasPointerCapture(event.pointerId)) return;
  const passed = event.getCoalescedEvents?.() ?? []; // a fast pen moves several times per frame
  for (const point of passed.length ? passed : [event]) lineTo(placeOf(point));
}

const ARROWS = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};

function type(event) {
  const step = ARROWS[event.key];
  if (!step) return;
  event.preventDefault(); // otherwise the page scrolls
  const place = last.map((value, i) => Math.min(canvas.width, Math.max(0, value + step[i])));
  (event.shiftKey ? moveTo : lineTo)(place);
}

// Photos -----------------------------------------------------------------------------------------

function hidePhoto() {
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.removeAttribute("src");
  preview.hidden = true;
  byId("hint").hidden = false;
}

function take(file) {
  if (!file) return say("That is not an image file.");
  clear();
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  byId("hint").hidden = true;
  ask(file, file.name);
}

function takeFrom(transfer) {
  take([...transfer.files].find((file) => file.type.startsWith("image/")) ?? transfer.files[0]);
}

function stopCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  video.hidden = true;
  byId("camera").textContent = "Camera";
}

async function startCamera() {
  // Browsers allow camera access only over https:// and on localhost. Otherwise, phones can open
  // their camera app.
  if (!navigator.mediaDevices) return byId("capture").click();
  clear();
  try {
    const constraints = { video: { facingMode: "environment" } };
    video.srcObject = await navigator.mediaDevices.getUserMedia(constraints);
    video.hidden = false;
    byId("hint").hidden = true;
    byId("camera").textContent = "Take the photo";
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`);
  }
}

function takePhoto() {
  const picture = document.createElement("canvas");
  picture.width = video.videoWidth;
  picture.height = video.videoHeight;
  picture.getContext("2d").drawImage(video, 0, 0);
  picture.toBlob((blob) => take(new File([blob], "The photo")), "image/jpeg", 0.95);
}

function offer({ caption, source }) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.src = source;
  image.alt = caption;
  button.type = "button";
  button.title = caption;
  button.append(image);
  button.addEventListener("click", () => {
    clear();
    const png = Uint8Array.from(atob(source.split(",")[1]), (c) => c.charCodeAt(0));
    ask(new Blob([png]), caption, `labeled ${caption}`);
  });
  return button;
}

// Setup ------------------------------------------------------------------------------------------

function listen() {
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("keydown", type);
  byId("clear").addEventListener("click", clear);
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("camera").addEventListener("click", () => (video.hidden ? startCamera() : takePhoto()));
  for (const id of ["file", "capture"]) {
    byId(id).addEventListener("change", ({ target }) => {
      if (target.files.length) take(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => takeFrom(event.clipboardData));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // otherwise the browser opens the file
      byId("photo").classList.toggle("over", kind === "dragover");
      if (kind === "drop") takeFrom(event.dataTransfer);
    });
  }
}

async function start() {
  network = await (await fetch("/page.json")).json();
  const { name, parameters, classes, channels, size, draws, examples } = network;
  document.title = name;
  byId("name").textContent = name;
  const [count, number] = [parameters, classes].map((n) => n.toLocaleString("en"));
  const color = channels === 1 ? "gray" : "color";
  byId("about").textContent =
    `A network with ${count} parameters for ${number} classes. ` +
    `It reads ${color} images of ${size}x${size} pixels.`;
  byId("pad").hidden = !draws;
  if (!draws) byId("buttons").append(byId("clear"));
  byId("choice").hidden = examples.length === 0;
  byId("examples").append(...examples.map(offer));
  Object.assign(paper, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
  Object.assign(paper, { strokeStyle: "#111", fillStyle: "white" });
  moveTo([canvas.width / 2, canvas.height / 4]);
  listen();
  clear();
}

start();
