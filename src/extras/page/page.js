// The drawing field: round strokes of the pen, sent as a PNG while they are drawn.
const canvas = element.querySelector("canvas");
const paper = canvas.getContext("2d");
let timer = null, last = null;

function clear() {
  paper.fillStyle = "white";
  paper.fillRect(0, 0, canvas.width, canvas.height);
}

function send(value) {
  clearTimeout(timer);
  timer = null;
  props.value = value;
  trigger("input");
}

function draw(event) {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  const place = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  paper.beginPath();
  paper.moveTo(...(last ?? place));
  paper.lineTo(...place);
  paper.stroke();
  last = place;
  timer ??= setTimeout(() => send(canvas.toDataURL("image/png")), 80); // about as often as the network answers
}

Object.assign(paper, { lineWidth: 20, lineCap: "round", lineJoin: "round", strokeStyle: "#111" });
clear();
canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  last = null;
  draw(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (!canvas.hasPointerCapture(event.pointerId)) return;
  const passed = event.getCoalescedEvents?.() ?? []; // a fast pen moves several times a frame
  for (const point of passed.length ? passed : [event]) draw(point);
});
element.querySelector("button").addEventListener("click", () => { clear(); send(""); });
